"""A kept connection that the server closes, or on which it says more than it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from simulator import hostile
from simulator.hostile import Behaviour, Exchange, HostileServer, head
from tests.http.misbehaviour import LATE, TIMEOUT, answering, asked, errors, qr_body, timed
from tools.backend import run_python
from tools.job import Job, read_qr, wait_until

SECOND_ANSWER = head(Content_Length=len(hostile.GOOD_BODY)) + hostile.GOOD_BODY


@pytest.mark.parametrize("body", [hostile.GOOD_BODY, b'{"count":0}'], ids=["QR", "no QR"])
@pytest.mark.parametrize("rest", [b"}", b"garbage" * 20_000, SECOND_ANSWER])
def test_bytes_after_an_answer_are_not_taken_for_the_next_one(
    hostile_job: Job, hostile_server: HostileServer, body: bytes, rest: bytes
) -> None:
    hostile_server.behave("a talks on", answering(body, rest=rest))
    hostile_server.behave("b", answering(qr_body("QR of b")))
    hostile_job.add_row("a talks on")
    hostile_job.add_row("b")
    hostile_job.set(max_concurrency=1)
    assert errors(hostile_job)["b"] is None
    assert read_qr(hostile_job.row("b").qr_code) == "QR of b"


# What is simulated: reading the first answer takes long enough for more to arrive before the next
# request.
SLOW_READER = """
    import json, time
    loads = json.loads
    def slow(text):
        json.loads = loads
        time.sleep(1)
        return loads(text)
    json.loads = slow
"""


async def second_answer_late(exchange: Exchange) -> None:
    await exchange.send(SECOND_ANSWER)
    await asyncio.sleep(0.1)
    await exchange.send(SECOND_ANSWER)
    exchange.keep_open = True


async def close_late(exchange: Exchange) -> None:
    await exchange.send(SECOND_ANSWER)
    await asyncio.sleep(0.1)


@pytest.mark.parametrize("behaviour", [second_answer_late, close_late])
def test_a_connection_on_which_something_came_unasked_is_not_used_again(
    hostile_job: Job, hostile_server: HostileServer, behaviour: Behaviour
) -> None:
    hostile_server.behave("a", behaviour)
    hostile_server.behave("b", answering(qr_body("QR of b")))
    hostile_job.add_row("a")
    hostile_job.add_row("b")
    hostile_job.set(max_concurrency=1)
    run_python(hostile_job.connection, SLOW_READER)
    assert errors(hostile_job) == {"a": None, "b": None}
    assert read_qr(hostile_job.row("b").qr_code) == "QR of b"
    assert [request.connection for request in hostile_server.requests] == [1, 2]


async def begin_then_reset(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 2")
    # A reset throws away what the client's kernel has not handed over yet.
    await asyncio.sleep(1)
    exchange.reset()


async def continue_then_close(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")


async def close_after_a_while(exchange: Exchange) -> None:
    await asyncio.sleep(1.2)


CLOSING: list[Behaviour] = [hostile.close_at_once, hostile.reset_at_once]
BEGINNING: list[Behaviour] = [begin_then_reset, continue_then_close]


def run_one_after_the_other(job: Job, *names: str) -> dict[str, str | None]:
    """Return what comes of each name after its own."""
    for name in names:
        job.add_row(name)
    job.set(max_concurrency=1)
    return {name: (error or "").partition(": ")[2] for name, error in errors(job).items()}


@pytest.mark.parametrize("behaviour", CLOSING)
def test_a_request_upon_which_a_kept_connection_is_closed_is_made_on_a_new_one(
    hostile_job: Job, hostile_server: HostileServer, behaviour: Behaviour
) -> None:
    hostile_server.behave("b", behaviour, answering(qr_body("QR of b")))
    found = run_one_after_the_other(hostile_job, "a", "b", "c")
    assert found == {"a": "", "b": "", "c": ""}
    assert read_qr(hostile_job.row("b").qr_code) == "QR of b"
    assert asked(hostile_server) == [("a", 1), ("b", 1), ("b", 2), ("c", 2)]


@pytest.mark.parametrize("behaviour", CLOSING)
def test_a_server_that_always_closes_is_asked_twice_at_most(
    hostile_job: Job, hostile_server: HostileServer, behaviour: Behaviour
) -> None:
    hostile_server.behave("b", behaviour)
    hostile_server.behave("c", behaviour)
    found = run_one_after_the_other(hostile_job, "a", "b", "c")
    assert found == {"a": "", "b": "connection closed", "c": "connection closed"}
    # The last one came on a new connection, so it is not repeated.
    assert asked(hostile_server) == [("a", 1), ("b", 1), ("b", 2), ("c", 3)]


@pytest.mark.parametrize("behaviour", BEGINNING)
def test_a_request_whose_answer_has_begun_is_not_made_again(
    hostile_job: Job, hostile_server: HostileServer, behaviour: Behaviour
) -> None:
    hostile_server.behave("b", behaviour)
    found = run_one_after_the_other(hostile_job, "a", "b")
    assert found == {"a": "", "b": "connection closed"}
    assert asked(hostile_server) == [("a", 1), ("b", 1)]


def test_a_request_that_is_made_again_keeps_its_deadline(
    hostile_job: Job, hostile_server: HostileServer, record_property: Callable[[str, object], None]
) -> None:
    hostile_server.behave("b", close_after_a_while, hostile.never_answer)
    hostile_job.add_row("a")
    hostile_job.add_row("b")
    hostile_job.set(request_timeout="2 s", max_concurrency=1)
    found, seconds = timed(hostile_job)
    record_property("over", round(seconds - 2, 3))
    assert found == {"a": None, "b": TIMEOUT}
    assert 2 <= seconds < 2 + LATE, "a time-out of its own would end after 3.2 s"
    assert asked(hostile_server) == [("a", 1), ("b", 1), ("b", 2)]


def test_a_cancel_on_a_kept_connection_makes_no_request_again(
    hostile_job: Job, hostile_server: HostileServer
) -> None:
    hostile_server.behave("b", hostile.never_answer)
    hostile_job.add_row("a")
    hostile_job.add_row("b")
    hostile_job.set(max_concurrency=1)
    with ThreadPoolExecutor(1) as executor:
        run = executor.submit(hostile_job.run)
        wait_until(lambda: len(hostile_server.requests) == 2, "the second request hangs")
        hostile_job.connection.cancel()
        assert isinstance(run.exception(15), psycopg.errors.QueryCanceled)
    wait_until(lambda: hostile_server.open_connections == 0, "the connection is closed")
    assert asked(hostile_server) == [("a", 1), ("b", 1)]
