"""Each column of the views, one by one, where no two of them could be taken for each other."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.monitoring.views import row, rows
from tools.job import Job


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


# How long this machine may take between what is written here and what the views say.
PATIENCE = seconds(9)


@pytest.fixture
def now(job: Job) -> datetime:
    moment: datetime = job.value("select clock_timestamp()")
    return moment


def remember(job: Job, name: str, outcome: str, now: datetime, **columns: Any) -> None:
    """Add an instance, and what the job knows of it; moments are in seconds before now."""
    written = columns.pop("last_qr_update", None)
    server = columns.pop("evolution_server", None)
    job.connection.execute(
        "insert into evolution_instances (instance_name, instance_token, instance_status, qr_code,"
        " last_qr_update, evolution_server) values (%s, 'token', 'connecting', %s, %s, %s)",
        (
            name,
            None if written is None else "a QR code",
            None if written is None else now - seconds(written),
            server,
        ),
    )
    moments = {"attempted_at", "next_attempt_at", "known_since", "qr_first_seen_at"}
    moments |= {"qr_changed_after"}
    columns = {
        key: now - seconds(value) if key in moments else value for key, value in columns.items()
    } | {"instance_name": name, "outcome": outcome}
    if written is not None:
        columns["qr_digest"] = hashlib.sha256(b"a QR code").digest()
    columns["instance"] = job.value(
        "select qr_refresh.instance_key(%s::text, %s::text, 'token')", server, name
    )
    values = ", ".join(f"%({key})s" for key in columns)
    job.connection.execute(
        f"insert into qr_refresh.instance_state ({', '.join(columns)}) values ({values})".encode(),
        columns,
    )


def test_each_column_of_status_of_an_instance_with_a_live_qr(job: Job, now: datetime) -> None:
    remember(
        *(job, "shop", "unchanged", now),
        evolution_server="north",
        last_qr_update=21,
        attempted_at=3,
        next_attempt_at=-7,
        known_since=400,
        qr_first_seen_at=20,
        qr_changed_after=26,
        failures=0,
    )
    status = row(job, "status")
    assert status.pop("is_slow") is False
    age, at_most = status.pop("qr_age"), status.pop("qr_age_at_most")
    assert seconds(20) <= age < seconds(20) + PATIENCE
    assert seconds(6) <= at_most - age < seconds(6.5)
    assert status == {
        "instance_name": "shop",
        "is_live": True,
        "last_outcome": "unchanged",
        "last_error": None,
        "failures": 0,
        "last_attempt_at": now - seconds(3),
        "next_attempt_at": now + seconds(7),
        "last_qr_update": now - seconds(21),
        "no_live_qr_since": None,
        "evolution_server": "north",
    }


def test_each_column_of_status_of_an_instance_that_fails(job: Job, now: datetime) -> None:
    remember(
        *(job, "shop", "failed", now),
        error="502 Bad Gateway",
        last_qr_update=301,
        attempted_at=4,
        next_attempt_at=-8,
        known_since=400,
        qr_first_seen_at=302,
        qr_changed_after=308,
        failures=5,
        queue="failing",
    )
    status = row(job, "status")
    assert status.pop("is_slow") is True
    assert seconds(302) <= status.pop("qr_age") < seconds(302) + PATIENCE
    assert seconds(308) <= status.pop("qr_age_at_most") < seconds(308) + PATIENCE
    assert status == {
        "instance_name": "shop",
        "is_live": False,
        "last_outcome": "failed",
        "last_error": "502 Bad Gateway",
        "failures": 5,
        "last_attempt_at": now - seconds(4),
        "next_attempt_at": now + seconds(8),
        "last_qr_update": now - seconds(301),
        # The last QR code lived for 45 seconds.
        "no_live_qr_since": now - seconds(302 - 45),
        "evolution_server": None,
    }


def test_each_column_of_status_of_an_instance_that_was_not_asked_yet(job: Job) -> None:
    job.add_row("shop", qr_code="a QR code")
    status = row(job, "status")
    assert status.pop("last_qr_update") == job.row("shop").last_qr_update is not None
    assert (status.pop("instance_name"), status.pop("is_live")) == ("shop", False)
    assert set(status.values()) == {None}


@pytest.mark.parametrize(
    ("change", "is_live"),
    [
        ("update evolution_instances set updated_at = now()", True),
        ("update evolution_instances set qr_code = 'of somebody else'", False),
        ("update evolution_instances set qr_code = null", False),
        ("update qr_refresh.instance_state set used_digest = qr_digest", False),
        # The clock was set back.
        ("update qr_refresh.instance_state set qr_first_seen_at = now() + interval '1 h'", False),
        ("update evolution_instances set evolution_server = 'south'", False),
        ("update evolution_instances set instance_token = 'another'", False),
    ],
)
def test_live_is_what_was_seen_and_stands_in_the_row(
    job: Job, now: datetime, change: str, is_live: bool
) -> None:
    remember(
        *(job, "shop", "stored", now),
        attempted_at=1,
        last_qr_update=10,
        qr_first_seen_at=10,
    )
    job.connection.execute(change.encode())
    assert row(job, "status")["is_live"] is is_live


def test_a_name_that_is_too_long_is_shown_by_its_beginning(job: Job) -> None:
    job.add_row("x" * 150_000)
    assert row(job, "status")["instance_name"] == "x" * 40 + "..."


def keep_run(
    job: Job, now: datetime, begun: float, ended: float, refreshed: int, failed: int, **more: Any
) -> None:
    """Keep a run that began and ended so many seconds ago."""
    error = more.get("error")
    report = {"success": error is None} | ({"error": error} if error else {})
    job.connection.execute(
        "insert into qr_refresh.runs (started_at, finished_at, requested_instance,"
        " total_instances, refreshed, failed, report)"
        " values (%s, %s, %s, %s, %s, %s, %s)",
        (
            now - seconds(begun),
            now - seconds(ended),
            more.get("instance"),
            refreshed + failed,
            refreshed,
            failed,
            json.dumps(report),
        ),
    )


def five_instances(job: Job, now: datetime) -> None:
    """Two have a live QR code, one a dead one, two fail; all were asked a moment ago."""
    for name, age in (("young", 11), ("old", 30), ("dead", 600)):
        remember(
            *(job, name, "stored", now),
            last_qr_update=age,
            attempted_at=1,
            known_since=700,
            qr_first_seen_at=age,
        )
    for name, outcome in (("refused", "failed"), ("hangs", "timeout")):
        remember(job, name, outcome, now, attempted_at=1, known_since=100)


def test_each_column_of_health_and_metrics(job: Job, now: datetime) -> None:
    five_instances(job, now)
    keep_run(job, now, 3601, 3590, 50, 50)  # over an hour ago
    keep_run(job, now, 1900, 1888, 3, 1, error="an earlier error")
    keep_run(job, now, 100, 87, 4, 0)
    keep_run(job, now, 60, 54, 0, 9, error="of one instance", instance="shop")
    health = row(job, "health")
    assert health == {
        # pg_cron lives in another database.
        "schedule": None,
        "is_active": None,
        "last_run_started_at": now - seconds(100),
        "last_run_finished_at": now - seconds(87),
        "last_run_length": seconds(13),
        "last_run_success": True,
        "last_run_error": None,
        "runs_last_hour": 2,
        "success_share_last_hour": Decimal("0.875"),
        "connecting_instances": 5,
        "live_instances": 2,
        "coverage": Decimal("0.4"),
        "active_alerts": 1,
    }
    assert [(r["alert"], r["instance_name"]) for r in rows(job, "alerts")] == [
        ("no_live_qr", "dead")
    ]
    metrics = row(job, "metrics")
    del metrics["slow_instances"]
    assert 87 <= metrics.pop("last_run_age_seconds") < 87 + PATIENCE.total_seconds()
    assert 30 <= metrics.pop("oldest_live_qr_seconds") < 30 + PATIENCE.total_seconds()
    assert metrics == {
        "connecting_instances": 5,
        "live_instances": 2,
        "coverage": Decimal("0.4"),
        "success_share_last_hour": Decimal("0.875"),
        "runs_last_hour": 2,
        "last_run_length_seconds": pytest.approx(13),
        "last_run_success": 1,
        "job_active": None,
        "failing_instances": 2,
        "active_alerts": 1,
    }


def test_health_and_metrics_tell_of_a_last_run_that_failed(job: Job, now: datetime) -> None:
    keep_run(job, now, 100, 87, 4, 0)
    keep_run(job, now, 40, 33, 0, 0, error="Error fetching instances")
    keep_run(job, now, 20, 19, 1, 0, instance="shop")
    health = row(job, "health")
    assert (health["last_run_success"], health["last_run_error"]) == (
        False,
        "Error fetching instances",
    )
    assert health["last_run_finished_at"] == now - seconds(33)
    metrics = row(job, "metrics")
    assert (metrics["last_run_success"], metrics["active_alerts"]) == (0, 1)
    (alert,) = rows(job, "alerts")
    assert alert == {
        "alert": "run_failed",
        "instance_name": None,
        "since": now - seconds(33),
        "detail": "Error fetching instances",
    }


def test_each_column_of_an_alert(job: Job, now: datetime) -> None:
    keep_run(job, now, 100, 87, 4, 0)
    remember(
        *(job, "shop", "failed", now),
        error="404 Not Found",
        last_qr_update=899,
        attempted_at=1,
        known_since=1000,
        qr_first_seen_at=900,
    )
    assert rows(job, "alerts") == [
        {
            "alert": "no_live_qr",
            "instance_name": "shop",
            "since": now - seconds(900 - 45),
            "detail": "no live QR code; last outcome: failed, 404 Not Found",
        }
    ]
