"""A server that stalls or drips: each request and each run ends at its time-out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from simulator import hostile
from simulator.hostile import Behaviour, HostileServer
from tests.http.misbehaviour import FLOODS, HANGING, LATE, NOT_ATTEMPTED, TIMEOUT, timed
from tools.backend import (
    RELEASED_RESOLVER,
    SLOW_RESOLVER,
    full_backlog,
    run_python,
    wait_for_threads_to_end,
)
from tools.engines import Server
from tools.job import OLD_QR, Job, wait_until


@pytest.mark.parametrize("case", HANGING)
def test_a_request_ends_at_its_timeout_whatever_the_server_does(
    hostile_job: Job,
    hostile_server: HostileServer,
    record_property: Callable[[str, object], None],
    case: str,
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


@pytest.mark.parametrize(("behaviour", "reason"), FLOODS, ids=[f.__name__ for f, _ in FLOODS])
def test_what_does_not_end_is_given_up_before_the_timeout(
    hostile_job: Job, hostile_server: HostileServer, behaviour: Behaviour, reason: str
) -> None:
    hostile_server.behave("shop", behaviour)
    hostile_job.add_row("shop")
    found, seconds = timed(hostile_job)
    assert found == {"shop": f"Failed to fetch QR for shop: {reason}"}
    assert seconds < 4, "the time-out of a request is 8 s"


def test_a_tls_handshake_that_stalls_ends_at_the_timeout(
    job: Job,
    stalled_tls_server: HostileServer,
    record_property: Callable[[str, object], None],
) -> None:
    job.set(evolution_api_base_url=stalled_tls_server.base_url, request_timeout="500 ms")
    job.add_row("shop")
    found, seconds = timed(job)
    record_property("over", round(seconds - 0.5, 3))
    assert found == {"shop": TIMEOUT}
    assert 0.5 <= seconds < 0.5 + LATE
    assert stalled_tls_server.connections == 1


@pytest.mark.parametrize("case", HANGING)
def test_a_second_request_on_a_kept_connection_ends_at_its_own_timeout(
    hostile_job: Job,
    hostile_server: HostileServer,
    record_property: Callable[[str, object], None],
    case: str,
) -> None:
    hostile_server.behave("b hangs", HANGING[case])
    for name in ("a good", "b hangs", "c good"):
        hostile_job.add_row(name)
    hostile_job.set(request_timeout="1200 ms", max_concurrency=1)
    found, seconds = timed(hostile_job)
    record_property("over", round(seconds - 1.2, 3))
    assert found == {"a good": None, "b hangs": TIMEOUT, "c good": None}
    assert 1.2 <= seconds < 1.2 + LATE
    assert [(r.instance_name, r.connection) for r in hostile_server.requests] == [
        ("a good", 1),
        ("b hangs", 1),  # the same connection, so nothing was connected anew
        ("c good", 2),
    ]


def test_a_connect_that_nobody_accepts_ends_at_the_timeout(
    job: Job, server: Server, record_property: Callable[[str, object], None]
) -> None:
    with full_backlog(server.listen_host) as port:
        url = f"http://{server.reachable_host}:{port}"
        job.set(evolution_api_base_url=url, request_timeout="500 ms")
        job.add_row("shop")
        found, seconds = timed(job)
    record_property("over", round(seconds - 0.5, 3))
    assert found == {"shop": TIMEOUT}
    assert 0.5 <= seconds < 0.5 + LATE
    wait_for_threads_to_end(job.connection)


def test_a_name_that_resolves_slowly_ends_at_the_timeout_and_leaves_one_thread(
    job: Job, record_property: Callable[[str, object], None]
) -> None:
    run_python(job.connection, SLOW_RESOLVER)
    job.set(request_timeout="500 ms")
    for name in ("a", "b", "c"):
        job.add(name)
    found, seconds = timed(job)
    record_property("over", round(seconds - 0.5, 3))
    assert found == dict.fromkeys("abc", TIMEOUT)
    assert 0.5 <= seconds < 0.5 + LATE
    assert job.simulator.total_requests == 0
    # One for the name, none for the three instances.
    wait_for_threads_to_end(job.connection, left=1)
    run_python(job.connection, RELEASED_RESOLVER)
    wait_for_threads_to_end(job.connection)
    assert job.run()["refreshed"] == 3


def test_a_run_ends_at_its_timeout_and_says_what_it_did_not_reach(
    hostile_job: Job,
    hostile_server: HostileServer,
    record_property: Callable[[str, object], None],
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


@pytest.mark.parametrize("phase", ["connect", "name"])
def test_a_run_that_reaches_nobody_ends_at_its_timeout(
    job: Job, server: Server, phase: str, record_property: Callable[[str, object], None]
) -> None:
    job.set(request_timeout="500 ms", run_timeout="700 ms", max_concurrency=2)
    for name in "abcdef":
        job.add(name)
    with full_backlog(server.listen_host) as port:
        if phase == "connect":
            job.set(evolution_api_base_url=f"http://{server.reachable_host}:{port}")
        else:
            run_python(job.connection, SLOW_RESOLVER)
        found, seconds = timed(job)
    record_property("over", round(seconds - 0.7, 3))
    assert set(found.values()) <= {TIMEOUT, NOT_ATTEMPTED}
    assert len(found) == 6
    assert 0.5 <= seconds < 0.7 + LATE
    if phase == "name":
        run_python(job.connection, RELEASED_RESOLVER)


def test_three_bad_instances_cost_none_of_two_hundred_good_ones(
    hostile_job: Job,
    hostile_server: HostileServer,
    record_property: Callable[[str, object], None],
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
