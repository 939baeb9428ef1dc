"""The readers of the HTTP client on arbitrary bytes: a picture, a state, or a short reason.

FUZZ_EXAMPLES sets the number of cases for each test.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.functions.http.evolution_client import FailedError, read_qr_code, read_state, unpacked
from simulator.hostile import GOOD_BODY

PREFIX = "data:image/png;base64,"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
LARGEST = 262144
REASON = re.compile(r"[A-Za-z0-9 '-]{3,60}")

GOOD = json.loads(GOOD_BODY)
PNG = base64.b64decode(GOOD["base64"].removeprefix(PREFIX), validate=True)
COMPRESSIONS: list[Callable[[bytes], bytes]] = [gzip.compress, zlib.compress]
fuzz = hypothesis.settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "500")),
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


def read_answer(status: int, body: bytes) -> tuple[str, str | None, str | None]:
    """The outcome, the QR code and the reason of a failure; any other exception fails the test."""
    try:
        outcome, qr_code, number = read_qr_code(status, unpacked(body))
    except FailedError as error:
        return "failed", None, str(error)
    assert number is None or (outcome == "qr_code" and 0 < number < 2**31)
    return outcome, qr_code, None


def state_in(status: int, body: bytes) -> tuple[str | None, str | None]:
    """The state, and the reason of a failure; any other exception fails the test."""
    try:
        return read_state(status, unpacked(body)), None
    except FailedError as error:
        return None, str(error)


def check(status: int, body: bytes) -> str:
    """Assert everything that holds for every answer; return the outcome."""
    outcome, qr_code, error = read_answer(status, body)
    assert outcome in ("qr_code", "no_qr_code", "connected", "failed")
    assert (qr_code is not None) == (outcome == "qr_code")
    assert (error is not None) == (outcome == "failed")
    if error is not None:
        assert REASON.fullmatch(error), "a short reason, without what came from outside"
    if qr_code is not None:
        assert status == 200
        assert len(body) <= LARGEST
        encoded = qr_code.removeprefix(PREFIX)
        assert encoded != qr_code
        # Strictly: the RFC's alphabet in whole groups, and nothing that a decoder would skip.
        assert re.fullmatch(
            r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", encoded
        )
        assert base64.b64decode(encoded, validate=True).startswith(SIGNATURE)
        # PostgreSQL's text takes no NUL, and the picture must come from this body.
        assert "\0" not in qr_code
        assert encoded.encode()[:60] in body.replace(b"\\/", b"/").replace(b"\0", b"")
    return outcome


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


STATES = ["open", "connecting", "close"]
SMALL = encoded(PNG[:33] + PNG[-12:])
statuses = st.one_of(st.just(200), st.integers(100, 999), st.sampled_from([201, 204, 304, 500]))
pictures = st.one_of(
    st.binary(max_size=200).map(encoded),
    st.binary(max_size=200).map(lambda tail: encoded(SIGNATURE + tail)),
    st.binary(max_size=200).map(lambda middle: encoded(SIGNATURE + middle + PNG[-12:])),
    st.binary(max_size=200).map(lambda start: encoded(start + PNG[-12:])),
    st.integers(0, len(PNG)).map(lambda size: encoded(PNG[:size])),
    st.text(max_size=50),
)
strings = st.one_of(
    st.text(),
    st.text(alphabet=st.characters(categories=["Cs", "Cc", "L"])),
    pictures,
    pictures.map(PREFIX.__add__),
    st.tuples(
        st.sampled_from([" ", "\n", "=", PREFIX, "data:image/svg+xml;base64,"]), pictures
    ).map("".join),
    st.tuples(pictures, st.sampled_from([" ", "\n", "=", "==", "?"])).map("".join),
)
keys = st.one_of(
    st.sampled_from(["base64", "qrcode", "code", "error", "instance", "state", "count", "message"]),
    st.text(max_size=5),
)
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), strings, st.sampled_from(STATES)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=5)),
    max_leaves=10,
)
bodies = st.one_of(
    st.binary(),
    st.binary().map(lambda junk: junk + GOOD_BODY),
    st.binary(min_size=1).map(lambda junk: GOOD_BODY + junk),
    st.integers(0, len(GOOD_BODY)).map(lambda size: GOOD_BODY[:size]),
    st.builds(
        lambda value, codec: json.dumps(value).encode(codec),
        values,
        st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32-be"]),
    ),
    st.builds(
        lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"), values
    ),
    st.builds(lambda value: json.dumps({"base64": value}).encode(), strings),
    st.builds(lambda value: json.dumps({"qrcode": {"base64": value}}).encode(), strings),
    st.builds(
        lambda depth, mark: mark * depth,
        st.integers(1, 200_000),
        st.sampled_from([b"[", b'{"a":', b'{"base64":[', b"-", b"9", b'"', b"\\", b" ", b"\xff"]),
    ),
)


@fuzz
@given(status=statuses, body=bodies)
def test_no_answer_raises_and_only_pictures_are_qr_codes(status: int, body: bytes) -> None:
    check(status, body)


@fuzz
@given(
    status=statuses,
    body=st.one_of(
        bodies,
        values.map(lambda value: json.dumps({"instance": value}).encode()),
        values.map(lambda value: json.dumps({"instance": {"state": value}}).encode()),
    ),
)
def test_no_answer_about_a_state_raises_and_a_state_is_one_that_was_sent(
    status: int, body: bytes
) -> None:
    state, error = state_in(status, body)
    assert error is None or REASON.fullmatch(error)
    if state is not None:
        assert error is None
        assert status == 200
        assert state in STATES
        assert json.loads(body)["instance"]["state"] == state


@fuzz
@given(position=st.integers(0, len(GOOD_BODY) - 1), byte=st.integers(0, 255))
def test_a_good_answer_with_one_other_byte_is_read_or_refused(position: int, byte: int) -> None:
    check(200, GOOD_BODY[:position] + bytes([byte]) + GOOD_BODY[position + 1 :])


@fuzz
@given(chunk=st.binary(max_size=2000), status=statuses)
def test_every_whole_picture_is_accepted_with_status_200_and_with_no_other(
    chunk: bytes, status: int
) -> None:
    # Any chunk of its own between the header and the end leaves a PNG a PNG.
    length, checksum = len(chunk).to_bytes(4, "big"), zlib.crc32(b"teXt" + chunk).to_bytes(4, "big")
    picture = encoded(PNG[:33] + length + b"teXt" + chunk + checksum + PNG[33:])
    shapes: list[Any] = [
        {"base64": PREFIX + picture, "count": 1},
        {"base64": picture},
        {"qrcode": {"base64": PREFIX + picture}},
        {"qrcode": PREFIX + picture, "error": False},
        PREFIX + picture,
    ]
    for shape in shapes:
        body = json.dumps(shape).encode()
        expected = "qr_code" if status == 200 else "failed"
        assert check(status, body) == expected
        if status == 200:
            assert read_answer(200, body) == ("qr_code", PREFIX + picture, None)


@fuzz
@given(
    at=st.integers(0, len(SMALL)),
    junk=st.text(alphabet="\0\r\n -_=?\u00e9\ud800", min_size=1, max_size=3),
)
def test_a_picture_with_anything_in_its_base64_that_does_not_belong_there_is_refused(
    at: int, junk: str
) -> None:
    assert check(200, json.dumps({"base64": PREFIX + SMALL}).encode()) == "qr_code"
    spoiled = SMALL[:at] + junk + SMALL[at:]
    assert check(200, json.dumps({"base64": PREFIX + spoiled}).encode()) == "failed"


@pytest.mark.parametrize("size", [LARGEST, LARGEST + 1])
def test_the_largest_answer_that_is_read_has_256_kb(size: int) -> None:
    body = GOOD_BODY + b" " * (size - len(GOOD_BODY))
    assert check(200, body) == ("qr_code" if size == LARGEST else "failed")


@fuzz
@given(body=bodies, compress=st.sampled_from(COMPRESSIONS), data=st.data())
def test_a_compressed_body_is_unpacked_and_a_broken_one_raises_nothing_of_its_own(
    body: bytes, compress: Callable[[bytes], bytes], data: st.DataObject
) -> None:
    packed = compress(body[:LARGEST])
    assert unpacked(packed) == body[:LARGEST]
    position = data.draw(st.integers(0, len(packed) - 1))
    broken = packed[:position] + data.draw(st.binary(max_size=2)) + packed[position + 1 :]
    try:
        left = unpacked(broken)
    except FailedError as error:
        assert str(error) == "answer is over 256 kB"
    else:
        check(200, left)
