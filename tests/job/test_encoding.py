"""Databases in other encodings, languages and time zones, and sessions with unusual settings."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from db.connection import database_name
from simulator import Simulator, Trouble
from tests.deploy.installation import migrated
from tests.evolution_api import simulator_for
from tools.backend import run_python
from tools.engines import Server, start_postgres
from tools.job import Connection, Job, install, read_qr, wait_until

NAMES = ["with space", "a/b", "../c", "50%", "%2e", "a?b=c", "a#b", 'it\'s "quoted"', "back\\slash"]
ACCENTS = ["café", "Ünïçødé Ñandú"]
BEYOND_LATIN1 = ["été 🤳", "日本 店", "магазин"]
ENCODINGS = {
    "UTF8": NAMES + ACCENTS + BEYOND_LATIN1,
    "LATIN1": NAMES + ACCENTS,
    "SQL_ASCII": NAMES + ACCENTS + BEYOND_LATIN1,
}
FRENCH = "fr_FR.UTF-8"


@contextlib.contextmanager
def job_in(url: str, simulator: Simulator) -> Iterator[Job]:
    """The job in a database; whatever its encoding, the client's is UTF-8."""
    with psycopg.connect(url, autocommit=True, client_encoding="utf8") as connection:
        job = Job(connection, simulator)
        job.set(evolution_api_base_url=simulator.base_url)
        yield job


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_names_of_every_kind_work_in_a_database_of_any_encoding(
    create_database: Callable[[str], str], simulator: Simulator, server: Server, encoding: str
) -> None:
    url = create_database(f"template template0 encoding '{encoding}' locale 'C'")
    install(url)
    names = ENCODINGS[encoding]
    with job_in(url, simulator) as job:
        for name in names:
            job.add(name)
        report = job.run()
        assert sorted(result["instance_name"] for result in report["results"]) == sorted(names)
        assert [result for result in report["results"] if not result["qr_updated"]] == []
        for name in names:
            assert read_qr(job.row(name).qr_code) == simulator.current_code(name)
            report = job.run(name)
            assert report["results"][0]["instance_name"] == name
        assert job.value("select report from qr_refresh.runs order by id desc limit 1") == report
        known = job.value("select array_agg(instance_name) from qr_refresh.instance_state")
        assert sorted(known) == sorted(names)
        database = job.connection.info.dbname
    if server.engine != "url":
        lines = [line for line in server.log_text().splitlines() if f"@{database} " in line]
        # Only UTF-8 is sure to have the sign.
        sign = "✓ " if encoding == "UTF8" else ""
        assert any(f"] {sign}Successfully refreshed QR for caf" in line for line in lines)


@pytest.fixture(scope="module")
def french_server() -> Iterator[Server]:
    """A server that speaks French."""
    folder = f"/tmp/refresh-qr-codes-locale-{secrets.token_hex(6)}"
    make_locale = f"""
        import os, subprocess
        os.mkdir('{folder}')
        command = ['localedef', '-i', 'fr_FR', '-f', 'UTF-8', '{folder}/{FRENCH}']
        try:
            subprocess.run(command, check=True, capture_output=True)
            plpy.notice('made')
        except (OSError, subprocess.CalledProcessError) as e:
            plpy.notice(e)
    """
    with (
        start_postgres(environment={"LOCPATH": folder}) as running,
        psycopg.connect(running.dsn(), autocommit=True) as connection,
    ):
        connection.execute("create extension plpython3u")
        made = run_python(connection, make_locale)
        try:
            if made != "made":
                pytest.skip(f"localedef cannot make fr_FR on the server's machine: {made}")
            connection.execute(f"alter system set lc_messages = '{FRENCH}'".encode())
            connection.execute("select pg_reload_conf()")
            wait_until(
                lambda: "par z" in message_of_division(connection), "the server speaks French", 10
            )
            yield running
        except TimeoutError:
            pytest.skip("PostgreSQL's translations are not installed on the server's machine")
        finally:
            run_python(connection, f"import shutil; shutil.rmtree('{folder}')")


def message_of_division(connection: Connection) -> str:
    with pytest.raises(psycopg.errors.DivisionByZero) as raised:
        connection.execute("select 1 / 0")
    return raised.value.diag.message_primary or ""


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.engines
def test_a_server_that_speaks_another_language_changes_no_report_and_no_error(
    french_server: Server, encoding: str
) -> None:
    with psycopg.connect(french_server.dsn(), autocommit=True) as admin:
        admin.execute(
            f"create database {encoding.lower()} template template0 encoding '{encoding}'"
            " locale 'C'".encode()
        )
    url = french_server.dsn(encoding.lower())
    assert "Installed" in migrated(url)
    with (
        simulator_for(french_server) as simulator,
        psycopg.connect(url, autocommit=True) as second,
        job_in(url, simulator) as job,
    ):
        job.connection.execute(
            "alter table evolution_instances add check (instance_name <> 'refusé'"
            " or qr_code is null)"
        )
        job.add("café")
        job.add("refusé")
        report = job.run()
        assert [result.get("error") for result in report["results"]] == [
            None,
            "Database update failed",
        ]
        with pytest.raises(psycopg.Error) as raised:
            job.run("personne")
        assert raised.value.sqlstate == "QR001"
        assert "there is no such instance" in (raised.value.diag.message_primary or "")
        assert "par z" in message_of_division(job.connection)

        # A cancel in the middle of HTTP is told apart by its code, not by its words.
        simulator.instance("café").answer_with = Trouble.HANG
        asked = simulator.total_requests
        pid = job.connection.info.backend_pid
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(job.run)
            wait_until(lambda: simulator.total_requests > asked, "the run asks")
            second.execute("select pg_cancel_backend(%s)", (pid,))
            assert isinstance(run.exception(15), psycopg.errors.QueryCanceled)
        simulator.instance("café").answer_with = None

        job.connection.execute("alter table evolution_instances rename to autre")
        assert job.run() == {"success": False, "error": "Error fetching instances"}
        job.connection.execute("alter table autre rename to evolution_instances")
        assert job.run()["refreshed"] == 1
        # What the session says after a run is in French, as before it.
        assert "par z" in message_of_division(job.connection)
        assert "was terminated by signal" not in french_server.log_text()


@pytest.mark.parametrize(
    "settings",
    [
        {"timezone": "America/Sao_Paulo", "datestyle": "German, DMY"},
        {"timezone": "Asia/Kathmandu", "intervalstyle": "sql_standard"},
        {"bytea_output": "escape"},
        {"standard_conforming_strings": "off"},
        {"default_transaction_isolation": "repeatable read", "row_security": "off"},
        {"default_transaction_isolation": "serializable", "array_nulls": "off"},
        {"extra_float_digits": "-15", "quote_all_identifiers": "on", "search_path": "nowhere"},
    ],
    ids=lambda settings: ", ".join(settings.values()),
)
def test_a_database_with_other_settings_gets_the_same_qr_codes_and_times(
    job: Job, database: str, server: Server, settings: dict[str, str]
) -> None:
    if "standard_conforming_strings" in settings and server.major >= 19:
        pytest.skip("PostgreSQL 19 has it always on: PG_VERSION=18 runs it")
    name = database_name(database)
    for setting, value in settings.items():
        job.connection.execute(f"alter database {name} set {setting} = {value!r}".encode())
    for instance in ("shop", "bar"):
        job.add(instance)
    with psycopg.connect(database, autocommit=True) as connection:
        for setting, value in settings.items():
            row = connection.execute(f"show {setting}".encode()).fetchone()
            assert row == (value,)
        for _ in range(2):
            job.simulator.clock.advance(46)
            before = job.value("select clock_timestamp()")
            row = connection.execute("select public.refresh_qr_codes()").fetchone()
            after = job.value("select clock_timestamp()")
            assert row is not None and row[0]["refreshed"] == 2
            stored = job.row("shop")
            assert read_qr(stored.qr_code) == job.simulator.current_code("shop")
            assert stored.last_qr_update is not None
            assert before <= stored.last_qr_update <= after
            times = "select started_at between %s and %s and finished_at between %s and %s"
            assert job.value(
                f"{times} from qr_refresh.runs order by id desc limit 1",
                *(before, after, before, after),
            )
    # The same picture for longer than it can live is still noticed.
    job.connection.execute(
        "update qr_refresh.instance_state set qr_first_seen_at = now() - interval '61 seconds'"
    )
    with psycopg.connect(database, autocommit=True) as connection:
        row = connection.execute("select public.refresh_qr_codes('shop')").fetchone()
        assert row is not None
        assert row[0]["results"][0]["error"] == "QR code expired, waiting for a new one"
