"""The HTTP client without PostgreSQL: a process of its own, lines of JSON in and out."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from db.order import ROOT
from tools.backend import run_python
from tools.job import Connection

PROGRAM = (ROOT / "db/functions/http/evolution_client.py").read_text(encoding="utf-8")
Answer = dict[str, Any]


class Client:
    """A running client, and the answers that have been taken from it."""

    def __init__(self, process: subprocess.Popen[bytes], base_url: str) -> None:
        """Ask this server, unless a call names another."""
        self.process = process
        self.base_url = base_url
        self._names: list[str] = []  # of the calls, by their number
        self._begun_at: list[float] = []
        self._rest = b""

    def begin(self, *names: str, **changed: object) -> None:
        """Hand over a call for each name; `changed` are fields of the call."""
        call: dict[str, object] = {"base_url": self.base_url, "ca_file": None, "timeout": 8.0}
        call |= {"instance_token": "a-token", "may_connect": True, "connect_on_close": True}
        call |= {"places": 512, "ends_in": 60.0}
        lines = b""
        for name in names:
            numbered = {"id": len(self._names), "instance_name": name} | call | changed
            lines += json.dumps(numbered).encode() + b"\n"
            self._names.append(name)
            self._begun_at.append(time.time())
        assert self.process.stdin is not None
        self.process.stdin.write(lines)

    def take(self, count: int = 1) -> list[Answer]:
        """Return so many answers, in the order in which they come, each with its name.

        And with `elapsed`, the seconds since it was begun.
        """
        assert self.process.stdout is not None
        output = self.process.stdout.fileno()
        ends = time.monotonic() + 30
        answers: list[Answer] = []
        while len(answers) < count:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                answer = json.loads(line)
                elapsed = answer["answered_at"] - self._begun_at[answer["id"]]
                answers.append(answer | {"name": self._names[answer["id"]], "elapsed": elapsed})
                continue
            assert select.select([output], [], [], ends - time.monotonic())[0], "no answer in 30 s"
            data = os.read(output, 1 << 20)
            assert data, "the client has ended"
            self._rest += data
        return answers

    def ask(self, name: str = "shop", **changed: object) -> Answer:
        """Make one call, and return its answer."""
        self.begin(name, **changed)
        (answer,) = self.take()
        return answer

    def ask_in_turn(self, *names: str, **changed: object) -> dict[str, str | None]:
        """Ask one after the other, on one connection where that is kept; return what went wrong."""
        return problems([self.ask(name, **changed) for name in names])

    def ask_together(self, *names: str, **changed: object) -> dict[str, str | None]:
        """Ask all at once; return what went wrong."""
        self.begin(*names, **changed)
        return problems(self.take(len(names)))

    @property
    def threads(self) -> int:
        """How many threads it has."""
        return len([*Path(f"/proc/{self.process.pid}/task").iterdir()])

    @property
    def sockets(self) -> int:
        """How many sockets it has open."""
        links = []
        for fd in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                links.append(str(fd.readlink()))
        return sum(link.startswith("socket:") for link in links)

    def memory(self, line: str) -> int:
        """Return a line of its /proc/PID/status, such as VmRSS or VmHWM, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split(f"{line}:")[1].split()[0]) * 1024

    def forget_peak_memory(self) -> None:
        """Let VmHWM begin anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


def problem(answer: Answer) -> str | None:
    """Return what the report says of an answer; None where nothing went wrong."""
    return "Request timeout" if answer["outcome"] == "timeout" else answer["error"]


def problems(answers: Sequence[Answer]) -> dict[str, str | None]:
    return {answer["name"]: problem(answer) for answer in answers}


@contextlib.contextmanager
def running_client(
    base_url: str, prelude: str = "", *, wait_for_start: bool = True
) -> Iterator[Client]:
    """Start the client as qr_refresh.ask() does; `prelude` is Python that it runs first.

    However the block ends and whatever is under way: the client ends when its standard input does.
    """
    program = PROGRAM
    if prelude:
        program = f"{prelude}\nexec(compile({PROGRAM!r}, 'client', 'exec', dont_inherit=True))"
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", program],
        bufsize=0,
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    with process:
        try:
            client = Client(process, base_url)
            if wait_for_start:
                assert client.ask(ends_in=0)["outcome"] == "not_attempted"
            yield client
            process.stdin.close()
            assert process.wait(5) == 0, "another status would alarm a postmaster that is process 1"
        finally:
            process.kill()


def client_of(watcher: Connection, pid: int) -> int:
    """Return the process id of the client of a session, which may be busy."""
    body = f"""
        import os
        for each in filter(str.isdigit, os.listdir('/proc')):
            try:
                stat = open(f'/proc/{{each}}/stat').read()
            except OSError:
                continue
            if stat.rpartition(')')[2].split()[1] == '{pid}':
                plpy.notice(each)
    """
    return int(run_python(watcher, body))


def address_of(url: str) -> str:
    """Return a prelude: every name, and every address, is that of this URL.

    IPv6 is not everywhere; what is simulated is only that its address leads to the server.
    """
    host, port = url.rpartition("/")[2].split(":")
    return f"""
import socket
resolve = socket.getaddrinfo
socket.getaddrinfo = lambda host, port, *rest, **more: resolve({host!r}, {port}, *rest, **more)
"""


def slow_resolver(released: Path) -> str:
    """Return a prelude: to resolve a name takes until this file is there.

    Real ones wait in the C library for a name server that does not answer; that cannot be arranged
    without being root. What is simulated is only the waiting: nothing from outside ends it.
    """
    return f"""
import os, socket, time
resolve = socket.getaddrinfo
def slow(*arguments, **options):
    while not os.path.exists({str(released)!r}):
        time.sleep(0.01)
    return resolve(*arguments, **options)
socket.getaddrinfo = slow
"""
