"""Through PgBouncer in transaction mode, nothing of a deployment is left to its next client."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from db.connection import changed
from db.order import LOCK
from simulator import Simulator
from simulator.picture import qr_text
from tests.deploy.installation import OURS, made, make, migrated, run_sql_file, value
from tools.engines import Server, free_port
from tools.job import Job, read_qr, value_of, wait_until

PROGRAM = Path("/usr/sbin/pgbouncer")
CONFIGURATION = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = 1
ignore_startup_parameters = extra_float_digits
"""
# What the next client of the session would find.
SESSION = (
    "select array[current_setting('search_path'), current_setting('lock_timeout'),"
    " current_setting('client_min_messages'),"
    " (select count(*)::text from pg_locks"
    f" where locktype = 'advisory' and objid = {LOCK % 2**32})]"
)
UNTOUCHED = ['"$user", public', "0", "notice", "0"]


@pytest.fixture(scope="module")
def pooler(server: Server) -> Iterator[int]:
    """The port of a PgBouncer before the server."""
    if not PROGRAM.exists():
        pytest.skip("needs PgBouncer: apt install --no-install-recommends pgbouncer")
    port = free_port()
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    file = folder / "pgbouncer.ini"
    file.touch(0o600)
    users = folder / "users"
    users.touch(0o600)
    users.write_text(f'"{server.user}" "{server.password}"\n')
    file.write_text(
        CONFIGURATION.format(host=server.host, port=server.port, own_port=port, users=users)
    )
    command = [str(PROGRAM), "--quiet", str(file)]
    if os.geteuid() == 0:
        # It does not run as root.
        shutil.chown(folder, "postgres")
        shutil.chown(file, "postgres")
        shutil.chown(users, "postgres")
        command = ["runuser", "-u", "postgres", "--", *command]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        assert running.poll() is None, "PgBouncer has ended"
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        return False

    try:
        wait_until(answers, "PgBouncer answers")
        yield port
    finally:
        running.terminate()
        running.wait(10)
        shutil.rmtree(folder)


@pytest.fixture
def pooled(pooler: int, empty_database: str) -> str:
    return changed(empty_database, host="127.0.0.1", port=str(pooler))


def test_migrate_says_to_connect_directly(pooled: str, empty_database: str) -> None:
    result = make("migrate", pooled)
    assert result.returncode != 0
    assert "Connect directly to PostgreSQL" in result.stderr
    assert value(pooled, SESSION) == UNTOUCHED
    assert value(empty_database, OURS) == 0


def test_uninstall_says_to_connect_directly(pooled: str, empty_database: str) -> None:
    migrated(empty_database)
    result = make("uninstall", pooled)
    assert result.returncode != 0
    assert "Connect directly to PostgreSQL" in result.stderr
    assert value(pooled, SESSION) == UNTOUCHED
    assert value(empty_database, OURS) == 3


@pytest.mark.parametrize("which", ["for psql", "for tools"])
def test_the_files_leave_the_pooled_session_as_it_was(
    pooled: str, which: str, for_psql: Path, for_tools: Path
) -> None:
    run_sql_file(pooled, for_psql if which == "for psql" else for_tools)
    assert value(pooled, SESSION) == UNTOUCHED
    assert value(pooled, OURS) == 3


def test_a_file_that_fails_leaves_it_as_well(pooled: str, for_tools: Path) -> None:
    with psycopg.connect(pooled) as connection:
        connection.execute("create materialized view evolution_instances as select 1 as a")
    with pytest.raises(psycopg.Error):
        run_sql_file(pooled, for_tools)
    assert value(pooled, SESSION) == UNTOUCHED


def test_doctor_works_through_it(pooled: str, empty_database: str) -> None:
    migrated(empty_database)
    assert " checks, " in make("doctor", pooled).stdout
    assert value(pooled, SESSION) == UNTOUCHED


def test_rows_behind_it_are_served_and_make_warns_of_it(
    server: Server,
    pooler: int,
    empty_database: str,
    create_database: Callable[[str], str],
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if server.engine != "local":
        pytest.skip("needs one address for this process and for the server: PG=local runs it")
    application = create_database("template template0")
    through_it = changed(application, host="127.0.0.1", port=str(pooler))
    monkeypatch.setenv("APPLICATION_DATABASE_URL", through_it)
    simulator.add_instance("shop", "token-of-0")
    with psycopg.connect(application, autocommit=True) as there:
        there.execute(
            "create table evolution_instances (instance_name text, instance_token text,"
            " instance_status text, qr_code text, last_qr_update timestamptz)"
        )
        there.execute("insert into evolution_instances values ('shop', 'token-of-0', 'connecting')")
        output = made("foreign-table", empty_database)
        assert "WARNING: APPLICATION_DATABASE_URL leads to a pooler." in output
        migrated(empty_database)
        with psycopg.connect(empty_database, autocommit=True) as here:
            job = Job(here, simulator)
            job.set(evolution_api_base_url=simulator.base_url)
            here.execute("set role qr_refresh_owner")
            for number in (1, 2):
                assert job.run()["refreshed"] == 1
                stored = value_of(there, "select qr_code from evolution_instances")
                assert (
                    read_qr(stored) == simulator.current_code("shop") == qr_text(f"shop/{number}")
                )
                simulator.clock.advance(46)
