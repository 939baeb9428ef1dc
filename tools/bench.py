"""`make bench`: the job beside the limit and beside the way of the Edge Function, as ratios.

All three ask the same simulated server, in turn, in the same run, so that the ratios hold also
where the machine's speed drifts. The server is on this machine.

Environment: BENCH_ROUNDS (3), of which the medians are printed.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection as Pipe

import aiohttp
import psycopg
import requests

from simulator import Trouble, running_simulator
from tools.backend import memory
from tools.engines import Server, engine_errors_in_words, start_postgres
from tools.job import install

CONCURRENCY = 200
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SEQUENTIAL_SAMPLE = 10  # instances; the rest of a sequential run is more of the same
REQUEST_TIMEOUT = 4.0  # seconds; for all three
WORKLOADS = (  # instances, server latency in seconds, how many of the instances hang
    (200, 0.0, 0),
    (200, 0.2, 0),
    (1000, 0.0, 0),
    (1000, 0.2, 0),
    (1000, 0.2, 10),
    (1000, 1.0, 0),
    (5000, 0.2, 0),
)


def simulate(host: str, instances: int, latency: float, hanging: int, pipe: Pipe) -> None:
    """Serve until the pipe says to stop; instances that hang are spread evenly."""
    # Ctrl-C reaches all processes of the terminal; the one that started this says when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with running_simulator(host, latency=latency) as simulator:
        added = simulator.add_instances(instances, spread=True)
        for number in range(hanging):
            added[number * instances // hanging].answer_with = Trouble.HANG
        pipe.send(simulator.base_url)
        pipe.recv()


@contextmanager
def simulator_process(host: str, instances: int, latency: float, hanging: int = 0) -> Iterator[str]:
    """Run the simulator in a process of its own, as a real server would be; yields its URL."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    arguments = (host, instances, latency, hanging, its)
    process = context.Process(target=simulate, args=arguments, daemon=True)
    process.start()
    its.close()
    try:
        yield ours.recv()
    finally:
        ours.send("stop")
        process.join()


def instance(number: int) -> tuple[list[str], dict[str, str]]:
    """Return the paths and the headers for the simulator's instance with this number."""
    name = f"instance-{number}"
    paths = [f"/instance/{route}/{name}" for route in ("connectionState", "connect")]
    return paths, {"apikey": f"token-{name}"}


def limit_seconds(url: str, instances: int) -> float:
    """Time a bare asyncio client with the same concurrency and no database."""

    async def fetch_all() -> None:
        free = asyncio.Semaphore(CONCURRENCY)
        connector = aiohttp.TCPConnector(limit=CONCURRENCY)
        async with aiohttp.ClientSession(url, connector=connector) as session:

            async def fetch(number: int) -> None:
                paths, headers = instance(number)
                # Waiting for a free place is not part of a request's time.
                async with free:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(REQUEST_TIMEOUT):
                            for path in paths:
                                async with session.get(path, headers=headers) as response:
                                    response.raise_for_status()
                                    await response.read()

            await asyncio.gather(*map(fetch, range(1, instances + 1)))

    begun_at = time.monotonic()
    asyncio.run(fetch_all())
    return time.monotonic() - begun_at


def sequential_seconds(url: str, instances: int, hanging: int) -> float:
    """Time requests, one call after the other, for a sample; scaled to all instances."""
    begun_at = time.monotonic()
    for number in range(2, SEQUENTIAL_SAMPLE + 2):  # the first one is among those that may hang
        paths, headers = instance(number)
        for path in paths:
            response = requests.get(url + path, headers=headers, timeout=REQUEST_TIMEOUT)
            response.raise_for_status()
    good = (time.monotonic() - begun_at) / SEQUENTIAL_SAMPLE
    return good * (instances - hanging) + REQUEST_TIMEOUT * hanging


def job_seconds(server: Server, hanging: int) -> tuple[float, float, float]:
    """Time one run in a new session; returns it with the backend's peak memory in MB.

    The last is how much of that is the server's shared memory, which all sessions have in common.
    """
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        begun_at = time.monotonic()
        row = connection.execute("select refresh_qr_codes()").fetchone()
        seconds = time.monotonic() - begun_at
        assert row is not None and row[0]["failed"] == hanging, "another number has failed"
        return seconds, memory(connection, "VmHWM") / 1e6, memory(connection, "RssShmem") / 1e6


def prepare(server: Server, url: str, instances: int) -> None:
    """Fill the table with the simulator's instances and point the job at it."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        # The simulator is another one than before, and its instances have the same names.
        connection.execute("truncate evolution_instances, qr_refresh.instance_state")
        connection.execute(
            "insert into evolution_instances (instance_name, instance_token, instance_status)"
            " select 'instance-' || n, 'token-instance-' || n, 'connecting'"
            " from generate_series(1, %s) as n",
            (instances,),
        )
        connection.execute("vacuum analyze evolution_instances")
        connection.execute(
            "update qr_refresh.settings set evolution_api_base_url = %s, max_concurrency = %s,"
            " log_detail = 'cycle', request_timeout = make_interval(secs => %s)",
            (url, CONCURRENCY, REQUEST_TIMEOUT),
        )


def update_cost(server: Server) -> tuple[float, float]:
    """Return WAL bytes and milliseconds that storing one QR code costs."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(
            # In parts of 100, as a run stores them.
            "create temp table qr as select count(*) as n, array_agg((null, e.instance_name, null,"
            " e.instance_token, null, true, true, now(), 'qr_code', null, e.qr_code,"
            " sha256(e.instance_name::bytea), false, 0.01, now(), null)::qr_refresh.attempt)"
            " as attempts"
            " from (select *, row_number() over () / 100 as part from evolution_instances) as e"
            " group by e.part"
        )
        before = connection.execute("select pg_current_wal_insert_lsn()").fetchone()
        begun_at = time.monotonic()
        connection.execute(
            "select sum(cardinality(qr_refresh.store_qr_codes(attempts, clock_timestamp(), false)))"
            " from qr"
        )
        seconds = time.monotonic() - begun_at
        row = connection.execute(
            "select pg_current_wal_insert_lsn() - %s::pg_lsn, sum(n)::integer from qr", before
        ).fetchone()
    assert row is not None
    return float(row[0]) / row[1], seconds * 1000 / row[1]


def main() -> None:
    """Print one table."""
    with start_postgres(own=True) as server:
        install(server.dsn())
        print(f"PostgreSQL {server.version}, engine {server.engine}, {CONCURRENCY} calls at a time")
        print(f"median of {ROUNDS} rounds; each round in a new session\n")
        print(
            "instances  latency  hanging   job      job / limit  sequential / job"
            "  peak memory  of it shared"
        )
        for instances, latency, hanging in WORKLOADS:
            with simulator_process(server.listen_host, instances, latency, hanging) as url:
                prepare(server, server.as_reached(url), instances)
                sequential = sequential_seconds(url, instances, hanging)
                rounds = []
                for _ in range(ROUNDS):
                    limit = limit_seconds(url, instances)
                    job, *peak = job_seconds(server, hanging)
                    rounds.append((job, job / limit, sequential / job, *peak))
                job, to_limit, to_sequential, *peak = map(
                    statistics.median, zip(*rounds, strict=True)
                )
            print(
                f"{instances:9}  {latency * 1000:4.0f} ms  {hanging:7}  {job:6.2f} s"
                f"  {to_limit:11.2f}  {to_sequential:16.1f}  {peak[0]:8.0f} MB  {peak[1]:9.0f} MB",
                flush=True,
            )
        wal, milliseconds = update_cost(server)
        print(f"\nStoring one QR code: {wal:,.0f} bytes of WAL, {milliseconds:.2f} ms")


if __name__ == "__main__":
    with engine_errors_in_words():
        main()
