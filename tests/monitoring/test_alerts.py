"""The view alerts: what becomes one, after how long, and what ends it."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from simulator import Trouble, json_answer
from tests.monitoring.views import age_runs, age_state, alerts, row, rows
from tools.backend import refusing_port
from tools.engines import Server
from tools.job import Job, refusal


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


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("alter table evolution_instances drop column qr_code", "column e.qr_code does not exist"),
        ("drop table evolution_instances", 'relation "public.evolution_instances" does not exist'),
        (
            "revoke select on evolution_instances from qr_refresh_owner;"
            "revoke select (instance_name) on evolution_instances from qr_refresh_owner",
            "SQLSTATE 42501",
        ),
    ],
)
def test_a_table_that_cannot_be_read_is_an_alert_and_the_other_views_say_what_to_do(
    job: Job, how: str, says: str
) -> None:
    job.run()
    job.connection.execute(how.encode())
    (alert,) = rows(job, "alerts")
    assert (alert["alert"], alert["instance_name"]) == ("run_failed", None)
    assert alert["detail"] == f"evolution_instances cannot be read: {says}"
    # A run that has failed meanwhile says the same.
    job.run()
    assert [a["detail"] for a in rows(job, "alerts")] == [alert["detail"]]
    for view in ("status", "health", "metrics"):
        error = refusal(job.connection, f"select * from qr_refresh.{view}")
        assert (error.sqlstate, error.diag.message_detail) == ("QR018", says)
        assert "make migrate" in (error.diag.message_hint or "")
        assert len((error.diag.context or "").splitlines()) < 5


def test_what_the_application_says_when_it_is_read_is_not_passed_on(job: Job) -> None:
    job.add("shop")
    job.run()
    job.connection.execute(
        "alter table evolution_instances rename to instances_of_app;"
        "create function refuse(token text) returns text language plpgsql as $$ begin"
        " raise insufficient_privilege using message = 'not ' || token; end $$;"
        "create view evolution_instances as select instance_name, instance_token, instance_status,"
        " refuse(instance_token) as qr_code, last_qr_update, evolution_server"
        " from instances_of_app"
    )
    job.connection.execute("grant select on evolution_instances to qr_refresh_owner")
    (alert,) = [a for a in rows(job, "alerts") if a["alert"] == "run_failed"]
    assert alert["detail"] == "evolution_instances cannot be read: SQLSTATE 42501"
    error = refusal(job.connection, "select * from qr_refresh.status")
    assert error.diag.message_detail == "SQLSTATE 42501"
    assert "token-of-0" not in str(error.diag.message_primary) + str(error.diag.context)


def test_the_qr_codes_are_read_once(job: Job) -> None:
    """They may come from another server."""
    job.add("shop")
    job.run()
    with job.connection.transaction():
        job.connection.execute("set local track_functions = 'all'")
        rows(job, "alerts")
        calls = "select pg_stat_get_xact_function_calls('qr_refresh.connecting_instances'::regproc)"
        assert job.value(calls) == 1


def test_alert_after_can_be_set(job: Job) -> None:
    job.add("shop", qr_delay=3600)
    job.run()
    age_state(job, "2 minutes")
    assert alerts(job, "shop") == set()
    job.set(alert_after="1 minute")
    assert alerts(job, "shop") == {"no_live_qr"}
    (alert,) = [each for each in rows(job, "alerts") if each["instance_name"]]
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
    answered_at = job.value("select max(answered_at) from qr_refresh.instance_state")
    assert alert["since"] == answered_at is not None
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


def test_a_server_that_answers_and_gives_nobody_a_qr_code_is_an_alert(job: Job) -> None:
    for name in ("shop", "bar"):
        job.add(name).answer_with = json_answer({"count": 0})
    job.run()
    assert alerts(job) == set()
    age_state(job, "6 minutes")
    (alert,) = [each for each in rows(job, "alerts") if each["instance_name"] is None]
    assert alert["alert"] == "no_qr_code_from_server"
    assert alert["detail"].startswith("none of 2 instances gets a QR code, although it answers")
    # One gets a QR code, so what the other lacks is not the server's.
    job.simulator.instance("bar").answer_with = None
    job.run("bar")
    assert "no_qr_code_from_server" not in alerts(job)


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
            "insert into qr_refresh.instance_state (instance, instance_name, attempted_at, outcome)"
            " values (qr_refresh.instance_key(%s, %s, 'a-token'), %s, now(), %s)",
            (server, name, name, outcome),
        )
    details = [r["detail"] for r in rows(job, "alerts") if r["alert"] == "server_unreachable"]
    assert details == ["none of 1 instances got an answer of Evolution server north: timeout"]


def test_a_job_without_a_run_is_late(job: Job) -> None:
    assert [r["detail"] for r in rows(job, "alerts")] == ["never ran: no run is on record"]
    job.run()
    age_runs(job, "4 min 50 s")
    assert alerts(job) == set()
    age_runs(job, "20 s")
    assert alerts(job) == {"job_late"}
    # Asking for one instance is no run of the job.
    job.add("shop")
    job.run("shop")
    assert alerts(job) == {"job_late"}


def keep_minutes(job: Job, worker: int, workers: int, ago: Iterable[int]) -> None:
    """Keep what a worker of live mode has done in minutes that ended so many minutes ago."""
    job.connection.execute(
        "insert into qr_refresh.runs (started_at, finished_at, refreshed, failed, report)"
        " select now() - make_interval(mins => n + 1), now() - make_interval(mins => n), 0, 0,"
        " jsonb_build_object('success', true, 'mode', 'live',"
        " 'worker', %s::integer, 'workers', %s::integer) from unnest(%s::integer[]) as n"
        " order by n desc",
        (worker, workers, list(ago)),
    )


def late(job: Job) -> list[str]:
    return [r["detail"] for r in rows(job, "alerts") if r["alert"] == "job_late"]


@pytest.mark.parametrize("still", [1, 3])
def test_a_worker_of_live_mode_that_stands_still_is_late_though_the_others_go_on(
    job: Job, still: int
) -> None:
    for worker in (1, 2, 3):
        keep_minutes(job, worker, 3, range(7, 20))
    for worker in (1, 2, 3):
        if worker != still:
            keep_minutes(job, worker, 3, range(7))
    (alert,) = rows(job, "alerts")
    detail = f"no run of worker {still} of 3 of live mode for over 00:05:00"
    assert (alert["alert"], alert["detail"]) == ("job_late", detail)
    assert alert["since"] == job.value(
        "select max(finished_at) from qr_refresh.runs where report -> 'worker' = to_jsonb(%s)",
        still,
    )
    # It is back, and was away for a while.
    keep_minutes(job, still, 3, [0])
    assert late(job) == [f"worker {still} of 3 of live mode skipped 6 of the last 15 minutes"]


def test_live_mode_that_comes_and_goes_is_late_until_it_has_stayed(job: Job) -> None:
    keep_minutes(job, 1, 1, [*range(9, 20), *range(7)])
    assert late(job) == ["worker 1 of 1 of live mode skipped 2 of the last 15 minutes"]
    age_runs(job, "8 minutes")
    keep_minutes(job, 1, 1, range(8))
    assert rows(job, "alerts") == []
    # A restart of Postgres, another schedule and another number of workers are no faults.
    age_runs(job, "2 minutes")
    keep_minutes(job, 1, 1, [0])
    assert rows(job, "alerts") == []
    age_runs(job, "4 minutes")
    job.run()
    age_runs(job, "2 minutes")
    keep_minutes(job, 1, 1, [1, 0])
    assert rows(job, "alerts") == []
    age_runs(job, "4 minutes")
    for worker in (1, 2):
        keep_minutes(job, worker, 2, [0])
    assert rows(job, "alerts") == []


def test_a_worker_that_never_began_is_late_once_the_others_have_had_the_time(job: Job) -> None:
    for workers, ago in ((1, range(4, 20)), (2, range(4))):
        keep_minutes(job, 1, workers, ago)
    assert late(job) == [], "there have been two for four minutes"
    age_runs(job, "2 minutes")
    keep_minutes(job, 1, 2, [1, 0])
    assert late(job) == ["no run of worker 2 of 2 of live mode for over 00:05:00"]


def test_live_mode_that_has_been_left_has_no_late_workers(job: Job) -> None:
    keep_minutes(job, 1, 1, range(4, 20))
    for _ in range(4):
        job.run()
        assert late(job) == []
        age_runs(job, "1 minute")


def test_a_minute_of_live_mode_says_how_many_workers_there_are(job: Job) -> None:
    begun_at = job.value("select (now() - interval '90 seconds')::text")
    over = json.dumps({"ticks": 1, "begun_at": begun_at})
    assert job.value("select qr_refresh.live_tick(2, 3, %s)", over) is None
    report = job.value("select report from qr_refresh.runs")
    assert (report["worker"], report["workers"]) == (2, 3)


def test_a_run_that_failed_as_a_whole_is_an_alert(job: Job) -> None:
    job.run()
    job.connection.execute("alter table evolution_instances rename instance_status to s")
    assert job.run()["success"] is False
    job.connection.execute("alter table evolution_instances rename s to instance_status")
    (alert,) = rows(job, "alerts")
    assert (alert["alert"], alert["detail"]) == ("run_failed", "Error fetching instances")
