"""No harm to WhatsApp: each connect on state close opens a socket, so there are few of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from simulator import Simulator, Trouble, json_answer
from simulator.instance import CONNECT_SLEEP
from tests.http.misbehaviour import start_client
from tools.job import OLD_QR, Connection, Job, wait_until


@pytest.fixture
def quick_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it finds `close`, connect answers after a moment, and not after 2 seconds."""
    monkeypatch.setitem(CONNECT_SLEEP, "v2", 0.05)


def connects(simulator: Simulator, name: str) -> int:
    return simulator.routes_of(name).count("connect")


def test_the_state_is_asked_before_each_connect(job: Job, simulator: Simulator) -> None:
    job.add("shop")
    for _ in range(3):
        job.run()
        job.let_time_pass(12)
        job.tick()
    assert simulator.routes_of("shop") == ["connectionState", "connect"] * 6


def test_an_instance_that_has_never_had_a_qr_code_is_connected_at_once(
    job: Job, simulator: Simulator
) -> None:
    instance = job.add("shop", state="close")
    job.tick()
    assert instance.sockets_opened == 1
    assert job.row("shop").qr_code is not None


@pytest.mark.parametrize("plain", [True, False], ids=["run", "live"])
def test_one_that_had_a_qr_code_is_connected_after_it_was_closed_for_seven_seconds(
    job: Job, simulator: Simulator, plain: bool
) -> None:
    instance = job.add("shop")

    def ask() -> None:
        if plain:
            job.run()
        else:
            job.tick()

    ask()
    instance.logout()
    job.let_time_pass(46)
    # The last time after 4.4 seconds, and what the calls take.
    for _ in range(5):
        ask()
        job.let_time_pass(1.1)
    assert instance.sockets_opened == 0, "WhatsApp may be about to open its next socket"
    job.let_time_pass(2)
    ask()
    assert instance.sockets_opened == 1


def test_a_row_with_a_qr_code_of_former_times_is_not_taken_for_a_new_one(
    job: Job, simulator: Simulator
) -> None:
    instance = job.add("shop", state="close", qr_code=OLD_QR)
    job.tick()
    assert instance.sockets_opened == 0
    job.let_time_pass(7.5)
    job.tick()
    assert instance.sockets_opened == 1


def test_being_closed_for_a_moment_now_and_then_adds_up_to_nothing(
    job: Job, simulator: Simulator
) -> None:
    instance = job.add("shop")
    job.tick()
    for _ in range(4):
        job.let_time_pass(46)
        instance.answer_state_with = json_answer({"instance": {"state": "close"}})
        job.tick()
        instance.answer_state_with = None
        job.let_time_pass(2)
        job.tick()
    assert job.value("select reconnects from qr_refresh.instance_state") == 0
    assert instance.sockets_opened == 0


def test_after_a_scan_nothing_but_the_state_is_asked_for_a_minute(
    job: Job, simulator: Simulator
) -> None:
    instance = job.add("shop")
    job.tick()
    # Ten seconds after it came nothing else ends a QR code.
    instance.answer_state_with = json_answer({"instance": {"state": "close"}})
    job.let_time_pass(10)
    job.tick()
    asked = connects(simulator, "shop")
    for state in ("close", "connecting", "close"):
        instance.answer_state_with = json_answer({"instance": {"state": state}})
        for _ in range(3):
            job.let_time_pass(6)
            job.run()
            job.tick()
    assert connects(simulator, "shop") == asked
    instance.answer_state_with = None
    job.let_time_pass(20)
    job.tick()
    assert connects(simulator, "shop") == asked + 1


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
        (result,) = job.run()["results"]
        assert result["error"] == "Instance changed during the run"
        job.tick()
        assert not run.done()
        run.result(10)
    job.tick()
    assert instance.sockets_opened == 1


def test_who_asks_for_an_instance_that_live_mode_is_connecting_opens_no_second_socket(
    job: Job, simulator: Simulator, quick_connect: None
) -> None:
    instance = job.add("shop", state="close")
    job.look()
    handed_over = job.value("select under_way from qr_refresh.refresh_due(1, 1)")
    assert handed_over == 1
    # Its answer has come, and nobody has taken it.
    wait_until(lambda: instance.sockets_opened, "live mode connects it")
    instance.lose_whatsapp()
    job.run("shop")
    assert instance.sockets_opened == 1


def test_somebody_who_asks_again_and_again_opens_one_socket(
    job: Job, simulator: Simulator, quick_connect: None
) -> None:
    simulator.start_outage()
    instance = job.add("shop", state="close")
    for _ in range(5):
        job.run("shop")
        job.let_time_pass(6)
    assert instance.sockets_opened == 1


def test_a_server_that_hangs_has_opened_no_socket(job: Job, simulator: Simulator) -> None:
    instance = job.add("shop", state="close")
    instance.answer_with = instance.answer_state_with = Trouble.HANG
    job.set(request_timeout="300 ms")
    for failures in (1, 2, 3):
        job.tick()
        assert job.value("select failures from qr_refresh.instance_state") == failures
        job.let_time_pass(30)
    assert job.value("select reconnects from qr_refresh.instance_state") == 0
    instance.answer_with = instance.answer_state_with = None
    job.set(request_timeout="8 s")
    job.let_time_pass(60)
    job.tick()
    assert job.row("shop").qr_code is not None


def test_an_instance_that_gets_no_qr_after_a_reconnect_is_asked_less_and_less_often(
    job: Job, simulator: Simulator, quick_connect: None
) -> None:
    instance = job.add("shop", state="close", qr_delay=100_000)
    begun_at = simulator.clock.now()
    while simulator.clock.now() < begun_at + 180:
        job.tick()
        job.let_time_pass(1)
    assert instance.sockets_opened == 1
    calls = [request.time - begun_at for request in simulator.requests]
    assert len([time for time in calls if time > 90]) < 40, calls


def test_plain_runs_connect_a_closed_instance_once_a_minute(
    job: Job, simulator: Simulator, quick_connect: None
) -> None:
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


def test_after_a_reconnect_the_qr_is_waited_for_from_second_to_second(
    job: Job, simulator: Simulator, quick_connect: None
) -> None:
    simulator.start_outage()
    instance = job.add("shop", state="close", qr_delay=6)
    job.tick()
    job.let_time_pass(2)
    job.tick()
    # It has been down for long.
    job.connection.execute("update qr_refresh.instance_state set failures = 30")
    simulator.end_outage()
    job.let_time_pass(80)
    job.tick()
    assert (instance.sockets_opened, job.row("shop").qr_code) == (2, None)
    for _ in range(6):
        job.let_time_pass(1.2)
        job.tick()
    assert job.row("shop").qr_code is not None


def test_the_qr_code_with_which_it_was_connected_is_never_stored_again(
    job: Job, simulator: Simulator, quick_connect: None
) -> None:
    instance = job.add("shop")
    job.run()
    used = job.row("shop")
    simulator.scan("shop")
    job.let_time_pass(5)
    job.run()
    simulator.logout("shop")
    instance.stale_for = 1000
    for _ in range(12):
        job.let_time_pass(6)
        job.run()
        job.tick()
    assert instance.sockets_opened == 1
    assert job.row("shop") == used
    assert job.value("select is_live from qr_refresh.status") is False
    assert job.result("shop")["error"] == "QR code expired, waiting for a new one"


def test_a_connected_row_that_connects_anew_does_not_get_its_used_qr_code_again(
    job: Job, simulator: Simulator
) -> None:
    """The application writes the status itself, between two attempts."""
    job.add("shop")
    job.run()
    status = "update evolution_instances set instance_status = %s"
    job.connection.execute(status.encode(), ("connected",))
    job.run()
    # The application clears what was used; the server hands it out again.
    job.connection.execute("update evolution_instances set qr_code = null")
    job.connection.execute(status.encode(), ("connecting",))
    assert job.result("shop")["error"] == "QR code expired, waiting for a new one"
    assert job.row("shop").qr_code is None
    job.let_time_pass(46)
    assert job.result("shop") == {"success": True, "qr_updated": True}


def test_nobody_scans_and_after_a_day_no_socket_is_opened_any_more(
    job: Job, simulator: Simulator, quick_connect: None
) -> None:
    instance = job.add("shop", state="close", qr_delay=100_000)
    job.tick()
    assert instance.sockets_opened == 1
    instance.lose_whatsapp()

    def pass_days(days: int) -> None:
        job.connection.execute(
            "update qr_refresh.instance_state"
            " set known_since = known_since - make_interval(days => %s)",
            (days,),
        )
        job.let_time_pass(86400 * days)

    def opened_now() -> int:
        before = instance.sockets_opened
        for _ in range(3):
            job.tick()
            job.run()
            job.let_time_pass(60)
        return instance.sockets_opened - before

    pass_days(1)
    assert opened_now() == 0
    assert job.value("select last_outcome from qr_refresh.status") == "given_up"
    # Whoever asks for it by name wants it, as does who lets it connect anew.
    job.run("shop")
    assert opened_now() >= 1
    pass_days(2)
    assert opened_now() == 0
    for status in ("disconnected", "connecting"):
        job.connection.execute("update evolution_instances set instance_status = %s", (status,))
        job.tick()
    assert opened_now() >= 1
    pass_days(2)
    job.set(give_up_after=None)
    assert opened_now() >= 1


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
    job.tick()
    simulator.start_outage()
    begun_at = simulator.clock.now()
    while simulator.clock.now() < begun_at + 600:
        job.tick()
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
            "select extract(epoch from qr_refresh.reconnect_at(s.instance, now(), %s)"
            " - now())::float8 from qr_refresh.instance_state as s where s.instance_name = %s"
        )
        for number, gap in enumerate(gaps, 1):
            assert gap < job.value(may_come, number, instance.name) + 10, gaps
        # Each tick would be 300.
        assert len(simulator.requests_of(instance.name)) < 150
    # At most ten minutes and a quarter later each has a new QR code.
    simulator.end_outage()
    stored = {instance.name: job.row(instance.name).qr_code for instance in instances}
    for _ in range(200):
        job.let_time_pass(max(5.0, job.value(next_due)))
        job.tick()
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
        " (instance, instance_name, attempted_at, outcome, reconnected_at, reconnects)"
        " values (sha256('shop'), 'shop', '2026-01-01', 'closed', '2026-01-01', %s)",
        (reconnects,),
    )
    waits = job.value(
        "select extract(epoch from qr_refresh.reconnect_at("
        " s.instance, s.reconnected_at, s.reconnects) - s.reconnected_at)::float8 / 60"
        " from qr_refresh.instance_state as s"
    )
    assert minutes <= waits <= minutes * 1.25


def test_instances_that_went_down_together_are_not_connected_together(job: Job) -> None:
    (times,) = job.connection.execute(
        "select array_agg(extract(epoch from qr_refresh.reconnect_at("
        "sha256(i::text::bytea), now(), 1))) from generate_series(1, 20) as i"
    ).fetchone() or ([],)
    assert len(set(times)) >= 17
    assert 10 < max(times) - min(times) < 15


@pytest.mark.parametrize(
    ("changed_ago", "first_seen_ago", "poll_interval", "connects", "is_last", "seconds"),
    [
        # Nobody knows how old it is.
        (45, 0, 9, 20, False, 9),
        (45, 30, 9, 20, False, 9),
        # It came between 1 second ago and now.
        (1, 0, 0.3, 20, False, 43.6),
        (44.7, 44, 0.3, 20, False, 0.6),
        # It is as old as it can be in a moment.
        (44.95, 44.9, 0.3, 20, False, 0.2),
        (45, 40, 9, 20, False, 5.1),
        # It should have been replaced 4, 100 seconds ago.
        (50, 49, 0.3, 20, False, 4),
        (150, 145, 0.3, 20, False, 10),
        # The last one of a socket: nobody asks just before it closes, where that moment is known.
        (1, 0, 0.3, 20, True, 43.6),
        (44.7, 44, 0.3, 20, True, 1.2),
        (45.1, 45, 0.3, 20, True, 0.2),
        (45, 40, 2, 20, True, 2),
        (46, 45.5, 0.3, 20, True, 0.5),
        # The server is far away: two calls for each QR code, one, and one for each second.
        (4, 0, 2, 2, False, 43),
        (4, 0, 4, 1, False, 45),
        (4, 0, 4, 0.5, False, 90),
    ],
)
def test_how_long_an_instance_with_a_live_qr_code_is_left_alone(
    job: Job,
    changed_ago: float,
    first_seen_ago: float,
    poll_interval: float,
    connects: float,
    is_last: bool,
    seconds: float,
) -> None:
    wait = job.value(
        "select extract(epoch from qr_refresh.wait_for_next_code(make_interval(secs => %s),"
        " make_interval(secs => %s), make_interval(secs => %s), %s, %s))::float8",
        *(changed_ago, first_seen_ago, poll_interval, connects, is_last),
    )
    assert wait == pytest.approx(seconds, abs=0.001)


@pytest.mark.parametrize(
    ("outcome", "failures", "seconds"),
    [
        ("changed", 1, 1),
        ("failed", 1, 1),
        ("timeout", 4, 8),
        ("update_failed", 11, 600),
        ("failed", 1000000, 600),
        ("no_qr_code", 1, 1),
        ("closed", 15, 1),
        ("connected", 17, 1.3),
        ("expired", 1000000, 600),
        ("given_up", 1, 60),
    ],
)
def test_how_long_an_instance_without_a_live_qr_code_is_left_alone(
    job: Job, outcome: str, failures: int, seconds: float
) -> None:
    job.add_row("shop")
    job.look()
    job.connection.execute(
        "update qr_refresh.instance_state set failures = %s - 1, closed_since = null", (failures,)
    )
    job.connection.execute(
        "select count(*) from qr_refresh.remember(array(select (s.instance, 'shop', null,"
        " null, null, true, true, now(), %s, 'x', null, null, false, 0.005, now(),"
        " null)::qr_refresh.attempt from qr_refresh.instance_state as s), true)",
        (outcome,),
    )
    found = job.value(
        "select extract(epoch from next_attempt_at - attempted_at)::float8"
        " from qr_refresh.instance_state"
    )
    # Up to a fifth more.
    least = max(seconds, 1)
    assert least <= found <= least * 1.2 + 5 * (outcome in ("closed", "given_up"))
