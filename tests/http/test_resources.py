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
from tests.http.client import Client, client_of, running_client
from tests.http.misbehaviour import ENDLESS, FLOODS, drip_a_while
from tools.backend import run_python, threads
from tools.job import Connection, Job, wait_until

# Limits do not hold for root; what is simulated is only that no more than so many can start.
FEW_THREADS = """
import threading
start, started = threading.Thread.start, []
def start_one_of_few(thread):
    if len(started) == {few}:
        raise RuntimeError("can't start new thread")
    started.append(thread)
    start(thread)
threading.Thread.start = start_one_of_few
"""

FEW_DESCRIPTORS = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
"""


def names(count: int) -> list[str]:
    return [f"{number:03}" for number in range(count)]


def test_a_system_without_threads_is_reported_for_each_instance(api: HostileServer) -> None:
    with running_client(api.base_url, FEW_THREADS.format(few=0)) as client:
        assert client.ask_together("a", "b") == dict.fromkeys("ab", "no thread could be started")
    assert api.connections == 0


def test_the_threads_that_there_are_do_the_work_of_those_that_could_not_start(
    api: HostileServer,
) -> None:
    with running_client(api.base_url, FEW_THREADS.format(few=1)) as client:
        assert client.ask_together(*names(20)) == dict.fromkeys(names(20))
        assert client.threads == 2
    assert api.connections == 1


def test_a_call_that_waits_too_long_for_a_thread_is_a_timeout_and_never_made(
    api: HostileServer,
) -> None:
    api.behave("drips", drip_a_while)
    with running_client(api.base_url, FEW_THREADS.format(few=1)) as client:
        client.begin("drips", "waits", timeout=0.5, ends_in=0.9)
        outcomes = {answer["name"]: answer["outcome"] for answer in client.take(2)}
        assert outcomes == {"drips": "timeout", "waits": "not_attempted"}
        answer = client.ask("then")
        assert (answer["outcome"], answer["late"]) == ("qr_code", 0)
    assert [request.instance_name for request in api.requests] == ["drips", "then"]


def test_few_descriptors_make_it_longer_and_cost_nobody_an_attempt(api: HostileServer) -> None:
    with running_client(api.base_url, FEW_DESCRIPTORS) as client:
        assert client.ask_together(*names(100)) == dict.fromkeys(names(100))
        assert client.ask_together(*names(100)) == dict.fromkeys(names(100))
        assert client.sockets <= 24 // 4
    assert len(api.requests) == 200


def test_as_many_threads_as_calls_at_a_time_and_no_more_connections(
    client: Client, api: HostileServer
) -> None:
    for _ in range(3):
        assert client.ask_together(*names(30)) == dict.fromkeys(names(30))
    assert client.threads <= 1 + 30
    assert client.sockets <= 30
    assert api.connections <= 30


MAY_OPEN = """
    import resource
    plpy.notice(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
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
        pytest.skip(f"468 calls at a time: a process may open {files} files here, ulimit -Hn 4096")
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
        wait_until(lambda: len(hostile_server.requests) == 468, "468 requests hang")
        assert threads(watcher, client_of(watcher, session.info.backend_pid)) == 1 + 468
        assert threads(watcher, session.info.backend_pid) == 1
        begun_at = time.monotonic()
        watcher.execute("select pg_cancel_backend(%s)", (session.info.backend_pid,))
        assert isinstance(run.exception(15), psycopg.errors.QueryCanceled)
        seconds = time.monotonic() - begun_at
    record_property("seconds", round(seconds, 3))
    assert seconds < 1
    servers = Counter(request.path.split("/")[1] for request in hostile_server.requests)
    assert servers == {str(number): 39 for number in range(12)}
    wait_until(lambda: hostile_server.open_connections == 0, "no connection is left")


def test_bombs_and_floods_cost_less_than_20_mb(
    client: Client, api: HostileServer, record_property: Callable[[str, object], None]
) -> None:
    bad = [*(behaviour for behaviour, _ in FLOODS), *ENDLESS] * 2
    client.ask_together(*names(len(bad)))
    client.forget_peak_memory()
    before = client.memory("VmRSS")
    for number, behaviour in enumerate(bad):
        api.behave(f"bad {number}", behaviour)
    found = client.ask_together(*(f"bad {number}" for number in range(len(bad))), timeout=4.0)
    grown = client.memory("VmHWM") - before
    record_property("megabytes", round(grown / 1e6, 1))
    assert None not in found.values()
    assert grown < 20e6
