"""read_qr_code(), read_state() and unpacked() on what the real Evolution API has answered."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from db.functions.http.evolution_client import FailedError, read_qr_code, read_state, unpacked
from db.order import ROOT
from tools.job import PNG_URL, read_qr

CAPTURES = ROOT / "simulator" / "captures"
QR = ["03_close_then_qr_2s", "04_connecting_with_qr", "v1/04_connecting_qr"]
CONNECTED = ["51_open", "54_cloud_api_instance", "v1/20_open"]
NO_QR = [
    "01_close_to_connecting_no_qr_yet",
    "02_connecting_no_qr_yet",
    "90_wa_rejects_close",
    "v1/01_close_no_qr",
]
FAILED = {
    "10_missing_key": "401 Unauthorized",
    "20_unknown_instance_global_key": "404 Not Found",
    "60_in_db_not_in_memory": "Evolution API reports an error",
    "v1/14_on_disk_not_in_memory": "answer is empty",
}


STATES = {
    "06_connectionState_connecting": ("connecting", None),
    "33_connectionState_unknown": (None, "404 Not Found"),
    "52_connectionState_open": ("open", None),
    "60_in_db_not_in_memory": (None, "Evolution API reports an error"),
    "v1/14_on_disk_not_in_memory": (None, "answer is empty"),
}


def read(status: int, body: bytes) -> tuple[str, str | None, str | None]:
    """The outcome, the QR code and the reason of a failure."""
    try:
        return *read_qr_code(status, body)[:2], None
    except FailedError as error:
        return "failed", None, str(error)


def state_in(status: int, body: bytes) -> tuple[str | None, str | None]:
    """The state, and the reason of a failure."""
    try:
        return read_state(status, body), None
    except FailedError as error:
        return None, str(error)


def capture(name: str) -> tuple[int, bytes]:
    headers = (CAPTURES / f"{name}.headers.txt").read_text(encoding="utf-8")
    status = int(headers.split("HTTP/1.1 ")[1][:3])
    return status, (CAPTURES / f"{name}.body.json").read_bytes()


def read_capture(name: str) -> tuple[str, str | None, str | None]:
    return read(*capture(name))


@pytest.mark.parametrize("name", QR)
def test_a_captured_qr_is_taken_as_it_is_and_can_be_read(name: str) -> None:
    outcome, qr_code, error = read_capture(name)
    answer = json.loads((CAPTURES / f"{name}.body.json").read_bytes())
    assert (outcome, qr_code, error) == ("qr_code", answer["base64"], None)
    assert read_qr(qr_code) == answer["code"]


@pytest.mark.parametrize("name", QR)
def test_a_captured_qr_says_how_manieth_it_is(name: str) -> None:
    assert read_qr_code(*capture(name))[2] == json.loads(capture(name)[1])["count"]


@pytest.mark.parametrize("number", [0, -1, 10**9, 1.5, "6", True, None, [6]])
def test_a_number_that_cannot_be_is_not_taken_and_the_qr_code_is(number: object) -> None:
    answer = json.loads(capture("04_connecting_with_qr")[1]) | {"count": number}
    outcome, picture, found = read_qr_code(200, json.dumps(answer).encode())
    assert (outcome, picture, found) == ("qr_code", answer["base64"], None)


@pytest.mark.parametrize("name", CONNECTED)
def test_a_captured_open_means_connected(name: str) -> None:
    assert read_capture(name) == ("connected", None, None)


@pytest.mark.parametrize("name", NO_QR)
def test_a_captured_count_without_a_picture_means_no_qr(name: str) -> None:
    assert read_capture(name) == ("no_qr_code", None, None)


@pytest.mark.parametrize("name", FAILED)
def test_a_captured_failure_has_a_short_reason(name: str) -> None:
    assert read_capture(name) == ("failed", None, FAILED[name])


NOT_EVOLUTION = "404 Not Found by something before Evolution API"


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (404, b"404 page not found\n", NOT_EVOLUTION),  # Traefik
        (404, b"<html><h1>404 Not Found</h1></html>", NOT_EVOLUTION),  # nginx
        (404, b"", NOT_EVOLUTION),
        (404, b'{"status":404,"error":"Not Found"}', "404 Not Found"),
        (
            503,
            b'{"error":"service not activated","code":"LICENSE_REQUIRED"}',
            "Evolution API needs its license activated",
        ),
        (503, b'{"code":"ANOTHER"}', "503 Service Unavailable"),
        (503, b"<html></html>", "503 Service Unavailable"),
        (301, b"", "301 Moved Permanently"),
        (200, b"null", "answer is not a JSON object"),
        (200, b"<html></html>", "answer is not JSON"),
    ],
)
def test_who_has_answered_is_told_by_the_body(status: int, body: bytes, reason: str) -> None:
    assert read(status, body) == ("failed", None, reason)
    assert state_in(status, body) == (None, reason)


def test_a_picture_without_prefix_gets_it() -> None:
    body = (CAPTURES / "04_connecting_with_qr.body.json").read_bytes()
    picture = json.loads(body)["base64"]
    bare = json.dumps({"base64": picture.removeprefix(PNG_URL)}).encode()
    assert read(200, bare) == ("qr_code", picture, None)


def test_a_picture_that_was_cut_short_is_not_taken() -> None:
    picture = json.loads((CAPTURES / "04_connecting_with_qr.body.json").read_bytes())["base64"]
    cut = json.dumps({"base64": picture[: len(PNG_URL) + 4000]}).encode()
    assert read(200, cut) == ("failed", None, "QR code is not a PNG picture")


LARGEST = b"[" + b" " * 262_142 + b"]"
COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "not": bytes,
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "zlib without effort": lambda body: zlib.compress(body, 0),
}


@pytest.mark.parametrize("how", COMPRESSED)
def test_a_body_of_256_kb_is_read_and_a_larger_one_is_not(how: str) -> None:
    compress = COMPRESSED[how]
    assert unpacked(compress(LARGEST)) == LARGEST
    with pytest.raises(FailedError, match="^answer is over 256 kB$"):
        unpacked(compress(LARGEST + b" "))


@pytest.mark.parametrize("how", COMPRESSED)
def test_a_captured_body_is_the_same_however_it_was_compressed(how: str) -> None:
    status, body = capture("04_connecting_with_qr")
    assert read(status, unpacked(COMPRESSED[how](body))) == read(status, body)


def test_of_a_bomb_no_more_than_256_kb_are_unpacked() -> None:
    bomb = gzip.compress(bytes(1 << 28))
    tracemalloc.start()
    try:
        with pytest.raises(FailedError, match="^answer is over 256 kB$"):
            unpacked(bomb)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("body", [b"", b"\x1f", b"\x1f\x8b\x08", b"x", b"\x78\x9c junk", b"{}"])
def test_what_only_begins_like_a_compressed_body_is_left_as_it_is_or_is_no_json(
    body: bytes,
) -> None:
    assert read(200, unpacked(body))[0] in ("failed", "no_qr_code")


@pytest.mark.parametrize("name", STATES)
def test_a_captured_state_is_read(name: str) -> None:
    assert state_in(*capture(name)) == STATES[name]


@pytest.mark.parametrize(
    ("instance", "state"),
    [({"state": "close"}, "close"), ({"instanceName": "x"}, None), ({"state": ["open"]}, None)],
)
def test_a_state_is_one_of_three_or_none(instance: dict[str, Any], state: str | None) -> None:
    body = json.dumps({"instance": instance}).encode()
    assert state_in(200, body) == (state, None)
