"""run_timeout is for all that a run does: no call outlasts it, and none begins just before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from simulator import hostile
from simulator.hostile import Behaviour, Exchange, HostileServer
from tools.job import Connection, Job, value_of, wait_until

TIMEOUT = "Request timeout"
NOT_ATTEMPTED = "Not attempted: run timeout reached"


def good_after(seconds: float) -> Behaviour:
    async def answer_late(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        await hostile.good(exchange)

    return answer_late


def hanging(lengths: list[float]) -> Behaviour:
    """Never answer, and keep how long the client has waited."""

    async def hold(exchange: Exchange) -> None:
        begun_at = time.monotonic()
        try:
            await exchange.hold()
        finally:
            lengths.append(time.monotonic() - begun_at)

    return hold


def run_once(job: Job) -> None:
    """A session's first run takes longer than the others, which is of no matter here."""
    job.add_row("first")
    job.run()
    job.connection.execute("delete from evolution_instances")


def errors(job: Job) -> dict[str, str | None]:
    return {r["instance_name"]: r.get("error") for r in job.run()["results"]}


def test_a_call_does_not_outlast_the_run(hostile_job: Job, hostile_server: HostileServer) -> None:
    lengths: list[float] = []
    hostile_server.behave("a late", good_after(0.8))
    hostile_server.behave("b hangs", hanging(lengths))
    run_once(hostile_job)
    for name in ("a late", "b hangs"):
        hostile_job.add_row(name)
    hostile_job.set(request_timeout="1500 ms", run_timeout="1500 ms", max_concurrency=1)
    assert errors(hostile_job) == {"a late": None, "b hangs": TIMEOUT}
    wait_until(lambda: lengths, "the client has gone")
    # What was left of the run is 0.7 s; its own time-out would be 1.5 s.
    assert lengths[0] < 1.1


def test_no_call_begins_in_the_last_moment_of_a_run(
    hostile_job: Job, hostile_server: HostileServer
) -> None:
    hostile_server.behave("a late", good_after(1.65))
    run_once(hostile_job)
    for name in ("a late", "b good"):
        hostile_job.add_row(name)
    hostile_job.set(request_timeout="2 s", run_timeout="2 s", max_concurrency=1)
    # The server answers at once, and would have answered this one, too.
    assert errors(hostile_job) == {"a late": None, "b good": NOT_ATTEMPTED}
    assert [request.instance_name for request in hostile_server.requests] == ["first", "a late"]
    # Nobody was asked about the second one, so it has not failed.
    assert hostile_job.value("select success_share_last_hour from qr_refresh.health") == 1
    kept = "select report -> 'not_attempted' from qr_refresh.runs order by id desc limit 1"
    assert hostile_job.value(kept) == 1


def test_run_timeout_counts_from_the_beginning_of_the_run(
    hostile_job: Job, hostile_server: HostileServer, connect: Callable[[], Connection]
) -> None:
    lengths: list[float] = []
    hostile_server.behave("hangs", hanging(lengths))
    hostile_job.add_row("hangs")
    hostile_job.set(request_timeout="1200 ms", run_timeout="1200 ms")
    application = connect()
    with ThreadPoolExecutor(1) as pool:
        with application.transaction():
            application.execute("lock table evolution_instances in access exclusive mode")
            run = pool.submit(errors, hostile_job)
            waits = "select count(*) from pg_locks where relation = %s::regclass and not granted"
            wait_until(lambda: value_of(application, waits, "evolution_instances"), "it waits")
            application.execute("select pg_sleep(0.7)")
        assert run.result(30)["hangs"] in (TIMEOUT, NOT_ATTEMPTED)
    wait_until(lambda: hostile_server.open_connections == 0, "the client has gone")
    # The table took 0.7 of the 1.2 seconds.
    assert max(lengths, default=0) < 0.9
