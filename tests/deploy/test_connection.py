"""Every URL that libpq knows leads to the database, for each command, and dbmate gets no other."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from db.connection import changed, connect, database_name, dbmate_url, is_whole, url_of
from db.order import ROOT
from simulator.certificates import new_certificate
from tests.deploy.conftest import TlsServer
from tests.deploy.installation import OURS, job_runs, made, make, value
from tools.engines import Server, start_postgres

# What stands for something else in a URL.
SPECIAL = "@/?:%# '"

OPTIONS = {
    "application_name": "my app",
    "channel_binding": "prefer",
    "client_encoding": "UTF8",
    "connect_timeout": "20",
    "fallback_application_name": "x",
    "gssencmode": "disable",
    "keepalives": "1",
    "keepalives_idle": "30",
    "krbsrvname": "postgres",
    "load_balance_hosts": "random",
    "options": "-c geqo=off -c work_mem=5MB",
    "sslcompression": "0",
    "sslmode": "prefer",
    "sslsni": "1",
    "ssl_min_protocol_version": "TLSv1.2",
    "target_session_attrs": "read-write",
    "tcp_user_timeout": "30000",
}


def used(url: str) -> None:
    """Do with the database all that an operator does, and find it as it was."""
    output = made("migrate", url)
    assert "Installed" in output and "b'" not in output
    ours = changed(url, client_encoding="UTF8")
    assert job_runs(ours)
    checks = make("doctor", url).stdout
    assert re.search(r"\d+ checks, \d+ wrong", checks), checks
    with subprocess.Popen(
        [sys.executable, "-m", "db.watch"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url},
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        assert "0 of 0 live" in watching.stdout.readline()
        watching.kill()
    made("uninstall", url)
    assert value(ours, OURS) == 1  # evolution_instances stays


def test_a_url_with_every_option_of_libpq_works_for_every_command(empty_database: str) -> None:
    used(changed(empty_database, **OPTIONS))


@pytest.mark.parametrize(
    ("encoding", "of_client"), [("SQL_ASCII", ""), ("LATIN1", "LATIN1"), ("UTF8", "SQL_ASCII")]
)
def test_the_encodings_of_a_database_and_a_url_are_of_no_matter(
    create_database: Callable[[str], str], encoding: str, of_client: str
) -> None:
    url = create_database(f"template template0 encoding '{encoding}' lc_collate 'C' lc_ctype 'C'")
    used(changed(url, client_encoding=of_client) if of_client else url)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_libpq_does_not_keep_dbmate_away(database: str, option: str) -> None:
    with connect(changed(database, **{option: OPTIONS[option]}), "migrate") as connection:
        url = dbmate_url(connection, {"search_path": "pg_catalog"})
    status = subprocess.run(
        [str(Path(sys.executable).with_name("dbmate")), "--migrations-dir", "db/migrations"]
        + ["--migrations-table", "qr_refresh.schema_migrations", "status"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (status.returncode, status.stderr) == (0, "")
    assert "Pending: " in status.stdout


def test_what_the_environment_says_to_libpq_holds_for_dbmate_too(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {name: str(value) for name, value in conninfo_to_dict(empty_database).items()}
    for name in ("host", "port", "user", "password"):
        monkeypatch.setenv(f"PG{name.upper()}", parts[name])
    monkeypatch.setenv("PGSSLCRL", "/nowhere")
    monkeypatch.setenv("PGGSSENCMODE", "disable")
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=5MB")
    assert "Installed" in made("migrate", f"postgresql:///{parts['dbname']}")
    assert value(empty_database, OURS) == 3


def test_of_several_hosts_all_commands_take_the_one_that_answers(empty_database: str) -> None:
    parts = conninfo_to_dict(empty_database)
    used(
        changed(
            empty_database,
            host=f"{parts['host']},{parts['host']}",
            port=f"1,{parts['port']}",
            target_session_attrs="read-write",
        )
    )


def test_a_name_and_its_address_are_both_taken(empty_database: str, server: Server) -> None:
    with connect(empty_database, "migrate") as connection:
        address = connection.info.hostaddr
    url = changed(empty_database, host="no-such-host.invalid", hostaddr=address)
    assert "Installed" in made("migrate", url)
    assert value(empty_database, OURS) == 3


@pytest.mark.engines
def test_each_sslmode_leads_dbmate_over_tls_and_a_wrong_certificate_stops_it(
    tmp_path: Path, tls_server: TlsServer
) -> None:
    own, authority = tls_server
    other, _ = new_certificate(tmp_path, "127.0.0.2")
    wrong = tmp_path / "wrong.pem"
    wrong.write_text(other)
    for mode in ("prefer", "require", "verify-ca", "verify-full"):
        url = changed(own.dsn(), sslmode=mode, sslrootcert=str(authority))
        assert "Installed" in made("migrate", url), mode
        made("uninstall", url)
    with connect(changed(own.dsn(), sslrootcert=str(authority)), "migrate") as connection:
        url = changed(dbmate_url(connection, {}), sslmode="verify-ca", sslrootcert=str(wrong))
    assert "sslmode=verify-ca" in url
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


# --- Unix sockets ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["usual", "odd 100% sockets"])
def socket_url(request: pytest.FixtureRequest, server: Server) -> Iterator[str]:
    """The URL of a database by socket, without a user: who runs the tests has a role there."""
    if server.engine != "local":
        pytest.skip("connects through a socket of this machine: PG=local runs it")
    with ExitStack() as stack:
        settings = {}
        if request.param != "usual":
            # Not pytest's folder: its path may be too long for a socket, and closed to postgres.
            parent = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
            folder = parent / request.param
            folder.mkdir()
            for path in (parent, folder):
                path.chmod(0o777)
            settings["unix_socket_directories"] = str(folder)
        running = stack.enter_context(start_postgres("local", settings=settings))
        with psycopg.connect(running.dsn(), autocommit=True) as admin:
            admin.execute(f'create role "{getpass.getuser()}" superuser login'.encode())
            admin.execute("create database app template template0")
        host = str(value(running.dsn(), "show unix_socket_directories"))
        yield url_of({"host": host, "port": str(running.port), "dbname": "app"})


@pytest.mark.engines
def test_a_socket_with_peer_authentication_works_for_every_command(socket_url: str) -> None:
    assert "host=%2F" in socket_url
    used(socket_url)


@pytest.mark.engines
def test_a_socket_that_the_environment_names_works_for_every_command(
    socket_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = conninfo_to_dict(socket_url)
    monkeypatch.setenv("PGHOST", str(parts["host"]))
    monkeypatch.setenv("PGPORT", str(parts["port"]))
    used("postgresql:///app")


# --- without a server -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://a:b@h:1/app?sslmode=disable", "app"),
        ("postgres:///a%2Fb?host=/tmp", "a/b"),
        ("postgresql://h/?dbname=app", "app"),
    ],
)
def test_the_name_of_the_database_is_found_wherever_it_stands(url: str, name: str) -> None:
    assert database_name(url) == name


@pytest.mark.parametrize(
    "parts",
    [
        {"host": "h", "dbname": "app"},
        {"host": "::1", "port": "5433", "user": "a b", "password": SPECIAL, "dbname": "a/b"},
        {"host": "/run/post gresql", "port": "5433", "user": "u", "dbname": "app"},
        {"host": "@abstract", "dbname": "app", "sslmode": "disable"},
        {"host": "a,b", "port": "1,2", "password": "x", "options": "-c a=b -c c=d"},
        {"dbname": "app"},
    ],
    ids=lambda parts: parts.get("host", "none"),
)
def test_a_url_has_the_parts_that_it_was_made_of(parts: dict[str, str]) -> None:
    assert conninfo_to_dict(url_of(parts)) == parts
    assert is_whole(url_of(parts))
    other = changed(url_of(parts), dbname="other", password="it's")
    assert conninfo_to_dict(other) == {**parts, "dbname": "other", "password": "it's"}
