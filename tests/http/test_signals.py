"""Signals that reach the backend while requests hang change nothing, but for a cancel."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from simulator import hostile
from simulator.hostile import HostileServer
from tools.backend import client_of, clients, is_process_1, run_python, wait_for_requests
from tools.job import Connection, Job, wait_until

IN_FLIGHT = 64
SIGNALS = 100
CANCELS = 30


@pytest.fixture
def busy_job(hostile_job: Job, hostile_server: HostileServer) -> Job:
    """64 requests that hang in two ways, all at a time."""
    hostile_job.set(request_timeout="40 s", run_timeout="40 s", max_concurrency=IN_FLIGHT)
    for number in range(IN_FLIGHT):
        kind = hostile.drip_body if number % 2 else hostile.never_answer
        hostile_server.behave(f"hangs {number}", kind)
        hostile_job.add_row(f"hangs {number}")
    return hostile_job


def test_signals_that_cancel_nothing_change_nothing(
    busy_job: Job, hostile_server: HostileServer, connect: Callable[[], Connection]
) -> None:
    watcher = connect()
    pid = busy_job.connection.info.backend_pid
    busy_job.set(request_timeout="2 s")
    busy_job.add_row("good")
    with ThreadPoolExecutor(1) as executor:
        run = executor.submit(busy_job.run)
        wait_for_requests(hostile_server, IN_FLIGHT)
        client = client_of(watcher, pid)
        send_many = f"""
            import os, signal
            for _ in range({SIGNALS}):
                os.kill({pid}, signal.SIGUSR1)
                os.kill({pid}, signal.SIGHUP)
        """
        run_python(watcher, send_many)
        report = run.result(30)
    errors = [result.get("error") for result in report["results"]]
    assert errors.count("Request timeout") == IN_FLIGHT
    assert errors.count(None) == 1
    assert busy_job.row("good").qr_code is not None
    # What drips holds its threads: such a client is not kept, and no other is there yet.
    assert set(clients(watcher, pid)) <= {client}


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
        wait_for_requests(hostile_server, IN_FLIGHT)
        run_python(watcher, rain)
        watcher.execute("select pg_cancel_backend(%s)", (pid,))
        # The calls would hang for more than 20 seconds more.
        assert isinstance(run.exception(10), psycopg.errors.QueryCanceled)
    wait_until(lambda: clients(watcher, pid) == [], "the client is gone")


def test_a_signal_for_the_group_of_the_backend_does_not_reach_its_client(
    job: Job, connect: Callable[[], Connection]
) -> None:
    if is_process_1(job.connection):
        pytest.skip("where the postmaster is process 1 a run ends its client: PG=local keeps it")
    # The postmaster sends some signals to a session and to all of its children.
    watcher, pid = connect(), job.connection.info.backend_pid
    job.add("shop")
    job.run()
    client = client_of(watcher, pid)
    groups = f"import os; plpy.notice(os.getpgid({pid}), os.getpgid({client}), os.getsid({client}))"
    assert run_python(watcher, groups) == str((pid, client, client))
    run_python(watcher, f"import os, signal; os.killpg({pid}, signal.SIGINT)")
    assert job.run()["refreshed"] == 1
    assert clients(watcher, pid) == [client]


@pytest.mark.outage
def test_thirty_cancels_in_a_row_each_end_one_run(
    busy_job: Job, hostile_server: HostileServer, connect: Callable[[], Connection]
) -> None:
    watcher, session = connect(), busy_job.connection
    pid = session.info.backend_pid
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
    former: set[int] = set()
    with ThreadPoolExecutor(1) as executor:
        runs = executor.submit(session.execute, run_again_and_again.encode())
        for number in range(1, CANCELS + 1):
            # All requests of this run are there, and none of the run before.
            asked = number * IN_FLIGHT
            wait_until(lambda asked=asked: len(hostile_server.requests) == asked, "requests hang")  # type: ignore[misc]
            client = client_of(watcher, pid)
            assert client not in former
            former.add(client)
            watcher.execute("select pg_cancel_backend(%s)", (pid,))
        runs.result(15)
    wait_until(lambda: clients(watcher, pid) == [], "no client is left")
    wait_until(lambda: hostile_server.open_connections == 0, "connections are closed")
    assert busy_job.value("select count(*) from qr_refresh.runs") == 0
    session.execute("delete from evolution_instances")
    busy_job.add_row("good")
    assert busy_job.run()["refreshed"] == 1
    assert session.info.backend_pid == pid
