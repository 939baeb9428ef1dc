"""What others have put where the job's own belongs: refused before a superuser runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from db.connection import database_name
from tests.deploy.installation import make, migrated, run_dist, value
from tools.engines import Server
from tools.job import Connection

WAYS: dict[str, Callable[[str], object]] = {"migrate": migrated, "dist": run_dist}


@pytest.fixture
def stranger(server: Server, empty_database: str) -> Iterator[str]:
    """A role that may create schemas in the database, and in public."""
    name = f"stranger_of_{database_name(empty_database)}"
    with psycopg.connect(empty_database, autocommit=True) as admin:
        admin.execute(f"create role {name}; grant create on schema public to {name}".encode())
        admin.execute(
            f"grant create on database {database_name(empty_database)} to {name}".encode()
        )
    yield name
    with psycopg.connect(empty_database, autocommit=True) as admin:
        admin.execute(f"drop owned by {name} cascade; drop role {name}".encode())


# What it is, and what the message calls it.
PLANTED = {
    "a table with a trigger": (
        "create schema qr_refresh; create table qr_refresh.settings (singleton boolean);"
        "create function qr_refresh.climb() returns trigger language plpgsql as"
        " $$ begin execute 'alter role stranger superuser'; return new; end $$;"
        "create trigger climb before insert on qr_refresh.settings"
        " for each row execute function qr_refresh.climb()",
        "table qr_refresh.settings",
    ),
    "a view": (
        "create schema qr_refresh; create view qr_refresh.schema_migrations as select 'x' version",
        "view qr_refresh.schema_migrations",
    ),
    "a type": (
        "create schema qr_refresh; create type qr_refresh.attempt as (a integer)",
        "qr_refresh.attempt",
    ),
    "an operator": (
        "create schema qr_refresh; create operator qr_refresh.= "
        "(function = textne, leftarg = text, rightarg = text)",
        "operator qr_refresh.=",
    ),
    "an overload of a function": (
        "create schema qr_refresh; create function qr_refresh.doctor(integer default 1)"
        " returns integer language sql as 'select 1'",
        "function qr_refresh.doctor(integer)",
    ),
    "an overload of the job": (
        "create function public.refresh_qr_codes() returns jsonb language sql"
        " as 'select null::jsonb'",
        "function public.refresh_qr_codes()",
    ),
    "the job itself": (
        "create function public.refresh_qr_codes(instance_name text default null,"
        " only_due boolean default false) returns jsonb language sql as 'select null::jsonb'",
        "function public.refresh_qr_codes(pg_catalog.text,boolean)",
    ),
}


def refused(way: str, url: str) -> str:
    """Install in vain, and return what is said."""
    if way == "migrate":
        result = make("migrate", url)
        assert result.returncode != 0
        return result.stdout + result.stderr
    with pytest.raises(psycopg.Error) as raised:
        run_dist(url)
    assert raised.value.sqlstate == "QR012"
    return f"{raised.value} {raised.value.diag.message_hint}"


def plant(connection: Connection, role: str, statements: str) -> None:
    connection.execute(f"set role {role}".encode())
    connection.execute(statements.replace("stranger", role).encode())
    connection.execute("reset role")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("planted", PLANTED)
def test_what_a_stranger_has_planted_is_named_and_nothing_is_installed(
    empty_database: str, stranger: str, way: str, planted: str
) -> None:
    statements, name = PLANTED[planted]
    with psycopg.connect(empty_database, autocommit=True) as connection:
        plant(connection, stranger, statements)
    output = refused(way, empty_database)
    assert "something of others is where refresh-qr-codes belongs" in output
    assert name in output
    assert stranger in output
    assert value(empty_database, "select count(*) from pg_class where relname = 'runs'") == 0
    assert value(empty_database, f"select rolsuper from pg_roles where rolname = '{stranger}'") is (
        False
    )


@pytest.mark.parametrize("way", WAYS)
def test_what_is_planted_after_an_installation_stops_the_next_one(
    empty_database: str, stranger: str, way: str
) -> None:
    migrated(empty_database)
    statements, name = PLANTED["an overload of the job"]
    with psycopg.connect(empty_database, autocommit=True) as connection:
        plant(connection, stranger, statements)
        assert name in refused(way, empty_database)
        connection.execute("drop function refresh_qr_codes()")
    WAYS[way](empty_database)


@pytest.mark.parametrize("way", WAYS)
def test_an_empty_schema_of_a_stranger_becomes_ours_and_he_may_create_nothing_in_it(
    empty_database: str, stranger: str, way: str
) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        plant(connection, stranger, "create schema qr_refresh")
        connection.execute(f"grant create on schema qr_refresh to {stranger}".encode())
        WAYS[way](empty_database)
        may_create = f"select has_schema_privilege('{stranger}', 'qr_refresh', 'create')"
        assert value(empty_database, may_create) is False
