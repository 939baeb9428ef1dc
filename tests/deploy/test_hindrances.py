"""What stops an installation from outside is named, with what to do, and nothing is installed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psycopg
import pytest

from tests.deploy.installation import OURS, make, migrated, run_dist, run_sql_file, value
from tools.engines import Server, start_postgres

# In a function of the application's that sees all DDL; its search_path is that of whoever installs.
GUARD = """
    create function public.note_ddl() returns event_trigger language plpgsql
    as $$ begin insert into ddl_log values (current_user); end $$;
    create event trigger "Note all" on ddl_command_end {tags} execute function public.note_ddl()
"""


@pytest.mark.parametrize(
    ("tags", "said"),
    [("", "has stopped it"), ("when tag in ('CREATE TABLE')", "stopped it")],
    ids=["of all", "of tables"],
)
def test_an_event_trigger_that_stops_migrate_is_named_with_its_function(
    empty_database: str, tags: str, said: str
) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(GUARD.format(tags=tags).encode())
        result = make("migrate", empty_database)
        assert result.returncode != 0
        output = result.stdout + result.stderr
        assert "Event trigger Note all, function public.note_ddl, " in output
        assert said in output
        assert 'ALTER EVENT TRIGGER "Note all" DISABLE' in output
        connection.execute('alter event trigger "Note all" disable')
    migrated(empty_database)


def test_an_event_trigger_that_stops_the_file_for_tools_is_named_with_its_function(
    empty_database: str, for_tools: Path
) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(GUARD.format(tags="").encode())
    with pytest.raises(psycopg.errors.UndefinedTable) as raised:
        run_sql_file(empty_database, for_tools)
    detail = raised.value.diag.message_detail or ""
    assert 'Event trigger "Note all", function public.note_ddl, has stopped it.' in detail
    assert value(empty_database, OURS) == 0


def test_of_an_error_that_no_event_trigger_has_raised_none_is_named(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(
            "create function public.idle() returns event_trigger language plpgsql as"
            " $$ begin end $$;"
            "create event trigger idle on ddl_command_end execute function public.idle();"
            "create materialized view evolution_instances as select 1 as a"
        )
    result = make("migrate", empty_database)
    assert "public.evolution_instances is no table" in result.stderr
    assert "ALTER EVENT TRIGGER" not in result.stderr


@pytest.mark.parametrize("way", ["migrate", "dist"])
def test_a_pl_python_that_cannot_be_loaded_is_named(empty_database: str, way: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(
            "create extension plpython3u;"
            "update pg_proc set probin = '/nowhere/plpython3' where proname ~ '^plpython3_'"
        )
    if way == "migrate":
        result = make("migrate", empty_database)
        assert result.returncode != 0
        output = result.stdout + result.stderr
    else:
        with pytest.raises(psycopg.Error) as raised:
            run_dist(empty_database)
        assert raised.value.sqlstate == "QR015"
        diagnosis = raised.value.diag
        output = f"{raised.value} {diagnosis.message_detail} {diagnosis.message_hint}"
    assert "PL/Python cannot be loaded on the database server" in output
    assert "/nowhere/plpython3" in output
    assert "apt install --reinstall postgresql-plpython3-" in output
    assert value(empty_database, OURS) == 0


@pytest.mark.engines
def test_a_wrong_pythonhome_of_the_server_is_named(server: Server) -> None:
    if server.engine == "url":
        pytest.skip("gives a server an environment: PG=local or PG=docker runs it")
    with start_postgres(server.engine, environment={"PYTHONHOME": "/nowhere"}) as own:
        result = make("migrate", own.dsn())
        assert result.returncode != 0
        assert "PYTHONHOME of the database server leads to no Python" in result.stderr
        assert "It is /nowhere" in result.stderr
        with pytest.raises(psycopg.Error) as raised:
            run_dist(own.dsn())
        assert raised.value.sqlstate == "QR016"
        assert value(own.dsn(), OURS) == 0


@pytest.mark.engines
def test_a_python_that_ends_the_session_is_named_by_migrate(server: Server) -> None:
    if server.engine != "local":
        pytest.skip("gives the server a folder of this machine: PG=local runs it")
    # Not pytest's folder, which may be closed to the user postgres.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        # It looks like Python's, and is empty.
        (Path(folder) / "lib" / "python3.11").mkdir(parents=True)
        Path(folder).chmod(0o755)
        with start_postgres("local", environment={"PYTHONHOME": folder}) as own:
            result = make("migrate", own.dsn())
            assert result.returncode != 0
            assert "Most often PYTHONHOME or PYTHONPATH is in the environment" in result.stderr
            assert value(own.dsn(), OURS) == 0


@pytest.mark.engines
def test_a_right_pythonhome_is_no_trouble(server: Server) -> None:
    if server.engine == "url":
        pytest.skip("gives a server an environment: PG=local or PG=docker runs it")
    with start_postgres(server.engine, environment={"PYTHONHOME": "/usr"}) as own:
        migrated(own.dsn())
