"""A cancel takes effect in the middle of hanging calls, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from simulator import hostile
from simulator.hostile import Behaviour, HostileServer
from tests.evolution_api import hostile_server_for
from tools.backend import (
    RELEASED_RESOLVER,
    SLOW_RESOLVER,
    full_backlog,
    run_python,
    sockets,
    threads,
    wait_for_threads,
    wait_for_threads_to_end,
)
from tools.engines import Server, start_postgres
from tools.job import Connection, Job, install, wait_until

INSTANCES = 8
PROMPT = 1.0  # seconds until a cancel has taken effect
KINDS = ("never answers", "drips headers", "drips the body", "TLS stalls", "connect", "name")
BEHAVIOURS: dict[str, Behaviour] = {
    "never answers": hostile.never_answer,
    "drips headers": hostile.drip_headers,
    "drips the body": hostile.drip_body,
}


@pytest.fixture
def hanging(
    job: Job,
    server: Server,
    kind: str,
    hostile_server: HostileServer,
    stalled_tls_server: HostileServer,
) -> Iterator[Job]:
    """A job whose requests all hang in the way that `kind` names; its session has run before."""
    job.add("good")
    assert job.run()["refreshed"] == 1
    job.connection.execute("delete from evolution_instances")
    job.set(request_timeout="20 s", run_timeout="20 s", max_concurrency=INSTANCES)
    for number in range(INSTANCES):
        job.add_row(f"hangs {number}")
        if kind in BEHAVIOURS:
            hostile_server.behave(f"hangs {number}", BEHAVIOURS[kind])
    with full_backlog(server.listen_host) as port:
        urls = {
            "TLS stalls": stalled_tls_server.base_url,
            "connect": f"http://{server.reachable_host}:{port}",
            "name": job.simulator.base_url,
        }
        job.set(evolution_api_base_url=urls.get(kind, hostile_server.base_url))
        if kind == "name":
            run_python(job.connection, SLOW_RESOLVER)
        yield job


@contextlib.contextmanager
def under_way(job: Job, watcher: Connection, kind: str) -> Iterator[Future[dict[str, Any]]]:
    """Run the job in a thread of this process; enter when all its requests hang."""
    pid = job.connection.info.backend_pid
    with ThreadPoolExecutor(1) as executor:
        run = executor.submit(job.run)
        wait_for_threads(watcher, pid, 1 if kind == "name" else INSTANCES)
        yield run


def wait_until_gone(watcher: Connection, pid: int) -> None:
    question = f"import os; plpy.notice(os.path.exists('/proc/{pid}'))"
    wait_until(lambda: run_python(watcher, question) == "False", "the process is gone")


def works_again(job: Job) -> bool:
    job.connection.execute("delete from evolution_instances")
    job.set(evolution_api_base_url=job.simulator.base_url)
    job.add("good again")
    return job.run()["refreshed"] == 1 and job.row("good again").qr_code is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("means", ["statement_timeout", "pg_cancel_backend"])
def test_a_cancel_ends_hanging_calls_and_the_session_goes_on(
    hanging: Job,
    connect: Callable[[], Connection],
    record_property: Callable[[str, object], None],
    kind: str,
    means: str,
) -> None:
    session = hanging.connection
    open_before = sockets(session)
    watcher = connect()
    threads(watcher)  # starts its Python
    if means == "statement_timeout":
        # Long enough for all requests to be under way by then.
        session.execute("set statement_timeout = '2 s'")
        begun_at = time.monotonic() + 2
        with under_way(hanging, watcher, kind) as run:
            error = run.exception(15)
    else:
        with under_way(hanging, watcher, kind) as run:
            begun_at = time.monotonic()
            watcher.execute("select pg_cancel_backend(%s)", (session.info.backend_pid,))
            error = run.exception(15)
    seconds = time.monotonic() - begun_at
    record_property("seconds", round(seconds, 3))
    assert isinstance(error, psycopg.errors.QueryCanceled)
    assert seconds < PROMPT
    session.execute("reset statement_timeout")
    if kind == "name":
        wait_for_threads_to_end(session, left=1)  # what waits for the name
        run_python(session, RELEASED_RESOLVER)
    wait_for_threads_to_end(session)
    assert sockets(session) == open_before
    assert works_again(hanging)


@pytest.mark.parametrize("kind", KINDS)
def test_a_terminated_session_ends_in_the_middle_of_hanging_calls(
    hanging: Job,
    connect: Callable[[], Connection],
    hostile_server: HostileServer,
    stalled_tls_server: HostileServer,
    record_property: Callable[[str, object], None],
    kind: str,
) -> None:
    watcher = connect()
    pid = hanging.connection.info.backend_pid
    with under_way(hanging, watcher, kind) as run:
        begun_at = time.monotonic()
        watcher.execute("select pg_terminate_backend(%s)", (pid,))
        error = run.exception(15)
    wait_until(
        lambda: (
            run_python(watcher, f"import os; plpy.notice(os.path.exists('/proc/{pid}'))") == "False"
        ),
        "the process is gone",
    )
    seconds = time.monotonic() - begun_at
    record_property("seconds", round(seconds, 3))
    assert isinstance(error, psycopg.errors.AdminShutdown)
    assert seconds < PROMPT
    for misbehaving in (hostile_server, stalled_tls_server):
        wait_until(lambda m=misbehaving: m.open_connections == 0, "connections are closed")  # type: ignore[misc]
    assert works_again(Job(watcher, hanging.simulator))


@pytest.mark.engines
def test_a_fast_shutdown_ends_hanging_calls_of_every_kind(
    record_property: Callable[[str, object], None],
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
        for kind in KINDS:
            session = stack.enter_context(psycopg.connect(own.dsn(), autocommit=True))
            if kind == "name":
                run_python(session, SLOW_RESOLVER)
            url = urls.get(kind, misbehaving.base_url)
            calls.append(
                executor.submit(
                    session.execute,
                    "select * from qr_refresh.fetch_qr_codes("
                    "array_fill(%s::text, '{8}'), array_fill('t'::text, '{8}'),"
                    " array_fill(%s::text, '{8}'), array_fill(false, '{8}'),"
                    " array_fill(false, '{8}'), 60, 60, 8, null)",
                    (kind, url),
                )
            )
            wait_for_threads(watcher, session.info.backend_pid, 1 if kind == "name" else 8)
        begun_at = time.monotonic()
        own.stop("fast")
        seconds = time.monotonic() - begun_at
        record_property("seconds", round(seconds, 3))
        assert all(isinstance(call.exception(15), psycopg.OperationalError) for call in calls)
        # The server's own shutdown, with its checkpoint, is in it; the calls would hang for 60 s.
        assert seconds < 10
        own.start()
        with psycopg.connect(own.dsn()) as session:
            assert session.execute("select count(*) from qr_refresh.runs").fetchone() == (0,)


@pytest.mark.engines
def test_a_session_that_ends_inside_openssl_takes_no_other_along() -> None:
    with contextlib.ExitStack() as stack:
        # A server of its own: a crash in one session ends them all.
        own = stack.enter_context(start_postgres(own=True))
        install(own.dsn())
        tls = stack.enter_context(hostile_server_for(own, never_handshake=True))
        url = tls.base_url
        watcher = stack.enter_context(psycopg.connect(own.dsn(), autocommit=True))
        executor = stack.enter_context(ThreadPoolExecutor(1))
        for _ in range(12):
            session = stack.enter_context(psycopg.connect(own.dsn(), autocommit=True))
            call = executor.submit(
                session.execute,
                "select * from qr_refresh.fetch_qr_codes("
                "array_fill('a'::text, '{32}'), array_fill('t'::text, '{32}'),"
                " array_fill(%s::text, '{32}'), array_fill(false, '{32}'),"
                " array_fill(false, '{32}'), 20, 20, 32, null)",
                (url,),
            )
            # Early, while the others still begin and OpenSSL is at work in several threads.
            wait_for_threads(watcher, session.info.backend_pid, 8)
            watcher.execute("select pg_terminate_backend(%s)", (session.info.backend_pid,))
            assert isinstance(call.exception(15), psycopg.errors.AdminShutdown)
            wait_until_gone(watcher, session.info.backend_pid)
        assert "terminated by signal" not in own.log_text()


@pytest.mark.engines
def test_a_client_that_goes_away_takes_no_other_session_along() -> None:
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(start_postgres(own=True))
        install(own.dsn())
        tls = stack.enter_context(hostile_server_for(own, never_handshake=True))
        url = tls.base_url
        watcher = stack.enter_context(psycopg.connect(own.dsn(), autocommit=True))
        for _ in range(3):
            session = psycopg.connect(own.dsn(), autocommit=True)
            pid = session.info.backend_pid
            session.execute("set client_connection_check_interval = '20 ms'")
            sent_at = time.monotonic()
            session.pgconn.send_query(
                "select * from qr_refresh.fetch_qr_codes("
                "array_fill('a'::text, '{32}'), array_fill('t'::text, '{32}'),"
                f" array_fill('{url}'::text, '{{32}}'), array_fill(false, '{{32}}'),"
                " array_fill(false, '{32}'), 3, 3, 32, null)".encode()
            )
            wait_for_threads(watcher, pid, 32)
            session.close()
            wait_until_gone(watcher, pid)
            # Not at once, but when the run has ended and its threads with it.
            assert time.monotonic() - sent_at > 3
        log = own.log_text()
        assert log.count("connection to client lost") == 3
        assert "terminated by signal" not in log


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
    with under_way(hostile_job, watcher, "name") as run:
        wait_until(lambda: hostile_server.requests, "the request hangs")
        begun_at = time.monotonic()
        watcher.execute(f"drop database {other}".encode())
        seconds = time.monotonic() - begun_at
        record_property("seconds", round(seconds, 3))
        assert not run.done()
        watcher.execute("select pg_cancel_backend(%s)", (hostile_job.connection.info.backend_pid,))
    assert seconds < 5


def test_a_cancel_that_comes_just_before_a_connect_ends_it_all_the_same(
    job: Job, server: Server, record_property: Callable[[str, object], None]
) -> None:
    # Shutting down a socket that is not connecting yet does nothing to the connect that follows.
    # What is simulated: the worker is held up between the two for longer than it takes to cancel.
    run_python(
        job.connection,
        """
        import socket, time
        class Slow(socket.socket):
            def connect(self, address):
                time.sleep(0.6)
                super().connect(address)
        socket.socket = Slow
        """,
    )
    with full_backlog(server.listen_host) as port:
        job.set(evolution_api_base_url=f"http://{server.reachable_host}:{port}")
        job.set(request_timeout="8 s")
        job.add_row("shop")
        job.connection.execute("set statement_timeout = '500 ms'")
        begun_at = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled):
            job.run()
    seconds = time.monotonic() - begun_at - 0.5
    record_property("seconds", round(seconds, 3))
    assert seconds < 2
    job.connection.execute("reset statement_timeout")
    wait_for_threads_to_end(job.connection)


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
