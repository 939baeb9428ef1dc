"""`make watch`: it shows the state as it changes, until Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

from tests.deploy.installation import make
from tests.terminal import open_terminal
from tools.job import Job, wait_until


class Screen:
    """What a program has written to a terminal."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        os.set_blocking(descriptor, False)
        self.text = ""

    def has(self, *parts: str) -> bool:
        """Tell whether each of these stands in what was drawn last."""
        with contextlib.suppress(BlockingIOError, OSError):
            self.text += os.read(self.descriptor, 65536).decode()
        last = self.text.split("\x1b[H")[-1]
        return all(part in last for part in parts)


@contextlib.contextmanager
def watching(database: str) -> Iterator[tuple[Screen, subprocess.Popen[bytes]]]:
    ours, theirs = open_terminal()
    with subprocess.Popen(
        [sys.executable, "-m", "db.watch"],
        env={**os.environ, "DATABASE_URL": database},
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        try:
            yield Screen(ours), process
        finally:
            process.kill()
            os.close(ours)


def test_watch_shows_changes_until_ctrl_c(job: Job, database: str) -> None:
    job.add("shop")
    job.add_row("\x1b[31mred", token=None)
    with watching(database) as (screen, process):
        wait_until(lambda: screen.has("0 of 2 live", "ALERT job_late"), "the first screen")
        job.run()
        wait_until(lambda: screen.has("1 of 2 live", "shop", "stored"), "the QR code")
        assert not screen.has("ALERT")
        assert "\x1b[31m" not in screen.text
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        screen.has()
        assert "Traceback" not in screen.text


def test_watch_without_a_url_shows_one() -> None:
    assert "make watch DATABASE_URL=postgresql://" in make("watch").stderr


def test_watch_without_the_job_says_to_install_it(empty_database: str) -> None:
    assert "not installed: make migrate" in make("watch", empty_database).stderr
