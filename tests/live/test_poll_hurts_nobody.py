"""A poll must not hurt: no second WhatsApp socket, no broken pairing, whenever somebody scans."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import pytest

from simulator import Simulator
from tools.job import Job

COUNT = 30
CYCLE = 6 * 45.0


def go_on(job: Job, seconds: float, each: Callable[[], None], *, with_runs: bool = True) -> None:
    """Let live mode go on for so many seconds of both clocks, with runs each minute beside it."""
    simulator = job.simulator
    ends_at = simulator.clock.now() + seconds
    next_run = simulator.clock.now() + 60
    due = "select extract(epoch from qr_refresh.next_due_at(1, 1) - clock_timestamp())::float8"
    while simulator.clock.now() < ends_at:
        each()
        job.tick()
        if with_runs and simulator.clock.now() > next_run:
            next_run += 60
            job.run()
            job.run(random.choice(simulator.instances).name)
        # Just when somebody is due, as live mode does.
        job.let_time_pass(min(1.0, max(0.005, job.value(due) or 0)))


@pytest.mark.outage
@pytest.mark.parametrize("window", [0.3, 3.0])
def test_no_poll_opens_a_second_socket(
    job: Job, record_property: Callable[[str, object], None], window: float
) -> None:
    job.set(log_detail="off")
    for number in range(COUNT):
        instance = job.add(f"shop {number}", qr_age=random.uniform(0, 45))
        instance.close_window = window
    instances = job.simulator.instances

    def look() -> None:
        # One that asks blindly opens one for each instance and cycle. Each connect in state close
        # takes 2 seconds, so a job that makes many would not end soon.
        assert sum(i.careless_connects for i in instances) == 0
        # What remains is the time between the answer about the state and connect, which is as long
        # as this machine is busy.
        assert sum(i.second_sockets for i in instances) <= 0.1 * COUNT

    go_on(job, 2 * CYCLE, look)
    look()
    record_property("sockets", sum(i.sockets_opened for i in instances))
    live = job.value("select count(*) filter (where is_live) from qr_refresh.status")
    assert live >= 0.7 * COUNT


@pytest.mark.outage
@pytest.mark.parametrize("window", [0.3, 3.0])
@pytest.mark.parametrize("when", ["any time", "the last second"])
def test_no_poll_breaks_a_pairing(job: Job, simulator: Simulator, window: float, when: str) -> None:
    job.set(log_detail="off")
    begun_at = simulator.clock.now()
    scans: dict[str, float] = {}
    for number in range(COUNT):
        name = f"shop {number}"
        age = random.uniform(0, 45)
        instance = job.add(name, qr_age=age)
        instance.close_window = instance.pairing_window = window
        # In the second before the next QR code comes a poll is the likeliest.
        nth = random.randint(1, 4)
        moment = random.uniform(0, 45) if when == "any time" else random.uniform(44, 45)
        scans[name] = begun_at + 45 * nth - age + moment

    def scan() -> None:
        for name, moment in list(scans.items()):
            if simulator.clock.now() >= moment:
                with contextlib.suppress(ValueError):  # closed at the moment: a little later
                    simulator.scan(name)
                    del scans[name]
        assert sum(i.careless_connects for i in simulator.instances) == 0
        # What remains is the time between the answer about the state and connect.
        assert sum(i.is_broken for i in simulator.instances) <= 0.1 * COUNT

    go_on(job, 6 * 45 + 60, scan)
    scan()
    assert scans == {}
    assert {i.state for i in simulator.instances if not i.is_broken} == {"open"}


def test_a_scan_just_after_a_reconnect_is_not_taken_for_one_long_close(
    job: Job, simulator: Simulator
) -> None:
    """Of 2.4, where both take 3 seconds: between them nobody may have looked."""
    instance = job.add("shop", qr_age=CYCLE - 50)
    instance.close_window = instance.pairing_window = 3.0
    closes_at = simulator.clock.now() + 50
    # The last one of the socket is seen to come.
    go_on(job, 49, lambda: None, with_runs=False)
    job.let_time_pass(closes_at - simulator.clock.now() + 0.1)
    is_scanned = False
    while simulator.clock.now() < closes_at + 8:
        if instance.state == "connecting" and simulator.clock.now() > closes_at and not is_scanned:
            simulator.scan("shop")
            is_scanned = True
        else:
            job.run("shop")
        job.let_time_pass(0.55 if is_scanned else 0.9)
    assert is_scanned
    assert (instance.careless_connects, instance.is_broken) == (0, False)


@pytest.mark.outage
def test_of_2_4_which_does_not_reconnect_each_is_connected_once_a_cycle(
    job: Job, simulator: Simulator
) -> None:
    job.set(log_detail="off")
    for number in range(10):
        instance = job.add(f"shop {number}", qr_age=random.uniform(0, 45))
        instance.close_window = 3.0
        instance.reconnects = False
    go_on(job, 2 * CYCLE, lambda: None, with_runs=False)
    assert {1, 2} >= {i.sockets_opened for i in simulator.instances} > set()
    assert sum(i.second_sockets for i in simulator.instances) == 0


def test_just_before_a_socket_closes_nobody_asks(job: Job, simulator: Simulator) -> None:
    """The state would be told, and then it closes before connect comes."""
    job.set(log_detail="off")
    closes_at = {}
    for number in range(10):
        # It begins with the third one: until the sixth it has become known when they change.
        age = 2 * 45 + 4.5 * number
        closes_at[f"shop {number}"] = simulator.clock.now() - age + CYCLE
        job.add(f"shop {number}", qr_age=age)
    go_on(job, CYCLE - 2 * 45 + 5, lambda: None, with_runs=False)
    for name, moment in closes_at.items():
        asked_at = [r.time for r in simulator.requests_of(name) if "/connect/" in r.path]
        # The last time is half a second before, to know that it is still there.
        assert [t - moment for t in asked_at if moment - 0.3 < t < moment] == []
        assert min(t for t in asked_at if t > moment) < moment + 3
