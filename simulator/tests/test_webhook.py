"""What the simulated Evolution API posts when an instance changes."""

from __future__ import annotations

from typing import Any

import pytest

from simulator import Clock, Instance
from simulator.picture import data_url
from simulator.webhook import Webhook


@pytest.fixture
def clock() -> Clock:
    return Clock(speed=0)


@pytest.fixture
def instance(clock: Clock) -> Instance:
    return Instance("one", "token-of-0", now=clock.now, qr_texts="QR {}".format)


def told(webhook: Webhook, instance: Instance) -> list[tuple[str, Any]]:
    """Event and what it says: the picture, the state or the message."""
    events = list(webhook.news(instance))
    assert all(e["instance"] == "one" and e["apikey"] == "token-of-0" for e in events)
    return [
        (
            e["event"],
            e["data"].get("state")
            or e["data"].get("message")
            or e["data"].get("qrcode", {}).get("base64"),
        )
        for e in events
    ]


def test_a_new_qr_code_is_told_once(clock: Clock, instance: Instance) -> None:
    webhook = Webhook("http://x")
    assert told(webhook, instance) == []  # it has been there
    clock.advance(44)
    assert told(webhook, instance) == []
    clock.advance(2)
    assert told(webhook, instance) == [("qrcode.updated", data_url("QR 2"))]
    assert told(webhook, instance) == []


def test_a_scan_is_told_and_not_the_qr_code_that_is_left_over(
    clock: Clock, instance: Instance
) -> None:
    webhook = Webhook("http://x")
    told(webhook, instance)
    instance.pairing_window = 0.3
    instance.scan()
    assert told(webhook, instance) == [("connection.update", "close")]
    clock.advance(0.4)
    assert told(webhook, instance) == [("connection.update", "open")]
    instance.logout()
    assert told(webhook, instance) == [("connection.update", "close")]
    instance.connect()
    assert told(webhook, instance) == [("connection.update", "connecting")]


def test_the_limit_is_told_as_the_real_one_does(clock: Clock, instance: Instance) -> None:
    webhook = Webhook("http://x")
    clock.advance(4 * (6 * 45 + 0.2) + 5 * 45 + 1)
    assert instance.qr is not None and instance.qr.count == 30
    told(webhook, instance)
    clock.advance(45)
    assert told(webhook, instance) == [
        ("qrcode.updated", "QR code limit reached, please login again"),
        ("connection.update", "close"),
    ]
