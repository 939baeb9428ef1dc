"""A server that lies: nothing but a whole picture is stored."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import zlib
from collections.abc import Callable

import pytest

from simulator import hostile
from simulator.hostile import Behaviour, Exchange, HostileServer, head
from tests.http.client import Client
from tests.http.misbehaviour import answering, asked, errors, qr_body
from tools.job import OLD_QR, PNG_URL, Job, read_qr


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


async def half_a_head(exchange: Exchange) -> None:
    await exchange.send(head(Content_Length=len(hostile.GOOD_BODY))[:40])


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
    "gzip bomb": (hostile.gzip_bomb, "answer is over 256 kB"),
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
    "half a head": (half_a_head, "answer is empty"),
    "304": (hostile.not_modified, "304 Not Modified"),
    "304 with length": (not_modified_with_length, "304 Not Modified"),
    "201 with a QR": (answering(hostile.GOOD_BODY, "201 Created"), "201 Created"),
    "500 with a QR": (answering(hostile.GOOD_BODY, "500 Oops"), "500 Internal Server Error"),
    "bad redirect": (hostile.redirect(302, "http://[nope"), "302 Found"),
    "redirect to nowhere": (hostile.redirect(308, ""), "308 Permanent Redirect"),
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


@pytest.mark.parametrize("name", FOOLING)
def test_an_answer_that_fools_is_told_as_a_failure_and_leaves_nothing_to_the_next(
    client: Client, api: HostileServer, name: str
) -> None:
    behaviour, reason = FOOLING[name]
    client.ask("warm")
    api.behave("shop", behaviour)
    api.behave("then", answering(qr_body("another")))
    answer = client.ask("shop")
    assert (answer["outcome"], answer["error"], answer["qr_code"]) == ("failed", reason, None)
    assert read_qr(client.ask("then")["qr_code"]) == "another"


ENCODINGS = ["Identity", "identity", "none", "UTF-8", "gzip", "deflate", "br", None]


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, zlib.compress], ids=["plain", "gzip", "zlib"]
)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_body_is_read_whatever_content_encoding_says(
    client: Client, api: HostileServer, pack: Callable[[bytes], bytes], encoding: str | None
) -> None:
    fields: dict[str, str] = {"Content_Encoding": encoding} if encoding else {}

    async def answer(exchange: Exchange) -> None:
        body = pack(hostile.GOOD_BODY)
        await exchange.send(head(Content_Length=len(body), **fields) + body)
        exchange.keep_open = True

    api.behave("shop", answer)
    assert read_qr(client.ask("shop")["qr_code"]) == hostile.QR_CODE.code
    assert client.ask("then")["outcome"] == "qr_code"
    assert asked(api) == [("shop", 1), ("then", 1)]


def test_a_compressed_answer_is_stored(hostile_job: Job, hostile_server: HostileServer) -> None:
    hostile_server.behave("shop", answering(gzip.compress(hostile.GOOD_BODY)))
    hostile_job.add_row("shop")
    assert errors(hostile_job) == {"shop": None}
    assert read_qr(hostile_job.row("shop").qr_code) == hostile.QR_CODE.code


HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"


def after_hints(count: int, apart: bool, rest: bytes) -> Behaviour:
    async def answer(exchange: Exchange) -> None:
        for _ in range(count):
            await exchange.send(HINT)
            if apart:
                await asyncio.sleep(0.02)
        await exchange.send(rest)
        exchange.keep_open = True

    return answer


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_early_hints_are_not_the_answer(
    client: Client, api: HostileServer, count: int, apart: bool
) -> None:
    good = head(Content_Length=len(hostile.GOOD_BODY)) + hostile.GOOD_BODY
    bad = head("500 Oops", Content_Length=2) + b"{}"
    api.behave("shop", after_hints(count, apart, good), after_hints(count, apart, bad))
    assert read_qr(client.ask("shop")["qr_code"]) == hostile.QR_CODE.code
    answer = client.ask("shop")
    assert (answer["outcome"], answer["error"]) == ("failed", "500 Internal Server Error")
    assert client.ask("then")["outcome"] == "qr_code"


def test_early_hints_before_a_body_in_chunks_or_too_large_change_nothing(
    client: Client, api: HostileServer
) -> None:
    chunk = f"{len(hostile.GOOD_BODY):x}\r\n".encode() + hostile.GOOD_BODY + b"\r\n0\r\n\r\n"
    api.behave("chunks", after_hints(1, False, head(Transfer_Encoding="chunked") + chunk))
    large = hostile.PIECE * 5
    api.behave("large", after_hints(1, False, head(Content_Length=len(large)) + large))
    assert client.ask_in_turn("chunks", "large", "then") == {
        "chunks": None,
        "large": "answer is over 256 kB",
        "then": None,
    }


def test_hints_without_end_are_not_followed(client: Client, api: HostileServer) -> None:
    async def flood(exchange: Exchange) -> None:
        await exchange.flood(b"", HINT)

    api.behave("shop", flood)
    answer = client.ask("shop")
    assert answer["outcome"] == "failed"
    assert answer["elapsed"] < 4, "the time-out of a request is 8 s"
    assert client.ask("then")["outcome"] == "qr_code"


def test_early_hints_before_a_qr_code_do_not_keep_it_from_being_stored(
    hostile_job: Job, hostile_server: HostileServer
) -> None:
    good = head(Content_Length=len(hostile.GOOD_BODY)) + hostile.GOOD_BODY
    hostile_server.behave("shop", after_hints(2, False, good))
    hostile_job.add_row("shop")
    assert errors(hostile_job) == {"shop": None}
    assert read_qr(hostile_job.row("shop").qr_code) == hostile.QR_CODE.code


def test_the_text_of_the_qr_in_place_of_the_picture_is_not_stored(
    hostile_job: Job, hostile_server: HostileServer
) -> None:
    hostile_server.behave("shop", answering(json_body({"code": "2@text", "count": 1})))
    hostile_job.add_row("shop", qr_code=OLD_QR)
    assert errors(hostile_job) == {"shop": "No QR code available from Evolution API"}
    assert hostile_job.row("shop").qr_code == OLD_QR
