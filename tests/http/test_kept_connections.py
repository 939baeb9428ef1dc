"""A kept connection that the server closes, or on which it says more than it was asked."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from simulator import hostile
from simulator.hostile import Behaviour, Exchange, HostileServer, head
from tests.http.client import Client
from tests.http.misbehaviour import CALL_LATE, answering, asked, errors, qr_body
from tools.backend import is_process_1
from tools.job import Job, read_qr, wait_until

SECOND_ANSWER = head(Content_Length=len(hostile.GOOD_BODY)) + hostile.GOOD_BODY


@pytest.mark.parametrize("body", [hostile.GOOD_BODY, b'{"count":0}'], ids=["QR", "no QR"])
@pytest.mark.parametrize("rest", [b"}", b"garbage" * 20_000, SECOND_ANSWER])
def test_bytes_after_an_answer_are_not_taken_for_the_next_one(
    client: Client, api: HostileServer, body: bytes, rest: bytes
) -> None:
    api.behave("a talks on", answering(body, rest=rest))
    api.behave("b", answering(qr_body("QR of b")))
    client.ask("a talks on")
    assert read_qr(client.ask("b")["qr_code"]) == "QR of b"


def test_a_second_answer_is_not_stored_for_the_next_instance(
    hostile_job: Job, hostile_server: HostileServer
) -> None:
    hostile_server.behave("a talks on", answering(hostile.GOOD_BODY, rest=SECOND_ANSWER))
    hostile_server.behave("b", answering(qr_body("QR of b")))
    hostile_job.add_row("a talks on")
    hostile_job.add_row("b")
    hostile_job.set(max_concurrency=1)
    assert errors(hostile_job)["b"] is None
    assert read_qr(hostile_job.row("b").qr_code) == "QR of b"


def then_unasked(data: bytes, sent: threading.Event) -> Behaviour:
    """Answer; then send this, or close where it is nothing."""

    async def answer(exchange: Exchange) -> None:
        await exchange.send(SECOND_ANSWER)
        await asyncio.sleep(0.1)
        if data:
            await exchange.send(data)
            exchange.keep_open = True
        sent.set()

    return answer


@pytest.mark.parametrize("data", [SECOND_ANSWER, b"}", b""], ids=["answer", "byte", "end"])
def test_a_connection_on_which_something_came_unasked_is_not_used_again(
    client: Client, api: HostileServer, data: bytes
) -> None:
    sent = threading.Event()
    api.behave("a", then_unasked(data, sent))
    api.behave("b", answering(qr_body("QR of b")))
    assert client.ask("a")["outcome"] == "qr_code"
    assert sent.wait(10)
    if not data:
        wait_until(lambda: api.open_connections == 0, "the server has closed the connection")
    assert read_qr(client.ask("b")["qr_code"]) == "QR of b"
    assert asked(api) == [("a", 1), ("b", 2)]


async def begin_then_reset(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 2")
    # A reset throws away what the client's kernel has not handed over yet.
    await asyncio.sleep(1)
    exchange.reset()


async def continue_then_close(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")


async def hint_then_close(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")


async def close_after_a_while(exchange: Exchange) -> None:
    await asyncio.sleep(0.6)


BEFORE_THE_HEAD: list[Behaviour] = [
    hostile.close_at_once,
    hostile.reset_at_once,
    begin_then_reset,
    continue_then_close,
]
IN_THE_BODY: list[tuple[Behaviour, str]] = [
    (hostile.half_body_then_close, "answer was cut short"),
    (hostile.reset_in_body, "connection closed"),
    (hostile.chunked_cut_short, "connection closed"),
]


@pytest.mark.parametrize("behaviour", BEFORE_THE_HEAD)
def test_a_request_upon_which_a_kept_connection_is_closed_is_made_on_a_new_one(
    client: Client, api: HostileServer, behaviour: Behaviour
) -> None:
    api.behave("b", behaviour, answering(qr_body("QR of b")))
    assert client.ask("a")["outcome"] == "qr_code"
    assert read_qr(client.ask("b")["qr_code"]) == "QR of b"
    assert client.ask("c")["outcome"] == "qr_code"
    assert asked(api) == [("a", 1), ("b", 1), ("b", 2), ("c", 2)]


@pytest.mark.parametrize("behaviour", BEFORE_THE_HEAD)
def test_a_server_that_always_closes_is_asked_twice_at_most(
    client: Client, api: HostileServer, behaviour: Behaviour
) -> None:
    api.behave("b", behaviour)
    api.behave("c", behaviour)
    found = client.ask_in_turn("a", "b", "c")
    assert found == {"a": None, "b": "connection closed", "c": "connection closed"}
    # The state was answered on the connection that then was closed.
    assert asked(api) == [("a", 1), ("b", 1), ("b", 2), ("c", 3), ("c", 4)]


@pytest.mark.parametrize(
    ("behaviour", "reason"), IN_THE_BODY, ids=[each.__name__ for each, _ in IN_THE_BODY]
)
def test_a_request_whose_answer_has_a_body_is_not_made_again(
    client: Client, api: HostileServer, behaviour: Behaviour, reason: str
) -> None:
    api.behave("b", behaviour)
    assert client.ask_in_turn("a", "b") == {"a": None, "b": reason}
    assert asked(api) == [("a", 1), ("b", 1)]


def test_a_connection_that_closes_after_early_hints_is_a_failure_of_one_request(
    client: Client, api: HostileServer
) -> None:
    api.behave("b", hint_then_close)
    found = client.ask_in_turn("a", "b", "c")
    assert found == {"a": None, "b": "connection closed", "c": None}


@pytest.mark.parametrize("behaviour", [hostile.close_at_once, hostile.reset_at_once])
def test_a_run_makes_a_request_again_upon_which_a_kept_connection_is_closed(
    hostile_job: Job, hostile_server: HostileServer, behaviour: Behaviour
) -> None:
    hostile_server.behave("b", behaviour, answering(qr_body("QR of b")))
    for name in "abc":
        hostile_job.add_row(name)
    hostile_job.set(max_concurrency=1)
    assert errors(hostile_job) == dict.fromkeys("abc")
    assert read_qr(hostile_job.row("b").qr_code) == "QR of b"
    assert asked(hostile_server) == [("a", 1), ("b", 1), ("b", 2), ("c", 2)]


def test_a_request_that_is_made_again_keeps_its_deadline(
    client: Client, api: HostileServer
) -> None:
    api.behave("b", close_after_a_while, hostile.never_answer)
    client.ask("a")
    answer = client.ask("b", timeout=1)
    assert answer["outcome"] == "timeout"
    assert 1 <= answer["elapsed"] < 1 + CALL_LATE, "a time-out of its own would end after 1.6 s"
    assert asked(api) == [("a", 1), ("b", 1), ("b", 2)]


def test_a_kept_connection_serves_also_the_next_run(
    hostile_job: Job, hostile_server: HostileServer
) -> None:
    if is_process_1(hostile_job.connection):
        pytest.skip("where the postmaster is process 1 a run ends its client: PG=local keeps it")
    hostile_job.add_row("a")
    assert errors(hostile_job) == {"a": None}
    assert errors(hostile_job) == {"a": None}
    assert asked(hostile_server) == [("a", 1), ("a", 1)]


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
