"""LISTEN qr_refresh: who listens hears of each QR code that is stored, when it is committed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import psycopg
import pytest

from simulator import error_answer
from tools.job import Connection, Job


@pytest.fixture
def listener(connect: Callable[[], Connection]) -> Connection:
    connection = connect()
    connection.execute("listen qr_refresh")
    return connection


def heard(listener: Connection, expected: int) -> list[dict[str, Any]]:
    """Return what has arrived, as soon as it is as much as expected.

    Where nothing is expected, a message of our own marks the end: they arrive in the order of the
    commits.
    """
    if expected == 0:
        listener.execute("notify qr_refresh, 'end'")
        (message,) = listener.notifies(timeout=30, stop_after=1)
        return [] if message.payload == "end" else [json.loads(message.payload)]
    return [json.loads(m.payload) for m in listener.notifies(timeout=30, stop_after=expected)]


def test_each_stored_qr_code_is_told_with_its_name_and_time(job: Job, listener: Connection) -> None:
    names = ["shop", 'with "quotes" and \\', "été 🤳"]
    for name in names:
        job.add(name)
    job.add("bad").answer_with = error_answer(500, "Internal Server Error", "boom")
    job.add_row("done", status="connected")
    job.run()
    begun_at = time.monotonic()
    messages = heard(listener, len(names))
    assert time.monotonic() - begun_at < 5
    assert sorted(message["instance_name"] for message in messages) == sorted(names)
    for message in messages:
        assert set(message) == {"instance_name", "last_qr_update"}
        stored_at = job.row(message["instance_name"]).last_qr_update
        assert datetime.fromisoformat(message["last_qr_update"]) == stored_at
    assert heard(listener, 0) == []


def test_the_message_comes_with_the_commit_and_not_without_it(
    job: Job, listener: Connection
) -> None:
    job.add("shop")
    with pytest.raises(ZeroDivisionError), job.connection.transaction():
        assert job.run()["refreshed"] == 1
        raise ZeroDivisionError
    assert heard(listener, 0) == []
    with job.connection.transaction():
        job.run()
        assert heard(listener, 0) == []
    assert [message["instance_name"] for message in heard(listener, 1)] == ["shop"]


def test_a_row_that_is_refused_is_not_told_and_the_others_are(
    job: Job, listener: Connection
) -> None:
    job.add("good")
    job.add("bad")
    job.connection.execute(
        "alter table evolution_instances add check (instance_name <> 'bad' or qr_code is null)"
    )
    job.run()
    assert [message["instance_name"] for message in heard(listener, 1)] == ["good"]
    assert heard(listener, 0) == []


def test_a_qr_code_that_is_cleared_because_it_was_scanned_is_told_too(
    job: Job, listener: Connection
) -> None:
    job.set(connected_status="connected")
    job.connection.execute(
        "grant update (instance_status) on evolution_instances to qr_refresh_owner"
    )
    job.add("shop")
    job.run()
    assert len(heard(listener, 1)) == 1
    job.simulator.scan("shop")
    job.tick()
    assert heard(listener, 0) == [], "not due yet"
    job.let_time_pass(60)
    job.tick()
    (message,) = heard(listener, 1)
    row = job.row("shop")
    assert (row.instance_status, row.qr_code) == ("connected", None)
    assert message["instance_name"] == "shop"
    assert datetime.fromisoformat(message["last_qr_update"]) == row.last_qr_update


@pytest.mark.parametrize("character", ["🤳", "\x01", '"', "\\"])
def test_the_longest_name_fits_into_a_message(
    job: Job, listener: Connection, character: str
) -> None:
    job.add(character * 255)
    # One that is longer cannot be asked for, and does no harm.
    job.add_row(character * 9000)
    report = job.run()
    assert (report["refreshed"], report["failed"]) == (1, 1)
    assert [message["instance_name"] for message in heard(listener, 1)] == [character * 255]


def test_a_setting_turns_the_messages_off(job: Job, listener: Connection) -> None:
    job.set(notify=False)
    job.add("shop")
    assert job.run()["refreshed"] == 1
    assert heard(listener, 0) == []
    with pytest.raises(psycopg.errors.NotNullViolation):
        job.set(notify=None)
