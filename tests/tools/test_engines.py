"""The throw-away servers: that they come, that they are apart, and that nothing of them stays."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from db.connection import changed, database_name
from tests.deploy.installation import value
from tools.engines import ROOT, EngineError, Server, start_postgres
from tools.job import wait_until


@pytest.fixture
def engine(server: Server) -> str:
    """The engine of this test run, where it can start servers."""
    if server.engine == "url":
        pytest.skip("starts servers of its own: PG=docker or PG=local runs it")
    return server.engine


def answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=10).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.engines
def test_two_servers_run_side_by_side_and_are_gone_afterwards(engine: str) -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(start_postgres(engine)) for _ in range(2))
        with psycopg.connect(first.dsn(), autocommit=True) as connection:
            connection.execute("create database only_in_the_first")
        count = "select count(*) from pg_database where datname = 'only_in_the_first'"
        assert [value(each.dsn(), count) for each in (first, second)] == [1, 0]
    assert not answers(first.dsn())
    assert not answers(second.dsn())


@pytest.mark.engines
def test_settings_and_environment_reach_the_server_and_outlast_a_restart(engine: str) -> None:
    variable = "https://x.example/%v?quote='"
    settings = {"shared_preload_libraries": "", "cluster_name": "it's mine"}
    with start_postgres(engine, settings=settings, environment={"SOME_URL": variable}) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("create extension plpython3u")
            connection.execute(
                "create function variable() returns text language plpython3u"
                " as $$ import os; return os.environ.get('SOME_URL') $$"
            )
        for _ in range(2):
            assert value(server.dsn(), "show shared_preload_libraries") == ""
            assert value(server.dsn(), "show cluster_name") == "it's mine"
            assert value(server.dsn(), "select variable()") == variable
            server.restart()
        assert server.log_text().count("database system is ready to accept connections") == 3


@pytest.mark.engines
def test_a_stopped_server_answers_again_after_its_start(engine: str) -> None:
    with start_postgres(engine) as server:
        server.stop("immediate")
        assert not answers(server.dsn())
        server.start()
        assert answers(server.dsn())
        assert "was not properly shut down" in server.log_text()


@pytest.mark.engines
def test_a_server_ends_when_the_process_that_started_it_is_killed(
    engine: str, tmp_path: Path
) -> None:
    program = (
        "from tools.engines import start_postgres\n"
        f"with start_postgres({engine!r}, environment={{'SOME': 'value'}}) as server:\n"
        "    print(server.dsn(), flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        dsn = process.stdout.readline().strip()
        assert answers(dsn)
        process.kill()
    wait_until(lambda: not answers(dsn), "the server of the killed process is gone", timeout=30)
    wait_until(lambda: not list(tmp_path.iterdir()), "nothing of it is on the disk", timeout=30)


@pytest.mark.engines
def test_a_server_may_have_more_files_open_than_a_login_session(engine: str) -> None:
    wanted = min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE,"
        " (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "from tools.engines import start_postgres\n"
        "import psycopg\n"
        f"with start_postgres({engine!r}) as server:\n"
        "    for _ in range(2):\n"
        "        with psycopg.connect(server.dsn(), autocommit=True) as connection:\n"
        "            query = b'create extension if not exists plpython3u;'\n"
        "            query += b' create or replace function files() returns int'\n"
        "            query += b' language plpython3u as $$ import resource as r;'\n"
        "            query += b' return r.getrlimit(r.RLIMIT_NOFILE)[0] $$'\n"
        "            connection.execute(query)\n"
        "            print(connection.execute('select files()').fetchone()[0])\n"
        "        server.restart()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    limits = [int(line) for line in result.stdout.splitlines()]
    assert len(limits) == 2 and min(limits) >= wanted, result.stdout + result.stderr


@pytest.mark.engines
def test_a_setting_that_postgres_refuses_is_reported_with_its_log(engine: str) -> None:
    with (
        pytest.raises(EngineError, match="shared_buffers"),
        start_postgres(engine, settings={"shared_buffers": "nonsense"}),
    ):
        pass


def test_the_client_programs_are_of_the_servers_version(server: Server, database: str) -> None:
    name = database_name(database)
    dump = server.run_client(["pg_dump", "--schema-only"], dbname=name)
    assert dump.returncode == 0, dump.output
    assert "refresh_qr_codes" in dump.output
    counted = server.run_client(["psql", "-XAt"], stdin="select 40 + 2;\n", dbname=name)
    assert (counted.returncode, counted.output) == (0, "42\n")


def test_only_a_container_lets_a_test_act_as_root(server: Server) -> None:
    if server.engine == "docker":
        assert server.run_as_root(["id", "--user"]) == (0, "0\n")
    else:
        with pytest.raises(EngineError, match="PG=docker"):
            server.run_as_root(["id", "--user"])


def test_a_server_that_runs_already_is_used_and_left_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", server.dsn("template1"))
    with start_postgres("url") as borrowed:
        assert borrowed.version == server.version
        assert borrowed.dsn() == server.dsn()
        with pytest.raises(EngineError, match="not ours to stop"):
            borrowed.stop()
    assert answers(server.dsn())


def test_the_options_of_a_database_url_hold_for_every_database_and_program(
    server: Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = changed(server.dsn("template1"), sslmode="disable", application_name="a b")
    monkeypatch.setenv("DATABASE_URL", url)
    with start_postgres("url") as borrowed:
        dsn = borrowed.dsn(database_name(database))
        assert database_name(dsn) == database_name(database)
        assert value(dsn, "show application_name") == "a b"
        query = ["psql", "-XAtc", "show application_name"]
        if server.engine == "local":
            monkeypatch.setenv("PGAPPNAME", "another")
            assert borrowed.run_client(query).output == "a b\n"


@pytest.mark.parametrize("password", ["se%cret", "se@cret", "se/cret"])
def test_of_a_database_url_that_cannot_be_read_no_password_is_printed(
    password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://postgres:{password}@127.0.0.1:1/postgres")
    with (
        pytest.raises(EngineError, match="write special characters as %XX") as failure,
        start_postgres("url"),
    ):
        pass
    assert "cret" not in str(failure.value)


def test_a_server_that_runs_already_takes_no_other_settings(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", server.dsn())
    with (
        pytest.raises(EngineError, match="needs a server of its own"),
        start_postgres("url", settings={"work_mem": "1MB"}),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "message"),
    [("podman", "unknown engine 'podman'"), ("url", "DATABASE_URL is not set")],
)
def test_an_engine_that_cannot_be_had_is_named_with_what_to_do(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("PG", name)
    with pytest.raises(EngineError, match=message), start_postgres():
        pass


def test_without_docker_and_without_packages_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PG", "PG_VERSION", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    monkeypatch.setattr("tools.engines.POSTGRES_SHARE", ROOT / "nowhere")
    with pytest.raises(EngineError) as failure, start_postgres():
        pass
    text = str(failure.value)
    assert "no Docker engine answers" in text
    assert "postgresql-plpython3-" in text or "packages postgresql" in text
    assert "make packages" in text


def test_nothing_of_the_servers_is_reachable_from_other_machines(server: Server) -> None:
    if server.engine == "url":
        pytest.skip("says nothing about a server of yours: PG=docker or PG=local runs it")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Sends nothing: it only asks which address of this machine leads to the network.
        probe.connect(("192.0.2.1", 9))
        own_address = probe.getsockname()[0]
    with socket.socket() as client:
        assert client.connect_ex((own_address, server.port)) == errno.ECONNREFUSED
