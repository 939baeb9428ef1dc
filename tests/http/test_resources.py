"""What a run takes of the system: threads, descriptors and memory, also where they are few."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from simulator import hostile
from simulator.hostile import HostileServer
from tests.http.misbehaviour import FLOODS, errors
from tools.backend import (
    forget_peak_memory,
    memory,
    run_python,
    sockets,
    threads,
    wait_for_threads_to_end,
)
from tools.job import OLD_QR, Connection, Job, wait_until

NO_MORE_THREADS = """
    import resource
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
"""


# From within the first thread, so it is the only one.
ONE_THREAD = """
    import resource, socket
    resolve = socket.getaddrinfo
    def resolve_in_the_last_thread(*arguments, **options):
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
        return resolve(*arguments, **options)
    socket.getaddrinfo = resolve_in_the_last_thread
"""


LATE_THREADS = """
    import threading, time
    start = threading.Thread.start
    def start_late(thread):
        if threading.current_thread() is not threading.main_thread():
            time.sleep(1.7)
        start(thread)
    threading.Thread.start = start_late
"""


FEW_DESCRIPTORS = """
    import os, resource
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir('/proc/self/fd')))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, hard))
"""


def test_a_system_without_threads_is_reported_for_each_instance(hostile_job: Job) -> None:
    for name in "abc":
        hostile_job.add_row(name, qr_code=OLD_QR)
    run_python(hostile_job.connection, NO_MORE_THREADS)
    reason = "no thread could be started"
    assert errors(hostile_job) == {n: f"Failed to fetch QR for {n}: {reason}" for n in "abc"}
    assert hostile_job.row("a").qr_code == OLD_QR


def test_the_threads_that_there_are_do_the_work_of_those_that_could_not_start(
    hostile_job: Job, hostile_server: HostileServer
) -> None:
    for name in "abc":
        hostile_job.add_row(name)
    run_python(hostile_job.connection, ONE_THREAD)
    assert errors(hostile_job) == dict.fromkeys("abc")
    assert hostile_server.connections == 1


def test_a_thread_that_starts_late_leaves_its_instance_the_whole_timeout(hostile_job: Job) -> None:
    hostile_job.add_row("a")
    hostile_job.add_row("b")
    hostile_job.set(request_timeout="1500 ms", max_concurrency=2)
    run_python(hostile_job.connection, LATE_THREADS)
    assert errors(hostile_job) == {"a": None, "b": None}


def test_few_descriptors_make_a_run_longer_and_cost_nobody_an_attempt(
    hostile_job: Job, hostile_server: HostileServer
) -> None:
    for number in range(100):
        hostile_job.add_row(f"{number:02}")
    hostile_job.set(max_concurrency=100)
    hostile_job.run()
    open_before = sockets(hostile_job.connection)
    run_python(hostile_job.connection, FEW_DESCRIPTORS)
    assert set(errors(hostile_job).values()) == {None}
    assert len(hostile_server.requests) == 200
    assert sockets(hostile_job.connection) == open_before


MAY_OPEN = """
    import resource
    plpy.notice(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_many_servers_share_512_threads(
    hostile_job: Job,
    hostile_server: HostileServer,
    connect: Callable[[], Connection],
    record_property: Callable[[str, object], None],
) -> None:
    watcher, session = connect(), hostile_job.connection
    files = int(run_python(session, MAY_OPEN))
    if files < 2048:
        pytest.skip(f"504 calls at a time: a process may open {files} files here, ulimit -Hn 4096")
    run_python(session, "import requests")
    open_before = sockets(session)
    for number in range(12):
        url = f"{hostile_server.base_url}/{number}"
        session.execute("insert into qr_refresh.evolution_servers values (%s, %s)", (number, url))
        for i in range(60):
            hostile_server.behave(f"{number} {i}", hostile.never_answer)
            hostile_job.add_row(f"{number} {i}")
    session.execute(
        "update evolution_instances set evolution_server = split_part(instance_name, ' ', 1)"
    )
    hostile_job.set(request_timeout="60 s", run_timeout="60 s", max_concurrency=256)
    with ThreadPoolExecutor(1) as executor:
        run = executor.submit(hostile_job.run)
        wait_until(lambda: len(hostile_server.requests) == 504, "504 requests hang")
        assert threads(watcher, session.info.backend_pid) == 1 + 504
        begun_at = time.monotonic()
        watcher.execute("select pg_cancel_backend(%s)", (session.info.backend_pid,))
        assert isinstance(run.exception(15), psycopg.errors.QueryCanceled)
        seconds = time.monotonic() - begun_at
    record_property("seconds", round(seconds, 3))
    assert seconds < 1
    servers = Counter(request.path.split("/")[1] for request in hostile_server.requests)
    assert servers == {str(number): 42 for number in range(12)}
    wait_for_threads_to_end(session)
    assert sockets(session) == open_before


def test_bombs_and_floods_cost_the_backend_less_than_20_mb(
    hostile_job: Job,
    hostile_server: HostileServer,
    record_property: Callable[[str, object], None],
) -> None:
    bad = [hostile.gzip_bomb, *(behaviour for behaviour, _ in FLOODS)]
    hostile_job.add_row("a")
    open_before = sockets(hostile_job.connection)
    hostile_job.run()
    for number, behaviour in enumerate(bad * 4):
        hostile_server.behave(f"bad {number}", behaviour)
        hostile_job.add_row(f"bad {number}", qr_code=OLD_QR)
    forget_peak_memory(hostile_job.connection)
    before = memory(hostile_job.connection, "VmRSS")
    report = hostile_job.run()
    grown = memory(hostile_job.connection, "VmHWM") - before
    record_property("megabytes", round(grown / 1e6, 1))
    assert (report["refreshed"], report["failed"]) == (1, 4 * len(bad))
    assert grown < 20e6
    wait_for_threads_to_end(hostile_job.connection)
    assert sockets(hostile_job.connection) == open_before
