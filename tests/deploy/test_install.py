"""Installing: over itself, beside what is there, from one file; and what is said where it fails."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from db import deploy
from db.connection import DeployError, database_name
from db.order import ROOT
from simulator import Simulator
from tests.broken_python import NO_INTERPRETER, python_without_libraries
from tests.deploy.installation import OURS, job_runs, make, migrated, run_dist, value
from tools.backend import run_python
from tools.engines import Server, start_postgres
from tools.job import Connection, Job, read_qr


def test_an_empty_database_gets_the_job_and_the_table(empty_database: str) -> None:
    output = migrated(empty_database)
    missing = "Missing required environment variables"
    assert f"WARNING: no usable Evolution API base URL (from: nowhere): {missing}" in output
    report = value(empty_database, "select refresh_qr_codes()")
    assert report == {"success": False, "error": missing}


def test_installing_over_itself_changes_nothing_and_keeps_the_settings(
    empty_database: str, schema_of: Callable[[str], str]
) -> None:
    migrated(empty_database)
    with psycopg.connect(empty_database) as connection:
        connection.execute(
            "update qr_refresh.settings set evolution_api_base_url = 'https://api.example.org',"
            " max_concurrency = 3"
        )
    before = schema_of(empty_database)
    output = migrated(empty_database)
    assert "Evolution API base URL in force: https://api.example.org (from: settings)" in output
    assert schema_of(empty_database) == before


def test_every_file_can_be_run_twice_in_any_state(
    empty_database: str, schema_of: Callable[[str], str]
) -> None:
    run_dist(empty_database)
    before = schema_of(empty_database)
    run_dist(empty_database)
    assert schema_of(empty_database) == before


def test_the_one_file_installs_the_same_as_migrate(
    empty_database: str, second_database: str, schema_of: Callable[[str], str]
) -> None:
    migrated(empty_database)
    run_dist(second_database)
    assert schema_of(second_database) == schema_of(empty_database)
    # And dbmate then knows what has been run.
    assert "Applying" not in migrated(second_database)
    assert schema_of(second_database) == schema_of(empty_database)


def test_psql_installs_the_one_file(empty_database: str, server: Server) -> None:
    make("dist")
    code, output = server.run_client(
        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"],
        stdin=(ROOT / "dist" / "qr_refresh.sql").read_text(encoding="utf-8"),
        dbname=database_name(empty_database),
    )
    assert (code, output) == (0, "")
    assert job_runs(empty_database)


def test_an_existing_table_keeps_its_rows_and_gets_only_what_it_lacks(empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection:
        connection.execute(
            "create type status as enum ('connecting', 'connected');"
            "create table evolution_instances (id bigint primary key, tenant text not null,"
            " instance_name varchar(100) unique, instance_token varchar(255),"
            " instance_status status);"
            "insert into evolution_instances values (1, 'a', 'shop', 'token', 'connecting'),"
            " (2, 'b', 'bar', null, 'connected')"
        )
    migrated(empty_database)
    with psycopg.connect(empty_database) as connection:
        rows = connection.execute(
            "select id, tenant, instance_name, instance_status::text, qr_code, last_qr_update"
            " from evolution_instances order by id"
        ).fetchall()
        assert rows == [
            (1, "a", "shop", "connecting", None, None),
            (2, "b", "bar", "connected", None, None),
        ]
        connection.execute(
            "update qr_refresh.settings set evolution_api_base_url = 'http://nowhere.invalid'"
        )
        row = connection.execute("select refresh_qr_codes()").fetchone()
        assert row is not None and row[0]["total_instances"] == 1


def test_a_table_without_instance_name_stops_the_installation(empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection:
        connection.execute("create table evolution_instances (something integer)")
    result = make("migrate", empty_database)
    assert result.returncode != 0
    assert "has no column instance_name" in result.stdout + result.stderr
    assert (
        value(
            empty_database,
            "select count(*) from pg_attribute"
            " where attrelid = 'evolution_instances'::regclass and attnum > 0",
        )
        == 1
    )


ENUM = "create type status as enum ('open', 'close');"
TABLE = """
    create table evolution_instances (
        instance_name {instance_name}, instance_token {instance_token},
        instance_status {instance_status}, qr_code {qr_code}, last_qr_update {last_qr_update}
    )
"""
USABLE = {
    "instance_name": "varchar(100) unique",
    "instance_token": "uuid",
    "instance_status": "varchar(20)",
    "qr_code": "varchar(100000)",
    "last_qr_update": "timestamp",
}


def test_a_table_with_other_types_of_text_and_time_is_accepted(empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection:
        connection.execute("create domain name_of_instance as uuid")
        columns = USABLE | {"instance_name": "name_of_instance unique"}
        connection.execute(TABLE.format(**columns).encode())
    migrated(empty_database)


@pytest.mark.parametrize(
    ("column", "type_", "detail", "hint"),
    [
        ("instance_name", "json", "Its type is json", "text, varchar, citext, uuid or a number"),
        ("instance_token", "jsonb", "Its type is jsonb", "text, varchar, citext or uuid"),
        ("instance_status", "status", '"connecting"', "ADD VALUE 'connecting'"),
        ("instance_status", "integer", '"connecting"', "text, varchar, citext, or an enum"),
        ("qr_code", "varchar(255)", "Its type is character varying(255)", "TYPE text"),
        ("qr_code", "varchar(5000)", "Its type is character varying(5000)", "TYPE text"),
        ("qr_code", "bytea", "is of type bytea", "TYPE text"),
        ("qr_code", "text generated always as ('x') stored", "DEFAULT", "not generated"),
        ("last_qr_update", "bigint", "bigint", "timestamptz or timestamp"),
    ],
)
@pytest.mark.parametrize("way", ["migrate", "dist"])
def test_a_column_that_the_job_cannot_use_is_named_and_nothing_is_installed(
    empty_database: str, way: str, column: str, type_: str, detail: str, hint: str
) -> None:
    with psycopg.connect(empty_database) as connection:
        connection.execute((ENUM + TABLE.format(**(USABLE | {column: type_}))).encode())
    if way == "migrate":
        result = make("migrate", empty_database)
        assert result.returncode != 0
        output = result.stdout + result.stderr
    else:
        with pytest.raises(psycopg.Error) as raised:
            run_dist(empty_database)
        assert raised.value.sqlstate == "QR009"
        output = str(raised.value) + (raised.value.diag.message_hint or "")
    assert f"the job cannot use column {column} of public.evolution_instances" in output
    assert detail in output
    assert hint in output
    assert value(empty_database, OURS) == 1  # the table


KINDS = {
    "partitioned by status": TABLE + " partition by list (instance_status);"
    "create table connecting partition of evolution_instances for values in ('connecting');"
    "create table others partition of evolution_instances default",
    "with a child": TABLE + "; create table child () inherits (evolution_instances)",
    "unlogged": TABLE.replace("create table", "create unlogged table"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_of_another_kind_gets_its_qr_codes(
    empty_database: str, simulator: Simulator, kind: str
) -> None:
    columns = USABLE | {"instance_name": "text", "instance_token": "text", "qr_code": "text"}
    with psycopg.connect(empty_database) as connection:
        connection.execute(KINDS[kind].format(**columns).encode())
    migrated(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        job = Job(connection, simulator)
        job.set(evolution_api_base_url=simulator.base_url)
        job.add("shop")
        job.add("bar")
        if kind == "with a child":
            connection.execute(
                "insert into child select * from only evolution_instances"
                " where instance_name = 'bar';"
                "delete from only evolution_instances where instance_name = 'bar'"
            )
        assert job.run()["refreshed"] == 2
        for name in ("shop", "bar"):
            assert read_qr(job.row(name).qr_code) == simulator.current_code(name)


def test_a_materialized_view_in_the_place_of_the_table_is_refused(empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection:
        connection.execute("create materialized view evolution_instances as select 1 as a")
    result = make("migrate", empty_database)
    assert result.returncode != 0
    assert "public.evolution_instances is no table" in result.stderr
    assert "make a view of this name over it" in result.stderr
    assert value(empty_database, OURS) == 1  # the view


def test_two_installations_at_once_both_succeed(empty_database: str) -> None:
    with ThreadPoolExecutor() as pool:
        for output in pool.map(migrated, [empty_database] * 2):
            assert "Installed" in output
    assert job_runs(empty_database)


@pytest.mark.parametrize("way", ["migrate", "dist"])
def test_without_superuser_nothing_is_installed_and_the_message_says_what_to_do(
    server: Server, empty_database: str, way: str
) -> None:
    name = database_name(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as admin:
        admin.execute(f"create role owner_of_{name} login password 'x'".encode())
        admin.execute(f"alter database {name} owner to owner_of_{name}".encode())
    url = f"postgresql://owner_of_{name}:x@{server.host}:{server.port}/{name}"
    try:
        if way == "migrate":
            result = make("migrate", url)
            assert result.returncode != 0
            output = result.stdout + result.stderr
            assert "installing refresh-qr-codes needs a superuser" in output
            assert "Connect as a superuser" in output
        else:
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="needs a superuser"):
                run_dist(url)
        assert value(empty_database, OURS) == 0
    finally:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(f"alter database {name} owner to {server.user}".encode())
            admin.execute(f"drop role owner_of_{name}".encode())


@pytest.mark.engines
@pytest.mark.parametrize(
    ("hidden", "message", "package"),
    [
        (
            "/usr/share/postgresql/N/extension/plpython3u.control",
            "PL/Python (extension plpython3u) is missing",
            "apt install postgresql-plpython3-N",
        ),
        (
            "/usr/lib/python3/dist-packages/requests",
            "the Python library requests is missing",
            "apt install python3-requests",
        ),
    ],
    ids=["plpython3u", "requests"],
)
def test_a_missing_package_is_named_and_nothing_is_installed(
    server: Server, hidden: str, message: str, package: str
) -> None:
    if server.engine != "docker":
        pytest.skip("takes files of the server away: only in a container of its own, PG=docker")
    major = str(server.major)
    with start_postgres("docker") as bare:
        hiding = bare.run_as_root(["mv", hidden.replace("/N/", f"/{major}/"), "/root/"])
        assert hiding.returncode == 0
        result = make("migrate", bare.dsn())
        output = result.stdout + result.stderr
        assert result.returncode != 0
        assert message in output
        assert package.replace("-N", f"-{major}") in output
        assert value(bare.dsn(), OURS) == 0


@contextlib.contextmanager
def no_interpreter(connection: Connection) -> Iterator[None]:
    run_python(connection, NO_INTERPRETER)
    yield


@pytest.mark.parametrize(
    ("broken", "message", "detail", "hint"),
    [
        (
            no_interpreter,
            "the HTTP client cannot be started",
            "Starting /nowhere/bin/python3",
            "The system user of PostgreSQL must be able to run /nowhere/bin/python3",
        ),
        (
            python_without_libraries,
            "the HTTP client does not start",
            "No module named 'requests'",
            "apt install python3-requests",
        ),
    ],
    ids=["interpreter", "libraries"],
)
@pytest.mark.parametrize("way", ["migrate", "dist"])
def test_an_http_client_that_does_not_start_is_named_and_nothing_is_installed(
    empty_database: str,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    broken: Callable[[Connection], contextlib.AbstractContextManager[None]],
    message: str,
    detail: str,
    hint: str,
) -> None:
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(psycopg.connect(empty_database, autocommit=True))
        connection.execute("create extension plpython3u")
        if way == "migrate":
            # Its own session is the one in which this is so.
            stack.enter_context(broken(connection))
            monkeypatch.setattr(deploy, "connect", lambda *_: contextlib.nullcontext(connection))
            with pytest.raises(DeployError) as refused:
                deploy.migrate(empty_database)
            output = str(refused.value)
        else:
            make("dist")
            stack.enter_context(broken(connection))
            with pytest.raises(psycopg.Error) as raised:
                connection.execute((ROOT / "dist" / "qr_refresh.sql").read_bytes())
            diagnosis = raised.value.diag
            output = f"{raised.value} {diagnosis.message_detail} {diagnosis.message_hint}"
    for part in (message, detail, hint):
        assert part in output
    assert value(empty_database, OURS) == 0


@pytest.mark.parametrize("url", [None, "", "not a URL"], ids=["none", "empty", "no URL"])
def test_without_a_database_url_migrate_shows_an_example(url: str | None) -> None:
    result = make("migrate", url)
    assert result.returncode != 0
    assert "DATABASE_URL" in result.stderr
    assert "make migrate DATABASE_URL=postgresql://" in result.stderr


def test_the_password_is_not_printed(empty_database: str, server: Server) -> None:
    result = make("migrate", empty_database)
    assert server.password not in result.stdout + result.stderr
    wrong = make("migrate", empty_database.replace(server.password, "wrong-password"))
    assert wrong.returncode != 0
    assert "wrong-password" not in wrong.stdout + wrong.stderr


@pytest.mark.parametrize("password", ["se%cret", "se@cret", "se/cret", "se cret"])
@pytest.mark.parametrize("command", ["migrate", "doctor", "watch"])
def test_of_a_url_that_cannot_be_read_no_password_is_printed(command: str, password: str) -> None:
    result = make(command, f"postgresql://postgres:{password}@127.0.0.1:1/postgres")
    assert result.returncode != 0
    assert "write special characters as %XX" in result.stderr
    assert "cret" not in result.stdout + result.stderr


def test_a_dollar_in_a_password_is_no_variable_of_make(server: Server, empty_database: str) -> None:
    name = database_name(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as admin:
        admin.execute(f"create role login_of_{name} login password 'a$b$$(c)'".encode())
    try:
        url = f"postgresql://login_of_{name}:a$b$$(c)@{server.host}:{server.port}/{name}"
        # As an argument, which make reads as it reads its own lines.
        result = subprocess.run(
            ["make", "migrate", f"DATABASE_URL={url}"]
            + [f"PYTHON={sys.executable}", f"VENV={sys.prefix}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "installing refresh-qr-codes needs a superuser" in result.stderr
    finally:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(f"drop role login_of_{name}".encode())


@pytest.mark.parametrize("way", ["migrate", "dist"])
def test_an_installation_waits_for_the_applications_table_only_for_a_while(
    empty_database: str, way: str
) -> None:
    with psycopg.connect(empty_database) as idle:
        idle.execute("create table evolution_instances (instance_name text)")
        idle.commit()
        idle.execute("select from evolution_instances")
        if way == "migrate":
            sooner = "from db import deploy; deploy.MIGRATION_LOCK_TIMEOUT = '100ms'; deploy.main()"
            result = subprocess.run(
                [sys.executable, "-c", sooner, "migrate"],
                cwd=ROOT,
                env={**os.environ, "DATABASE_URL": empty_database},
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert result.returncode == 1
            assert "canceling statement due to lock timeout" in result.stdout + result.stderr
        else:
            make("dist")
            text = (ROOT / "dist" / "qr_refresh.sql").read_text(encoding="utf-8")
            sooner = text.replace("lock_timeout = '1min'", "lock_timeout = '100ms'")
            with (
                psycopg.connect(empty_database, autocommit=True) as connection,
                pytest.raises(psycopg.errors.LockNotAvailable),
            ):
                connection.execute("set statement_timeout = '60s'")
                connection.execute(sooner.encode())
    migrated(empty_database)
