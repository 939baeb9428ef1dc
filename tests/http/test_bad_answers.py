"""A server that lies: nothing but a whole picture is stored."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from simulator import hostile
from simulator.hostile import Behaviour, Exchange, HostileServer, head
from tests.http.misbehaviour import answering, errors, qr_body
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
