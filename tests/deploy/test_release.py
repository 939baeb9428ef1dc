"""The files of a release: what they are called, what is in them, and where they can be run."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from db import dist
from db.order import ROOT
from tests.deploy.installation import (
    OURS,
    RELEASES,
    forget_base_url,
    job_runs,
    make,
    migrated,
    run_sql_file,
    value,
)
from tools.engines import Server

# What each tool looks for in a file, also inside quotes.
SQLALCHEMY = re.compile(r"(?<![:\w\\]):(\w+)(?!:)|\\:")
KNEX = re.compile(r"\?")
FLYWAY = re.compile(r"\$\{")
GRAPHILE_MIGRATE = re.compile(r":[A-Z_]+|^--!", re.MULTILINE)
# dbmate, sql-migrate and goose.
MARKS = re.compile(r"^-- (migrate:|\+)", re.MULTILINE)


def test_each_file_of_a_release_has_its_checksum(for_psql: Path, for_tools: Path) -> None:
    for path in (for_psql, for_tools):
        checksum = path.with_name(f"{path.name}.sha256").read_text(encoding="utf-8")
        assert checksum == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        subprocess.run(
            ["sha256sum", "--check", "--status", f"{path.name}.sha256"], cwd=path.parent, check=True
        )


def test_a_release_is_made_anew_with_the_same_bytes(for_psql: Path, for_tools: Path) -> None:
    before = for_psql.read_bytes(), for_tools.read_bytes()
    make("release")
    assert (for_psql.read_bytes(), for_tools.read_bytes()) == before


def test_the_file_for_tools_says_first_that_it_has_no_transaction(for_tools: Path) -> None:
    text = for_tools.read_text(encoding="utf-8")
    assert "has no BEGIN and COMMIT" in text.splitlines()[0]
    assert not re.search(r"^(begin|commit|start transaction|end)\s*;", text, re.I | re.M)


@pytest.mark.parametrize("pattern", [SQLALCHEMY, KNEX, FLYWAY, GRAPHILE_MIGRATE, MARKS])
def test_no_tool_finds_anything_of_its_own_in_the_file(
    for_tools: Path, pattern: re.Pattern[str]
) -> None:
    assert pattern.search(":word ? ${x} :WORD\n-- migrate:up"), "the test finds something"
    lines = for_tools.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if pattern.search(line)] == []


def test_a_text_that_the_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="-- db/x.sql: <colon> has a meaning"):
        dist.literal("-- db/x.sql\nselect '<colon>'")


def run_psql(server: Server, url: str, path: Path, *options: str) -> tuple[int, str]:
    return server.run_client(
        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *options, "-f", "-"],
        stdin=path.read_text(encoding="utf-8"),
        dbname=url.rsplit("/", 1)[1],
    )


@pytest.mark.parametrize("options", [(), ("--single-transaction",)])
def test_psql_installs_the_file_for_tools_with_and_without_a_transaction(
    empty_database: str,
    second_database: str,
    server: Server,
    schema_of: Callable[[str], str],
    for_tools: Path,
    options: tuple[str, ...],
) -> None:
    for _ in range(2):
        assert run_psql(server, empty_database, for_tools, *options) == (0, "")
    migrated(second_database)
    assert schema_of(empty_database) == schema_of(second_database)
    assert job_runs(empty_database)


def test_psql_installs_the_file_for_psql_however_backslashes_are_read(
    empty_database: str,
    second_database: str,
    server: Server,
    schema_of: Callable[[str], str],
    for_psql: Path,
    for_tools: Path,
) -> None:
    off = "alter database {} set standard_conforming_strings = off"
    with psycopg.connect(empty_database) as connection:
        if connection.info.server_version < 190000:  # which knows one way only
            connection.execute(off.format(connection.info.dbname).encode())
    for _ in range(2):
        assert run_psql(server, empty_database, for_psql) == (0, "")
    run_sql_file(second_database, for_tools)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(f"alter database {connection.info.dbname} reset all".encode())
    assert schema_of(empty_database) == schema_of(second_database)
    assert job_runs(empty_database)


@pytest.mark.parametrize("release", sorted(p.stem for p in RELEASES.glob("*.sql")))
def test_the_file_for_tools_upgrades_each_release(
    empty_database: str,
    second_database: str,
    schema_of: Callable[[str], str],
    for_tools: Path,
    release: str,
) -> None:
    run_sql_file(empty_database, RELEASES / f"{release}.sql")
    run_sql_file(empty_database, for_tools)
    forget_base_url(empty_database)
    run_sql_file(second_database, for_tools)
    assert schema_of(empty_database) == schema_of(second_database)


def test_an_error_later_in_the_transaction_leaves_nothing(
    empty_database: str, for_tools: Path
) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero), psycopg.connect(empty_database) as tool:
        tool.execute(for_tools.read_bytes())
        assert tool.execute(OURS.encode()).fetchone() == (3,)
        tool.execute("select 1 / 0")
    assert value(empty_database, OURS) == 0


def test_the_rest_of_the_transaction_has_the_settings_of_before(
    empty_database: str, for_tools: Path
) -> None:
    query = "select name, setting from pg_settings order by name"
    with psycopg.connect(empty_database) as tool:
        tool.execute("create schema app")
        tool.execute("do $$ begin end $$")  # PL/pgSQL has settings, which come with its first use
        tool.execute("set search_path = app, public")
        tool.execute("set local lock_timeout = '7s'")
        before = tool.execute(query).fetchall()
        tool.execute(for_tools.read_bytes())
        assert tool.execute(query).fetchall() == before
        tool.execute("create table of_the_tool ()")
        tool.commit()
        row = tool.execute(
            "select 'app.of_the_tool'::regclass::text, current_setting('search_path'),"
            " current_setting('lock_timeout')"
        ).fetchone()
        assert row == ("of_the_tool", "app, public", "0")


def test_the_file_for_tools_does_not_depend_on_how_backslashes_are_read(
    empty_database: str, second_database: str, schema_of: Callable[[str], str], for_tools: Path
) -> None:
    with psycopg.connect(empty_database) as tool:
        if tool.info.server_version < 190000:  # which knows one way only
            tool.execute("set standard_conforming_strings = off")
        tool.execute(for_tools.read_bytes())
    migrated(second_database)
    assert schema_of(empty_database) == schema_of(second_database)


PLANTED = """
    create function replace(text, text, text) returns text language plpgsql as '{body}';
    create function chr(integer) returns text language plpgsql as '{body}';
    create function current_setting(text) returns text language plpgsql as '{body}';
    create function set_config(text, text, boolean) returns text language plpgsql as '{body}';
    create function pg_advisory_xact_lock(bigint) returns void language plpgsql as '{body}';
    create function split_part(text, text, integer) returns text language plpgsql as '{body}';
    create function joined(text, text) returns text language plpgsql as '{body}';
    create operator public.|| (leftarg = text, rightarg = text, function = joined);
    create domain public.text as integer;
"""


@pytest.mark.parametrize("fails", [False, True])
def test_a_superuser_with_public_first_runs_nothing_that_somebody_planted_there(
    empty_database: str, for_tools: Path, fails: bool
) -> None:
    with psycopg.connect(empty_database, autocommit=True) as tool:
        tool.execute(PLANTED.format(body="begin raise exception ''planted''; end").encode())
        if fails:
            tool.execute("create view evolution_instances as select 'shop' as instance_name")
        tool.execute("set search_path = public, pg_catalog")
        if fails:
            with pytest.raises(psycopg.Error, match="evolution_instances has no column"):
                tool.execute(for_tools.read_bytes())
        else:
            tool.execute(for_tools.read_bytes())


def test_what_stops_the_installation_is_said_without_a_screen_of_sql(
    empty_database: str, server: Server, for_tools: Path
) -> None:
    with psycopg.connect(empty_database) as connection:
        connection.execute("create view evolution_instances as select 'shop' as instance_name")
    code, output = run_psql(server, empty_database, for_tools)
    assert code == 3
    assert "ERROR:  public.evolution_instances has no column" in output
    assert "HINT:  The job needs the table that lists the instances of Evolution API" in output
    assert " In db/check_table.sql." in output
    assert len(output.splitlines()) < 8
    assert value(empty_database, OURS) == 1  # the view


@pytest.fixture
def login(server: Server, empty_database: str) -> Iterator[str]:
    """The URL of a role that is no superuser."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("create role ordinary_of_the_test login password 'a-secret'")
        address = empty_database.split("@", 1)[1]
        yield f"postgresql://ordinary_of_the_test:a-secret@{address}"
        admin.execute("drop role ordinary_of_the_test")


def test_who_is_no_superuser_is_told_so(login: str, empty_database: str, for_tools: Path) -> None:
    with psycopg.connect(login) as tool, pytest.raises(psycopg.Error) as raised:
        tool.execute(for_tools.read_bytes())
    assert raised.value.sqlstate == "42501"
    assert "installing refresh-qr-codes needs a superuser" in str(raised.value)
    assert value(empty_database, OURS) == 0


def test_the_documents_name_the_files_of_this_version(version: str) -> None:
    for document in ("README.md", "README.pt-BR.md", "README.fr.md", "docs/setup.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        named = set(re.findall(r"qr_refresh-(\d[\d.]*\d)", text))
        assert named <= {version}, document
