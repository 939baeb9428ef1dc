"""The views for a person or a monitor: status, alerts, health, metrics, runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from psycopg.rows import dict_row

from simulator import Trouble
from tools.backend import refusing_port
from tools.engines import Server
from tools.job import Job, install

VIEWS = ("status", "alerts", "health", "metrics")


def rows(job: Job, view: str) -> list[dict[str, Any]]:
    cursor = job.connection.cursor(row_factory=dict_row)
    return cursor.execute(f"select * from qr_refresh.{view}".encode()).fetchall()


def row(job: Job, view: str) -> dict[str, Any]:
    (only,) = rows(job, view)
    return only


def alerts(job: Job, instance: str | None = None) -> set[str]:
    return {r["alert"] for r in rows(job, "alerts") if r["instance_name"] == instance}


def age_state(job: Job, by: str) -> None:
    """Let what the job knows of its instances be older."""
    job.connection.execute(
        "update qr_refresh.instance_state set attempted_at = attempted_at - %(by)s::interval,"
        " qr_first_seen_at = qr_first_seen_at - %(by)s::interval,"
        " known_since = known_since - %(by)s::interval",
        {"by": by},
    )
    job.connection.execute(
        "update evolution_instances set last_qr_update = last_qr_update - %s::interval", (by,)
    )


def age_runs(job: Job, by: str) -> None:
    job.connection.execute(
        "update qr_refresh.runs set started_at = started_at - %(by)s::interval,"
        " finished_at = finished_at - %(by)s::interval",
        {"by": by},
    )


# --- status ---------------------------------------------------------------------------------------


def test_status_shows_a_fresh_qr_as_live_and_only_connecting_instances(job: Job) -> None:
    job.add("shop")
    job.add_row("done", status="connected")
    job.run()
    shop = row(job, "status")
    assert (shop["instance_name"], shop["is_live"]) == ("shop", True)
    assert (shop["last_outcome"], shop["no_live_qr_since"]) == ("stored", None)
    assert 0 <= shop["qr_age"].total_seconds() < 30
    assert shop["last_qr_update"] == job.row("shop").last_qr_update


@pytest.mark.parametrize(("age", "is_live"), [("35 s", True), ("46 s", False)])
def test_a_qr_is_dead_45_seconds_after_it_was_first_seen(job: Job, age: str, is_live: bool) -> None:
    job.add("shop")
    job.run()
    age_state(job, age)
    assert row(job, "status")["is_live"] is is_live


def test_stamping_a_dead_qr_again_does_not_make_it_live(job: Job) -> None:
    job.add("shop")
    job.run()
    age_state(job, "50 s")
    assert job.result("shop") == {"success": True, "qr_updated": True}
    assert row(job, "status")["is_live"] is False


def test_a_live_qr_that_is_seen_again_after_the_state_was_lost_is_live(job: Job) -> None:
    job.add("shop")
    job.run()
    job.connection.execute(
        "update evolution_instances set last_qr_update = last_qr_update - interval '30 s';"
        "delete from qr_refresh.instance_state"
    )
    assert row(job, "status")["is_live"] is False
    job.value("select qr_refresh.refresh_due('fast', 1, 1)::text")
    status = row(job, "status")
    assert (status["last_outcome"], status["is_live"]) == ("unchanged", True)


def test_a_timestamp_that_is_read_in_another_time_zone_does_not_matter(job: Job) -> None:
    job.connection.execute("alter table evolution_instances alter last_qr_update type timestamp")
    job.add("shop")
    for writer, reader in (("UTC", "Asia/Tokyo"), ("UTC", "America/Lima")):
        job.connection.execute(f"set timezone = '{writer}'".encode())
        assert job.run()["refreshed"] == 1
        job.connection.execute(f"set timezone = '{reader}'".encode())
        assert row(job, "status")["is_live"] is True


def test_a_qr_that_the_application_has_cleared_is_not_live(job: Job) -> None:
    job.add("shop")
    job.run()
    job.connection.execute("update evolution_instances set qr_code = null")
    assert row(job, "status")["is_live"] is False


def test_a_qr_that_could_not_be_stored_is_not_live(job: Job) -> None:
    job.connection.execute("alter table evolution_instances add check (qr_code is null)")
    job.add("shop")
    assert job.run()["failed"] == 1
    shop = row(job, "status")
    assert (shop["is_live"], shop["last_error"]) == (False, "SQLSTATE 23514")


def test_status_shows_what_live_mode_knows(job: Job) -> None:
    job.add_row("shop")
    job.connection.execute(
        "insert into qr_refresh.instance_state (instance_name, attempted_at, outcome, error,"
        " failures, next_attempt_at, is_slow) values ('shop', now(), 'failed', '404 Not Found',"
        " 7, now() + interval '1 minute', true)"
    )
    shop = row(job, "status")
    assert (shop["last_error"], shop["failures"], shop["is_slow"]) == ("404 Not Found", 7, True)
    assert shop["next_attempt_at"] > shop["last_attempt_at"]


def test_the_bound_of_the_age_comes_from_the_last_answer_without_the_qr(job: Job) -> None:
    job.add("shop")
    job.run()
    job.connection.execute(
        "update qr_refresh.instance_state set qr_changed_after = qr_first_seen_at - interval '7 s'"
    )
    shop = row(job, "status")
    assert 7 <= (shop["qr_age_at_most"] - shop["qr_age"]).total_seconds() < 8


# --- alerts ---------------------------------------------------------------------------------------


def test_all_is_well_after_a_run_in_which_everything_was_stored(job: Job) -> None:
    job.add("shop")
    job.run()
    assert rows(job, "alerts") == []


@pytest.mark.parametrize(("age", "alarmed"), [("5 min 35 s", False), ("5 min 46 s", True)])
def test_an_instance_without_a_live_qr_for_alert_after_is_an_alert(
    job: Job, age: str, alarmed: bool
) -> None:
    job.add("shop")
    job.run()
    age_state(job, age)
    assert ("no_live_qr" in alerts(job, "shop")) is alarmed


def test_alert_after_can_be_set(job: Job) -> None:
    job.add("shop", qr_delay=3600)
    job.run()
    age_state(job, "2 minutes")
    assert alerts(job, "shop") == set()
    job.set(alert_after="1 minute")
    assert alerts(job, "shop") == {"no_live_qr"}
    (alert,) = rows(job, "alerts")
    assert alert["detail"] == "no live QR code; last outcome: no_qr_code"


def test_an_instance_that_has_just_begun_to_connect_is_no_alert(job: Job) -> None:
    job.add("shop", qr_delay=3600, qr_code="data:image/png;base64,an old one")
    assert [r["alert"] for r in rows(job, "alerts")] == ["job_late"]
    job.run()
    assert rows(job, "alerts") == []


def test_a_qr_that_is_never_stored_becomes_an_alert_though_new_ones_come(job: Job) -> None:
    job.connection.execute("alter table evolution_instances add check (qr_code is null)")
    job.add("shop")
    job.run()
    age_state(job, "6 minutes")
    job.connection.execute("update qr_refresh.instance_state set qr_first_seen_at = now()")
    assert alerts(job, "shop") == {"no_live_qr"}


@pytest.mark.parametrize("reason", ["timeout", "connection refused", "TLS error"])
def test_a_server_that_nobody_got_an_answer_from_is_an_alert(job: Job, reason: str) -> None:
    job.add("shop")
    job.add("bar")
    job.run()
    assert alerts(job) == set()
    change = "update qr_refresh.instance_state set outcome = %s, error = %s"
    if reason == "timeout":
        job.connection.execute(change, ("timeout", None))
    else:
        job.connection.execute(change, ("failed", reason))
    (alert,) = rows(job, "alerts")
    assert alert["alert"] == "server_unreachable"
    assert alert["detail"] == f"none of 2 instances got an answer: {reason}"
    assert alert["since"] == job.value("select finished_at from qr_refresh.runs")
    # In a long outage the job waits for longer than the alert looks back.
    job.connection.execute(
        "update qr_refresh.instance_state"
        " set attempted_at = now() - interval '9 minutes',"
        " next_attempt_at = now() + interval '1 hour'"
    )
    assert "server_unreachable" in alerts(job)
    # One answer, be it an error, and the server is not unreachable.
    job.connection.execute(
        "update qr_refresh.instance_state set outcome = 'failed', error = '404 Not Found'"
        " where instance_name = 'bar'"
    )
    assert alerts(job) == set()


def test_a_hanging_server_is_seen_by_a_real_run(job: Job) -> None:
    job.set(request_timeout="200 ms")
    job.add("shop").answer_with = Trouble.HANG
    job.run()
    assert alerts(job) == {"server_unreachable"}
    assert row(job, "metrics")["failing_instances"] == 1


def test_a_server_that_refuses_is_seen_by_a_real_run(job: Job, server: Server) -> None:
    job.add("shop")
    with refusing_port(server.listen_host) as port:
        job.set(evolution_api_base_url=f"http://{server.reachable_host}:{port}")
        job.run()
    (alert,) = rows(job, "alerts")
    assert alert["alert"] == "server_unreachable"
    assert alert["detail"] == "none of 1 instances got an answer: connection refused"


def test_each_evolution_server_is_judged_by_itself(job: Job) -> None:
    for name, server, outcome in (("a", "north", "timeout"), ("b", "south", "stored")):
        job.add_row(name)
        job.connection.execute(
            "update evolution_instances set evolution_server = %s where instance_name = %s",
            (server, name),
        )
        job.connection.execute(
            "insert into qr_refresh.instance_state (instance_name, attempted_at, outcome)"
            " values (%s, now(), %s)",
            (name, outcome),
        )
    details = [r["detail"] for r in rows(job, "alerts") if r["alert"] == "server_unreachable"]
    assert details == ["none of 1 instances got an answer of Evolution server north: timeout"]


def test_a_job_without_a_run_is_late(job: Job) -> None:
    assert [r["detail"] for r in rows(job, "alerts")] == ["no run is on record"]
    job.run()
    age_runs(job, "4 min 50 s")
    assert alerts(job) == set()
    age_runs(job, "20 s")
    assert alerts(job) == {"job_late"}
    # Asking for one instance is no run of the job.
    job.add("shop")
    job.run("shop")
    assert alerts(job) == {"job_late"}


def test_the_slow_lane_does_not_hide_that_the_fast_one_stands_still(job: Job) -> None:
    job.run()
    age_runs(job, "6 minutes")
    minute = "select qr_refresh.record_run(58, null, jsonb_build_object('success', true,"
    minute += " 'mode', 'live', 'lane', %s::text, 'ticks', 9, 'refreshed', 0, 'failed', 0))"
    job.connection.execute(minute.encode(), ("slow",))
    assert alerts(job) == {"job_late"}
    assert row(job, "metrics")["last_run_age_seconds"] > 300
    job.connection.execute(minute.encode(), ("fast",))
    assert alerts(job) == set()
    assert row(job, "metrics")["last_run_age_seconds"] < 60


def keep_minutes(job: Job, lane: str, worker: int, workers: int, ago: Iterable[int]) -> None:
    """Keep what a lane of live mode has done in minutes that ended so many minutes ago."""
    job.connection.execute(
        "insert into qr_refresh.runs (started_at, finished_at, refreshed, failed, report)"
        " select now() - make_interval(mins => n + 1), now() - make_interval(mins => n), 0, 0,"
        " jsonb_build_object('success', true, 'mode', 'live', 'lane', %s::text,"
        " 'worker', %s::integer, 'workers', %s::integer) from unnest(%s::integer[]) as n"
        " order by n desc",
        (lane, worker, workers, list(ago)),
    )


def late_lanes(job: Job) -> list[str]:
    return [r["detail"] for r in rows(job, "alerts") if r["alert"] == "job_late"]


@pytest.mark.parametrize(
    ("still", "detail"),
    [
        (("slow", 1), "no run of the slow lane of live mode for over 00:05:30"),
        (("fast", 1), "no run of worker 1 of 3 of live mode for over 00:05:00"),
        (("fast", 3), "no run of worker 3 of 3 of live mode for over 00:05:00"),
    ],
)
def test_a_lane_of_live_mode_that_stands_still_is_late_though_the_others_go_on(
    job: Job, still: tuple[str, int], detail: str
) -> None:
    lanes = [("slow", 1), *(("fast", n) for n in (1, 2, 3))]
    for lane, worker in lanes:
        keep_minutes(job, lane, worker, 3, range(7, 20))
    for lane, worker in lanes:
        if (lane, worker) != still:
            keep_minutes(job, lane, worker, 3, range(7))
    (alert,) = rows(job, "alerts")
    assert (alert["alert"], alert["detail"]) == ("job_late", detail)
    assert alert["since"] == job.value(
        "select max(finished_at) from qr_refresh.runs"
        " where report ->> 'lane' = %s and report -> 'worker' = to_jsonb(%s)",
        *still,
    )
    keep_minutes(job, *still, 3, [0])
    assert rows(job, "alerts") == []


def test_a_worker_that_never_began_is_late_once_the_others_have_had_the_time(job: Job) -> None:
    for workers, ago in ((1, range(4, 20)), (2, range(4))):
        for lane in ("slow", "fast"):
            keep_minutes(job, lane, 1, workers, ago)
    assert late_lanes(job) == [], "there have been two for four minutes"
    age_runs(job, "2 minutes")
    for lane in ("slow", "fast"):
        keep_minutes(job, lane, 1, 2, [1, 0])
    assert late_lanes(job) == ["no run of worker 2 of 2 of live mode for over 00:05:00"]


def test_live_mode_that_has_been_left_has_no_late_lanes(job: Job) -> None:
    for lane in ("slow", "fast"):
        keep_minutes(job, lane, 1, 1, range(4, 20))
    for _ in range(4):
        job.run()
        assert late_lanes(job) == []
        age_runs(job, "1 minute")


def test_a_minute_of_live_mode_says_how_many_workers_there_are(job: Job) -> None:
    begun_at = job.value("select (now() - interval '90 seconds')::text")
    over = json.dumps({"ticks": 1, "begun_at": begun_at})
    assert job.value("select qr_refresh.live_tick('fast', 2, 3, %s)", over) is None
    report = job.value("select report from qr_refresh.runs")
    assert (report["worker"], report["workers"]) == (2, 3)


def test_a_run_that_failed_as_a_whole_is_an_alert(job: Job) -> None:
    job.run()
    job.connection.execute("alter table evolution_instances rename instance_status to s")
    assert job.run()["success"] is False
    job.connection.execute("alter table evolution_instances rename s to instance_status")
    (alert,) = rows(job, "alerts")
    assert (alert["alert"], alert["detail"]) == ("run_failed", "Error fetching instances")


# --- health and metrics ---------------------------------------------------------------------------


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


# --- who reads them, and what does not stand there ------------------------------------------------


@pytest.mark.parametrize("role", ["pg_monitor", "service_role"])
def test_monitoring_roles_read_every_view(job: Job, role: str) -> None:
    job.add("shop")
    job.run()
    job.connection.execute(f"set role {role}".encode())
    for view in (*VIEWS, "runs"):
        assert rows(job, view) is not None
    assert row(job, "status")["is_live"] is True


def test_no_token_and_no_picture_stands_in_a_view(job: Job) -> None:
    job.add("shop")
    job.add("gone").answer_with = Trouble.RESET
    job.run()
    age_state(job, "10 minutes")
    text = "\n".join(
        job.value(f"select coalesce(string_agg(v::text, ';'), '') from qr_refresh.{view} as v")
        for view in (*VIEWS, "runs")
    )
    assert "shop" in text and "gone" in text
    for secret in ("token-of", "base64", "iVBOR", job.simulator.current_code("shop") or "2@"):
        assert secret not in text


def test_the_application_may_still_change_its_columns(job: Job) -> None:
    job.add("shop")
    job.connection.execute(
        "alter table evolution_instances alter instance_name type varchar(200),"
        " alter qr_code type varchar(20000), alter last_qr_update type timestamp"
    )
    job.run()
    assert row(job, "status")["is_live"] is True


def test_a_deploy_keeps_what_others_may_read(job: Job, database: str) -> None:
    job.connection.execute("grant select on qr_refresh.status to pg_read_all_settings")
    install(database)
    assert job.value(
        "select has_table_privilege('pg_read_all_settings', 'qr_refresh.status', 'select')"
    )


EDGE_FUNCTION_QUERIES = """
SELECT
  instance_name,
  instance_status,
  last_qr_update,
  NOW() - last_qr_update AS age,
  qr_code IS NOT NULL AS has_qr_code
FROM evolution_instances
WHERE instance_status = 'connecting'
ORDER BY last_qr_update DESC;

SELECT
  instance_name,
  last_qr_update,
  NOW() - last_qr_update AS age
FROM evolution_instances
WHERE instance_status = 'connecting'
AND (last_qr_update IS NULL OR last_qr_update < NOW() - INTERVAL '5 minutes');
"""


def test_the_queries_of_the_edge_functions_documentation_still_work(job: Job) -> None:
    job.add("shop")
    job.add("late", qr_delay=3600)
    job.run()
    fresh, without = (
        job.connection.execute(q.encode()) for q in EDGE_FUNCTION_QUERIES.split(";")[:2]
    )
    assert {(r[0], r[4]) for r in fresh.fetchall()} == {("shop", True), ("late", False)}
    assert [r[0] for r in without.fetchall()] == ["late"]
