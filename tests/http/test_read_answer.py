"""read_answer() and read_state() on what the real Evolution API has answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from db.order import ROOT
from tools.derive_python_bodies import load
from tools.job import PNG_URL, read_qr
from tools.plpy_types import Plpy

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


def readers() -> dict[str, Any]:
    gd: dict[str, Any] = {}
    load("define_answer_reader", Plpy(), gd)()
    return gd


def read(status: int, body: bytes) -> tuple[str, str | None, str | None]:
    outcome, qr_code, error = readers()["qr_refresh.read_answer"](status, body)
    return outcome, qr_code, error


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


@pytest.mark.parametrize("name", CONNECTED)
def test_a_captured_open_means_connected(name: str) -> None:
    assert read_capture(name) == ("connected", None, None)


@pytest.mark.parametrize("name", NO_QR)
def test_a_captured_count_without_a_picture_means_no_qr(name: str) -> None:
    assert read_capture(name) == ("no_qr_code", None, None)


@pytest.mark.parametrize("name", FAILED)
def test_a_captured_failure_has_a_short_reason(name: str) -> None:
    assert read_capture(name) == ("failed", None, FAILED[name])


def test_a_picture_without_prefix_gets_it() -> None:
    body = (CAPTURES / "04_connecting_with_qr.body.json").read_bytes()
    picture = json.loads(body)["base64"]
    bare = json.dumps({"base64": picture.removeprefix(PNG_URL)}).encode()
    assert read(200, bare) == ("qr_code", picture, None)


def test_a_picture_that_was_cut_short_is_not_taken() -> None:
    picture = json.loads((CAPTURES / "04_connecting_with_qr.body.json").read_bytes())["base64"]
    cut = json.dumps({"base64": picture[: len(PNG_URL) + 4000]}).encode()
    assert read(200, cut) == ("failed", None, "QR code is not a PNG picture")


def test_a_body_over_256_kb_is_not_read() -> None:
    assert read(200, b" " * 262_145) == ("failed", None, "answer is over 256 kB")


@pytest.mark.parametrize("name", STATES)
def test_a_captured_state_is_read(name: str) -> None:
    assert readers()["qr_refresh.read_state"](*capture(name)) == STATES[name]


@pytest.mark.parametrize(
    ("instance", "state"),
    [({"state": "close"}, "close"), ({"instanceName": "x"}, None), ({"state": ["open"]}, None)],
)
def test_a_state_is_one_of_three_or_none(instance: dict[str, Any], state: str | None) -> None:
    body = json.dumps({"instance": instance}).encode()
    assert readers()["qr_refresh.read_state"](200, body) == (state, None)
