"""The state machine of one instance, on a clock that stands still until it is moved."""

import math
import re
from pathlib import Path

import pytest

from simulator import Clock, Instance

TIMELINE = Path(__file__).parents[1] / "captures" / "timeline_rotation.txt"


def new_instance(clock: Clock, **options: object) -> Instance:
    return Instance("one", "token", now=clock.now, qr_texts="QR {}".format, **options)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> Clock:
    return Clock(speed=0)


def move_to(clock: Clock, seconds: float) -> None:
    clock.advance(seconds - clock.now())


def qr_of(instance: Instance) -> tuple[str, int] | None:
    return (instance.qr.code, instance.qr.count) if instance.qr else None


def test_the_rotation_follows_the_captured_timeline(clock: Clock) -> None:
    # The capture began 1.69 s after its first QR: its first socket ended after 268.31 s.
    instance = new_instance(clock, qr_age=6 * 45 - 268.31)
    lines = TIMELINE.read_text().splitlines()
    assert len(lines) == 10
    codes: dict[str, str] = {}
    for line in lines:
        match = re.fullmatch(r"\+ *([\d.]+)s \('(\w+)',(?: (\d+), '(\w+)')?\)", line)
        assert match, line
        # The capture's polls saw each change a little late; so does this.
        move_to(clock, float(match[1]) + 0.012)
        assert instance.state == match[2], line
        assert instance.qr is not None
        if match[3]:
            assert instance.qr.count == int(match[3]), line
            assert codes.setdefault(match[4], instance.qr.code) == instance.qr.code, line
    assert len(set(codes.values())) == len(codes) == 8


def test_a_qr_stays_until_the_rotation_and_not_longer(clock: Clock) -> None:
    instance = new_instance(clock, rotation=10)
    move_to(clock, 9.99)
    assert qr_of(instance) == ("QR 1", 1)
    move_to(clock, 10.01)
    assert qr_of(instance) == ("QR 2", 2)


def test_after_six_qrs_it_reconnects_and_goes_on(clock: Clock) -> None:
    instance = new_instance(clock)
    seen = []
    for moment in (269.99, 270.01, 270.1, 270.21, 315.21):
        move_to(clock, moment)
        seen.append((instance.state, qr_of(instance)))
    assert seen == [
        ("connecting", ("QR 6", 6)),
        ("close", ("QR 6", 6)),
        ("connecting", ("QR 6", 6)),
        ("connecting", ("QR 7", 7)),
        ("connecting", ("QR 8", 8)),
    ]


def test_a_connect_during_the_reconnect_opens_a_socket_and_disturbs_nothing(clock: Clock) -> None:
    instance = new_instance(clock)
    move_to(clock, 270.01)
    assert instance.connect() == "close"
    assert instance.sockets_opened == 1
    move_to(clock, 272.01)
    assert qr_of(instance) == ("QR 7", 7)


def test_after_thirty_qrs_it_gives_up_and_the_next_connect_starts_anew(clock: Clock) -> None:
    instance = new_instance(clock)
    move_to(clock, 30 * 45 + 4 * 0.2 - 0.01)
    assert (instance.state, qr_of(instance)) == ("connecting", ("QR 30", 30))
    move_to(clock, 30 * 45 + 4 * 0.2 + 0.01)
    assert instance.state == "close"
    move_to(clock, 5000)
    assert instance.state == "close"
    assert instance.connect() == "close"
    assert (instance.state, qr_of(instance)) == ("connecting", ("QR 31", 1))
    assert instance.sockets_opened == 1


def test_a_cycle_that_ran_out_unseen_ends_the_same_way(clock: Clock) -> None:
    instance = new_instance(clock)
    move_to(clock, 100_000)
    assert (instance.state, qr_of(instance)) == ("close", ("QR 30", 30))


def test_a_connect_while_connecting_has_no_effect(clock: Clock) -> None:
    instance = new_instance(clock)
    move_to(clock, 44)
    assert instance.connect() == "connecting"
    assert instance.sockets_opened == 0
    move_to(clock, 46)
    assert qr_of(instance) == ("QR 2", 2)


def test_a_qr_that_is_late_leaves_the_instance_connecting_without_one(clock: Clock) -> None:
    instance = new_instance(clock, state="close", qr_delay=3)
    instance.connect()
    move_to(clock, 2)
    assert (instance.state, qr_of(instance)) == ("connecting", None)
    move_to(clock, 3.01)
    assert qr_of(instance) == ("QR 1", 1)


def test_an_old_qr_is_handed_out_until_the_new_one_arrives(clock: Clock) -> None:
    instance = new_instance(clock)
    move_to(clock, 5000)
    instance.qr_delay = 3
    instance.connect()
    move_to(clock, 5002)
    assert (instance.state, qr_of(instance)) == ("connecting", ("QR 30", 30))
    move_to(clock, 5003.01)
    assert qr_of(instance) == ("QR 31", 1)


def test_a_qr_delayed_for_ever_never_comes(clock: Clock) -> None:
    instance = new_instance(clock, qr_delay=math.inf)
    move_to(clock, 1e6)
    assert (instance.state, qr_of(instance)) == ("connecting", None)


def test_a_scan_opens_the_instance(clock: Clock) -> None:
    instance = new_instance(clock)
    instance.scan()
    assert instance.state == "open"
    assert instance.connect() == "open"
    assert instance.sockets_opened == 0


def test_after_scan_and_logout_connect_hands_out_the_used_qr_again(clock: Clock) -> None:
    instance = new_instance(clock)
    instance.scan()
    instance.logout()
    assert instance.state == "close"
    instance.connect()
    for moment in (2, 60, 600):
        move_to(clock, moment)
        assert (instance.state, qr_of(instance)) == ("connecting", ("QR 1", 1))


def test_the_used_qr_can_be_replaced_after_a_while(clock: Clock) -> None:
    instance = new_instance(clock)
    instance.scan()
    instance.logout()
    instance.stale_for = 100
    instance.connect()
    move_to(clock, 99.9)
    assert qr_of(instance) == ("QR 1", 1)
    move_to(clock, 100.1)
    assert qr_of(instance) == ("QR 2", 1)


def test_a_logout_before_the_scan_leaves_no_trap(clock: Clock) -> None:
    instance = new_instance(clock)
    instance.logout()
    instance.connect()
    assert qr_of(instance) == ("QR 2", 1)


def test_during_an_outage_each_connect_opens_a_socket_and_gets_nothing(clock: Clock) -> None:
    instance = new_instance(clock)
    instance.lose_whatsapp()
    for _ in range(11):
        assert instance.connect() == "close"
        clock.advance(10)
        assert (instance.state, qr_of(instance)) == ("close", None)
    assert instance.sockets_opened == 11
    instance.find_whatsapp()
    assert (instance.state, qr_of(instance)) == ("close", None)
    instance.connect()
    assert (instance.state, qr_of(instance)) == ("connecting", ("QR 2", 1))


def test_impossible_calls_are_refused(clock: Clock) -> None:
    with pytest.raises(ValueError, match="no QR code to scan"):
        new_instance(clock, state="close").scan()
    with pytest.raises(ValueError, match="no QR code to scan"):
        new_instance(clock, qr_delay=1).scan()
    with pytest.raises(ValueError, match="not connected"):
        new_instance(clock, state="close").logout()
    with pytest.raises(ValueError, match="unknown state 'closed'"):
        new_instance(clock, state="closed")
    with pytest.raises(ValueError, match="unknown flavour 'v3'"):
        new_instance(clock, flavour="v3")
    with pytest.raises(ValueError, match="cannot live 0 seconds"):
        new_instance(clock, rotation=0)


def test_a_clock_cannot_run_backwards() -> None:
    with pytest.raises(ValueError, match="speed -1"):
        Clock(-1)


def test_who_was_told_connecting_just_before_was_not_careless(clock: Clock) -> None:
    instance = new_instance(clock)
    move_to(clock, 6 * 45 - 0.005)
    assert instance.tell_state() == "connecting"
    move_to(clock, 6 * 45 + 0.005)
    instance.connect()
    assert (instance.second_sockets, instance.careless_connects) == (1, 0)
    assert instance.tell_state() == "close"
    instance.connect()
    assert (instance.second_sockets, instance.careless_connects) == (2, 1)


@pytest.mark.parametrize("window", [0.03, 0.3, 3.0])
def test_a_connect_in_the_close_window_opens_a_second_socket(clock: Clock, window: float) -> None:
    instance = new_instance(clock)
    instance.close_window = window
    move_to(clock, 6 * 45 + window - 0.01)
    assert str(instance.state) == "close"
    instance.connect()
    assert (instance.sockets_opened, instance.second_sockets) == (1, 1)
    assert instance.careless_connects == 1
    move_to(clock, 6 * 45 + window + 0.01)
    assert str(instance.state) == "connecting"
    instance.connect()
    assert instance.second_sockets == 1


def test_2_4_stays_closed_after_six_qrs_until_somebody_connects_it(clock: Clock) -> None:
    instance = new_instance(clock)
    instance.reconnects = False
    move_to(clock, 6 * 45 - 0.1)
    assert str(instance.state) == "connecting"
    move_to(clock, 6 * 45 + 1000)
    assert str(instance.state) == "close"
    instance.connect()
    assert (instance.state, instance.second_sockets) == ("connecting", 0)
    assert qr_of(instance) == ("QR 7", 1)


def test_after_a_start_what_was_open_or_connecting_is_back_and_what_was_closed_stays(
    clock: Clock,
) -> None:
    connecting, scanned, closed = (new_instance(clock, qr_delay=1.0) for _ in range(3))
    clock.advance(2)
    scanned.scan()
    closed.logout()
    for instance in (connecting, scanned, closed):
        instance.restart()
    assert [i.state for i in (connecting, scanned, closed)] == ["connecting", "open", "close"]
    assert qr_of(connecting) is None and qr_of(closed) is None
    clock.advance(1.01)
    assert qr_of(connecting) == ("QR 2", 1)
    assert (connecting.sockets_opened, connecting.second_sockets) == (0, 0)


def test_between_scan_and_open_it_is_closed_for_a_moment(clock: Clock) -> None:
    instance = new_instance(clock)
    instance.pairing_window = 0.3
    instance.scan()
    assert instance.state == "close"
    clock.advance(0.31)
    assert (instance.state, instance.is_broken) == ("open", False)


def test_a_connect_between_scan_and_open_breaks_the_pairing_for_ever(clock: Clock) -> None:
    instance = new_instance(clock)
    instance.pairing_window = 3.0
    instance.scan()
    clock.advance(2.9)
    instance.connect()
    clock.advance(1000)
    assert (instance.state, instance.is_broken) == ("close", True)
    assert instance.careless_connects == 1
