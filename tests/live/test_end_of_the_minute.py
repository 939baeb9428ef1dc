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


@pytest.mark.parametrize(("seconds", "wait", "goes_on"), [(9, 0, True), (10.1, 0, False)])
def test_a_tick_asks_nobody_once_the_minute_is_over(
    job: Job, seconds: float, wait: float, goes_on: bool
) -> None:
    progress = tick_of_ten_seconds(job, seconds, wait)
    assert (progress is not None) is goes_on
    # The first tick had asked nobody.
    assert bool(job.simulator.total_requests) is goes_on
    assert job.value("select count(*) from qr_refresh.runs") == (0 if goes_on else 1)


def test_a_minute_that_ends_while_a_tick_waits_is_over(job: Job) -> None:
    assert tick_of_ten_seconds(job, 9.7, wait=0.5) is None
    assert job.simulator.total_requests == 0


def tick_of_ten_seconds(job: Job, seconds: float, wait: float) -> object:
    """Let a tick come so many seconds after the beginning of a minute that takes ten."""
    job.connection.execute(
        "create or replace function qr_refresh.minute_ends_at(begun_at timestamptz)"
        " returns timestamptz language sql as $$ select begun_at + interval '10 seconds' $$"
    )
    job.add("shop")
    begun_at = job.value("select (clock_timestamp() - make_interval(secs => %s))::text", seconds)
    progress = json.dumps({"ticks": 1, "wait": wait, "begun_at": begun_at})
    return job.value("select qr_refresh.live_tick('fast', 1, 1, %s)", progress)
