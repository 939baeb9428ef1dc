"""A server that stalls, drips, floods or lies: it costs nothing but itself, and fools nobody."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from simulator import hostile
from simulator.answers import qr_answer
from simulator.hostile import Behaviour, Exchange, HostileServer, head
from simulator.instance import QrCode
from tools.backend import (
    ADDRESS_OF,
    RELEASED_RESOLVER,
    SLOW_RESOLVER,
    forget_peak_memory,
    full_backlog,
    memory,
    run_python,
    sockets,
    threads,
    wait_for_threads_to_end,
)
from tools.engines import Server
from tools.job import PNG_URL, Connection, Job, read_qr, wait_until

OLD_QR = "data:image/png;base64,iVBORw0KGgo="
LATE = 1.0  # seconds over its time at which a request or a run has failed its deadline
TIMEOUT = "Request timeout"
NOT_ATTEMPTED = "Not attempted: run timeout reached"

HANGING: dict[str, Behaviour] = {
    "never answers": hostile.never_answer,
    "drips header bytes": hostile.drip_headers,
    "drips body bytes": hostile.drip_body,
    "half a body, then nothing": hostile.half_body_then_stall,
}


def answering(body: bytes, status: str = "200 OK", rest: bytes = b"") -> Behaviour:
    """Answer with this body, correctly framed; `rest` follows where nothing should."""

    async def answer(exchange: Exchange) -> None:
        await exchange.send(head(status, Content_Length=len(body)) + body + rest)
        exchange.keep_open = True

    return answer


def qr_body(text: str) -> bytes:
    return qr_answer(QrCode(text, 1)).body


def errors(job: Job) -> dict[str, str | None]:
    """Run, and return what the report says of each instance; None where there is no error."""
    return {r["instance_name"]: r.get("error") for r in job.run()["results"]}


def timed(job: Job) -> tuple[dict[str, str | None], float]:
    """Run in a session that has imported everything; return the errors and the seconds."""
    run_python(job.connection, "import requests")
    begun_at = time.monotonic()
    found = errors(job)
    return found, time.monotonic() - begun_at


# --- deadlines ------------------------------------------------------------------------------------


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


FLOODS = [
    (hostile.endless_status_line, "connection closed"),
    (hostile.continue_flood, "connection closed"),
    (hostile.endless_headers, "connection closed"),
    (hostile.long_headers, "connection closed"),
    (hostile.endless_body, "answer is over 256 kB"),
    (hostile.endless_small_chunks, "connection closed"),
    (hostile.endless_trailers, "connection closed"),
    (hostile.oversized_body, "answer is over 256 kB"),
]


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


# --- isolation ------------------------------------------------------------------------------------


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


# --- never fooled ---------------------------------------------------------------------------------


def json_body(value: object) -> bytes:
    return json.dumps(value).encode()


def picture(data: bytes) -> bytes:
    return json_body({"base64": PNG_URL + base64.b64encode(data).decode()})


async def not_modified_with_length(exchange: Exchange) -> None:
    """Send a 304 that, as HTTP allows, has the length of what it does not send."""
    await exchange.send(head("304 Not Modified", Content_Length=13600))
    exchange.keep_open = True


def with_length(length: str | int) -> Behaviour:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(head(Content_Length=length) + hostile.GOOD_BODY)

    return answer


async def chunk_size_is_no_number(exchange: Exchange) -> None:
    await exchange.send(head(Transfer_Encoding="chunked") + b"many\r\n" + hostile.GOOD_BODY)


async def rest_comes_late(exchange: Exchange) -> None:
    """Promise half of the body, and send the other half when the next request may have come."""
    half = len(hostile.GOOD_BODY) // 2
    await exchange.send(head(Content_Length=half) + hostile.GOOD_BODY[:half])
    await asyncio.sleep(0.1)
    await exchange.send(hostile.GOOD_BODY[half:])
    exchange.keep_open = True


async def rest_over_the_cap_comes_late(exchange: Exchange) -> None:
    """Send as much as is read, which ends like an answer, and the rest upon the next request."""
    body = b'{"base64":"' + hostile.PIECE * 4
    body = body[: hostile.BODY_CAP] + b"}"
    await exchange.send(head(Content_Length=len(body) + 1000) + body)
    await asyncio.sleep(0.1)
    await exchange.send(bytes(1000))
    exchange.keep_open = True


async def length_and_chunks(exchange: Exchange) -> None:
    """Send chunks, and the length of another answer."""
    chunk = f"{len(hostile.GOOD_BODY):x}\r\n".encode() + hostile.GOOD_BODY + b"\r\n0\r\n\r\n"
    await exchange.send(head(Transfer_Encoding="chunked", Content_Length=3) + chunk)
    exchange.keep_open = True


async def http_0_9(exchange: Exchange) -> None:
    await exchange.send(hostile.GOOD_BODY)


REAL_PICTURE = base64.b64decode(
    json.loads(hostile.GOOD_BODY)["base64"].removeprefix(PNG_URL), validate=True
)
FOOLING: dict[str, tuple[Behaviour, str]] = {
    "HTML": (answering(b"<html><img src='data:image/png;base64,x'></html>"), "answer is not JSON"),
    "list": (answering(json_body([hostile.GOOD_BODY.decode()])), "answer is not a JSON object"),
    "number": (answering(b"7"), "answer is not a JSON object"),
    "null": (answering(b"null"), "answer is not a JSON object"),
    "not base64": (answering(json_body({"base64": PNG_URL + "??"})), "QR code is not base64"),
    "spaced base64": (
        answering(hostile.GOOD_BODY.replace(b"iVBOR", b"iV BOR")),
        "QR code is not base64",
    ),
    "GIF": (answering(picture(b"GIF89a" + bytes(100))), "QR code is not a PNG picture"),
    "SVG": (
        answering(json_body({"base64": "data:image/svg+xml;base64,PHN2Zy8+"})),
        "QR code is not base64",
    ),
    "SVG as PNG": (answering(picture(b"<svg/>")), "QR code is not a PNG picture"),
    "half a PNG": (answering(picture(REAL_PICTURE[:2000])), "QR code is not a PNG picture"),
    "empty": (answering(b""), "answer is empty"),
    "blank": (answering(b" \r\n"), "answer is empty"),
    "not UTF-8": (answering(b'{"base64": "\xff\xfe"}'), "answer is not JSON"),
    "deep": (answering(b"[" * 100_000), "answer is not JSON"),
    "error true": (
        answering(json_body({"error": True, **json.loads(hostile.GOOD_BODY)})),
        "Evolution API reports an error",
    ),
    "over 256 kB": (hostile.oversized_body, "answer is over 256 kB"),
    "over 256 kB, rest late": (rest_over_the_cap_comes_late, "answer is over 256 kB"),
    "gzip bomb": (hostile.gzip_bomb, "answer is compressed"),
    "half, then close": (hostile.half_body_then_close, "answer was cut short"),
    "half, then reset": (hostile.reset_in_body, "connection closed"),
    "chunks cut short": (hostile.chunked_cut_short, "connection closed"),
    "length too large": (hostile.content_length_too_large, "answer was cut short"),
    "length too small": (hostile.content_length_too_small, "answer is not JSON"),
    "rest late": (rest_comes_late, "answer is not JSON"),
    "length no number": (with_length("many"), "answer was cut short"),
    "length negative": (with_length(-5), "answer was cut short"),
    "chunk no number": (chunk_size_is_no_number, "connection closed"),
    "length and chunks": (length_and_chunks, "answer was cut short"),
    "HTTP/0.9": (http_0_9, "connection closed"),
    "304": (hostile.not_modified, "304 Not Modified"),
    "304 with length": (not_modified_with_length, "304 Not Modified"),
    "201 with a QR": (answering(hostile.GOOD_BODY, "201 Created"), "201 Created"),
    "500 with a QR": (answering(hostile.GOOD_BODY, "500 Oops"), "500 Internal Server Error"),
    "not HTTP": (hostile.not_http, "connection closed"),
}


@pytest.mark.parametrize("most", [1, 16], ids=["one after the other", "16 at a time"])
def test_nothing_but_a_whole_picture_is_stored_and_each_reason_is_short(
    hostile_job: Job, hostile_server: HostileServer, most: int
) -> None:
    for name, (behaviour, _) in FOOLING.items():
        hostile_server.behave(name, behaviour)
        hostile_job.add_row(name, qr_code=OLD_QR)
        # Its neighbour on the same worker must get what is its own.
        hostile_server.behave(f"{name}, then", answering(qr_body(f"QR of {name}")))
        hostile_job.add_row(f"{name}, then")
    hostile_job.set(max_concurrency=most)
    found = errors(hostile_job)
    for name, (_, reason) in FOOLING.items():
        assert (name, found[name]) == (name, f"Failed to fetch QR for {name}: {reason}")
        assert found[f"{name}, then"] is None
        assert hostile_job.row(name).qr_code == OLD_QR
        assert read_qr(hostile_job.row(f"{name}, then").qr_code) == f"QR of {name}"


def test_the_text_of_the_qr_in_place_of_the_picture_is_not_stored(
    hostile_job: Job, hostile_server: HostileServer
) -> None:
    hostile_server.behave("shop", answering(json_body({"code": "2@text", "count": 1})))
    hostile_job.add_row("shop", qr_code=OLD_QR)
    assert errors(hostile_job) == {"shop": "No QR code available from Evolution API"}
    assert hostile_job.row("shop").qr_code == OLD_QR


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


# --- a kept connection that the server closes -----------------------------------------------------


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


def asked(server: HostileServer) -> list[tuple[str, int]]:
    return [(request.instance_name, request.connection) for request in server.requests]


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


# --- addresses ------------------------------------------------------------------------------------

# Real names with several addresses need a name server; what is simulated is only its answer.
TWO_ADDRESSES = """
    import socket
    resolve = socket.getaddrinfo
    def both(host, port, **options):
        return resolve({silent!r}, {port}, **options) + resolve(host, port, **options)
    socket.getaddrinfo = both
"""


async def good_then_close(exchange: Exchange) -> None:
    fields = head(Content_Length=len(hostile.GOOD_BODY), Connection="close")
    await exchange.send(fields + hostile.GOOD_BODY)


def test_an_address_that_swallows_packets_leaves_time_for_the_next(
    hostile_job: Job, hostile_server: HostileServer, server: Server
) -> None:
    for name in "abcd":
        hostile_server.behave(name, good_then_close)
        hostile_job.add_row(name)
    hostile_job.set(request_timeout="4 s", max_concurrency=2)
    with full_backlog(server.listen_host) as port:
        patch = TWO_ADDRESSES.format(silent=server.reachable_host, port=port)
        run_python(hostile_job.connection, patch)
        found, seconds = timed(hostile_job)
    assert found == dict.fromkeys("abcd")
    assert 2 <= seconds < 4, "half of the time for the first address, and that only once"


@pytest.mark.parametrize("host", ["[2001:db8::1]", "[2001:db8::beef]", "[::ffff:192.0.2.1]"])
def test_an_ipv6_address_needs_no_port(
    hostile_job: Job, hostile_server: HostileServer, host: str
) -> None:
    reached, port = hostile_server.base_url.removeprefix("http://").split(":")
    run_python(hostile_job.connection, ADDRESS_OF.format(host=reached, port=port))
    hostile_job.set(evolution_api_base_url=f"http://{host}")
    hostile_job.add_row("shop")
    assert errors(hostile_job) == {"shop": None}
    assert [request.headers["host"] for request in hostile_server.requests] == [host]


@pytest.mark.parametrize(
    "name", ["a/b", "a%2Fb", "a?b", "a#b", "a;b&c=d+e", "..%2f", "a\\b", "é日本", "x\r\nHost: y"]
)
def test_any_name_is_one_segment_behind_the_path_of_the_base_url(
    hostile_job: Job, hostile_server: HostileServer, name: str
) -> None:
    hostile_job.set(evolution_api_base_url=f"{hostile_server.base_url}/pre%20fix/v2/")
    hostile_job.add_row(name)
    assert errors(hostile_job) == {name: None}
    (request,) = hostile_server.requests
    assert request.instance_name == name
    assert request.path.rpartition("/")[0] == "/pre%20fix/v2/instance/connect"


# --- what the system gives ------------------------------------------------------------------------

NO_MORE_THREADS = """
    import resource
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
"""
# From within the first thread, so it is the only one.
ONE_THREAD = """
    import resource, socket
    resolve = socket.getaddrinfo
    def resolve_in_the_last_thread(*arguments, **options):
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
        return resolve(*arguments, **options)
    socket.getaddrinfo = resolve_in_the_last_thread
"""
LATE_THREADS = """
    import threading, time
    start = threading.Thread.start
    def start_late(thread):
        if threading.current_thread() is not threading.main_thread():
            time.sleep(1.7)
        start(thread)
    threading.Thread.start = start_late
"""
FEW_DESCRIPTORS = """
    import os, resource
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir('/proc/self/fd')))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, hard))
"""


def test_a_system_without_threads_is_reported_for_each_instance(hostile_job: Job) -> None:
    for name in "abc":
        hostile_job.add_row(name, qr_code=OLD_QR)
    run_python(hostile_job.connection, NO_MORE_THREADS)
    reason = "no thread could be started"
    assert errors(hostile_job) == {n: f"Failed to fetch QR for {n}: {reason}" for n in "abc"}
    assert hostile_job.row("a").qr_code == OLD_QR


def test_the_threads_that_there_are_do_the_work_of_those_that_could_not_start(
    hostile_job: Job, hostile_server: HostileServer
) -> None:
    for name in "abc":
        hostile_job.add_row(name)
    run_python(hostile_job.connection, ONE_THREAD)
    assert errors(hostile_job) == dict.fromkeys("abc")
    assert hostile_server.connections == 1


def test_a_thread_that_starts_late_leaves_its_instance_the_whole_timeout(hostile_job: Job) -> None:
    hostile_job.add_row("a")
    hostile_job.add_row("b")
    hostile_job.set(request_timeout="1500 ms", max_concurrency=2)
    run_python(hostile_job.connection, LATE_THREADS)
    assert errors(hostile_job) == {"a": None, "b": None}


def test_few_descriptors_make_a_run_longer_and_cost_nobody_an_attempt(
    hostile_job: Job, hostile_server: HostileServer
) -> None:
    for number in range(100):
        hostile_job.add_row(f"{number:02}")
    hostile_job.set(max_concurrency=100)
    hostile_job.run()
    open_before = sockets(hostile_job.connection)
    run_python(hostile_job.connection, FEW_DESCRIPTORS)
    assert set(errors(hostile_job).values()) == {None}
    assert len(hostile_server.requests) == 200
    assert sockets(hostile_job.connection) == open_before


MAY_OPEN = """
    import resource
    plpy.notice(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_many_servers_share_512_threads(
    hostile_job: Job,
    hostile_server: HostileServer,
    connect: Callable[[], Connection],
    record_property: Callable[[str, object], None],
) -> None:
    watcher, session = connect(), hostile_job.connection
    files = int(run_python(session, MAY_OPEN))
    if files < 2048:
        pytest.skip(f"504 calls at a time: a process may open {files} files here, ulimit -Hn 4096")
    run_python(session, "import requests")
    open_before = sockets(session)
    for number in range(12):
        url = f"{hostile_server.base_url}/{number}"
        session.execute("insert into qr_refresh.evolution_servers values (%s, %s)", (number, url))
        for i in range(60):
            hostile_server.behave(f"{number} {i}", hostile.never_answer)
            hostile_job.add_row(f"{number} {i}")
    session.execute(
        "update evolution_instances set evolution_server = split_part(instance_name, ' ', 1)"
    )
    hostile_job.set(request_timeout="60 s", run_timeout="60 s", max_concurrency=256)
    with ThreadPoolExecutor(1) as executor:
        run = executor.submit(hostile_job.run)
        wait_until(lambda: len(hostile_server.requests) == 504, "504 requests hang")
        assert threads(watcher, session.info.backend_pid) == 1 + 504
        begun_at = time.monotonic()
        watcher.execute("select pg_cancel_backend(%s)", (session.info.backend_pid,))
        assert isinstance(run.exception(15), psycopg.errors.QueryCanceled)
        seconds = time.monotonic() - begun_at
    record_property("seconds", round(seconds, 3))
    assert seconds < 1
    servers = Counter(request.path.split("/")[1] for request in hostile_server.requests)
    assert servers == {str(number): 42 for number in range(12)}
    wait_for_threads_to_end(session)
    assert sockets(session) == open_before


def test_bombs_and_floods_cost_the_backend_less_than_20_mb(
    hostile_job: Job,
    hostile_server: HostileServer,
    record_property: Callable[[str, object], None],
) -> None:
    bad = [hostile.gzip_bomb, *(behaviour for behaviour, _ in FLOODS)]
    hostile_job.add_row("a")
    open_before = sockets(hostile_job.connection)
    hostile_job.run()
    for number, behaviour in enumerate(bad * 4):
        hostile_server.behave(f"bad {number}", behaviour)
        hostile_job.add_row(f"bad {number}", qr_code=OLD_QR)
    forget_peak_memory(hostile_job.connection)
    before = memory(hostile_job.connection, "VmRSS")
    report = hostile_job.run()
    grown = memory(hostile_job.connection, "VmHWM") - before
    record_property("megabytes", round(grown / 1e6, 1))
    assert (report["refreshed"], report["failed"]) == (1, 4 * len(bad))
    assert grown < 20e6
    wait_for_threads_to_end(hostile_job.connection)
    assert sockets(hostile_job.connection) == open_before
