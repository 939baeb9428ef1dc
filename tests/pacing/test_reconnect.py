"""No harm to WhatsApp: each connect on state close opens a socket, so there are few of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from simulator import Simulator, Trouble
from simulator.answers import qr_answer
from simulator.instance import CONNECT_SLEEP
from tests.http.misbehaviour import start_client
from tools.job import Connection, Job, wait_until


@pytest.fixture
def quick_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it finds `close`, connect answers after a moment, and not after 2 seconds."""
    monkeypatch.setitem(CONNECT_SLEEP, "v2", 0.05)


def test_after_an_answer_without_a_qr_the_state_is_asked_first(
    job: Job, simulator: Simulator
) -> None:
    job.add("shop", qr_delay=1000)
    job.run()
    job.run()
    assert simulator.routes_of("shop") == ["connect", "connectionState", "connect"]


def test_a_run_each_minute_asks_for_no_state_as_long_as_there_is_a_new_qr_each_time(
    job: Job, simulator: Simulator
) -> None:
    job.add("shop")
    for _ in range(3):
        job.run()
        job.let_time_pass(60)
    assert simulator.routes_of("shop") == ["connect"] * 3


def test_live_mode_leaves_a_new_instance_that_is_closed_to_the_slow_lane(
    job: Job, simulator: Simulator
) -> None:
    instance = job.add("shop", state="close")
    job.tick_in_both_lanes()
    # Such a connect takes two seconds, for which the fast lane has no time.
    assert simulator.routes_of("shop") == ["connectionState", "connectionState", "connect"]
    assert instance.sockets_opened == 1
    assert job.row("shop").qr_code is not None


def test_two_sessions_that_ask_at_once_open_one_socket(
    job: Job, connect: Callable[[], Connection], simulator: Simulator
) -> None:
    simulator.start_outage()
    instance = job.add("shop", state="close")
    with ThreadPoolExecutor(1) as executor:
        # Once both have their clients, all of it takes less than the 2 s of that call.
        first = connect()
        for session in (first, job.connection):
            start_client(Job(session, simulator))
        run = executor.submit(first.execute, "select refresh_qr_codes('shop')")
        wait_until(lambda: simulator.requests_of("shop"), "the first one is in its call")
        assert job.run()["total_instances"] == 1
        job.tick_in_both_lanes()
        assert not run.done()
        run.result(10)
    job.tick_in_both_lanes()
    assert instance.sockets_opened == 1


def test_somebody_who_asks_again_and_again_opens_one_socket(job: Job, simulator: Simulator) -> None:
    job.set(request_timeout="8 s")
    old = job.add("shop")
    job.run()
    # The used QR code is handed out with status 200 on state close, too.
    simulator.scan("shop")
    simulator.logout("shop")
    old.stale_for = 1000
    for _ in range(3):
        job.run("shop")
    assert old.sockets_opened == 1


def test_a_server_that_hangs_has_opened_no_socket(job: Job, simulator: Simulator) -> None:
    instance = job.add("shop", state="close")
    instance.answer_with = instance.answer_state_with = Trouble.HANG
    job.set(request_timeout="300 ms")
    job.tick_in_both_lanes()
    # Both lanes have asked, and it counts once.
    assert job.value("select failures from qr_refresh.instance_state") == 1
    for _ in range(2):
        job.let_time_pass(30)
        job.tick_in_both_lanes()
    assert job.value("select reconnects from qr_refresh.instance_state") == 0
    instance.answer_with = instance.answer_state_with = None
    job.set(request_timeout="8 s")
    job.let_time_pass(60)
    job.tick_in_both_lanes()
    assert job.row("shop").qr_code is not None


def test_as_long_as_its_qr_changes_in_time_an_instance_is_not_asked_for_its_state(
    job: Job, simulator: Simulator
) -> None:
    job.add("shop")
    job.tick_in_both_lanes()
    for _ in range(120):
        job.let_time_pass(0.5)
        job.tick_in_both_lanes()
    assert simulator.routes_of("shop").count("connectionState") == 1  # the first time


def test_a_qr_that_does_not_change_in_time_has_the_state_asked(
    job: Job, simulator: Simulator
) -> None:
    instance = job.add("shop")
    job.tick_in_both_lanes()
    instance.answer_with = qr_answer(instance.qr)
    for _ in range(2):
        job.let_time_pass(22.6)
        job.tick_in_both_lanes()
    # Now it should have changed a moment ago.
    assert simulator.routes_of("shop") == ["connectionState", "connect", "connect", "connect"]
    job.let_time_pass(10)
    job.tick_in_both_lanes()
    assert simulator.routes_of("shop")[4:] == ["connectionState", "connect"]


def test_a_connect_that_is_cut_short_has_the_state_asked_until_a_new_qr_comes(
    job: Job, simulator: Simulator
) -> None:
    instance = job.add("shop")
    job.run()

    def asked_after(seconds: float) -> list[str]:
        job.let_time_pass(seconds)
        before = len(simulator.routes_of("shop"))
        job.tick_in_both_lanes()
        return simulator.routes_of("shop")[before:]

    answers = iter([Trouble.HANG])
    instance.answer_with = lambda _: next(answers, None)
    # It may have opened a socket: nobody knows. The slow lane asks with care.
    assert asked_after(20) == ["connect", "connectionState", "connect"]
    assert asked_after(10) == ["connectionState", "connect"]
    stored = job.row("shop").qr_code
    assert asked_after(15) == ["connectionState", "connect"]
    assert job.row("shop").qr_code != stored
    # That one says that the socket lives.
    job.connection.execute("update evolution_instances set qr_code = null")
    assert asked_after(2) == ["connect"]


def test_an_instance_that_gets_no_qr_after_a_reconnect_is_asked_less_and_less_often(
    job: Job, simulator: Simulator, quick_connect: None
) -> None:
    instance = job.add("shop", state="close", qr_delay=100_000)
    begun_at = simulator.clock.now()
    while simulator.clock.now() < begun_at + 180:
        job.tick_in_both_lanes()
        job.let_time_pass(1)
    assert instance.sockets_opened == 1
    calls = [request.time - begun_at for request in simulator.requests]
    assert len([time for time in calls if time > 90]) < 20, calls


def test_plain_runs_connect_a_closed_instance_once_a_minute(job: Job, simulator: Simulator) -> None:
    simulator.start_outage()
    instance = job.add("shop", state="close")
    for _ in range(6):
        assert job.result("shop") == {
            "success": True,
            "qr_updated": False,
            "error": "No QR code available from Evolution API",
        }
        job.let_time_pass(8)
    assert instance.sockets_opened == 1
    job.let_time_pass(20)
    job.run()
    assert instance.sockets_opened == 2


def test_a_closed_instance_is_asked_before_it_may_be_connected_again(
    job: Job, simulator: Simulator, quick_connect: None
) -> None:
    simulator.start_outage()
    instance = job.add("shop", state="close")
    job.tick_in_both_lanes()
    job.let_time_pass(2)
    job.tick_in_both_lanes()
    assert job.value("select outcome from qr_refresh.instance_state") == "closed"
    simulator.end_outage()
    instance.connect()  # somebody else does
    job.let_time_pass(2)
    job.tick_in_both_lanes()
    assert job.row("shop").qr_code is not None


def test_after_a_reconnect_the_qr_is_waited_for_from_second_to_second(
    job: Job, simulator: Simulator, quick_connect: None
) -> None:
    simulator.start_outage()
    instance = job.add("shop", state="close", qr_delay=6)
    job.tick_in_both_lanes()
    # It has been down for long.
    job.connection.execute("update qr_refresh.instance_state set failures = 30")
    simulator.end_outage()
    job.let_time_pass(80)
    job.tick_in_both_lanes()
    assert (instance.sockets_opened, job.row("shop").qr_code) == (2, None)
    for _ in range(6):
        job.let_time_pass(1.2)
        job.tick_in_both_lanes()
    assert job.row("shop").qr_code is not None


@pytest.mark.outage
def test_an_outage_of_ten_minutes_opens_few_sockets(
    job: Job,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    instances = [job.add(f"shop {number}") for number in range(3)]
    next_due = (
        "select extract(epoch from min(next_attempt_at) - clock_timestamp())::float8"
        " from qr_refresh.status"
    )
    job.tick_in_both_lanes()
    simulator.start_outage()
    begun_at = simulator.clock.now()
    while simulator.clock.now() < begun_at + 600:
        job.tick_in_both_lanes()
        if all(instance.sockets_opened for instance in instances):
            # That they took long tells the job of the first ones. The others need not.
            monkeypatch.setitem(CONNECT_SLEEP, "v2", 0.05)
        # Ticks in which nobody is due change nothing: to the next one, and 2 seconds at least.
        job.let_time_pass(max(2.0, job.value(next_due)))
    record_property("sockets", [instance.sockets_opened for instance in instances])
    for instance in instances:
        # Asking each minute would open 10, and each second one in each second.
        assert 1 <= instance.sockets_opened <= 5
        connects = [
            request.time
            for request in simulator.requests_of(instance.name)
            if "/connect/" in request.path and request.time > begun_at
        ]
        gaps = [later - earlier for earlier, later in pairwise(connects)]
        assert all(gap > 59 for gap in gaps), gaps
        assert gaps == sorted(gaps)
        # Each comes as soon as it may, with a little for the call before it and for the tick.
        may_come = (
            "select extract(epoch from qr_refresh.reconnect_at(%s, now(), %s) - now())::float8"
        )
        for number, gap in enumerate(gaps, 1):
            assert gap < job.value(may_come, instance.name, number) + 10, gaps
        # Each tick would be 300.
        assert len(simulator.requests_of(instance.name)) < 150
    # At most ten minutes and a quarter later each has a new QR code.
    simulator.end_outage()
    stored = {instance.name: job.row(instance.name).qr_code for instance in instances}
    for _ in range(200):
        job.let_time_pass(max(5.0, job.value(next_due)))
        job.tick_in_both_lanes()
        if all(job.row(name).qr_code != old for name, old in stored.items()):
            break
    assert all(job.row(name).qr_code != old for name, old in stored.items())
    # The next outage begins with a minute again.
    assert job.value("select max(reconnects) from qr_refresh.instance_state") == 0
    assert simulator.clock.now() < begun_at + 600 + 800


@pytest.mark.parametrize(
    ("reconnects", "minutes"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (1000000, 10)]
)
def test_the_time_between_two_reconnects_doubles_up_to_ten_minutes(
    job: Job, reconnects: int, minutes: int
) -> None:
    job.add_row("shop")
    job.connection.execute(
        "insert into qr_refresh.instance_state"
        " (instance_name, attempted_at, outcome, reconnected_at, reconnects)"
        " values ('shop', '2026-01-01', 'closed', '2026-01-01', %s)",
        (reconnects,),
    )
    waits = job.value(
        "select extract(epoch from qr_refresh.reconnect_at("
        " s.instance_name, s.reconnected_at, s.reconnects) - s.reconnected_at)::float8 / 60"
        " from qr_refresh.instance_state as s"
    )
    assert minutes <= waits <= minutes * 1.25


def test_instances_that_went_down_together_are_not_connected_together(job: Job) -> None:
    (times,) = job.connection.execute(
        "select array_agg(extract(epoch from qr_refresh.reconnect_at('shop ' || i, now(), 1)))"
        " from generate_series(1, 20) as i"
    ).fetchone() or ([],)
    assert len(set(times)) == 20
    assert 10 < max(times) - min(times) < 15


@pytest.mark.parametrize(
    ("outcome", "failures", "changed_ago", "first_seen_ago", "poll_interval", "seconds"),
    [
        # Nobody knows how old it is.
        ("stored", 0, 45, 0, 9, 9),
        ("unchanged", 0, 45, 30, 9, 9),
        # It came between 1 second ago and now.
        ("stored", 0, 1, 0, 0.3, 43.6),
        ("unchanged", 0, 44.7, 44, 0.3, 0.6),
        # It is as old as it can be in a moment.
        ("unchanged", 0, 44.95, 44.9, 0.3, 0.2),
        ("unchanged", 0, 45, 40, 9, 5.1),
        # It should have been replaced 4, 100 seconds ago.
        ("unchanged", 0, 50, 49, 0.3, 4),
        ("unchanged", 0, 150, 145, 0.3, 10),
        ("changed", 0, 1, 0, 9, 1),
        ("failed", 1, None, None, None, 1),
        ("timeout", 4, None, None, None, 8),
        ("update_failed", 11, 1, 0, 9, 600),
        ("failed", 1000000, None, None, None, 600),
        ("no_qr_code", 1, None, None, None, 1),
        ("closed", 15, None, None, None, 1),
        ("connected", 17, None, None, None, 1.69),
        ("expired", 1000000, 70, 70, 9, 600),
    ],
)
def test_how_long_an_instance_is_left_alone(
    job: Job,
    outcome: str,
    failures: int,
    changed_ago: float | None,
    first_seen_ago: float | None,
    poll_interval: float | None,
    seconds: float,
) -> None:
    wait = job.value(
        "select extract(epoch from qr_refresh.wait_for_next_attempt(%s, %s,"
        " make_interval(secs => %s), make_interval(secs => %s), make_interval(secs => %s)"
        "))::float8",
        *(outcome, failures, changed_ago, first_seen_ago, poll_interval),
    )
    assert wait == pytest.approx(seconds, abs=0.001)
