"""qr_refresh.prune_history(): pg_cron's own history of our jobs, and of nobody else's."""

from __future__ import annotations

import re

import pytest

from db import order
from tools.job import Job, refusal

PRUNE = "select qr_refresh.prune_history()"
LEFT = "select array_agg(runid order by runid) from cron.job_run_details"


def keep(
    cron: Job,
    number: int,
    command: str,
    age: str | None = "8 days",
    database: str = "postgres",
    user: str = "postgres",
) -> None:
    """Add a row as pg_cron does."""
    cron.connection.execute(
        "insert into cron.job_run_details"
        " (jobid, runid, database, username, command, status, start_time)"
        " values (1, %s, %s, %s, %s, 'succeeded', now() - %s::interval)",
        (number, database, user, command, age),
    )


def left(cron: Job) -> list[int]:
    numbers: list[int] = cron.value(LEFT) or []
    return numbers


def prune(cron: Job) -> int:
    return int(cron.value(PRUNE))


def test_old_runs_of_our_jobs_go_and_everything_else_stays(cron: Job) -> None:
    for number, command in enumerate(
        [
            "SELECT refresh_qr_codes()",
            "select public.refresh_qr_codes()",
            "CALL qr_refresh.live(2, 2)",
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


def test_the_time_says_what_is_old_and_not_the_number(cron: Job) -> None:
    # Numbers begin anew where the extension was created anew, and jobs that take long end late.
    for number, age in ((1, "6 days"), (2, "8 days"), (3, None), (4, "9 days"), (5, None)):
        keep(cron, number, "SELECT refresh_qr_codes()", age=age)
    assert prune(cron) == 3
    assert left(cron) == [1, 5]


def test_history_retention_says_how_old_is_too_old(cron: Job) -> None:
    keep(cron, 1, "SELECT refresh_qr_codes()", age="3 hours")
    assert prune(cron) == 0
    cron.connection.execute("update qr_refresh.settings set history_retention = '2 hours'")
    assert prune(cron) == 1


@pytest.mark.parametrize(
    "call", ["schedule()", "schedule('live')", "schedule('live', workers => 3)"]
)
def test_what_every_job_of_schedule_leaves_is_pruned(cron: Job, call: str) -> None:
    cron.connection.execute(f"select qr_refresh.{call}".encode())
    commands = cron.connection.execute("select jobid, command from cron.job").fetchall()
    assert len(commands) >= 2
    for number, command in commands:
        keep(cron, number, command)
    assert prune(cron) == len(commands)


def test_who_is_no_superuser_prunes_what_ran_as_them(cron: Job) -> None:
    cron.connection.execute("create role scheduler")
    try:
        cron.connection.execute(
            "grant usage on schema cron, qr_refresh to scheduler;"
            "grant select on qr_refresh.settings to scheduler;"
            "grant execute on all functions in schema qr_refresh to scheduler"
        )
        keep(cron, 1, "SELECT refresh_qr_codes()", user="scheduler")
        keep(cron, 2, "SELECT refresh_qr_codes()")
        cron.connection.execute("set role scheduler")
        assert prune(cron) == 1
        cron.connection.execute("reset role")
        assert left(cron) == [2]
    finally:
        cron.connection.execute("reset role; drop owned by scheduler; drop role scheduler")


def test_from_another_database_the_hint_is_what_to_run_where_pg_cron_lives(
    cron: Job, job: Job
) -> None:
    here = job.connection.info.dbname
    keep(cron, 1, "SELECT refresh_qr_codes()", database=here)
    keep(cron, 2, "SELECT refresh_qr_codes()")
    error = refusal(job.connection, PRUNE)
    assert error.sqlstate == "QR002"
    hint = error.diag.message_hint or ""
    cron.connection.execute(hint.removeprefix("Run there: ").encode())
    assert left(cron) == [2]


def test_removal_and_pruning_mean_the_same_jobs() -> None:
    deploy = (order.DB / "deploy.py").read_text(encoding="utf-8")
    prune_history = order.function("prune_history").read_text(encoding="utf-8")
    (removed,) = re.findall(r'^OUR_COMMANDS = "(.*)"$', deploy, re.MULTILINE)
    (pruned,) = re.findall(r"our_commands constant text := '(.*)';", prune_history)
    assert removed == pruned
