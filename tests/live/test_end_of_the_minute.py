"""When a session of live mode ends: just before pg_cron begins the next one."""

from __future__ import annotations

import json

import pytest

from tools.job import Job


@pytest.mark.parametrize(
    ("begun", "ends"),
    [
        ("12:00:00", "12:00:59"),
        ("12:00:00.5", "12:00:59"),
        ("12:00:30", "12:00:59"),
        ("12:00:57.999999", "12:00:59"),
        # pg_cron was early, or the server's clock is: this is the session of the next minute.
        ("12:00:58", "12:01:59"),
        ("12:00:59.999999", "12:01:59"),
        ("23:59:58", "24:00:59"),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_a_minute_ends_one_second_before_the_next_one(
    job: Job, begun: str, ends: str, zone: str
) -> None:
    job.connection.execute(f"set timezone = '{zone}'".encode())
    length = "select qr_refresh.minute_ends_at(timestamptz '2026-11-26 UTC' + %s::interval)"
    length += " = timestamptz '2026-11-26 UTC' + %s::interval"
    assert job.value(length, begun, ends) is True


@pytest.mark.parametrize(
    ("seconds", "goes_on", "asked"), [(8, True, 1), (9.6, True, 0), (10.1, False, 0)]
)
def test_a_tick_asks_nobody_once_the_minute_is_over_or_about_to_be(
    job: Job, seconds: float, goes_on: bool, asked: int
) -> None:
    """Ten seconds make a minute here."""
    job.connection.execute(
        "create or replace function qr_refresh.minute_ends_at(begun_at timestamptz)"
        " returns timestamptz language sql as $$ select begun_at + interval '10 seconds' $$"
    )
    job.add("shop")
    begun_at = job.value("select (clock_timestamp() - make_interval(secs => %s))::text", seconds)
    progress = json.dumps({"ticks": 1, "begun_at": begun_at})
    found = job.value("select qr_refresh.live_tick(1, 1, %s)", progress)
    assert (found is not None) is goes_on
    assert (found or {"under_way": 0})["under_way"] == asked
    assert job.value("select count(*) from qr_refresh.runs") == (0 if goes_on else 1)
    if not asked:
        assert job.simulator.total_requests == 0
