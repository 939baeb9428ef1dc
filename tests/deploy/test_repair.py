"""Installing again repairs what the application's table has lost, and makes nobody wait."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from db.connection import changed
from db.order import ROOT
from simulator import Simulator
from tests.deploy.installation import job_runs, make, migrated, run_dist, value
from tools.job import Job, read_qr

WAYS: dict[str, Callable[[str], object]] = {"migrate": migrated, "dist": run_dist}
each_way = pytest.mark.parametrize("way", WAYS)

# What somebody has done to the table since it was installed.
LOSSES = {
    "a column for servers": "alter table evolution_instances drop column evolution_server",
    "the columns that are written": "alter table evolution_instances"
    " drop column qr_code, drop column last_qr_update",
    "all grants": "revoke all on evolution_instances from qr_refresh_owner;"
    "revoke select (instance_name, instance_token, instance_status, qr_code, last_qr_update,"
    " evolution_server), update (qr_code, last_qr_update)"
    " on evolution_instances from qr_refresh_owner",
    "the schema": "revoke usage on schema public from qr_refresh_owner, public;"
    "grant usage on schema public to app_of_nobody",
    "the table": "drop table evolution_instances",
    "its columns, made anew": "drop table evolution_instances;"
    "create table evolution_instances (instance_name text primary key, instance_token text)",
}


@each_way
@pytest.mark.parametrize("loss", LOSSES)
def test_what_the_table_has_lost_is_there_again(
    empty_database: str, simulator: Simulator, way: str, loss: str
) -> None:
    WAYS[way](empty_database)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(LOSSES[loss].replace("app_of_nobody", "service_role").encode())

        WAYS[way](empty_database)

        job = Job(connection, simulator)
        job.set(evolution_api_base_url=simulator.base_url)
        job.add("shop")
        # With the rights of the job's role, not with those of a superuser.
        connection.execute("set role service_role")
        assert job.run()["refreshed"] == 1
        connection.execute("reset role")
        assert read_qr(job.row("shop").qr_code) == simulator.current_code("shop")


@each_way
def test_a_table_that_is_made_anew_is_published_again(empty_database: str, way: str) -> None:
    published = (
        "select count(*) from pg_publication_tables"
        " where pubname = 'supabase_realtime' and tablename = 'evolution_instances'"
    )
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("create publication supabase_realtime")
        WAYS[way](empty_database)
        connection.execute("drop table evolution_instances")
        WAYS[way](empty_database)
        assert value(empty_database, published) == 1
        connection.execute("drop table evolution_instances")
        connection.execute("create table evolution_instances (instance_name text primary key)")
        WAYS[way](empty_database)
        assert value(empty_database, published) == 1


@each_way
def test_a_column_that_is_lost_before_an_upgrade_is_there_after_it(
    empty_database: str, way: str
) -> None:
    release = ROOT / "tests" / "deploy" / "releases" / "1.1.0.sql"
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(release.read_bytes())
        connection.execute("alter table evolution_instances drop column evolution_server")
    WAYS[way](empty_database)
    assert job_runs(empty_database)


def test_an_existing_table_gets_no_column_that_the_job_does_not_use(empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection:
        connection.execute("create table evolution_instances (instance_name text)")
    migrated(empty_database)
    columns = (
        "select array_agg(attname::text order by attname) from pg_attribute"
        " where attrelid = 'evolution_instances'::regclass and attnum > 0"
    )
    assert value(empty_database, columns) == [
        "evolution_server",
        "instance_name",
        "instance_status",
        "instance_token",
        "last_qr_update",
        "qr_code",
    ]


@each_way
@pytest.mark.parametrize("before", ["fresh", "1.0.0", "1.1.0"])
def test_where_an_installation_changes_nothing_it_waits_for_no_writer(
    empty_database: str, way: str, before: str
) -> None:
    if before == "fresh":
        migrated(empty_database)
    else:
        release = ROOT / "tests" / "deploy" / "releases" / f"{before}.sql"
        with psycopg.connect(empty_database, autocommit=True) as connection:
            connection.execute(release.read_bytes())
        if before == "1.0.0":
            # What this release lacks is added with a lock, once.
            migrated(empty_database)
    make("dist")
    with psycopg.connect(empty_database) as application:
        application.execute(
            "insert into evolution_instances (instance_name) values ('shop');"
            "update evolution_instances set instance_status = 'connecting'"
        )
        # The transaction stays open. Whoever waits for it gives up, and the test fails.
        WAYS[way](changed(empty_database, options="-c statement_timeout=20s"))


def test_while_an_installation_is_under_way_the_application_writes(empty_database: str) -> None:
    migrated(empty_database)
    make("dist")
    text = (ROOT / "dist" / "qr_refresh.sql").read_text(encoding="utf-8")
    begin, end = "\nbegin;\n", "\ncommit;\n"
    assert text.count(begin) == text.count(end) == 1
    statements = text.replace(begin, "\n").replace(end, "\n")
    with (
        psycopg.connect(empty_database) as installation,
        psycopg.connect(empty_database, autocommit=True) as application,
    ):
        installation.execute(statements.encode())
        application.execute("set lock_timeout = '1ms'")
        application.execute("insert into evolution_instances (instance_name) values ('shop')")
        application.execute("update evolution_instances set instance_status = 'connecting'")
        application.execute("delete from evolution_instances")
        installation.rollback()
