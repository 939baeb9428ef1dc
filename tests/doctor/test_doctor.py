"""doctor(): each thing that it checks is broken here, and its row turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from simulator import Simulator, Trouble, running_simulator
from tools.backend import refusing_port
from tools.engines import Server, start_postgres
from tools.job import Connection, Job, install

Finding = dict[str, Any]


def findings(connection: Connection) -> dict[str, Finding]:
    cursor = connection.cursor(row_factory=dict_row)
    rows = cursor.execute("select * from qr_refresh.doctor()").fetchall()
    assert len({row["check"] for row in rows}) == len(rows), "a check has two rows"
    for row in rows:
        assert (row["fix"] is None) is (row["ok"] is True), row
        assert row["detail"], row
    return {row["check"]: row for row in rows}


def break_and_look(job: Job, check: str, how: str) -> Finding:
    """Break something, and return what doctor() then says of it. The fixture rolls back."""
    job.connection.execute(how.encode())
    return findings(job.connection)[check]


@pytest.fixture(scope="module")
def well_url(
    create_database: Callable[[str], str], template: str, server: Server
) -> Iterator[tuple[str, Simulator]]:
    """A database in which all is well but for pg_cron elsewhere, and the Evolution API it asks."""
    url = create_database(f"template {template}")
    with running_simulator(server.listen_host) as simulator:
        simulator.base_url = server.as_reached(simulator.base_url)
        with psycopg.connect(url, autocommit=True) as connection:
            for role in ("anon", "authenticated"):
                connection.execute(
                    f"do $$ begin create role {role};"
                    " exception when duplicate_object then null; end $$".encode()
                )
            job = Job(connection, simulator)
            job.set(evolution_api_base_url=simulator.base_url)
            job.add("shop")
            job.run()
        yield url, simulator


@pytest.fixture
def patient(well_url: tuple[str, Simulator]) -> Iterator[Job]:
    """A session of the test's own on it, in a transaction that is rolled back."""
    url, simulator = well_url
    with psycopg.connect(url) as connection:
        # As if it had just run, however long the tests before have taken.
        connection.execute(
            "update qr_refresh.runs set started_at = clock_timestamp(),"
            " finished_at = clock_timestamp()"
        )
        yield Job(connection, simulator)
        connection.rollback()


def test_nothing_is_wrong_where_all_is_well(patient: Job) -> None:
    found = findings(patient.connection)
    assert [row for row in found.values() if row["ok"] is False] == []
    assert found["Evolution API answers"]["detail"].startswith("yes after ")
    assert found["Evolution API knows the instance and its token"]["detail"] == "shop: qr_code"


PYTHON = "do language plpython3u $python$ {} $python$"
REFUSALS = "rows take their QR codes"
TRIGGER = (
    "create function of_app() returns trigger language plpgsql as $$ begin {}; end $$;"
    "create trigger of_app before update on evolution_instances"
    " for each row execute function of_app();"
    "select refresh_qr_codes()"
)
# check: (what breaks it, ok after that, a part of the detail)
BREAKS: list[tuple[str, str, bool | None, str]] = [
    ("PL/Python", "drop extension plpython3u cascade", False, "is not created"),
    ("python", "drop function qr_refresh.doctor_python()", False, "42883"),
    (
        "Python library requests",
        PYTHON.format("import sys; sys.modules['requests'] = None"),
        False,
        "not in the Python 3",
    ),
    (
        "Python library Pillow",
        PYTHON.format("import sys; sys.modules['PIL'] = None"),
        None,
        "not in the Python 3",
    ),
    (
        "clock",
        "update qr_refresh.instance_state set attempted_at = now() + interval '1 hour'",
        False,
        "rows of the job from the future: 1",
    ),
    (
        "timeouts of the job's role",
        "do $$ begin execute format("
        "'alter database %I set statement_timeout = ''29s''', current_database()); end $$",
        False,
        "statement_timeout = 29s",
    ),
    ("base URL", "update qr_refresh.settings set evolution_api_base_url = null", None, "default"),
    (
        "table evolution_instances",
        "alter table evolution_instances rename qr_code to picture",
        False,
        "columns are missing: qr_code",
    ),
    (
        "table evolution_instances",
        "alter table evolution_instances rename to instances",
        False,
        "there is no table",
    ),
    (
        "connecting instances",
        "update evolution_instances set instance_status = 'connected'",
        None,
        "0",
    ),
    (
        "tokens of connecting instances",
        "update evolution_instances set instance_token = null",
        False,
        "shop: instance token is missing",
    ),
    (
        "tokens of connecting instances",
        "alter table evolution_instances alter instance_name drop not null;"
        "update evolution_instances set instance_name = null",
        False,
        "NULL: instance name cannot be part of a URL",
    ),
    (
        "servers of connecting instances",
        "update evolution_instances set evolution_server = 'nowhere'",
        False,
        "not in qr_refresh.evolution_servers: shop: nowhere",
    ),
    (
        "index on instance_status",
        "drop index evolution_instances_instance_status_idx;"
        "update pg_class set reltuples = 20000 where relname = 'evolution_instances'",
        False,
        "none, about 20000 rows",
    ),
    (REFUSALS, "select 1", True, "none was refused"),
    (
        REFUSALS,
        "alter table evolution_instances add constraint tiny check (length(qr_code) < 9) not valid;"
        "select refresh_qr_codes()",
        False,
        'violates check constraint "tiny" (SQLSTATE 23514)',
    ),
    (
        REFUSALS,
        "create table audit (name text);"
        + TRIGGER.format("insert into public.audit values (new.instance_name); return new"),
        False,
        "permission denied for table audit (SQLSTATE 42501), in function public.of_app()",
    ),
    (
        REFUSALS,
        TRIGGER.format("perform helper_of_app(); return new"),
        False,
        "function helper_of_app() does not exist (SQLSTATE 42883), in function public.of_app()",
    ),
    (REFUSALS, TRIGGER.format("return null"), False, "a trigger or a rule keeps the row as it is"),
    (
        REFUSALS,
        TRIGGER.format("raise exception 'no, %', new.instance_token"),
        False,
        "shop: refused (SQLSTATE P0001), in function public.of_app()",
    ),
    (
        REFUSALS,
        "alter table evolution_instances drop constraint evolution_instances_pkey;"
        "create publication of_app for table evolution_instances; select refresh_qr_codes()",
        False,
        "does not have a replica identity",
    ),
    (
        REFUSALS,
        "create publication of_app for table evolution_instances where (instance_status = 'error');"
        "select refresh_qr_codes()",
        False,
        "Column used in the publication WHERE expression is not part of the replica identity",
    ),
    (
        REFUSALS,
        "update qr_refresh.instance_state set outcome = 'update_failed'",
        None,
        "would be stored now",
    ),
    ("role qr_refresh_owner", "alter role qr_refresh_owner login", False, "can log in"),
    ("role qr_refresh_owner", "alter role qr_refresh_owner superuser", False, "superuser"),
    ("role qr_refresh_owner", "alter role qr_refresh_owner nobypassrls", False, "row level"),
    (
        "grants of qr_refresh_owner",
        "update qr_refresh.settings set connected_status = 'connected'",
        False,
        "missing: update (instance_status)",
    ),
    (
        "grants of qr_refresh_owner",
        "revoke update (qr_code) on evolution_instances from qr_refresh_owner",
        False,
        "missing: update (qr_code)",
    ),
    (
        "qr_refresh_owner may use schema public",
        "revoke usage on schema public from public, qr_refresh_owner",
        False,
        "no",
    ),
    (
        "callers of the functions",
        "grant execute on function qr_refresh.cron_jobs to public",
        False,
        "PUBLIC may execute",
    ),
    (
        "callers of the functions",
        "grant execute on function refresh_qr_codes to anon",
        False,
        "anon may execute",
    ),
    (
        "owner of the functions",
        "alter function qr_refresh.instance_problem(text, text) owner to current_user",
        False,
        "instance_problem",
    ),
    (
        "instance_token is private",
        "alter table evolution_instances disable row level security;"
        "grant select on evolution_instances to authenticated",
        False,
        "authenticated may read it of every row",
    ),
    (
        "instance_token is private",
        "grant select on evolution_instances to authenticated;"
        "create policy own on evolution_instances for select to authenticated using (true)",
        None,
        "authenticated may read it, of rows that a policy shows",
    ),
    (
        "table is published for Realtime",
        "create publication supabase_realtime",
        False,
        "in no publication",
    ),
    ("table is published for Realtime", "select 1", None, "in no publication"),
    (
        "wal_level",
        "create publication supabase_realtime for table evolution_instances",
        False,
        "replica",
    ),
    (
        "state of the job is not published",
        "create publication everything for all tables",
        False,
        "everything (runs)",
    ),
    ("a run within the last 00:05:00", "delete from qr_refresh.runs", False, "there has been none"),
    (
        "a run within the last 00:05:00",
        "update qr_refresh.runs set finished_at = finished_at - interval '301 s'",
        False,
        "last run ended",
    ),
    (
        "a run within the last 00:05:00",
        "insert into qr_refresh.runs (started_at, finished_at, report) select"
        " now() - make_interval(mins => n + 1), now() - make_interval(mins => n),"
        """ '{"success": true, "mode": "live", "lane": "fast", "worker": 1, "workers": 1}'"""
        " from generate_series(20, 0, -1) as n",
        False,
        "none of live mode: the slow lane",
    ),
    (
        "last run",
        "select qr_refresh.record_run(58, null, "
        """'{"success": false, "mode": "live", "lane": "fast", "refreshed": 0, "failed": 0}')""",
        False,
        "no tick of live mode could be done",
    ),
    (
        "last run",
        "alter table evolution_instances rename instance_status to s;"
        "select refresh_qr_codes();"
        "alter table evolution_instances rename s to instance_status",
        False,
        "Error fetching instances",
    ),
]


@pytest.mark.parametrize(
    ("check", "how", "ok", "detail"), BREAKS, ids=[f"{b[0]}: {b[1][:40]}" for b in BREAKS]
)
def test_a_check_turns_when_what_it_checks_is_broken(
    patient: Job, check: str, how: str, ok: bool | None, detail: str
) -> None:
    found = break_and_look(patient, check, how)
    assert found["ok"] is ok
    assert detail in found["detail"]


def test_looking_at_a_refusal_changes_nothing(patient: Job) -> None:
    patient.connection.execute("update qr_refresh.instance_state set outcome = 'update_failed'")
    before = patient.row("shop")
    assert findings(patient.connection)[REFUSALS]["ok"] is None
    assert patient.row("shop") == before
    assert patient.value("select current_user") == patient.value("select session_user")


def test_the_fix_for_callers_takes_every_function_and_procedure_from_them(patient: Job) -> None:
    check = "callers of the functions"
    how = "grant execute on all routines in schema qr_refresh to public, anon"
    found = break_and_look(patient, check, how)
    assert found["ok"] is False
    assert break_and_look(patient, check, found["fix"])["ok"] is True


def test_a_malformed_environment_variable_is_named_as_the_source(patient: Job) -> None:
    patient.set(evolution_api_base_url=None)
    # It ends with this test's session.
    how = PYTHON.format("import os; os.environ['EVOLUTION_API_BASE_URL'] = 'not a URL'")
    found = break_and_look(patient, "base URL", how)
    assert found["ok"] is False
    assert "EVOLUTION_API_BASE_URL is not an http(s) URL (from: environment)" in found["detail"]


def test_a_server_that_refuses_is_not_reachable(patient: Job, server: Server) -> None:
    with refusing_port(server.listen_host) as port:
        patient.set(evolution_api_base_url=f"http://{server.reachable_host}:{port}")
        found = findings(patient.connection)["Evolution API answers"]
    assert found["ok"] is False
    assert found["detail"].startswith("connection refused after ")


def test_an_instance_that_hangs_does_not_make_its_server_unreachable(patient: Job) -> None:
    patient.set(request_timeout="1500 ms")
    patient.simulator.instance("shop").answer_with = Trouble.HANG
    try:
        found = findings(patient.connection)
    finally:
        patient.simulator.instance("shop").answer_with = None
    assert found["Evolution API answers"]["ok"] is True
    knows = found["Evolution API knows the instance and its token"]
    assert (knows["ok"], knows["detail"]) == (False, "shop: timeout")


def test_a_second_evolution_server_is_asked_too(patient: Job, server: Server) -> None:
    with refusing_port(server.listen_host) as port:
        patient.connection.execute(
            "insert into qr_refresh.evolution_servers values ('north', %s)",
            (f"http://{server.reachable_host}:{port}",),
        )
        found = findings(patient.connection)
    assert found["Evolution API answers"]["ok"] is True
    assert found["Evolution API north answers"]["ok"] is False


def test_a_second_evolution_server_may_end_with_a_slash(patient: Job) -> None:
    patient.connection.execute(
        "insert into qr_refresh.evolution_servers values ('north', %s)",
        (f"{patient.simulator.base_url}/",),
    )
    patient.connection.execute("update evolution_instances set evolution_server = 'north'")
    found = findings(patient.connection)
    assert found["Evolution API north answers"]["ok"] is True
    knows = found["Evolution API north knows the instance and its token"]
    assert (knows["ok"], knows["detail"]) == (True, "shop: qr_code")
    assert found["servers of connecting instances"]["ok"] is True


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ("instance_token = 'wrong-secret'", "shop: 401 Unauthorized"),
        ("instance_name = 'nobody'", "nobody: 404 Not Found"),
    ],
)
def test_evolution_api_is_asked_about_an_instance_and_no_token_is_shown(
    patient: Job, change: str, detail: str
) -> None:
    before = patient.simulator.instance("shop").sockets_opened
    patient.connection.execute(f"update evolution_instances set {change}".encode())
    found = findings(patient.connection)
    assert found["Evolution API answers"]["ok"] is True
    knows = found["Evolution API knows the instance and its token"]
    assert (knows["ok"], knows["detail"]) == (False, detail)
    assert "wrong-secret" not in str(found) and "token-of" not in str(found)
    assert patient.simulator.instance("shop").sockets_opened == before


def test_a_hanging_server_costs_the_doctor_no_more_than_request_timeout(
    patient: Job, stalled_tls_server: Any
) -> None:
    patient.set(
        evolution_api_base_url=stalled_tls_server.base_url.replace("http:", "https:"),
        request_timeout="300 ms",
    )
    found = findings(patient.connection)["Evolution API answers"]
    assert found["ok"] is False
    assert found["detail"].startswith("Request timeout after ")


def test_a_run_that_holds_its_lock_for_too_long_is_named(
    patient: Job, well_url: tuple[str, Simulator]
) -> None:
    patient.set(request_timeout="100 ms", run_timeout="100 ms")
    with psycopg.connect(well_url[0]) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('qr_refresh', 0))")
        patient.connection.execute("select pg_sleep(0.25)")
        found = findings(patient.connection)["no run hangs"]
        assert found["ok"] is False
        assert str(other.info.backend_pid) in found["detail"]
    assert findings(patient.connection)["no run hangs"]["ok"] is True


@pytest.mark.parametrize("lane", ["slow:1", "fast:1", "fast:32"])
def test_a_tick_of_live_mode_that_holds_its_lock_for_too_long_is_named(
    patient: Job, well_url: tuple[str, Simulator], lane: str
) -> None:
    patient.set(request_timeout="100 ms", run_timeout="100 ms")
    with psycopg.connect(well_url[0]) as other:
        other.execute(
            "select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"qr_refresh.live:{lane}",)
        )
        look = (
            "select ok, detail from qr_refresh.doctor_schedule() where fix ~ '^SELECT pg_terminate'"
        )
        patient.connection.execute("select pg_sleep(1)")
        # It waits for so long before it asks.
        assert patient.connection.execute(look.encode()).fetchone() == (True, "yes")
        patient.connection.execute("select pg_sleep(1.3)")
        ok, detail = patient.connection.execute(look.encode()).fetchone() or (None, "")
        assert ok is False and str(other.info.backend_pid) in detail


def test_another_encoding_is_worth_a_look(create_database: Callable[[str], str]) -> None:
    url = create_database("template template0 encoding 'LATIN1' locale 'C'")
    install(url)
    with psycopg.connect(url, autocommit=True, client_encoding="utf8") as connection:
        found = findings(connection)["server encoding"]
    assert (found["ok"], found["detail"]) == (None, "LATIN1")


# --- pg_cron --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cron_server(pg_cron: None) -> Iterator[str]:
    """A server of its own, because pg_cron lives in one database: its URL, job installed."""
    with start_postgres(settings={"cron.use_background_workers": "off"}) as fresh:
        install(fresh.dsn())
        yield fresh.dsn()


@pytest.fixture
def cron(cron_server: str, simulator: Simulator) -> Iterator[Job]:
    """The job and pg_cron's schedule of it; what a test does is rolled back."""
    with psycopg.connect(cron_server) as connection:
        job = Job(connection, simulator)
        job.set(evolution_api_base_url=simulator.base_url)
        found = findings(connection)
        assert found["extension pg_cron"]["ok"] is False
        connection.execute("create extension pg_cron")
        connection.execute("select qr_refresh.schedule()")
        job.run()
        yield job
        connection.rollback()


def test_nothing_is_wrong_where_pg_cron_lives_here(cron: Job) -> None:
    found = findings(cron.connection)
    assert [row for row in found.values() if row["ok"] is False] == []
    assert found["job is scheduled"]["detail"] == "refresh-qr-codes, * * * * *"
    # Nothing has run yet over libpq, so it may be that it cannot.
    assert found["way of pg_cron to connect"]["ok"] is None
    tested = {b[0] for b in BREAKS} | {b[0] for b in CRON_BREAKS} | TESTED_ABOVE
    assert set(found) - tested == set()


FAILED = (
    "insert into cron.job_run_details (jobid, runid, status, return_message)"
    " select jobid, (select coalesce(max(runid), 0) + 1 from cron.job_run_details), 'failed', '{}'"
    " from cron.job where jobname = 'refresh-qr-codes'"
)
CRON_BREAKS: list[tuple[str, str, bool | None, str]] = [
    (
        "jobs can be seen",
        "revoke usage on schema cron from qr_refresh_owner",
        False,
        "lacks USAGE",
    ),
    ("job is scheduled", "select qr_refresh.unschedule()", False, "pg_cron has no job"),
    ("job is active", "update cron.job set active = false", False, "not active: "),
    (
        "job's role may run it",
        "update cron.job set username = 'pg_monitor'",
        False,
        "(role pg_monitor)",
    ),
    (
        "there is no second job",
        "select cron.schedule('old', '* * * * *', 'select refresh_qr_codes()')",
        False,
        "(old, calls refresh_qr_codes)",
    ),
    (
        "there is no second job",
        "select cron.schedule('old', '* * * * *', "
        "$$select net.http_post('https://x/functions/v1/refresh-qr-codes', 'a key')$$)",
        False,
        "(old, calls edge function)",
    ),
    ("pg_cron's last execution", FAILED.format("connection failed"), False, "connection failed"),
    ("pg_cron's last execution", FAILED.format("server restarted"), None, "server restarted"),
    (
        "size of cron.job_run_details",
        "alter table cron.job_run_details alter return_message set storage external;"
        "insert into cron.job_run_details (runid, return_message)"
        " select n, repeat('x', 4000000) from generate_series(1, 27) as n",
        None,
        "MB",
    ),
]
TESTED_ABOVE = {
    "Evolution API answers",
    "extension pg_cron",
    "pg_cron is loaded",
    "way of pg_cron to connect",
    "no run hangs",
    "server encoding",
    "database is writable",
    "instance_state is readable",
}


@pytest.mark.parametrize(
    ("check", "how", "ok", "detail"), CRON_BREAKS, ids=[f"{b[0]}: {b[1][:40]}" for b in CRON_BREAKS]
)
def test_a_check_of_pg_cron_turns_when_what_it_checks_is_broken(
    cron: Job, check: str, how: str, ok: bool | None, detail: str
) -> None:
    before = findings(cron.connection).get(check)
    assert before is None or before["ok"] is True
    found = break_and_look(cron, check, how)
    assert found["ok"] is ok
    assert detail in found["detail"]
    assert "a key" not in str(found)


def test_a_failed_connection_of_pg_cron_has_its_own_fix(cron: Job) -> None:
    found = break_and_look(cron, "pg_cron's last execution", FAILED.format("connection failed"))
    assert "cron.use_background_workers = on" in found["fix"]
    cron.connection.execute(FAILED.format("worked").replace("'failed'", "'succeeded'").encode())
    assert findings(cron.connection)["way of pg_cron to connect"]["ok"] is True


def test_a_job_for_which_no_process_was_left_has_its_own_fix(cron: Job) -> None:
    how = FAILED.format("could not start background process; more details may be available ...")
    found = break_and_look(cron, "pg_cron's last execution", how)
    assert found["ok"] is False and "max_worker_processes" in found["fix"]


def test_a_restart_does_not_hide_that_another_job_fails(cron: Job) -> None:
    cron.connection.execute("select qr_refresh.schedule('live')")
    for job, message in (
        ("", "server restarted"),
        ("-slow", "ERROR: no"),
        ("-2", "server restarted"),
    ):
        cron.connection.execute(
            "select cron.schedule(%s, '* * * * *', 'CALL qr_refresh.live()')",
            (f"refresh-qr-codes{job}",),
        )
        cron.connection.execute(
            FAILED.format(message)
            .replace("'refresh-qr-codes'", f"'refresh-qr-codes{job}'")
            .encode()
        )
    found = findings(cron.connection)["pg_cron's last execution"]
    assert found["ok"] is False and found["detail"].endswith("ERROR: no")


def test_lanes_of_live_mode_are_not_taken_for_second_jobs(cron: Job) -> None:
    cron.connection.execute("select qr_refresh.unschedule()")
    for name in ("refresh-qr-codes", "refresh-qr-codes-slow", "refresh-qr-codes-2"):
        cron.connection.execute(
            "select cron.schedule(%s, '* * * * *', 'CALL qr_refresh.live()')", (name,)
        )
    assert findings(cron.connection)["there is no second job"]["ok"] is True


def test_a_job_of_the_applications_with_a_similar_name_is_none_of_ours(cron: Job) -> None:
    found = break_and_look(
        cron,
        "there is no second job",
        "select cron.schedule('refresh-qr-codes-report', '0 3 * * *', 'select 1')",
    )
    assert found["ok"] is True


def test_a_role_may_run_live_mode_with_all_three_privileges_of_the_fix(cron: Job) -> None:
    cron.connection.execute("create role runs_it; select qr_refresh.schedule('live')")
    cron.connection.execute("update cron.job set username = 'runs_it'")
    fix = findings(cron.connection)["job's role may run it"]["fix"]
    grants = fix.replace("...", "runs_it").split(";")[:2]
    assert len(grants) == 2
    for grant in grants:
        assert findings(cron.connection)["job's role may run it"]["ok"] is False
        cron.connection.execute(grant.encode())
    assert findings(cron.connection)["job's role may run it"]["ok"] is True
    cron.connection.execute("revoke execute on routine qr_refresh.live from runs_it")
    assert findings(cron.connection)["job's role may run it"]["ok"] is False


def test_from_another_database_pg_cron_cannot_be_judged(patient: Job) -> None:
    found = findings(patient.connection)["pg_cron sees this database"]
    assert found["ok"] is None
    assert found["detail"].startswith("pg_cron lives in database postgres")


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
