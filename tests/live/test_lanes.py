"""The two lanes of live mode: what hangs or fails holds up nobody else."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from simulator import Simulator, Trouble, error_answer
from tests.live.sessions import live
from tools.job import Connection, Job, wait_until


def test_what_hangs_goes_to_the_slow_lane_and_holds_up_nobody_twice(
    job: Job, connect: Callable[[], Connection], simulator: Simulator
) -> None:
    job.add("hangs").answer_with = Trouble.HANG
    delays = []

    def has_qr(name: str) -> bool:
        return job.row(name).qr_code is not None

    with live(job, connect), live(job, connect, "slow"):
        wait_until(
            lambda: job.value(
                "select coalesce(bool_or(is_slow), false) from qr_refresh.instance_state"
            ),
            "the one that hangs is in the slow lane",
        )
        for number in range(10):
            name = f"shop {number}"
            begun_at = time.monotonic()
            job.add(name)
            wait_until(partial(has_qr, name), f"{name} has its QR code")
            delays.append(time.monotonic() - begun_at)
    assert len(simulator.requests_of("hangs")) >= 2
    # A tick comes at least once a second; one that waited for the slow one would take 8 more.
    assert max(delays) < 4


def test_a_tick_of_the_fast_lane_ends_after_four_seconds(job: Job) -> None:
    job.set(max_concurrency=1)
    job.run()  # a session's first run takes longer
    for number in range(5):
        job.add(f"hangs {number}").answer_state_with = Trouble.HANG
    begun_at = time.monotonic()
    assert len(job.tick()) == 5
    # Each would take 1.5 seconds.
    assert 3.9 < time.monotonic() - begun_at < 6
    assert job.value("select count(*) from qr_refresh.instance_state where is_slow") == 3


def test_an_instance_that_answers_again_comes_back_to_the_fast_lane(job: Job) -> None:
    instance = job.add("shop")
    instance.answer_with = error_answer(502, "Bad Gateway", "no upstream")
    assert job.tick() == ["shop"]
    job.let_time_pass(12)
    assert job.tick() == []
    assert job.tick("slow") == ["shop"]
    instance.answer_with = None
    job.let_time_pass(12)
    assert job.tick("slow") == ["shop"]
    assert job.row("shop").qr_code is not None
    job.let_time_pass(12)
    assert job.tick("slow") == []
    assert job.tick() == ["shop"]


def test_an_answer_that_takes_long_is_the_last_in_the_fast_lane(
    job: Job, simulator: Simulator
) -> None:
    job.add("shop")
    job.tick()
    job.let_time_pass(12)
    simulator.latency = 1.2
    assert job.tick() == ["shop"]
    simulator.latency = 0
    for lanes in (("slow", "fast"), ("fast", "slow")):
        job.let_time_pass(12)
        assert [job.tick(lane) for lane in lanes] == [["shop"], []]
