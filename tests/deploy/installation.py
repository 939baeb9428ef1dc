"""Installing as a person does, and what of the job is in a database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg

from db.order import ROOT
from tools.job import value_of

RELEASES = Path(__file__).resolve().parent / "releases"
OURS = (
    "select (select count(*) from pg_namespace where nspname = 'qr_refresh')"
    " + (select count(*) from pg_proc where proname = 'refresh_qr_codes')"
    " + (select count(*) from pg_class where relname = 'evolution_instances')"
)


def make(target: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a target of the Makefile as a person does."""
    environment = {key: value for key, value in os.environ.items() if key != "DATABASE_URL"}
    if url is not None:
        environment["DATABASE_URL"] = url
    return subprocess.run(
        ["make", target, f"PYTHON={sys.executable}", f"VENV={sys.prefix}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def made(target: str, url: str) -> str:
    """Run a target that has to succeed, and return what it prints."""
    result = make(target, url)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def migrated(url: str) -> str:
    return made("migrate", url)


def run_dist(url: str) -> None:
    make("dist")
    run_sql_file(url, ROOT / "dist" / "qr_refresh.sql")


def run_sql_file(url: str, path: Path) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(path.read_bytes())


def dump_lines(output: str) -> list[str]:
    """What pg_dump printed, without the random key of psql's \\restrict, which each dump has."""
    return [line for line in output.splitlines() if not line.startswith("\\")]


def job_runs(url: str) -> bool:
    """Whether a run works, with a URL that nobody is asked at: there is no instance."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "update qr_refresh.settings set evolution_api_base_url = 'http://127.0.0.1:1'"
        )
        return bool(value_of(connection, "select (refresh_qr_codes() ->> 'success')::boolean"))


def forget_base_url(url: str) -> None:
    """Take out what an upgrade has written down of a release that ran on the built-in URL."""
    with psycopg.connect(url) as connection:
        connection.execute("update qr_refresh.settings set evolution_api_base_url = null")


def value(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        found: object = value_of(connection, query)
        return found
