"""qr_refresh.prune_history(): pg_cron's own history of our jobs, and of nobody else's."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest

from db import order
from tools.engines import Server
from tools.job import Connection, Job, install

LEFT = "select array_agg(runid order by runid) from cron.job_run_details"


@pytest.fixture
def cron(server: Server, pg_cron: None) -> Iterator[Connection]:
    """A session where pg_cron lives; afterwards no job, history or role is left."""
    install(server.dsn())
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("create extension if not exists pg_cron")
        yield connection
        connection.execute("reset role")
        connection.execute("update qr_refresh.settings set history_retention = default")
        connection.execute("select cron.unschedule(jobid) from cron.job")
        connection.execute("delete from cron.job_run_details")


def keep(
    connection: Connection,
    number: int,
    command: str,
    age: str | None = "8 days",
    database: str = "postgres",
    user: str = "postgres",
) -> None:
    """Add a row as pg_cron does."""
    connection.execute(
        "insert into cron.job_run_details"
        " (jobid, runid, database, username, command, status, start_time)"
        " values (1, %s, %s, %s, %s, 'succeeded', now() - %s::interval)",
        (number, database, user, command, age),
    )


def left(connection: Connection) -> list[int]:
    row = connection.execute(LEFT.encode()).fetchone()
    assert row is not None
    numbers: list[int] = row[0] or []
    return numbers


def prune(connection: Connection) -> int:
    row = connection.execute("select qr_refresh.prune_history()").fetchone()
    assert row is not None
    return int(row[0])


def test_old_runs_of_our_jobs_go_and_everything_else_stays(cron: Connection) -> None:
    for number, command in enumerate(
        [
            "SELECT refresh_qr_codes()",
            "select public.refresh_qr_codes()",
            "CALL qr_refresh.live('slow')",
            "SELECT qr_refresh.prune_history()",
        ]
    ):
        keep(cron, number, command)
    keep(cron, 10, "SELECT refresh_qr_codes()", age=None)  # the server ended before it began
    keep(cron, 20, "SELECT my_report('refresh_qr_codes()')")
    keep(cron, 21, "select net.http_post('https://x.example/refresh-qr-codes')")
    keep(cron, 22, "SELECT refresh_qr_codes()", database="another")
    keep(cron, 23, "SELECT refresh_qr_codes()", age="6 days")
    keep(cron, 24, "SELECT refresh_qr_codes()", age=None)  # just about to start
    assert prune(cron) == 5
    assert left(cron) == [20, 21, 22, 23, 24]
    assert prune(cron) == 0


def test_history_retention_says_how_old_is_too_old(cron: Connection) -> None:
    keep(cron, 1, "SELECT refresh_qr_codes()", age="3 hours")
    assert prune(cron) == 0
    cron.execute("update qr_refresh.settings set history_retention = '2 hours'")
    assert prune(cron) == 1


@pytest.mark.parametrize(
    "call", ["schedule()", "schedule('live')", "schedule('live', workers => 3)"]
)
def test_what_every_job_of_schedule_leaves_is_pruned(cron: Connection, call: str) -> None:
    cron.execute(f"select qr_refresh.{call}".encode())
    commands = cron.execute("select jobid, command from cron.job").fetchall()
    assert len(commands) >= 2
    for number, command in commands:
        keep(cron, number, command)
    assert prune(cron) == len(commands)


def test_who_is_no_superuser_prunes_what_ran_as_them(cron: Connection) -> None:
    cron.execute("create role scheduler")
    try:
        cron.execute(
            "grant usage on schema cron, qr_refresh to scheduler;"
            "grant select on qr_refresh.settings to scheduler;"
            "grant execute on all functions in schema qr_refresh to scheduler"
        )
        keep(cron, 1, "SELECT refresh_qr_codes()", user="scheduler")
        keep(cron, 2, "SELECT refresh_qr_codes()")
        cron.execute("set role scheduler")
        assert prune(cron) == 1
        cron.execute("reset role")
        assert left(cron) == [2]
    finally:
        cron.execute("reset role; drop owned by scheduler; drop role scheduler")


def test_from_another_database_the_hint_is_what_to_run_where_pg_cron_lives(
    cron: Connection, job: Job
) -> None:
    here = job.connection.info.dbname
    keep(cron, 1, "SELECT refresh_qr_codes()", database=here)
    keep(cron, 2, "SELECT refresh_qr_codes()")
    with pytest.raises(psycopg.Error) as raised:
        prune(job.connection)
    assert raised.value.sqlstate == "QR002"
    hint = raised.value.diag.message_hint or ""
    cron.execute(hint.removeprefix("Run there: ").encode())
    assert left(cron) == [2]


def test_removal_and_pruning_mean_the_same_jobs() -> None:
    deploy = (order.DB / "deploy.py").read_text(encoding="utf-8")
    prune_history = order.function("prune_history").read_text(encoding="utf-8")
    (removed,) = re.findall(r'^OUR_COMMANDS = "(.*)"$', deploy, re.MULTILINE)
    (pruned,) = re.findall(r"our_commands constant text := '(.*)';", prune_history)
    assert removed == pruned
