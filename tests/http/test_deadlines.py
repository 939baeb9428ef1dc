"""A server that stalls or drips: each request and each run ends at its time-out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from simulator import hostile
from simulator.hostile import Behaviour, HostileServer, running_hostile_server
from tests.http.client import Client, problems, running_client, slow_resolver
from tests.http.misbehaviour import (
    CALL_LATE,
    ENDLESS,
    FLOODS,
    HANGING,
    LATE,
    NOT_ATTEMPTED,
    TIMEOUT,
    asked,
    drip_a_while,
    timed,
)
from tools.backend import full_backlog
from tools.engines import Server
from tools.job import OLD_QR, Job, wait_until

Record = Callable[[str, object], None]


@pytest.mark.parametrize("case", HANGING)
def test_a_request_ends_at_its_timeout_whatever_the_server_does(
    hostile_job: Job, hostile_server: HostileServer, record_property: Record, case: str
) -> None:
    hostile_server.behave("shop", HANGING[case])
    hostile_job.add_row("shop", qr_code=OLD_QR)
    hostile_job.set(request_timeout="500 ms")
    found, seconds = timed(hostile_job)
    record_property("over", round(seconds - 0.5, 3))
    assert found == {"shop": TIMEOUT}
    assert 0.5 <= seconds < 0.5 + LATE
    assert len(hostile_server.requests) == 1
    assert hostile_job.row("shop").qr_code == OLD_QR
    wait_until(lambda: hostile_server.open_connections == 0, "the connection is closed")


@pytest.mark.parametrize("behaviour", ENDLESS)
def test_of_what_a_timeout_has_to_end_nothing_is_left(
    hostile_job: Job, hostile_server: HostileServer, behaviour: Behaviour, record_property: Record
) -> None:
    hostile_server.behave("shop", behaviour)
    hostile_job.add_row("shop")
    hostile_job.set(request_timeout="500 ms")
    found, seconds = timed(hostile_job)
    record_property("over", round(seconds - 0.5, 3))
    if found == {"shop": TIMEOUT}:
        assert seconds >= 0.5
    else:
        # Newer Pythons count what they skip; seen with 3.14.8.
        assert found == {"shop": "Failed to fetch QR for shop: connection closed"}
    assert seconds < 0.5 + LATE
    wait_until(lambda: hostile_server.open_connections == 0, "the connection is closed")
    hostile_server.behave("shop", hostile.good)
    assert hostile_job.run()["refreshed"] == 1


@pytest.mark.parametrize("case", HANGING)
def test_a_call_that_overruns_is_answered_at_its_timeout_and_the_next_gets_a_thread_of_its_own(
    client: Client, api: HostileServer, case: str
) -> None:
    client.ask("warm")
    api.behave("hangs", HANGING[case])
    answer = client.ask("hangs", timeout=0.5)
    assert answer["outcome"] == "timeout"
    assert 0.5 <= answer["elapsed"] < 0.5 + CALL_LATE
    assert client.ask("good", timeout=2)["outcome"] == "qr_code"


def test_a_thread_that_was_left_behind_is_counted_until_it_is_done(
    client: Client, api: HostileServer
) -> None:
    api.behave("drips", drip_a_while)
    client.ask("warm")
    answer = client.ask("drips", timeout=0.3)
    assert (answer["outcome"], answer["late"]) == ("timeout", 1)
    wait_until(lambda: client.ask("good")["late"] == 0, "the late answer has come")


@pytest.mark.parametrize(("behaviour", "reason"), FLOODS, ids=[f.__name__ for f, _ in FLOODS])
def test_what_is_too_much_is_given_up_before_the_timeout(
    client: Client, api: HostileServer, behaviour: Behaviour, reason: str
) -> None:
    client.ask("warm")
    api.behave("shop", behaviour)
    answer = client.ask("shop")
    assert (answer["outcome"], answer["error"]) == ("failed", reason)
    assert answer["elapsed"] < 4, "the time-out of a request is 8 s"


def test_a_tls_handshake_that_stalls_ends_at_a_third_of_the_timeout() -> None:
    with (
        running_hostile_server(never_handshake=True) as stalled,
        running_client(stalled.base_url) as client,
    ):
        answer = client.ask(timeout=0.9)
        assert answer["outcome"] == "timeout"
        assert 0.3 <= answer["elapsed"] < 0.3 + CALL_LATE
        assert stalled.connections == 1


@pytest.mark.parametrize("case", HANGING)
def test_a_second_request_on_a_kept_connection_ends_at_its_own_timeout(
    client: Client, api: HostileServer, case: str
) -> None:
    api.behave("b hangs", HANGING[case])
    assert client.ask("a good")["outcome"] == "qr_code"
    answer = client.ask("b hangs", timeout=0.7)
    assert answer["outcome"] == "timeout"
    assert 0.7 <= answer["elapsed"] < 0.7 + CALL_LATE
    assert client.ask("c good")["outcome"] == "qr_code"
    # The same connection, so nothing was connected anew.
    assert asked(api) == [("a good", 1), ("b hangs", 1), ("c good", 2)]


def test_a_connect_that_nobody_accepts_ends_at_a_third_of_the_timeout() -> None:
    with (
        full_backlog("127.0.0.1") as port,
        running_client(f"http://127.0.0.1:{port}") as client,
    ):
        answer = client.ask(timeout=0.9)
        assert answer["outcome"] == "timeout"
        assert 0.3 <= answer["elapsed"] < 0.3 + CALL_LATE
        assert client.sockets == 0


def test_a_name_that_resolves_slowly_ends_at_the_timeout(
    api: HostileServer, tmp_path: Path
) -> None:
    released = tmp_path / "released"
    with running_client(api.base_url, slow_resolver(released)) as client:
        client.begin("a", "b", "c", timeout=0.5)
        answers = client.take(3)
        assert problems(answers) == dict.fromkeys("abc", TIMEOUT)
        assert all(0.5 <= answer["elapsed"] < 0.5 + CALL_LATE for answer in answers)
        assert answers[-1]["late"] == 3
        assert api.requests == []
        released.touch()
        wait_until(lambda: client.ask("d")["late"] == 0, "the three threads are done")
        assert client.threads <= 1 + 4
        assert client.ask_together("a", "b", "c") == dict.fromkeys("abc")
        assert client.threads <= 1 + 4


def test_a_call_that_comes_while_the_client_starts_has_its_whole_timeout(
    api: HostileServer,
) -> None:
    with running_client(api.base_url, "import time; time.sleep(1)", wait_for_start=False) as client:
        assert client.ask(timeout=0.8)["outcome"] == "qr_code"


def test_a_run_ends_at_its_timeout_and_says_what_it_did_not_reach(
    hostile_job: Job, hostile_server: HostileServer, record_property: Record
) -> None:
    for number, case in enumerate(HANGING):
        hostile_server.behave(f"{number} hangs", HANGING[case])
        hostile_job.add_row(f"{number} hangs")
    hostile_job.add_row("a late", qr_code=OLD_QR)
    hostile_job.add_row("b late", qr_code=OLD_QR)
    hostile_job.set(request_timeout="700 ms", run_timeout="700 ms", max_concurrency=len(HANGING))
    found, seconds = timed(hostile_job)
    record_property("over", round(seconds - 0.7, 3))
    expected = dict.fromkeys([f"{number} hangs" for number in range(len(HANGING))], TIMEOUT)
    assert found == expected | {"a late": NOT_ATTEMPTED, "b late": NOT_ATTEMPTED}
    assert 0.7 <= seconds < 0.7 + LATE
    assert {r.instance_name for r in hostile_server.requests} == set(expected)
    assert hostile_job.row("a late").qr_code == OLD_QR


def test_a_request_that_the_end_of_the_run_cuts_short_is_a_timeout(
    hostile_job: Job, hostile_server: HostileServer
) -> None:
    hostile_server.behave("a drips", hostile.drip_body)
    hostile_server.behave("b drips", hostile.drip_body)
    for name in ("a drips", "b drips", "c late"):
        hostile_job.add_row(name)
    hostile_job.set(request_timeout="1 s", run_timeout="1900 ms", max_concurrency=1)
    found, seconds = timed(hostile_job)
    assert found == {"a drips": TIMEOUT, "b drips": TIMEOUT, "c late": NOT_ATTEMPTED}
    assert 1.9 <= seconds < 1.9 + LATE


def test_a_run_that_reaches_nobody_ends_at_its_timeout(
    job: Job, server: Server, record_property: Record
) -> None:
    job.set(request_timeout="900 ms", run_timeout="900 ms", max_concurrency=2)
    for name in "abcdefghijkl":
        job.add(name)
    with full_backlog(server.listen_host) as port:
        job.set(evolution_api_base_url=f"http://{server.reachable_host}:{port}")
        found, seconds = timed(job)
    record_property("over", round(seconds - 0.9, 3))
    assert set(found.values()) == {TIMEOUT, NOT_ATTEMPTED}
    assert len(found) == 12
    assert seconds < 0.9 + LATE


def test_three_bad_instances_cost_none_of_two_hundred_good_ones(
    hostile_job: Job, hostile_server: HostileServer, record_property: Record
) -> None:
    hostile_server.behave("050 hangs", hostile.never_answer)
    hostile_server.behave("100 resets", hostile.reset_at_once)
    hostile_server.behave("150 drips", hostile.drip_body)
    for name in ("050 hangs", "100 resets", "150 drips"):
        hostile_job.add_row(name, qr_code=OLD_QR)
    for number in range(200):
        hostile_job.add_row(f"{number:03} good")
    hostile_job.set(request_timeout="2 s")
    found, seconds = timed(hostile_job)
    record_property("over", round(seconds - 2, 3))
    assert {name: error for name, error in found.items() if error} == {
        "050 hangs": TIMEOUT,
        "100 resets": "Failed to fetch QR for 100 resets: connection closed",
        "150 drips": TIMEOUT,
    }
    stored = hostile_job.value(
        "select count(*) from evolution_instances"
        " where qr_code <> %s and last_qr_update > now() - interval '1 minute'",
        OLD_QR,
    )
    assert stored == 200
    # The one that resets a kept connection is asked again, on a new one.
    assert len({request.instance_name for request in hostile_server.requests}) == 203
    assert len(hostile_server.requests) <= 204
    assert seconds < 4, "one after the other, the two that hang would take as long"
