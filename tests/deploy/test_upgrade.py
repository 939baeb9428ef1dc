"""From each release to the present: the same as a fresh installation, and nothing is lost.

A release adds two things to releases/, which nobody edits afterwards: VERSION.sql, what `make dist`
wrote, and the lines of its new migrations in checksums (`sha256sum` in db/migrations).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql

from db.order import MIGRATIONS, ROOT
from simulator import Simulator
from tests.deploy.installation import (
    RELEASES,
    forget_base_url,
    make,
    migrated,
    run_dist,
    run_sql_file,
)
from tools.engines import Server, start_postgres
from tools.job import Job, install, read_qr, wait_until

WAYS: dict[str, Callable[[str], object]] = {"migrate": migrated, "dist": run_dist}
upgrades = pytest.mark.parametrize("way", WAYS)
from_each_release = pytest.mark.parametrize(
    "release", sorted(p.stem for p in RELEASES.glob("*.sql"))
)


def frozen() -> dict[str, str]:
    """The released migrations, with their checksums."""
    lines = (RELEASES / "checksums").read_text(encoding="utf-8").splitlines()
    return {name: checksum for checksum, name in (line.split() for line in lines)}


def test_released_migrations_are_as_they_were_released() -> None:
    present = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in MIGRATIONS
        if path.name in frozen()
    }
    assert present == frozen(), "a released migration is never edited: write a new one"


@from_each_release
def test_every_migration_of_a_release_is_among_the_frozen_ones(release: str) -> None:
    text = (RELEASES / f"{release}.sql").read_text(encoding="utf-8")
    names = re.findall(r"^-- db/migrations/(\S+)$", text, re.MULTILINE)
    assert names and set(names) <= frozen().keys()


def test_a_new_migration_comes_after_the_released_ones() -> None:
    new = {path.name for path in MIGRATIONS} - frozen().keys()
    assert all(name > max(frozen()) for name in new)


@pytest.fixture
def app_role(server: Server) -> Iterator[str]:
    """A role of the application; whatever it was granted goes with it."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("create role app_of_the_test")
        yield "app_of_the_test"
        # What was granted to it is in databases that may be gone by now.
        names = admin.execute("select datname from pg_database where datallowconn").fetchall()
        for (name,) in names:
            with psycopg.connect(server.dsn(name), autocommit=True) as connection:
                connection.execute("drop owned by app_of_the_test")
        admin.execute("drop role app_of_the_test")


@from_each_release
@upgrades
def test_an_upgraded_database_is_the_same_as_a_fresh_one(
    empty_database: str,
    second_database: str,
    schema_of: Callable[[str], str],
    release: str,
    way: str,
) -> None:
    run_sql_file(empty_database, RELEASES / f"{release}.sql")
    WAYS[way](empty_database)
    forget_base_url(empty_database)
    WAYS[way](second_database)
    assert schema_of(empty_database) == schema_of(second_database)


@from_each_release
@upgrades
def test_an_upgrade_keeps_rows_settings_history_and_grants_and_the_job_goes_on(
    empty_database: str, simulator: Simulator, app_role: str, release: str, way: str
) -> None:
    run_sql_file(empty_database, RELEASES / f"{release}.sql")
    with psycopg.connect(empty_database, autocommit=True) as connection:
        job = Job(connection, simulator)
        job.set(evolution_api_base_url=simulator.base_url, max_concurrency=3, log_detail="cycle")
        job.add("shop")
        job.add_row("done", status="connected")
        connection.execute("alter table evolution_instances add column tenant text default 'a'")
        report = job.run()
        assert report["refreshed"] == 1
        grant = "grant execute on function {} to {}"
        signature = job.value("select 'refresh_qr_codes'::regproc::regprocedure::text")
        connection.execute(sql.SQL(grant).format(sql.SQL(signature), sql.Identifier(app_role)))
        columns = "id, instance_name, instance_token, instance_status, qr_code, last_qr_update,"
        columns += " created_at, updated_at, tenant"
        everything = f"select {columns} from evolution_instances order by id".encode()
        rows = connection.execute(everything).fetchall()
        settings = job.value("select to_jsonb(s) from qr_refresh.settings as s")

        WAYS[way](empty_database)

        assert connection.execute(everything).fetchall() == rows
        now = job.value("select to_jsonb(s) from qr_refresh.settings as s")
        assert {name: now[name] for name in settings} == settings
        assert job.value("select report from qr_refresh.runs") == report
        for caller in (app_role, "service_role"):
            connection.execute(sql.SQL("set role {}").format(sql.Identifier(caller)))
            simulator.clock.advance(46)
            assert job.run()["refreshed"] == 1
            connection.execute("reset role")
            assert read_qr(job.row("shop").qr_code) == simulator.current_code("shop")


@from_each_release
@upgrades
def test_an_upgrade_writes_down_the_built_in_url_where_the_job_ran_on_it(
    empty_database: str, simulator: Simulator, release: str, way: str
) -> None:
    run_sql_file(empty_database, RELEASES / f"{release}.sql")
    used = "select row(base_url, source)::text from qr_refresh.evolution_api_base_url()"
    with psycopg.connect(empty_database, autocommit=True) as connection:
        job = Job(connection, simulator)
        before = job.value(used)
        assert before.endswith(",default)")
        WAYS[way](empty_database)
        assert job.value(used) == before.replace(",default)", ",settings)")
        # Who takes it out has taken it out for good.
        job.set(evolution_api_base_url=None)
        WAYS[way](empty_database)
        assert job.value(used) == "(,nowhere)"


def test_the_second_deployment_waits_for_the_first_and_finds_all_done(
    empty_database: str, second_database: str, schema_of: Callable[[str], str]
) -> None:
    run_sql_file(empty_database, RELEASES / "1.0.0.sql")
    make("dist")

    def run_one_file(url: str) -> None:
        run_sql_file(url, ROOT / "dist" / "qr_refresh.sql")

    ways: list[Callable[[str], object]] = [migrated, run_one_file] * 2
    with ThreadPoolExecutor() as pool:
        for deployment in [pool.submit(way, empty_database) for way in ways]:
            deployment.result()
    forget_base_url(empty_database)
    migrated(second_database)
    assert schema_of(empty_database) == schema_of(second_database)


@upgrades
def test_an_upgrade_does_not_wait_for_live_mode_nor_harm_it(
    empty_database: str,
    second_database: str,
    schema_of: Callable[[str], str],
    simulator: Simulator,
    way: str,
) -> None:
    """1.1.0 asks and writes all the time while the new functions take the place of its own."""
    run_sql_file(empty_database, RELEASES / "1.1.0.sql")
    names = [f"shop {number}" for number in range(5)]
    with (
        psycopg.connect(empty_database, autocommit=True) as connection,
        psycopg.connect(empty_database, autocommit=True) as session,
        ThreadPoolExecutor(1) as executor,
    ):
        job = Job(connection, simulator)
        job.set(evolution_api_base_url=simulator.base_url)
        for number, name in enumerate(names):
            job.add(name, qr_age=9 * number)
        live = executor.submit(session.execute, b"call qr_refresh.live('fast')")

        def stored() -> dict[str, str | None]:
            return {name: job.row(name).qr_code for name in names}

        wait_until(lambda: all(stored().values()), "live mode of 1.1.0 has stored them", 60)
        before = stored()
        WAYS[way](empty_database)
        # Its procedure ends with the functions that it calls; pg_cron begins another each minute.
        error = live.exception(timeout=70)
        assert error is None or isinstance(error, psycopg.errors.UndefinedFunction), error
        assert all(stored().values())
        simulator.clock.advance(46)
        assert job.run()["refreshed"] == 5
        assert {name: read_qr(code) for name, code in stored().items()} == {
            name: simulator.current_code(name) for name in names
        }
        assert all(stored()[name] != before[name] for name in names)
        connection.execute(
            "truncate evolution_instances, qr_refresh.runs, qr_refresh.instance_state,"
            " qr_refresh.server_state restart identity"
        )
    forget_base_url(empty_database)
    WAYS[way](second_database)
    assert schema_of(empty_database) == schema_of(second_database)


@pytest.mark.engines
def test_live_mode_that_1_1_0_has_scheduled_goes_on_with_one_job_a_worker(pg_cron: None) -> None:
    jobs = b"select jobid, jobname, command from cron.job order by jobname"
    with start_postgres(own=True) as fresh, psycopg.connect(fresh.dsn()) as connection:
        connection.autocommit = True
        connection.execute("create extension pg_cron")
        run_sql_file(fresh.dsn(), RELEASES / "1.1.0.sql")
        connection.execute("select qr_refresh.schedule('live', workers => 2)")
        connection.execute("select cron.schedule('of-the-app', '* * * * *', 'select 1')")
        before = {name: number for number, name, _ in connection.execute(jobs).fetchall()}
        assert "refresh-qr-codes-slow" in before
        install(fresh.dsn())
        assert connection.execute(jobs).fetchall() == [
            (before[name], name, command)
            for name, command in (
                ("of-the-app", "select 1"),
                ("refresh-qr-codes", "CALL qr_refresh.live(1, 2)"),
                ("refresh-qr-codes-2", "CALL qr_refresh.live(2, 2)"),
                ("refresh-qr-codes-prune", "SELECT qr_refresh.prune_history()"),
            )
        ]
        lanes = (
            "select array_agg(p.oid::regprocedure::text) from pg_proc as p"
            " where pronamespace = 'qr_refresh'::regnamespace and 'lane' = any(proargnames)"
        )
        assert connection.execute(lanes.encode()).fetchone() == (None,)
