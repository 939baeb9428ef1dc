"""doctor() where pg_cron lives, and on servers without it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from simulator import Simulator
from tests.doctor.breaks import BREAKS, CRON_BREAKS, FAILED, TESTED_ELSEWHERE
from tests.doctor.findings import break_and_look, findings
from tools.engines import Server, start_postgres
from tools.job import Connection, Job, install


@pytest.fixture(scope="module")
def cron_server(pg_cron: None) -> Iterator[str]:
    """A server of its own, because pg_cron lives in one database: its URL, job installed."""
    with start_postgres(settings={"cron.use_background_workers": "off"}) as fresh:
        install(fresh.dsn())
        yield fresh.dsn()


@pytest.fixture
def cron_patient(cron_server: str, simulator: Simulator) -> Iterator[Job]:
    """The job and pg_cron's schedule of it; what a test does is rolled back."""
    with psycopg.connect(cron_server) as connection:
        job = Job(connection, simulator)
        job.set(evolution_api_base_url=simulator.base_url)
        found = findings(connection)
        assert found["extension pg_cron"]["ok"] is False
        connection.execute("create extension pg_cron")
        connection.execute("select qr_refresh.schedule()")
        connection.execute(FAILED.format("1 row").replace("'failed'", "'succeeded'").encode())
        job.run()
        yield job
        connection.rollback()


def test_nothing_is_wrong_where_pg_cron_lives_here(cron_patient: Job) -> None:
    found = findings(cron_patient.connection)
    assert [row for row in found.values() if row["ok"] is False] == []
    assert found["job is scheduled"]["detail"] == "refresh-qr-codes, * * * * *"
    assert found["way of pg_cron to connect"]["ok"] is True
    # Nothing lets qr_refresher in, so the jobs are those of whoever scheduled them.
    assert found["job's role has no other power"]["ok"] is None
    tested = {b[0] for b in BREAKS} | {b[0] for b in CRON_BREAKS} | TESTED_ELSEWHERE
    assert set(found) - tested == set()


@pytest.mark.parametrize(
    ("check", "how", "ok", "detail"), CRON_BREAKS, ids=[f"{b[0]}: {b[1][:40]}" for b in CRON_BREAKS]
)
def test_a_check_of_pg_cron_turns_when_what_it_checks_is_broken(
    cron_patient: Job, check: str, how: str, ok: bool | None, detail: str
) -> None:
    before = findings(cron_patient.connection).get(check)
    assert before is None or before["ok"] is True
    found = break_and_look(cron_patient, check, how)
    assert found["ok"] is ok
    assert detail in found["detail"]
    assert "a key" not in str(found)


def test_a_failed_connection_of_pg_cron_has_its_own_fix(cron_patient: Job) -> None:
    found = break_and_look(
        cron_patient, "pg_cron's last execution", FAILED.format("connection failed")
    )
    assert "cron.use_background_workers = o" in found["fix"]
    assert findings(cron_patient.connection)["way of pg_cron to connect"]["ok"] is None


def test_what_has_never_run_is_not_taken_for_good(cron_patient: Job) -> None:
    how = "delete from cron.job_run_details"
    found = break_and_look(cron_patient, "pg_cron's last execution", how)
    assert (found["ok"], found["detail"]) == (None, "none is on record")
    assert findings(cron_patient.connection)["way of pg_cron to connect"]["ok"] is None


SECOND_RUNS = (
    "select cron.schedule('a', '* * * * *', 'select refresh_qr_codes()');"
    "select cron.schedule('b', '* * * * *', 'select refresh_qr_codes()')"
)


@pytest.mark.parametrize(
    ("check", "how"),
    [
        ("job is scheduled", "select qr_refresh.unschedule()"),
        ("job is active", "update cron.job set active = false"),
        ("there is no second job", SECOND_RUNS),
        ("there is no second job", SECOND_RUNS + "; select qr_refresh.schedule('live')"),
        (
            "there is no second job",
            "select cron.schedule('old', '* * * * *',"
            " $$select net.http_post('https://x/functions/v1/refresh-qr-codes')$$)",
        ),
        (
            "every job has its role",
            "create role gone login;"
            "select cron.schedule_in_database('app', '* * * * *', 'select 1', 'postgres', 'gone');"
            "drop role gone",
        ),
    ],
)
def test_the_fix_of_a_check_of_pg_cron_makes_it_right(
    cron_patient: Job, check: str, how: str
) -> None:
    found = break_and_look(cron_patient, check, how)
    assert found["ok"] is False
    cron_patient.connection.execute(found["fix"].partition(" or ")[0].encode())
    found = findings(cron_patient.connection)
    assert found[check]["ok"] is True
    assert found["job is scheduled"]["ok"] is True


def test_a_job_for_which_no_process_was_left_has_its_own_fix(cron_patient: Job) -> None:
    how = FAILED.format("could not start background process; more details may be available ...")
    found = break_and_look(cron_patient, "pg_cron's last execution", how)
    assert found["ok"] is False and "max_worker_processes" in found["fix"]


def test_a_restart_does_not_hide_that_another_job_fails(cron_patient: Job) -> None:
    cron_patient.connection.execute("select qr_refresh.schedule('live')")
    for job, message in (
        ("", "server restarted"),
        ("-2", "ERROR: no"),
        ("-3", "server restarted"),
    ):
        cron_patient.connection.execute(
            "select cron.schedule(%s, '* * * * *', 'CALL qr_refresh.live()')",
            (f"refresh-qr-codes{job}",),
        )
        cron_patient.connection.execute(
            FAILED.format(message)
            .replace("'refresh-qr-codes'", f"'refresh-qr-codes{job}'")
            .encode()
        )
    found = findings(cron_patient.connection)["pg_cron's last execution"]
    assert found["ok"] is False and found["detail"].endswith("ERROR: no")


def test_workers_of_live_mode_are_not_taken_for_second_jobs(cron_patient: Job) -> None:
    cron_patient.connection.execute("select qr_refresh.unschedule()")
    for name in ("refresh-qr-codes", "refresh-qr-codes-2", "refresh-qr-codes-3"):
        cron_patient.connection.execute(
            "select cron.schedule(%s, '* * * * *', 'CALL qr_refresh.live()')", (name,)
        )
    assert findings(cron_patient.connection)["there is no second job"]["ok"] is True


def test_a_job_of_the_applications_with_a_similar_name_is_none_of_ours(cron_patient: Job) -> None:
    found = break_and_look(
        cron_patient,
        "there is no second job",
        "select cron.schedule('refresh-qr-codes-report', '0 3 * * *', 'select 1')",
    )
    assert found["ok"] is True


def test_a_role_may_run_live_mode_with_all_three_privileges_of_the_fix(cron_patient: Job) -> None:
    cron_patient.connection.execute("create role runs_it; select qr_refresh.schedule('live')")
    cron_patient.connection.execute("update cron.job set username = 'runs_it'")
    fix = findings(cron_patient.connection)["job's role may run it"]["fix"]
    grants = fix.replace("...", "runs_it").split(";")[:2]
    assert len(grants) == 2
    for grant in grants:
        assert findings(cron_patient.connection)["job's role may run it"]["ok"] is False
        cron_patient.connection.execute(grant.encode())
    assert findings(cron_patient.connection)["job's role may run it"]["ok"] is True
    cron_patient.connection.execute("revoke execute on routine qr_refresh.live from runs_it")
    assert findings(cron_patient.connection)["job's role may run it"]["ok"] is False


SECOND = (
    "insert into cron.job (schedule, command, nodename, nodeport, database, username, jobname)"
    " values ('* * * * *', '{command}', '', 5432, current_database(), '{role}', '{name}')"
)
CRON_BRANCHES: list[tuple[str, str, bool | None, str]] = [
    (
        "there is no second job",
        SECOND.format(
            command="CALL qr_refresh.live()", role="service_role", name="refresh-qr-codes"
        ),
        False,
        "(refresh-qr-codes, calls live)",
    ),
    (
        "there is no second job",
        SECOND.format(command="select 1", role="postgres", name="refresh-qr-codes-2"),
        False,
        "(refresh-qr-codes-2, calls something else)",
    ),
    (
        "there is no second job",
        SECOND.format(command="select refresh_qr_codes()", role="postgres", name="x").replace(
            "current_database()", "'another'"
        ),
        True,
        "yes",
    ),
    (
        "job's role may run it",
        "update cron.job set username = 'nobody_there'",
        False,
        "(role nobody_there)",
    ),
    ("job's role may run it", "update cron.job set username = 'service_role'", True, "yes"),
    ("job is active", "update cron.job set active = jobname !~ 'prune'", True, "yes"),
    # Something else of ours has failed, but not what stores QR codes.
    (
        "pg_cron's last execution",
        FAILED.format("no").replace("'refresh-qr-codes'", "'refresh-qr-codes-prune'"),
        True,
        "did not fail",
    ),
    (
        "pg_cron's last execution",
        FAILED.format("no") + ";" + FAILED.replace("'failed'", "'succeeded'").format("fine"),
        True,
        "did not fail",
    ),
    (
        "pg_cron's last execution",
        FAILED.format("no") + ";" + FAILED.replace("'failed'", "'running'").format("on"),
        False,
        "no",
    ),
    # A minute of live mode has to end by itself; a run alone may take 30 seconds.
    (
        "timeouts of the job's role",
        "alter database postgres set statement_timeout = '45s'",
        True,
        "a run has its time",
    ),
    (
        "timeouts of the job's role",
        "alter database postgres set statement_timeout = '45s'; select qr_refresh.schedule('live')",
        False,
        "statement_timeout = 45s",
    ),
    (
        "timeouts of the job's role",
        "alter database postgres set statement_timeout = '61s'; select qr_refresh.schedule('live')",
        True,
        "a run has its time",
    ),
    # That of the role under which the job runs, and not of who looks.
    (
        "timeouts of the job's role",
        "alter role service_role set statement_timeout = '9s';"
        "update cron.job set username = 'service_role'",
        False,
        "service_role: statement_timeout = 9s",
    ),
    (
        "timeouts of the job's role",
        "alter role service_role set statement_timeout = '9s'",
        True,
        "postgres: a run has its time",
    ),
]


@pytest.mark.parametrize(
    ("check", "how", "ok", "detail"),
    CRON_BRANCHES,
    ids=[f"{b[0]}: {b[1][:60]}" for b in CRON_BRANCHES],
)
def test_a_check_of_pg_cron_tells_apart_what_is_wrong_and_what_is_not(
    cron_patient: Job, check: str, how: str, ok: bool | None, detail: str
) -> None:
    found = break_and_look(cron_patient, check, how)
    assert (found["ok"], detail in found["detail"]) == (ok, True), found


def test_a_job_that_fails_by_itself_is_to_be_tried_by_hand(cron_patient: Job) -> None:
    found = break_and_look(cron_patient, "pg_cron's last execution", FAILED.format("ERROR: no"))
    assert found["fix"].startswith("By hand, as the role of the job")


@pytest.mark.engines
def test_a_server_without_pg_cron_and_a_standby_are_recognised() -> None:
    with start_postgres(settings={"shared_preload_libraries": ""}) as bare:
        install(bare.dsn())
        with psycopg.connect(bare.dsn(), autocommit=True) as connection:
            assert findings(connection)["pg_cron is loaded"]["ok"] is False
            connection.execute("select refresh_qr_codes()")
            # Something else has run it.
            assert findings(connection)["pg_cron is loaded"]["ok"] is None
            found = findings(connection)
            assert found["database is writable"]["ok"] is True
            assert found["instance_state is readable"]["ok"] is True
            become_standby(bare, connection)
        bare.restart()
        with psycopg.connect(bare.dsn(), autocommit=True) as connection:
            found = findings(connection)
            assert found["database is writable"]["ok"] is False
            assert found["instance_state is readable"]["ok"] is False
            assert "unlogged" in found["instance_state is readable"]["fix"]
            # As docs/operations.md says.
            connection.execute("select * from qr_refresh.runs")
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="unlogged relations"):
                connection.execute("select * from qr_refresh.status")


def become_standby(server: Server, connection: Connection) -> None:
    """Let the server be a standby, of nobody, from its next start on."""
    connection.execute(
        "do language plpython3u $$\n"
        "import os\n"
        "folder = plpy.execute('show data_directory')[0]['data_directory']\n"
        "open(os.path.join(folder, 'standby.signal'), 'w').close()\n"
        "$$"
    )
