"""Ctrl-C ends what make runs with one sentence, and nothing of it stays."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import psycopg
import pytest

from tools.engines import ROOT, Server

# The program, and what it prints when Ctrl-C is pressed: while a server starts, while dbmate works,
# while the job waits for an instance that hangs, while processes of its own run.
MOMENTS = [
    ("tools.growth", "instances, a new QR code each"),
    ("tools.demo", "== make migrate"),
    ("tools.demo", "== SELECT"),
    ("tools.demo_live", "== Open http"),
    ("tools.bench", "instances  latency"),
    ("tools.freshness", "PostgreSQL"),
]


@pytest.mark.parametrize(("module", "moment"), MOMENTS)
@pytest.mark.engines
def test_ctrl_c_ends_it_with_one_sentence(server: Server, module: str, moment: str) -> None:
    if server.engine == "url":
        pytest.skip("takes a server of its own: PG=docker or PG=local runs it")
    with subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env={**os.environ, "PG": server.engine, "PYTHONUNBUFFERED": "1", "FRESHNESS_MODES": "live"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        output = ""
        while moment not in output:
            line = process.stdout.readline()
            assert line, output
            output += line
        # As a terminal does it: to every process of the group.
        os.killpg(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output + rest
    assert "Traceback" not in rest
    assert len(re.findall("Ctrl-C", rest)) == 1 + rest.count("(Ctrl-C ends everything)"), rest
    assert rest.endswith("Ended by Ctrl-C: nothing of it stays.\n")


def test_ctrl_c_leaves_nothing_of_the_demo_on_a_server_that_runs_already(server: Server) -> None:
    kept = "select (select count(*) from pg_database) + (select count(*) from pg_roles)"
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        before = connection.execute(kept.encode()).fetchone()
        with subprocess.Popen(
            [sys.executable, "-m", "tools.demo"],
            cwd=ROOT,
            env={**os.environ, "PG": "url", "DATABASE_URL": server.dsn()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            while "== SELECT" not in process.stdout.readline():
                assert process.poll() is None
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=60)
        assert process.returncode == 130
        assert connection.execute(kept.encode()).fetchone() == before
