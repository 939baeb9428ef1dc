"""The views health and metrics: one row each."""

from __future__ import annotations

from simulator import Trouble
from tests.monitoring.views import age_runs, alerts, row, rows
from tools.job import Job


def test_health_and_metrics_are_one_row_also_when_nothing_ever_ran(job: Job) -> None:
    health = row(job, "health")
    assert health["last_run_finished_at"] is None
    assert (health["coverage"], health["success_share_last_hour"]) == (None, None)
    metrics = row(job, "metrics")
    assert metrics["last_run_success"] == 0
    assert metrics["active_alerts"] == 1


def test_health_tells_coverage_now_and_the_share_of_success(job: Job) -> None:
    job.add("shop")
    job.add("bar")
    job.add("gone").answer_with = Trouble.RESET
    job.add("slow", qr_delay=3600)
    job.run()
    health = row(job, "health")
    assert (health["connecting_instances"], health["live_instances"]) == (4, 2)
    assert float(health["coverage"]) == 0.5
    assert float(health["success_share_last_hour"]) == 0.75
    assert (health["runs_last_hour"], health["last_run_success"]) == (1, True)
    started, finished = job.connection.execute(
        "select started_at, finished_at from qr_refresh.runs"
    ).fetchone() or (None, None)
    assert health["last_run_length"] == finished - started
    metrics = row(job, "metrics")
    assert (metrics["coverage"], metrics["failing_instances"]) == (0.5, 1)
    assert 0 < metrics["last_run_length_seconds"] < 30
    assert 0 <= metrics["oldest_live_qr_seconds"] < 30
    # Asking for one instance is no run of the job.
    job.run("shop")
    assert row(job, "health")["runs_last_hour"] == 1
    age_runs(job, "61 minutes")
    assert row(job, "health")["runs_last_hour"] == 0


def test_a_minute_of_live_mode_counts_as_a_run(job: Job) -> None:
    job.connection.execute(
        'select qr_refresh.record_run(58, null, \'{"success": true, "mode": "live",'
        ' "ticks": 55, "total_instances": 3, "refreshed": 9, "failed": 1}\'::jsonb)'
    )
    health = row(job, "health")
    assert health["last_run_success"] is True
    assert float(health["success_share_last_hour"]) == 0.9
    assert 57 < health["last_run_length"].total_seconds() < 59
    assert alerts(job) == set()


def test_a_minute_of_live_mode_in_which_no_tick_could_be_done_is_an_alert(job: Job) -> None:
    job.connection.execute(
        'select qr_refresh.record_run(58, null, \'{"success": false, "mode": "live",'
        ' "ticks": 55, "failed_ticks": 55, "refreshed": 0, "failed": 0}\'::jsonb)'
    )
    (alert,) = rows(job, "alerts")
    assert alert["alert"] == "run_failed"
    assert "no tick of live mode" in alert["detail"]
