"""`make uninstall`: everything of ours goes, and nothing of the application's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest

from db.connection import database_name
from db.order import ROOT
from simulator import Trouble
from tests.deploy.installation import OURS, dump_lines, job_runs, made, make, migrated, value
from tools.engines import Server, start_postgres
from tools.job import Connection, Job, install, read_qr, wait_until

JOBS = "select coalesce(array_agg(jobname order by jobname), '{}') from cron.job"
ROLES = (
    "select coalesce(array_agg(rolname::text order by rolname), '{}') from pg_roles"
    " where rolname in ('qr_refresh_owner', 'qr_refresher', 'service_role')"
)
REPORT = "refresh-qr-codes-report"
# An application that was there first, with a table that lacks nothing.
APPLICATION = """
    create role tenant;
    create table evolution_instances (
        id uuid primary key default gen_random_uuid(), instance_name text not null unique,
        instance_token text, instance_status text not null default 'creating', qr_code text,
        last_qr_update timestamptz, created_at timestamptz not null default now(),
        updated_at timestamptz not null default now(), evolution_server text, tenant text
    );
    create index on evolution_instances (tenant);
    comment on column evolution_instances.instance_token is 'the application''s comment';
    alter table evolution_instances enable row level security;
    create policy own_rows on evolution_instances to tenant using (tenant = current_user);
    grant select on evolution_instances to tenant;
    create function touch() returns trigger language plpgsql as
    $$ begin new.updated_at := '2026-01-01'; return new; end $$;
    create trigger touch before update on evolution_instances
    for each row execute function touch();
    create view shops as select instance_name from evolution_instances;
    create publication supabase_realtime for table evolution_instances;
    insert into evolution_instances (instance_name, qr_code, tenant) values ('shop', 'a qr', 'a');
    create extension pg_cron;
    create extension plpython3u;
    select cron.schedule('refresh-qr-codes-report', '0 3 * * *', 'select count(*) from shops');
    insert into cron.job_run_details (jobid, runid, database, username, command, status)
    values (1, 1001, 'postgres', 'postgres', 'select count(*) from shops', 'succeeded');
"""


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A server of these tests' own: roles and pg_cron's jobs belong to the whole server."""
    with start_postgres(own=True) as running:
        yield running


@pytest.fixture
def fresh_server(own_server: Server) -> Iterator[Server]:
    """That server, on which no other test has left a thing."""
    yield own_server
    with psycopg.connect(own_server.dsn(), autocommit=True) as admin:
        for name in ("first", "second"):
            admin.execute(f"drop database if exists {name} with (force)".encode())
        admin.execute(
            "drop publication if exists supabase_realtime;"
            "drop schema if exists qr_refresh cascade;"
            "drop schema public cascade;"
            "create schema public authorization pg_database_owner;"
            "grant usage on schema public to public;"
            "drop extension if exists pg_cron, plpython3u cascade"
        )
        for role in ("tenant", "authenticator", "service_role", "qr_refresher", "qr_refresh_owner"):
            if admin.execute("select from pg_roles where rolname = %s", (role,)).rowcount:
                admin.execute(f"drop owned by {role}; drop role {role}".encode())


def everything(server: Server) -> list[str]:
    """The database and the roles, as pg_dump sees them."""
    code, database = server.run_client(["pg_dump"])
    assert code == 0, database[-500:]
    code, roles = server.run_client(["pg_dumpall", "--roles-only", "--no-role-passwords"])
    assert code == 0, roles[-500:]
    # Sequences of pg_cron move on.
    lines = dump_lines(database + roles)
    return [line for line in lines if not line.startswith("SELECT pg_catalog.setval")]


def test_a_database_whose_table_lacked_nothing_is_as_before(
    fresh_server: Server,
    pg_cron: None,
) -> None:
    url = fresh_server.dsn()
    with psycopg.connect(url) as connection:
        connection.execute(APPLICATION.encode())
    before = everything(fresh_server)
    migrated(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("select qr_refresh.schedule('live', workers => 2)")
        ours = connection.execute("select from cron.job where jobname <> %s", (REPORT,)).rowcount
        connection.execute(
            "insert into cron.job_run_details (jobid, runid, database, username, command, status)"
            " values (2, 1002, 'postgres', 'postgres', 'SELECT refresh_qr_codes()', 'succeeded')"
        )
        connection.execute("select refresh_qr_codes()")
    installed = everything(fresh_server)
    assert any("qr_refresh_owner" in line for line in installed)

    output = made("uninstall", url)

    assert ours > 2
    assert f"Removed {ours} jobs of pg_cron" in output
    assert value(url, JOBS) == [REPORT]
    assert value(url, "select array_agg(runid) from cron.job_run_details") == [1001]
    assert everything(fresh_server) == before


def test_the_table_that_the_job_made_stays_with_its_rows(empty_database: str) -> None:
    migrated(empty_database)
    with psycopg.connect(empty_database) as connection:
        connection.execute(
            "insert into evolution_instances (instance_name, qr_code) values ('shop', 'a qr')"
        )
    made("uninstall", empty_database)
    assert value(empty_database, "select qr_code from evolution_instances") == "a qr"
    assert value(empty_database, OURS) == 1  # the table
    made("uninstall", empty_database)  # again: nothing to do, and no error
    migrated(empty_database)
    assert job_runs(empty_database)


def test_a_trigger_of_ours_goes_and_a_table_that_our_role_owns_stays(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "create function qr_refresh.tell() returns trigger language plpgsql as"
            " $$ begin notify qr_refresh; return new; end $$;"
            "alter function qr_refresh.tell() owner to qr_refresh_owner;"
            "create trigger tell after insert on evolution_instances"
            " for each row execute function qr_refresh.tell();"
            "alter table evolution_instances owner to qr_refresh_owner"
        )
    made("uninstall", database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("insert into evolution_instances (instance_name) values ('shop')")
    assert value(database, "select count(*) from evolution_instances") == 1


def test_where_something_of_the_applications_depends_on_the_job_nothing_is_removed(
    fresh_server: Server,
    pg_cron: None,
) -> None:
    url = fresh_server.dsn()
    install(url)
    with psycopg.connect(url) as connection:
        connection.execute("create extension pg_cron")
        connection.execute("select qr_refresh.schedule()")
        connection.execute("create view last_run as select max(started_at) from qr_refresh.runs")
    jobs = value(url, JOBS)
    result = make("uninstall", url)
    assert result.returncode != 0
    assert "something of yours depends on the job, so nothing was removed" in result.stderr
    assert "view public.last_run depends on table qr_refresh.runs" in result.stderr
    assert "then run this again" in result.stderr
    assert value(url, JOBS) == jobs != []
    assert value(url, "select count(*) from last_run") == 1
    assert job_runs(url)


def test_roles_go_with_the_last_database_unless_somebody_else_uses_them(
    fresh_server: Server,
) -> None:
    first = fresh_server.dsn()
    with psycopg.connect(first, autocommit=True) as admin:
        admin.execute("create database second")
    second = fresh_server.dsn("second")
    for url in (first, second):
        install(url)
    assert "role qr_refresh_owner stays" in made("uninstall", first)
    assert value(first, ROLES) == ["qr_refresh_owner", "qr_refresher", "service_role"]
    assert job_runs(second)
    with psycopg.connect(second) as admin:
        admin.execute("create role authenticator login")
        admin.execute("grant service_role to authenticator")
    made("uninstall", second)
    assert value(first, ROLES) == ["service_role"]


def test_jobs_are_removed_where_pg_cron_lives_and_only_those_of_this_database(
    fresh_server: Server,
    pg_cron: None,
) -> None:
    home = fresh_server.dsn()
    with psycopg.connect(home, autocommit=True) as admin:
        admin.execute("create extension pg_cron")
        for name in ("first", "second"):
            admin.execute(f"create database {name}".encode())
            install(fresh_server.dsn(name))
            admin.execute(
                "select cron.schedule_in_database(%s, '* * * * *', %s, %s)",
                (f"refresh-qr-codes-{name}", "SELECT refresh_qr_codes()", name),
            )
    made("uninstall", fresh_server.dsn("first"))
    assert value(home, JOBS) == ["refresh-qr-codes-second"]


def test_a_run_under_way_ends_first(
    job: Job, database: str, connect: Callable[[], Connection]
) -> None:
    job.set(request_timeout="2 s")
    job.add("hangs").answer_with = Trouble.HANG
    job.add("good")
    reports = []
    run = threading.Thread(target=lambda: reports.append(job.run()))
    run.start()
    wait_until(lambda: job.simulator.requests_of("hangs"), "the run asks the server")
    made("uninstall", database)
    run.join()
    assert [report["refreshed"] for report in reports] == [1]
    assert read_qr(job.row("good").qr_code) == job.simulator.current_code("good")
    assert value(database, OURS) == 1


def test_without_superuser_nothing_is_removed(server: Server, database: str) -> None:
    name = database_name(database)
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"create role user_of_{name} login password 'x'".encode())
    try:
        url = f"postgresql://user_of_{name}:x@{server.host}:{server.port}/{name}"
        result = make("uninstall", url)
        assert result.returncode != 0
        assert "removing refresh-qr-codes needs a superuser" in result.stderr
        assert value(database, OURS) == 3
    finally:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(f"drop role user_of_{name}".encode())


@pytest.mark.parametrize("url", [None, "not a URL"], ids=["none", "no URL"])
def test_without_a_database_url_uninstall_shows_an_example(url: str | None) -> None:
    result = make("uninstall", url)
    assert result.returncode != 0
    assert "make uninstall DATABASE_URL=postgresql://" in result.stderr


def test_psql_removes_it_with_the_file_alone(database: str, server: Server) -> None:
    code, output = server.run_client(
        ["psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-f", "-"],
        stdin=(ROOT / "db" / "uninstall.sql").read_text(encoding="utf-8"),
        dbname=database_name(database),
    )
    assert code == 0, output
    assert value(database, OURS) == 1
