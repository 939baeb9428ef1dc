"""Fixtures: one PostgreSQL server a session, one installed template, a clone for each test."""

from __future__ import annotations

import contextlib
import getpass
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from simulator import Simulator
from simulator.hostile import HostileServer
from tests.databases import new_databases
from tests.evolution_api import hostile_server_for, simulator_for
from tools.engines import BorrowedServerError, EngineError, Server, start_postgres
from tools.job import Connection, Job, install

_tested: set[str] = set()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that prints the summary, where this one is a worker of it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tested"] = list(_tested)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    # A worker that crashed has no output.
    _tested.update(getattr(node, "workeroutput", {}).get("tested", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for server in sorted(_tested):
        terminalreporter.write_line(f"PostgreSQL {server}")


def pytest_unconfigure() -> None:
    """Remove pytest's folder of folders, unless a failed test or another run has one in it."""
    with contextlib.suppress(OSError):
        (Path(tempfile.gettempdir()) / f"pytest-of-{getpass.getuser()}").rmdir()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None]:
    """Skip what cannot be done to the server of DATABASE_URL; the reason says which engine can."""
    try:
        yield
    except BorrowedServerError as error:
        pytest.skip(str(error))


pytest_runtest_call = pytest_runtest_setup


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(start_postgres())
        except EngineError as e:
            # Without a server every other test would repeat the same error.
            pytest.exit(f"error: {e}", returncode=2)
        _tested.add(f"{running.version}, engine {running.engine}")
        yield running


@pytest.fixture(scope="session")
def pg_cron(server: Server) -> None:
    """For what needs pg_cron; a release candidate of PostgreSQL may have none yet."""
    with psycopg.connect(server.dsn()) as connection:
        query = "select from pg_available_extensions where name = 'pg_cron'"
        if not connection.execute(query).rowcount:
            pytest.skip("this server has no pg_cron: PG=docker runs it")


@pytest.fixture
def create_database(server: Server) -> Iterator[Callable[[str], str]]:
    """Creates a database with the options given (what follows its name); returns its URL."""
    with new_databases(server) as create:
        yield lambda options: server.dsn(create(options))


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[str]:
    """The name of a database in which the job is installed; nobody is connected to it."""
    with new_databases(server) as create:
        name = create("template template0")
        install(server.dsn(name))
        yield name


@pytest.fixture
def empty_database(create_database: Callable[[str], str]) -> str:
    """The URL of a database of this test's own without the job."""
    return create_database("template template0")


@pytest.fixture
def database(create_database: Callable[[str], str], template: str) -> str:
    """The URL of a database of this test's own in which the job is installed."""
    return create_database(f"template {template}")


@pytest.fixture
def connect(database: str) -> Iterator[Callable[[], Connection]]:
    """Opens sessions on the test's database, as superuser, in autocommit."""
    opened: list[Connection] = []

    def open_one() -> Connection:
        opened.append(psycopg.connect(database, autocommit=True))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def simulator(server: Server) -> Iterator[Simulator]:
    """An Evolution API that the database server reaches."""
    with simulator_for(server) as running:
        yield running


@pytest.fixture
def second_simulator(server: Server) -> Iterator[Simulator]:
    """Another one."""
    with simulator_for(server) as running:
        yield running


@pytest.fixture
def job(connect: Callable[[], Connection], simulator: Simulator) -> Job:
    """The job in this test's database, which asks the simulator."""
    job = Job(connect(), simulator)
    job.set(evolution_api_base_url=simulator.base_url)
    return job


@pytest.fixture
def hostile_server(server: Server) -> Iterator[HostileServer]:
    with hostile_server_for(server) as running:
        yield running


@pytest.fixture
def stalled_tls_server(server: Server) -> Iterator[HostileServer]:
    """Accepts connections and never begins the TLS handshake."""
    with hostile_server_for(server, never_handshake=True) as running:
        yield running


@pytest.fixture
def hostile_job(job: Job, hostile_server: HostileServer) -> Job:
    """The job in this test's database, which asks the hostile server."""
    job.set(evolution_api_base_url=hostile_server.base_url)
    return job
