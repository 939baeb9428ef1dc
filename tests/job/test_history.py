"""qr_refresh.runs and qr_refresh.instance_state: what a run leaves behind."""

from __future__ import annotations

import json

import pytest

from simulator import error_answer
from tools.job import Job


def test_a_run_is_kept_with_its_times_counts_and_report(job: Job) -> None:
    job.add("good")
    job.add("bad").answer_with = error_answer(500, "Internal Server Error", "boom")
    before = job.value("select clock_timestamp()")
    report = job.run()
    (row,) = job.connection.execute(
        "select started_at, finished_at, requested_instance, total_instances, refreshed, failed,"
        " report from qr_refresh.runs"
    ).fetchall()
    assert before <= row[0] <= row[1] <= job.value("select clock_timestamp()")
    failed = [result for result in report["results"] if not result["success"]]
    assert [result["instance_name"] for result in failed] == ["bad"]
    assert row[2:] == (None, 2, 1, 1, report | {"results": failed})


def test_a_run_in_which_many_fail_is_kept_in_a_few_kilobytes(job: Job) -> None:
    # Their name is too long for an instance, so nobody is asked about them.
    job.connection.execute(
        "insert into evolution_instances (instance_name, instance_token, instance_status)"
        " select n || repeat('x', 300), 'token-of-0', 'connecting'"
        " from generate_series(1, 500) as n"
    )
    report = job.run()
    assert (report["failed"], len(report["results"])) == (500, 500)
    kept = job.value("select report from qr_refresh.runs")
    assert kept == report | {"results": report["results"][:100]}


def test_a_run_for_one_instance_is_kept_with_its_name(job: Job) -> None:
    job.add("shop")
    report = job.run("shop")
    assert job.value("select requested_instance from qr_refresh.runs") == "shop"
    assert job.value("select report from qr_refresh.runs") == report


def test_a_run_that_could_not_be_done_is_kept_with_its_error(job: Job) -> None:
    job.connection.execute("alter table evolution_instances rename to elsewhere")
    report = job.run()
    assert report == {"success": False, "error": "Error fetching instances"}
    assert job.value("select report from qr_refresh.runs") == report
    assert job.value("select total_instances from qr_refresh.runs") is None


def test_runs_older_than_history_retention_are_deleted_by_the_next_run(job: Job) -> None:
    job.run()
    job.connection.execute(
        "insert into qr_refresh.runs (started_at, finished_at, report)"
        " select now() - age, now() - age, '{}'"
        " from unnest('{6 days,8 days}'::interval[]) as age"
    )
    job.run()
    assert job.value("select count(*) from qr_refresh.runs") == 3
    job.set(history_retention="5 days")
    job.run()
    assert job.value("select count(*) from qr_refresh.runs") == 3


def test_state_is_kept_for_a_day_after_an_instance_has_left(job: Job) -> None:
    job.add("stays")
    job.add("connects")
    job.run()
    job.connection.execute(
        "update evolution_instances set instance_status = 'connected'"
        " where instance_name = 'connects'"
    )
    job.run()
    names = "select array_agg(instance_name order by instance_name) from qr_refresh.instance_state"
    assert job.value(f"{names} where left_at is null") == ["stays"]
    # What it showed is remembered for a day, since the server may hand it out again.
    assert job.value(names) == ["connects", "stays"]
    left_at = "update qr_refresh.instance_state set left_at = left_at - interval '{} hours'"
    for hours, known in ((23, ["connects", "stays"]), (2, ["stays"])):
        job.connection.execute(left_at.format(hours).encode())
        job.run()
        assert job.value(names) == known


def test_no_table_of_ours_holds_a_token_or_a_picture(job: Job) -> None:
    job.add("good")
    job.add("bad").answer_with = error_answer(401, "Unauthorized", "token-of-1")
    job.run()
    for table in ("settings", "instance_state", "runs"):
        text = json.dumps(
            job.value(f"select coalesce(json_agg(t), '[]') from qr_refresh.{table} as t")
        )
        assert "token-of-" not in text
        assert "iVBOR" not in text


@pytest.mark.parametrize("outcome", ["good", "bad"])
def test_the_state_tells_the_last_outcome(job: Job, outcome: str) -> None:
    instance = job.add("shop")
    if outcome == "bad":
        instance.answer_with = error_answer(500, "Internal Server Error", "boom")
    job.run()
    expected = {"good": "stored", "bad": "failed"}[outcome]
    assert job.value("select outcome from qr_refresh.instance_state") == expected
