"""The simulator held against every answer that was captured from real servers."""

import base64
import io
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import pytest
import zxingcpp
from PIL import Image

from simulator import Clock, Simulator, running_simulator
from simulator.answers import etag

CAPTURES = Path(__file__).parents[1] / "captures"
GLOBAL_KEY = "THE-GLOBAL-KEY"
# Not answers to one request; test_instance holds the state machine against it.
OTHER_CAPTURES = {"timeline_rotation.txt"}


@dataclass(frozen=True)
class Capture:
    method: str
    path: str
    request_headers: dict[str, str]
    took: float
    status: int
    reason: str
    headers: dict[str, str]
    body: bytes


def read_capture(name: str) -> Capture:
    request, took, status_line, *fields = (
        (CAPTURES / f"{name}.headers.txt").read_text().splitlines()
    )
    match = re.fullmatch(r"# (\S+) (\S+)  request headers=(.*?) note=.*", request)
    assert match, request
    key = re.fullmatch(r"\{'apikey': '(.*)'\}", match[3])
    _, status, reason = status_line.split(" ", 2)
    return Capture(
        match[1],
        match[2],
        {"apikey": key[1]} if key else {},
        float(took.removeprefix("# took ").removesuffix("s")),
        int(status),
        reason,
        dict(field.split(": ", 1) for field in fields if field),
        (CAPTURES / f"{name}.body.json").read_bytes(),
    )


def v1_qr_token() -> str:
    return read_capture("v1/04_connecting_qr").request_headers["apikey"]


World: TypeAlias = dict[str, object]
# What each captured server had: the arguments of add_instance, none where nothing existed.
NO_QR = 1000.0
FRESH: World = {"name": "cap-fresh", "token": "TOKEN-cap-fresh-0001"}
NOQR: World = {"name": "cap-noqr", "token": "TOKEN-cap-noqr-0001", "qr_delay": NO_QR}
OPEN: World = {"name": "cap-open", "token": "TOKEN-cap-open-0001", "state": "open"}
WORLDS: dict[str, World | None] = {
    "01_close_to_connecting_no_qr_yet": {**NOQR, "state": "close"},
    "02_connecting_no_qr_yet": NOQR,
    "03_close_then_qr_2s": {**FRESH, "state": "close"},
    "04_connecting_with_qr": FRESH,
    "06_connectionState_connecting": FRESH,
    "10_missing_key": FRESH,
    "12_wrong_key": FRESH,
    "13_other_instance_token": FRESH,
    "20_unknown_instance_global_key": None,
    "21_unknown_instance_wrong_key": None,
    "23_no_name": None,
    "25_post_instead_of_get": FRESH,
    "27_double_slash": FRESH,
    "33_connectionState_unknown": None,
    "51_open": OPEN,
    "52_connectionState_open": OPEN,
    "54_cloud_api_instance": {
        "name": "cap-cloud",
        "token": "TOKEN-cap-cloud-0001",
        "state": "open",
    },
    "60_in_db_not_in_memory": {
        "name": "cap-dbonly",
        "token": "TOKEN-cap-dbonly-0001",
        "state": "not_in_memory",
    },
    "90_wa_rejects_close": {
        "name": "cap-reject",
        "token": "TOKEN-cap-reject-0001",
        "state": "close",
    },
    "v1/01_close_no_qr": {
        "name": "v1-noqr",
        "token": "TOKEN-v1-noqr",
        "state": "close",
        "flavour": "v1",
        "qr_delay": NO_QR,
    },
    "v1/04_connecting_qr": {"name": "v1-qr", "token": v1_qr_token(), "flavour": "v1"},
    "v1/11_wrong_key": {"name": "v1-qr", "token": v1_qr_token(), "flavour": "v1"},
    "v1/12_unknown_instance": None,
    "v1/14_on_disk_not_in_memory": {
        "name": "v1-dironly",
        "token": "never-sent",
        "state": "not_in_memory",
        "flavour": "v1",
    },
    "v1/20_open": {"name": "v1-qr", "token": v1_qr_token(), "flavour": "v1", "state": "open"},
}


@pytest.fixture(scope="module")
def server() -> Iterator[Simulator]:
    with running_simulator(clock=Clock(speed=0), global_key=GLOBAL_KEY) as simulator:
        yield simulator


@pytest.fixture
def simulator(server: Simulator) -> Simulator:
    server.reset()
    return server


def build_world(simulator: Simulator, name: str) -> None:
    world = WORLDS[name]
    if world:
        simulator.add_instance(**world)  # type: ignore[arg-type]
    if name == "90_wa_rejects_close":
        simulator.start_outage()


def ask(simulator: Simulator, capture: Capture) -> tuple[HTTPResponse, bytes, float]:
    """Send the captured request and return the answer, its body and the seconds it took.

    http.client leaves a path as it is. The server's clock stands still but for its sleeps.
    """
    connection = HTTPConnection(urlsplit(simulator.base_url).netloc, timeout=10)
    try:
        began = time.monotonic() + simulator.clock.now()
        connection.request(capture.method, capture.path, headers=capture.request_headers)
        response = connection.getresponse()
        body = response.read()
        return response, body, time.monotonic() + simulator.clock.now() - began
    finally:
        connection.close()


def masked(body: bytes) -> object:
    """Return a body with the values that differ from QR to QR replaced by their shape."""
    if not body:
        return body
    parsed = json.loads(body)
    if "code" not in parsed:
        return body
    parsed["code"] = [len(part) for part in parsed["code"].split(",")]
    prefix, _, picture = parsed["base64"].partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(picture, validate=True)))
    colours = {colour for _, colour in image.getcolors() or []}
    parsed["base64"] = [prefix, image.format, image.size, image.mode, colours]
    return list(parsed.items())


def masked_headers(headers: dict[str, str], body: bytes) -> dict[str, str]:
    """Return headers without the values that differ from QR to QR and from second to second."""
    result = headers | {"Date": "…"} if "Date" in headers else dict(headers)
    if b'"code"' in body:
        result |= {"ETag": "…", "Content-Length": "…"}
    return result


def timing_class(seconds: float) -> str:
    return "at once" if seconds < 1 else "2 s" if seconds < 3.5 else "5 s"


def test_every_capture_has_a_case() -> None:
    captured = {str(path.relative_to(CAPTURES)) for path in CAPTURES.rglob("*") if path.is_file()}
    covered = {f"{name}{end}" for name in WORLDS for end in (".body.json", ".headers.txt")}
    assert captured == covered | OTHER_CAPTURES


@pytest.mark.parametrize("name", WORLDS)
def test_the_simulator_answers_as_the_real_server_did(simulator: Simulator, name: str) -> None:
    capture = read_capture(name)
    build_world(simulator, name)
    response, body, took = ask(simulator, capture)
    assert (response.status, response.reason) == (capture.status, capture.reason)
    assert masked(body) == masked(capture.body)
    assert masked_headers(dict(response.getheaders()), body) == masked_headers(
        capture.headers, capture.body
    )
    assert timing_class(took) == timing_class(capture.took)


@pytest.mark.parametrize(
    "name", [name for name in WORLDS if (CAPTURES / f"{name}.body.json").stat().st_size]
)
def test_the_etag_is_the_one_that_express_computes(name: str) -> None:
    capture = read_capture(name)
    assert etag(capture.body) == capture.headers["ETag"]


@pytest.mark.parametrize(
    "name", ["03_close_then_qr_2s", "04_connecting_with_qr", "v1/04_connecting_qr"]
)
def test_a_qr_answer_carries_its_code_as_a_picture_of_the_real_size(
    simulator: Simulator, name: str
) -> None:
    capture = read_capture(name)
    build_world(simulator, name)
    response, body, _ = ask(simulator, capture)
    for answer in (json.loads(body), json.loads(capture.body)):
        assert 13_100 <= len(answer["base64"]) <= 13_900
        picture = base64.b64decode(answer["base64"].partition(",")[2], validate=True)
        [symbol] = zxingcpp.read_barcodes(Image.open(io.BytesIO(picture)))
        assert symbol.text == answer["code"]
    assert response.headers["ETag"] == etag(body)
    assert response.headers["Content-Length"] == str(len(body))
