"""A cancel takes effect in the middle of hanging calls, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from simulator import hostile
from simulator.hostile import Behaviour, HostileServer
from tests.evolution_api import hostile_server_for
from tests.http.asking import ASK_ALL, prepare_to_ask
from tools.backend import (
    NEVER_RESOLVES,
    change_client,
    client_of,
    clients,
    full_backlog,
    run_python,
    sockets,
    threads,
    wait_for_requests,
    wait_until_gone,
)
from tools.engines import Server, start_postgres
from tools.job import Connection, Job, install, wait_until

INSTANCES = 20
MANY = 200
PROMPT = 2.0  # seconds until a cancel has taken effect; measured: 0.02 to 0.1
KINDS = ("never answers", "drips headers", "drips the body", "TLS stalls", "connect", "name")
BEHAVIOURS: dict[str, Behaviour] = {
    "never answers": hostile.never_answer,
    "drips headers": hostile.drip_headers,
    "drips the body": hostile.drip_body,
}


@dataclass
class Hanging:
    """A job whose requests all hang in one way."""

    job: Job
    kind: str
    servers: tuple[HostileServer, ...]

    def wait_until_under_way(self, watcher: Connection, count: int) -> int:
        """Wait until so many requests hang; return the pid of the client."""
        pid = self.job.connection.info.backend_pid
        wait_until(lambda: clients(watcher, pid), "the client is there")
        client = client_of(watcher, pid)
        wait_until(lambda: are_under_way(watcher, client, self.kind, count), "all requests hang")
        return client

    def wait_until_nothing_is_left(self, watcher: Connection, client: int) -> None:
        """Wait until there is no client, no zombie and no connection."""
        wait_until_gone(watcher, client)
        session = self.job.connection
        assert session.closed or clients(watcher, session.info.backend_pid) == []
        for misbehaving in self.servers:
            wait_until(lambda m=misbehaving: m.open_connections == 0, "connections are closed")  # type: ignore[misc]


def are_under_way(watcher: Connection, client: int, kind: str, count: int) -> bool:
    if kind == "name":
        return threads(watcher, client) == 1 + count
    return sockets(watcher, client) == count


@pytest.fixture
def hanging(
    job: Job,
    server: Server,
    kind: str,
    hostile_server: HostileServer,
    stalled_tls_server: HostileServer,
) -> Iterator[Hanging]:
    """Nothing has run before in the session of this job."""
    job.set(request_timeout="50 s", run_timeout="50 s", max_concurrency=INSTANCES)
    for number in range(INSTANCES):
        job.add_row(f"hangs {number}")
        hostile_server.behave(f"hangs {number}", BEHAVIOURS.get(kind, hostile.never_answer))
    with full_backlog(server.listen_host) as port:
        urls = {
            "TLS stalls": stalled_tls_server.base_url,
            "connect": f"http://{server.reachable_host}:{port}",
        }
        job.set(evolution_api_base_url=urls.get(kind, hostile_server.base_url))
        if kind == "name":
            change_client(job.connection, NEVER_RESOLVES)
        yield Hanging(job, kind, (hostile_server, stalled_tls_server))


@contextlib.contextmanager
def under_way(job: Job) -> Iterator[Future[dict[str, Any]]]:
    """Run the job in a thread of this process."""
    with ThreadPoolExecutor(1) as executor:
        yield executor.submit(job.run)


def works_again(job: Job, kind: str) -> bool:
    job.connection.execute("delete from evolution_instances")
    job.set(evolution_api_base_url=job.simulator.base_url)
    if kind == "name":
        change_client(job.connection, "socket.getaddrinfo = socket._socket.getaddrinfo")
    job.add("good again")
    return job.run()["refreshed"] == 1 and job.row("good again").qr_code is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("means", ["statement_timeout", "pg_cancel_backend"])
def test_a_cancel_ends_hanging_calls_and_the_session_goes_on(
    hanging: Hanging,
    connect: Callable[[], Connection],
    record_property: Callable[[str, object], None],
    kind: str,
    means: str,
) -> None:
    session, watcher = hanging.job.connection, connect()
    open_before = sockets(session)
    if means == "statement_timeout":
        # Long enough for all requests to be under way by then.
        session.execute("set statement_timeout = '2 s'")
    begun_at = time.monotonic() + 2
    with under_way(hanging.job) as run:
        client = hanging.wait_until_under_way(watcher, INSTANCES)
        if means == "pg_cancel_backend":
            begun_at = time.monotonic()
            watcher.execute("select pg_cancel_backend(%s)", (session.info.backend_pid,))
        error = run.exception(30)
    seconds = time.monotonic() - begun_at
    record_property("seconds", round(seconds, 3))
    assert isinstance(error, psycopg.errors.QueryCanceled)
    assert seconds < PROMPT
    session.execute("reset statement_timeout")
    hanging.wait_until_nothing_is_left(watcher, client)
    assert sockets(session) == open_before
    assert threads(session) == 1
    assert works_again(hanging.job, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_terminated_session_ends_in_the_middle_of_hanging_calls(
    hanging: Hanging,
    connect: Callable[[], Connection],
    record_property: Callable[[str, object], None],
    kind: str,
) -> None:
    watcher = connect()
    pid = hanging.job.connection.info.backend_pid
    with under_way(hanging.job) as run:
        client = hanging.wait_until_under_way(watcher, INSTANCES)
        begun_at = time.monotonic()
        watcher.execute("select pg_terminate_backend(%s)", (pid,))
        error = run.exception(30)
        wait_until_gone(watcher, pid)
    seconds = time.monotonic() - begun_at
    record_property("seconds", round(seconds, 3))
    assert isinstance(error, psycopg.errors.AdminShutdown)
    assert seconds < PROMPT
    hanging.wait_until_nothing_is_left(watcher, client)
    assert works_again(Job(watcher, hanging.job.simulator), kind)


@pytest.mark.parametrize("function", ["pg_cancel_backend", "pg_terminate_backend"])
def test_two_hundred_hanging_calls_end_as_fast(
    hostile_server: HostileServer,
    connect: Callable[[], Connection],
    record_property: Callable[[str, object], None],
    function: str,
) -> None:
    session, watcher = connect(), connect()
    pid = session.info.backend_pid
    hostile_server.behave("shop", hostile.never_answer)
    prepare_to_ask(session, places=MANY)
    arguments = {"names": ["shop"] * MANY, "url": hostile_server.base_url}
    with ThreadPoolExecutor(1) as executor:
        run = executor.submit(session.execute, ASK_ALL, arguments)
        wait_for_requests(hostile_server, MANY)
        client = client_of(watcher, pid)
        begun_at = time.monotonic()
        watcher.execute(f"select {function}({pid})".encode())
        assert isinstance(run.exception(30), psycopg.OperationalError)
    seconds = time.monotonic() - begun_at
    record_property("seconds", round(seconds, 3))
    assert seconds < PROMPT
    wait_until_gone(watcher, client)
    wait_until(lambda: hostile_server.open_connections == 0, "connections are closed")


@pytest.mark.engines
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_shutdown_ends_hanging_calls_of_every_kind(
    record_property: Callable[[str, object], None], mode: str
) -> None:
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(start_postgres(own=True))
        install(own.dsn())
        misbehaving = stack.enter_context(hostile_server_for(own))
        for kind, behaviour in BEHAVIOURS.items():
            misbehaving.behave(kind, behaviour)
        tls = stack.enter_context(hostile_server_for(own, never_handshake=True))
        port = stack.enter_context(full_backlog(own.listen_host))
        urls = {
            "TLS stalls": tls.base_url,
            "connect": f"http://{own.reachable_host}:{port}",
        }
        executor = stack.enter_context(ThreadPoolExecutor(len(KINDS)))
        watcher = stack.enter_context(psycopg.connect(own.dsn(), autocommit=True))
        calls: list[Future[Any]] = []
        former = {}
        for kind in KINDS:
            session = stack.enter_context(psycopg.connect(own.dsn(), autocommit=True))
            if kind == "name":
                change_client(session, NEVER_RESOLVES)
            prepare_to_ask(session)
            arguments = {"names": [kind] * 8, "url": urls.get(kind, misbehaving.base_url)}
            calls.append(executor.submit(session.execute, ASK_ALL, arguments))
            pid = session.info.backend_pid
            wait_until(lambda pid=pid: clients(watcher, pid), "the client is there")  # type: ignore[misc]
            client = client_of(watcher, pid)
            wait_until(
                lambda kind=kind, client=client: are_under_way(watcher, client, kind, 8),  # type: ignore[misc]
                "all requests hang",
            )
            former[client] = birth(watcher, client)
        begun_at = time.monotonic()
        own.stop(mode)
        seconds = time.monotonic() - begun_at
        record_property("seconds", round(seconds, 3))
        assert all(isinstance(call.exception(15), psycopg.OperationalError) for call in calls)
        # The server's own shutdown, with its checkpoint, is in it; the calls would hang for 60 s.
        assert seconds < 10
        for server in (misbehaving, tls):
            wait_until(lambda s=server: s.open_connections == 0, "connections are closed")  # type: ignore[misc]
        own.start()
        with psycopg.connect(own.dsn(), autocommit=True) as session:
            wait_until(
                lambda: not any(birth(session, pid) == born for pid, born in former.items()),
                "no client is left",
            )
            assert session.execute("select count(*) from qr_refresh.runs").fetchone() == (0,)


def birth(watcher: Connection, pid: int) -> str:
    """Return when a process began, in ticks since the machine did; empty: there is none."""
    body = f"""
        try:
            plpy.notice(open('/proc/{pid}/stat').read().rpartition(')')[2].split()[19])
        except OSError:
            plpy.notice('')
    """
    return run_python(watcher, body)


def test_a_hanging_run_does_not_hold_up_other_sessions(
    hostile_job: Job,
    hostile_server: HostileServer,
    connect: Callable[[], Connection],
    record_property: Callable[[str, object], None],
) -> None:
    # DROP DATABASE waits until every session of the server has looked up from its work.
    watcher = connect()
    other = f"other_{hostile_job.connection.info.dbname}"
    watcher.execute(f"create database {other}".encode())
    hostile_server.behave("hangs", hostile.never_answer)
    hostile_job.add_row("hangs")
    hostile_job.set(request_timeout="20 s", max_concurrency=1)
    with under_way(hostile_job) as run:
        wait_until(lambda: hostile_server.requests, "the request hangs")
        begun_at = time.monotonic()
        watcher.execute(f"drop database {other}".encode())
        seconds = time.monotonic() - begun_at
        record_property("seconds", round(seconds, 3))
        assert not run.done()
        watcher.execute("select pg_cancel_backend(%s)", (hostile_job.connection.info.backend_pid,))
    assert seconds < 5


def test_a_transaction_timeout_ends_the_session_and_not_the_server(
    hostile_job: Job,
    hostile_server: HostileServer,
    connect: Callable[[], Connection],
    server: Server,
) -> None:
    if server.major < 17:
        pytest.skip("transaction_timeout came with PostgreSQL 17: PG=docker PG_VERSION=17 has it")
    watcher = connect()
    hostile_server.behave("hangs", hostile.never_answer)
    hostile_job.add_row("hangs")
    hostile_job.set(request_timeout="8 s")
    hostile_job.connection.execute("set transaction_timeout = '500 ms'")
    begun_at = time.monotonic()
    with pytest.raises(psycopg.errors.TransactionTimeout):
        hostile_job.run()
    assert time.monotonic() - begun_at < 3
    assert watcher.execute("select 1").fetchone() == (1,)
