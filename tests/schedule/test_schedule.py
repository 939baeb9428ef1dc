"""schedule() and unschedule(), and the real pg_cron running the job."""

from __future__ import annotations

import re

import psycopg
import pytest

from tools.engines import Server, start_postgres
from tools.job import Connection, Job, install, read_qr, refusal, wait_until

MARKER = "marker-5d20b8-token"
# Without the one that is there once for all schedules, and has a test of its own.
JOBS = (
    "select jobname, schedule, command, active, database from cron.job"
    " where jobname <> 'refresh-qr-codes-prune' order by jobname"
)
OURS = ("refresh-qr-codes", "* * * * *", "SELECT refresh_qr_codes()", True, "postgres")
# Where a run that pg_cron begins at the full minute would be one too many.
NOT_NOW = "0 0 30 2 *"


def jobs(job: Job) -> list[tuple[object, ...]]:
    return job.connection.execute(JOBS.encode()).fetchall()


def test_schedule_creates_the_job_and_can_be_repeated(cron: Job) -> None:
    first = cron.value("select qr_refresh.schedule()")
    assert jobs(cron) == [OURS]
    assert cron.value("select qr_refresh.schedule()") == first
    assert jobs(cron) == [OURS]


def test_schedule_changes_the_job_there_is_and_makes_it_active(cron: Job) -> None:
    job = cron.value("select qr_refresh.schedule()")
    cron.connection.execute("select cron.alter_job(%s, active => false)", (job,))
    cron.connection.execute("select qr_refresh.schedule('*/5 * * * *')")
    assert jobs(cron) == [(OURS[0], "*/5 * * * *", *OURS[2:])]


def test_schedule_replaces_the_job_that_called_the_edge_function(cron: Job) -> None:
    cron.connection.execute(
        "select cron.schedule('refresh-qr-codes', '*/1 * * * *', 'select net.http_post()')"
    )
    cron.connection.execute("select qr_refresh.schedule()")
    assert jobs(cron) == [OURS]


def test_schedule_takes_over_a_job_of_another_role(cron: Job) -> None:
    cron.connection.execute("select qr_refresh.schedule()")
    cron.connection.execute("update cron.job set username = 'service_role'")
    cron.connection.execute("select qr_refresh.schedule()")
    assert jobs(cron) == [OURS]
    names = cron.value("select array_agg(distinct username) from cron.job")
    assert names == [cron.value("select qr_refresh.role_of_jobs()")]


def test_other_jobs_are_left_alone(cron: Job) -> None:
    cron.connection.execute("select cron.schedule('another', '0 3 * * *', 'select 1')")
    cron.connection.execute("select qr_refresh.schedule()")
    cron.connection.execute("select qr_refresh.unschedule()")
    assert [job[0] for job in jobs(cron)] == ["another"]


def test_unschedule_removes_the_job_and_can_be_repeated(cron: Job) -> None:
    cron.connection.execute("select qr_refresh.schedule()")
    assert cron.value("select qr_refresh.unschedule()") is True
    assert jobs(cron) == []
    assert cron.value("select qr_refresh.unschedule()") is False


def test_a_schedule_that_pg_cron_refuses_is_an_error_with_a_hint(cron: Job) -> None:
    with pytest.raises(psycopg.Error) as raised:
        cron.connection.execute("select qr_refresh.schedule('every minute')")
    assert raised.value.sqlstate == "QR004"
    assert raised.value.diag.message_primary == "pg_cron refuses the schedule 'every minute'"
    assert "* * * * *" in (raised.value.diag.message_hint or "")
    assert jobs(cron) == []


@pytest.mark.cron_minute
def test_the_real_pg_cron_runs_the_job_and_the_qr_arrives_and_no_token_is_shown(
    cron: Job, server: Server
) -> None:
    cron.add("shop")
    cron.add_row("unknown", MARKER)
    cron.add_row("unsendable", f"{MARKER}\r\nX: y")
    version = cron.value("select extversion from pg_extension where extname = 'pg_cron'")
    has_seconds = [int(part) for part in re.findall(r"\d+", version)] >= [1, 5]
    schedule = "1 seconds" if has_seconds else "* * * * *"
    cron.connection.execute("select qr_refresh.schedule(%s)", (schedule,))
    # One that fails, and whose error shows a report.
    failing = "select refresh_qr_codes('unknown')::text::integer"
    cron.connection.execute("select cron.schedule('fails', %s, %s)", (schedule, failing))

    def is_current() -> bool:
        stored = cron.row("shop").qr_code
        return stored is not None and read_qr(stored) == cron.simulator.current_code("shop")

    wait_until(is_current, "pg_cron runs the job", timeout=90)
    status = "select count(*) from cron.job_run_details where status = 'succeeded'"
    wait_until(lambda: cron.value(status), "pg_cron records the run")
    # Where the other job works at its instance just then, that counts as refreshed as well.
    assert cron.value("select max(refreshed) from qr_refresh.runs") in (1, 2)
    failed = "select count(*) from cron.job_run_details where status = 'failed'"
    wait_until(lambda: cron.value(failed), "pg_cron records the failure")
    details = cron.value("select string_agg(d::text, '') from cron.job_run_details as d")
    assert "Failed to fetch QR for unknown: 404" in details
    assert MARKER not in details
    if server.engine != "url":
        assert MARKER not in server.log_text()


def test_live_mode_has_a_job_for_each_worker(cron: Job) -> None:
    first = cron.value("select qr_refresh.schedule()")
    assert cron.value("select qr_refresh.schedule('live')") == first
    assert [(job[0], job[1], job[2]) for job in jobs(cron)] == [
        ("refresh-qr-codes", "* * * * *", "CALL qr_refresh.live(1, 1)"),
    ]
    cron.connection.execute("select qr_refresh.schedule('live', workers => 3)")
    assert [(job[0], job[2]) for job in jobs(cron)] == [
        ("refresh-qr-codes", "CALL qr_refresh.live(1, 3)"),
        ("refresh-qr-codes-2", "CALL qr_refresh.live(2, 3)"),
        ("refresh-qr-codes-3", "CALL qr_refresh.live(3, 3)"),
    ]


def test_the_plain_job_takes_the_place_of_live_mode(cron: Job) -> None:
    cron.connection.execute("select cron.schedule('refresh-qr-codes-of-mine', '0 3 * * *', 'x')")
    cron.connection.execute("select qr_refresh.schedule('live', workers => 2)")
    cron.connection.execute("select qr_refresh.schedule('* * * * *')")
    assert [job[0] for job in jobs(cron)] == ["refresh-qr-codes", "refresh-qr-codes-of-mine"]
    assert jobs(cron)[0] == OURS
    cron.connection.execute("select qr_refresh.schedule('live')")
    assert cron.value("select qr_refresh.unschedule()") is True
    assert [job[0] for job in jobs(cron)] == ["refresh-qr-codes-of-mine"]


@pytest.mark.parametrize("arguments", ["'live', 0", "'live', 33", "'live', null", "'* * * * *', 2"])
def test_a_number_of_workers_that_makes_no_sense_is_refused(cron: Job, arguments: str) -> None:
    with pytest.raises(psycopg.Error) as raised:
        cron.connection.execute(f"select qr_refresh.schedule({arguments})".encode())
    assert raised.value.sqlstate == "QR004"
    assert "workers => 4" in (raised.value.diag.message_hint or "")
    assert jobs(cron) == []


def test_more_workers_than_pg_cron_runs_at_a_time_are_refused(cron: Job) -> None:
    most = cron.value("select current_setting('cron.max_running_jobs')::integer")
    assert most < 32
    with pytest.raises(psycopg.Error) as raised:
        cron.connection.execute("select qr_refresh.schedule('live', %s)", (most + 1,))
    assert raised.value.sqlstate == "QR004"
    assert f"cron.max_running_jobs = {most + 1}" in (raised.value.diag.message_hint or "")
    assert jobs(cron) == []
    cron.connection.execute("select qr_refresh.schedule('live', %s)", (most,))
    assert len(jobs(cron)) == most


@pytest.mark.cron_minute
def test_the_real_pg_cron_runs_live_mode(cron: Job) -> None:
    cron.add("shop")
    cron.connection.execute("select qr_refresh.schedule('live')")
    wait_until(lambda: cron.row("shop").qr_code, "pg_cron runs live mode", timeout=90)
    # In the same minute, by the same call.
    cron.add("later")
    wait_until(lambda: cron.row("later").qr_code, "live mode sees a new row")
    running = "select count(*) from cron.job_run_details where status = 'running'"
    wait_until(lambda: cron.value(running) == 1, "it is at work")


def test_every_schedule_has_a_job_that_cuts_pg_crons_history(cron: Job) -> None:
    prune = "select schedule, command from cron.job where jobname = 'refresh-qr-codes-prune'"
    for schedule in ("* * * * *", "live", "*/5 * * * *"):
        cron.connection.execute("select qr_refresh.schedule(%s)", (schedule,))
        assert cron.connection.execute(prune.encode()).fetchall() == [
            ("17 3 * * *", "SELECT qr_refresh.prune_history()")
        ]
    cron.connection.execute("select qr_refresh.unschedule()")
    assert cron.connection.execute(prune.encode()).fetchall() == []


def job_alerts(cron: Job) -> list[tuple[str, str]]:
    return cron.connection.execute(
        "select alert, detail from qr_refresh.alerts where alert like 'job_%'"
    ).fetchall()


def test_the_alerts_see_a_missing_an_inactive_and_a_late_job(cron: Job) -> None:
    # A test before may have left one that pg_cron has begun.
    wait_until(lambda: cron.run()["success"], "no other run is under way")
    missing = ("job_missing", "pg_cron has no job that runs refresh_qr_codes()")
    assert job_alerts(cron) == [missing]
    number = cron.value("select qr_refresh.schedule(%s)", NOT_NOW)
    assert job_alerts(cron) == []
    cron.connection.execute("select cron.alter_job(%s, active => false)", (number,))
    inactive = f"pg_cron job {number} (refresh-qr-codes) is not active"
    assert job_alerts(cron) == [("job_inactive", inactive)]
    cron.connection.execute("select cron.alter_job(%s, active => true)", (number,))
    cron.connection.execute(
        "update qr_refresh.runs set finished_at = finished_at - interval '6 minutes'"
    )
    assert job_alerts(cron) == [("job_late", "no run for over 00:05:00")]


@pytest.mark.parametrize(
    ("command", "is_ours"),
    [("CALL qr_refresh.live()", True), ("select net.http_post('a key')", False)],
)
def test_a_job_counts_by_what_it_calls_and_its_command_is_not_shown(
    cron: Job, command: str, is_ours: bool
) -> None:
    cron.run()
    cron.connection.execute("select cron.schedule('refresh-qr-codes', '* * * * *', %s)", (command,))
    assert [alert for alert, _ in job_alerts(cron)] == ([] if is_ours else ["job_missing"])
    assert command not in cron.value("select string_agg(j::text, '') from qr_refresh.cron_jobs() j")


def test_schedule_lets_the_views_see_jobs_where_pg_cron_came_after_the_installation(
    cron: Job,
) -> None:
    cron.connection.execute("revoke usage on schema cron from qr_refresh_owner")
    cron.run()
    assert job_alerts(cron) == []
    cron.connection.execute("select qr_refresh.schedule()")
    assert cron.value("select schedule from qr_refresh.health") == "refresh-qr-codes: * * * * *"


def test_a_job_that_runs_in_another_database_is_not_that_of_this_one(cron: Job) -> None:
    cron.run()
    cron.connection.execute(
        "select cron.schedule_in_database('refresh-qr-codes', '* * * * *',"
        " 'SELECT refresh_qr_codes()', 'template1')"
    )
    assert [alert for alert, _ in job_alerts(cron)] == ["job_missing"]
    assert cron.value("select schedule from qr_refresh.health") is None


def test_health_sees_jobs_of_every_role_and_so_does_a_monitor(cron: Job) -> None:
    cron.connection.execute("select qr_refresh.schedule('*/2 * * * *')")
    cron.connection.execute("update cron.job set username = 'service_role'")
    cron.connection.execute("set role pg_monitor")
    seen = cron.connection.execute("select schedule, is_active from qr_refresh.health").fetchall()
    assert seen == [("refresh-qr-codes: */2 * * * *", True)]


EDGE_FUNCTION_QUERIES = """
SELECT jobid, jobname, schedule, active
FROM cron.job
WHERE jobname = 'refresh-qr-codes';

SELECT
  start_time,
  end_time,
  status,
  return_message,
  (end_time - start_time) AS duration
FROM cron.job_run_details
WHERE jobid = (SELECT jobid FROM cron.job WHERE jobname = 'refresh-qr-codes')
ORDER BY start_time DESC
LIMIT 10;
"""


def test_the_queries_of_the_edge_functions_documentation_find_the_job(cron: Job) -> None:
    number = cron.value("select qr_refresh.schedule(%s)", NOT_NOW)
    cron.connection.execute(
        "insert into cron.job_run_details (jobid, runid, status, return_message, start_time,"
        " end_time) values (%s, -1, 'succeeded', '1 row', now(), now())",
        (number,),
    )
    job, history = (
        cron.connection.execute(q.encode()) for q in EDGE_FUNCTION_QUERIES.split(";")[:2]
    )
    assert job.fetchall() == [(number, "refresh-qr-codes", NOT_NOW, True)]
    assert [row[2:4] for row in history.fetchall()] == [("succeeded", "1 row")]


def why_not_here(connection: Connection, call: str) -> tuple[str, str]:
    """The message and the hint of a call that is refused with QR002."""
    error = refusal(connection, call)
    assert error.sqlstate == "QR002"
    return error.diag.message_primary or "", error.diag.message_hint or ""


def test_from_another_database_the_error_says_what_to_run_and_where(cron: Job, job: Job) -> None:
    here = job.connection.info.dbname
    all_jobs = "select jobname, schedule, command, database from cron.job order by jobid"
    message, hint = why_not_here(job.connection, "select qr_refresh.schedule()")
    assert message == "pg_cron lives in database 'postgres', not in this one"
    cron.connection.execute(hint.removeprefix("Run there: ").encode())
    name = f"refresh-qr-codes@{here}"
    assert cron.connection.execute(all_jobs.encode()).fetchall() == [
        (name, "* * * * *", "SELECT refresh_qr_codes()", here)
    ]
    message, hint = why_not_here(job.connection, "select qr_refresh.schedule('live')")
    cron.connection.execute(hint.removeprefix("Run there: ").encode())
    assert cron.connection.execute(all_jobs.encode()).fetchall() == [
        (name, "* * * * *", "CALL qr_refresh.live(1, 1)", here),
    ]
    # Back to fewer workers, and to none: what is not asked for any more goes.
    here_jobs = "select array_agg(jobname) from cron.job"
    for call, names in (
        ("'live', workers => 3", [name, *(f"refresh-qr-codes-{n}@{here}" for n in (2, 3))]),
        ("'live', workers => 2", [name, *(f"refresh-qr-codes-{n}@{here}" for n in (2,))]),
        ("'live'", [name]),
        ("", [name]),
    ):
        message, hint = why_not_here(job.connection, f"select qr_refresh.schedule({call})")
        cron.connection.execute(hint.removeprefix("Run there: ").encode())
        assert sorted(cron.value(here_jobs)) == sorted(names)
    message, hint = why_not_here(job.connection, "select qr_refresh.unschedule()")
    cron.connection.execute(hint.removeprefix("Run there: ").encode())
    assert cron.connection.execute(all_jobs.encode()).fetchall() == []


def test_the_jobs_of_two_databases_do_not_touch_each_other(cron: Job, job: Job) -> None:
    here = job.connection.info.dbname
    _, hint = why_not_here(job.connection, "select qr_refresh.schedule('live')")
    cron.connection.execute(hint.removeprefix("Run there: ").encode())
    of_this_database = "select array_agg(jobname order by 1) from cron.job where database = %s"
    before = cron.value(of_this_database, here)
    cron.connection.execute("select qr_refresh.schedule('live', workers => 2)")
    assert len(cron.value(of_this_database, "postgres")) == 3
    assert cron.value(of_this_database, here) == before
    cron.connection.execute("select qr_refresh.unschedule()")
    assert cron.value(of_this_database, here) == before
    _, hint = why_not_here(job.connection, "select qr_refresh.unschedule()")
    cron.connection.execute(hint.removeprefix("Run there: ").encode())
    assert cron.value(of_this_database, here) is None


@pytest.mark.engines
def test_without_pg_cron_the_error_names_the_package_and_the_settings() -> None:
    with start_postgres(settings={"shared_preload_libraries": ""}) as bare:
        install(bare.dsn())
        with psycopg.connect(bare.dsn(), autocommit=True) as connection:
            for call in ("select qr_refresh.schedule()", "select qr_refresh.unschedule()"):
                message, hint = why_not_here(connection, call)
                assert message == "pg_cron is not loaded on this server"
                assert f"apt install postgresql-{bare.major}-cron" in hint
                assert "shared_preload_libraries = 'pg_cron'" in hint
                assert "cron.database_name = 'postgres'" in hint


@pytest.mark.engines
def test_without_the_extension_the_error_says_to_create_it(pg_cron: None) -> None:
    with start_postgres(own=True) as fresh:
        install(fresh.dsn())
        with psycopg.connect(fresh.dsn(), autocommit=True) as connection:
            message, hint = why_not_here(connection, "select qr_refresh.schedule()")
            assert message == "extension pg_cron is not created in this database"
            connection.execute("create extension pg_cron")
            connection.execute("select qr_refresh.schedule()")


def told_by(cron: Job, call: str) -> list[tuple[str, str]]:
    """The notices and warnings of a call: their messages and hints."""
    told: list[tuple[str, str]] = []

    def listen(notice: psycopg.errors.Diagnostic) -> None:
        told.append((notice.message_primary or "", notice.message_hint or ""))

    cron.connection.add_notice_handler(listen)
    cron.connection.execute(call.encode())
    cron.connection.remove_notice_handler(listen)
    return told


def test_schedule_says_which_job_it_replaces_and_its_hint_brings_that_one_back(cron: Job) -> None:
    call = "select net.http_post('https://x.example/functions/v1/refresh-qr-codes', 'a key')"
    old = cron.value("select cron.schedule('refresh-qr-codes', '*/2 * * * *', %s)", call)
    cron.connection.execute(
        "insert into cron.job_run_details (jobid, runid, database, username, command, status)"
        " values (%s, -1, 'postgres', 'postgres', %s, 'succeeded')",
        (old, call),
    )
    ((message, hint),) = told_by(cron, "select qr_refresh.schedule('live')")
    job = f"pg_cron job {old} (refresh-qr-codes, */2 * * * *)"
    assert message == f"{job} is replaced: it called the Edge Function"
    assert "a key" not in message + hint
    assert jobs(cron)[0][2] == "CALL qr_refresh.live(1, 1)"
    cron.connection.execute(hint.removeprefix("To go back: ").encode())
    assert jobs(cron) == [("refresh-qr-codes", "*/2 * * * *", call, True, "postgres")]
    # Where pg_cron has not run it, nobody else knows its command.
    cron.connection.execute("delete from cron.job_run_details")
    ((_, hint),) = told_by(cron, "select qr_refresh.schedule('live')")
    assert "pg_cron has no run on record" in hint and "a key" not in hint
    assert told_by(cron, "select qr_refresh.schedule('live')") == []


def test_schedule_names_a_job_of_another_name_that_still_calls_the_edge_function(cron: Job) -> None:
    call = "select net.http_post('https://x.example/functions/v1/refresh-qr-codes', 'a key')"
    old = cron.value("select cron.schedule('old', '*/2 * * * *', %s)", call)
    told = told_by(cron, "select qr_refresh.schedule()")
    hint = f"To remove it: SELECT cron.unschedule({old});"
    assert told == [(f"pg_cron job {old} (old) still calls the Edge Function", hint)]
    cron.connection.execute(hint.removeprefix("To remove it: ").encode())
    assert [job[0] for job in jobs(cron)] == ["refresh-qr-codes"]


def test_a_caller_who_is_no_superuser_schedules_as_themselves(cron: Job) -> None:
    cron.connection.execute("create role scheduler login")
    try:
        cron.connection.execute(
            "grant usage on schema cron, qr_refresh to scheduler;"
            "grant execute on all functions in schema qr_refresh to scheduler;"
            "grant execute on all functions in schema cron to scheduler;"
            "set session authorization scheduler"
        )
        cron.connection.execute("select qr_refresh.schedule('live')")
        cron.connection.execute("reset session authorization")
        assert cron.value("select array_agg(distinct username) from cron.job") == ["scheduler"]
    finally:
        cron.connection.execute("reset session authorization")
        cron.connection.execute("select cron.unschedule(jobid) from cron.job")
        cron.connection.execute("drop owned by scheduler; drop role scheduler")


def test_the_role_of_the_jobs_does_what_they_do_and_nothing_else(cron: Job) -> None:
    cron.add("shop")
    keep = "insert into cron.job_run_details (runid, database, username, command, start_time)"
    keep += " values (-1, 'postgres', %s, 'SELECT refresh_qr_codes()', now() - interval '9 days')"
    cron.connection.execute("select qr_refresh.schedule()")
    cron.connection.execute(keep.encode(), ("qr_refresher",))
    cron.connection.execute("set session authorization qr_refresher")
    try:
        assert cron.value("select qr_refresh.live_tick(1, 1, null) ->> 'failed_ticks'") == "0"
        assert cron.run()["success"] is True
        assert cron.value("select qr_refresh.prune_history()") == 1
        for attempt in (
            "select instance_token from evolution_instances",
            "update qr_refresh.settings set evolution_api_base_url = 'http://127.0.0.1:1'",
            "select qr_refresh.schedule()",
            "set role qr_refresh_owner",
            "set role postgres",
            "create role mine",
        ):
            assert refusal(cron.connection, attempt).sqlstate == "42501", attempt
    finally:
        cron.connection.execute("reset session authorization")


@pytest.mark.cron_minute
def test_pg_cron_runs_the_job_as_a_role_with_no_other_power(cron: Job) -> None:
    if cron.value("select qr_refresh.role_of_jobs()") != "qr_refresher":
        pytest.skip("this pg_cron connects as a client: tests/schedule/test_pg_cron.py lets it in")
    cron.add("shop")
    cron.connection.execute("select qr_refresh.schedule('1 seconds')")
    wait_until(lambda: cron.row("shop").qr_code, "pg_cron runs the job", timeout=30)
    ran_as = "select array_agg(distinct username) from cron.job_run_details"
    assert cron.value(ran_as) == ["qr_refresher"]
