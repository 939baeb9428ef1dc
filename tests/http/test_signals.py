"""Signals that reach the backend while its worker threads are busy are the main thread's alone."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from simulator import hostile
from simulator.hostile import HostileServer
from tools.backend import (
    run_python,
    threads,
    wait_for_threads,
    wait_for_threads_to_end,
)
from tools.job import Connection, Job, wait_until

IN_FLIGHT = 64
SIGNALS = 100
CANCELS = 30
# The kernel lets nobody block the first two; the C library keeps the others for itself.
NEVER_BLOCKED = {signal.SIGKILL, signal.SIGSTOP, 32, 33}


@pytest.fixture
def busy_job(hostile_job: Job, hostile_server: HostileServer) -> Job:
    """64 requests that hang in two ways, all at a time."""
    hostile_job.set(request_timeout="20 s", run_timeout="20 s", max_concurrency=IN_FLIGHT)
    for number in range(IN_FLIGHT):
        kind = hostile.drip_body if number % 2 else hostile.never_answer
        hostile_server.behave(f"hangs {number}", kind)
        hostile_job.add_row(f"hangs {number}")
    return hostile_job


def masks(watcher: Connection, pid: int) -> dict[int, set[int]]:
    """Return the signals that each thread of another session's backend has blocked."""
    body = f"""
        import json, os
        found = {{}}
        for thread in os.listdir('/proc/{pid}/task'):
            try:
                lines = open('/proc/{pid}/task/' + thread + '/status').readlines()
            except OSError:
                continue  # it has just ended
            for line in lines:
                if line.startswith('SigBlk:'):
                    found[thread] = int(line.split()[1], 16)
        plpy.notice(json.dumps(found))
    """
    return {
        int(thread): {number + 1 for number in range(64) if mask >> number & 1}
        for thread, mask in json.loads(run_python(watcher, body)).items()
    }


def test_workers_have_every_signal_blocked_and_the_main_thread_none(
    busy_job: Job, hostile_server: HostileServer, connect: Callable[[], Connection]
) -> None:
    watcher = connect()
    pid = busy_job.connection.info.backend_pid
    with ThreadPoolExecutor(1) as executor:
        run = executor.submit(busy_job.run)
        wait_until(lambda: len(hostile_server.requests) == IN_FLIGHT, "all requests hang")
        found = masks(watcher, pid)
        watcher.execute("select pg_cancel_backend(%s)", (pid,))
        assert isinstance(run.exception(15), psycopg.errors.QueryCanceled)
    main = found.pop(pid)
    assert len(found) == IN_FLIGHT
    assert not main & {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGALRM}
    for blocked in found.values():
        assert set(range(1, 65)) - blocked <= NEVER_BLOCKED


def test_signals_that_cancel_nothing_change_nothing(
    busy_job: Job, hostile_server: HostileServer, connect: Callable[[], Connection]
) -> None:
    watcher = connect()
    pid = busy_job.connection.info.backend_pid
    threads(watcher)  # starts its Python
    busy_job.set(request_timeout="4 s")
    busy_job.add_row("good")
    with ThreadPoolExecutor(1) as executor:
        run = executor.submit(busy_job.run)
        wait_until(lambda: len(hostile_server.requests) >= IN_FLIGHT, "all requests hang")
        send_many = f"""
            import os, signal
            for _ in range({SIGNALS}):
                os.kill({pid}, signal.SIGUSR1)
                os.kill({pid}, signal.SIGHUP)
            plpy.notice(len(os.listdir('/proc/{pid}/task')))
        """
        assert int(run_python(watcher, send_many)) == 1 + IN_FLIGHT
        report = run.result(15)
    errors = [result.get("error") for result in report["results"]]
    assert errors.count("Request timeout") == IN_FLIGHT
    assert errors.count(None) == 1
    assert busy_job.row("good").qr_code is not None
    wait_for_threads_to_end(busy_job.connection)


def test_a_cancel_takes_effect_also_after_a_rain_of_signals(
    busy_job: Job, hostile_server: HostileServer, connect: Callable[[], Connection]
) -> None:
    # Python's own waiting must survive a signal at any moment, also just when its time-out ends.
    watcher = connect()
    pid = busy_job.connection.info.backend_pid
    rain = f"""
        import os, signal, time
        ends = time.monotonic() + 3
        while time.monotonic() < ends:
            os.kill({pid}, signal.SIGUSR1)
            time.sleep(0.0001)
    """
    with ThreadPoolExecutor(1) as executor:
        run = executor.submit(busy_job.run)
        wait_until(lambda: len(hostile_server.requests) == IN_FLIGHT, "all requests hang")
        run_python(watcher, rain)
        watcher.execute("select pg_cancel_backend(%s)", (pid,))
        # The calls would hang for 17 seconds more.
        assert isinstance(run.exception(10), psycopg.errors.QueryCanceled)


@pytest.mark.outage
def test_thirty_cancels_in_a_row_each_end_one_run(
    busy_job: Job, hostile_server: HostileServer, connect: Callable[[], Connection]
) -> None:
    watcher, session = connect(), busy_job.connection
    pid = session.info.backend_pid
    threads(watcher)
    run_again_and_again = f"""
        do $$
        declare cancelled integer := 0;
        begin
            while cancelled < {CANCELS} loop
                begin
                    perform refresh_qr_codes();
                    raise 'a run has ended by itself';
                exception when query_canceled then
                    cancelled := cancelled + 1;
                end;
            end loop;
        end $$
    """
    # Interrupts as soon as all workers of a run are there, and none of the run before.
    interrupt = f"""
        import os, signal, time
        ends = time.monotonic() + 180
        former = set()
        for _ in range({CANCELS}):
            while True:
                workers = set(os.listdir('/proc/{pid}/task')) - {{'{pid}'}}
                if len(workers) == {IN_FLIGHT} and not workers & former:
                    break
                if time.monotonic() > ends:
                    plpy.error('not all of it within three minutes')
                time.sleep(0.01)
            os.kill({pid}, signal.SIGINT)
            former = workers
        plpy.notice('sent')
    """
    with ThreadPoolExecutor(1) as executor:
        runs = executor.submit(session.execute, run_again_and_again.encode())
        assert run_python(watcher, interrupt) == "sent"
        runs.result(15)
    wait_for_threads_to_end(session)
    assert busy_job.value("select count(*) from qr_refresh.runs") == 0
    session.execute("delete from evolution_instances")
    busy_job.add_row("good")
    assert busy_job.run()["refreshed"] == 1
    assert session.info.backend_pid == pid


def test_only_the_main_thread_calls_postgres(
    busy_job: Job, hostile_server: HostileServer, connect: Callable[[], Connection]
) -> None:
    # Every function of the module plpy tells from now on which thread has called it.
    watch = """
        import threading
        GD['callers'] = []
        def watched(function):
            def call(*arguments, **options):
                GD['callers'].append(threading.get_ident())
                return function(*arguments, **options)
            return call
        for name in ('execute', 'prepare', 'log', 'notice', 'error', 'cursor', 'subtransaction'):
            setattr(plpy, name, watched(getattr(plpy, name)))
    """
    run_python(busy_job.connection, watch)
    busy_job.set(request_timeout="1500 ms")
    for number, behaviour in enumerate([hostile.reset_at_once, hostile.gzip_bomb, hostile.good]):
        hostile_server.behave(f"other {number}", behaviour)
        busy_job.add_row(f"other {number}")
    assert busy_job.run()["refreshed"] == 1
    callers = run_python(
        busy_job.connection,
        "import json, threading\n"
        "plpy.notice(json.dumps([len(GD['callers']), len(set(GD['callers'])),"
        " threading.get_ident() in GD['callers']]))",
    )
    count, different, is_main = json.loads(callers)
    assert count > len(hostile_server.requests)
    assert (different, is_main) == (1, True)


def test_a_run_leaves_the_signal_mask_of_the_session_as_it_was(
    busy_job: Job, connect: Callable[[], Connection]
) -> None:
    watcher, pid = connect(), busy_job.connection.info.backend_pid
    threads(busy_job.connection)
    before = masks(watcher, pid)
    with ThreadPoolExecutor(1) as executor:
        run = executor.submit(busy_job.run)
        wait_for_threads(watcher, pid, IN_FLIGHT)
        watcher.execute("select pg_cancel_backend(%s)", (pid,))
        assert isinstance(run.exception(15), psycopg.errors.QueryCanceled)
    wait_until(lambda: masks(watcher, pid) == before, "one thread, with its former mask")
