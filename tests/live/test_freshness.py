"""How soon live mode stores a QR code, and for how much of the time the stored one is good."""

from __future__ import annotations

import time
from collections.abc import Callable

from simulator import Simulator
from simulator.picture import data_url, qr_text
from tests.live.sessions import live
from tools.job import Connection, Job


def test_most_instances_have_their_first_qr_within_seconds_of_the_server(
    job: Job, connect: Callable[[], Connection], simulator: Simulator
) -> None:
    job.set(log_detail="off")
    count = 50
    # Nobody waits for the simulator to draw: it keeps the pictures that it has drawn.
    for number in range(count):
        data_url(qr_text(f"shop {number}/1"))
    waits: dict[str, float] = {}
    with live(job, connect):
        served_at = {}
        for number in range(count):
            name = f"shop {number}"
            # From at once to 2 seconds after the row begins to connect.
            delay = 2.0 * number / count
            instance = job.add(name, qr_delay=delay)
            served_at[name] = time.monotonic() + delay
            assert instance.qr is None or delay == 0
        deadline = time.monotonic() + 30
        while len(waits) < count and time.monotonic() < deadline:
            stored = job.connection.execute(
                "select instance_name from evolution_instances where qr_code is not null"
            ).fetchall()
            for (name,) in stored:
                waits.setdefault(name, time.monotonic() - served_at[name])
            time.sleep(0.02)
    assert len(waits) == count
    # Within 2 s on a quiet machine; a run each minute takes 30 s on average.
    in_time = sum(wait <= 5 for wait in waits.values())
    assert in_time >= 0.95 * count, sorted(waits.values())


def test_most_of_the_time_the_stored_qr_is_the_one_that_the_server_serves(
    job: Job, simulator: Simulator
) -> None:
    """Three minutes, made short by moving both clocks; `make freshness` takes real time."""
    job.set(log_detail="off", max_concurrency=4)
    count, seconds = 20, 180
    for number in range(count):
        job.add(f"shop {number}", qr_age=45 * number / count)
    good = samples = 0
    begun_at = simulator.clock.now()
    while simulator.clock.now() < begun_at + seconds:
        job.tick()
        for name, stored in job.connection.execute(
            "select instance_name, qr_code from evolution_instances"
        ).fetchall():
            samples += 1
            good += stored == data_url(simulator.current_code(name) or "")
        job.let_time_pass(0.5)
    assert samples > 100 * count
    # Once a minute would be 38 %.
    assert good / samples > 0.9
    connects = sum("/connect/" in request.path for request in simulator.requests)
    assert connects / count / seconds * 45 < 6
