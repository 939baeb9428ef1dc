"""Our queries are never compiled: to compile one takes a hundred times as long as to run it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.monitoring.views import VIEWS
from tools.backend import compile_what_reads_a_table, has_compiled
from tools.job import Connection, Job, value_of

# What a person, a monitor or pg_cron calls.
CALLS = {
    "refresh_qr_codes": "select refresh_qr_codes()",
    "receive_evolution_event": "select receive_evolution_event('{}')",
    "live_tick": "select qr_refresh.live_tick(1, 1, null)",
    "show_qr": "select qr_refresh.show_qr('shop')",
    "active_alerts": "select * from qr_refresh.active_alerts()",
    "connecting_instances": "select * from qr_refresh.connecting_instances()",
    "cron_jobs": "select * from qr_refresh.cron_jobs()",
    "late_workers": "select * from qr_refresh.late_workers()",
    "jobs_wait_for_each_other": "select qr_refresh.jobs_wait_for_each_other()",
    "pg_cron_obstacles": "select * from qr_refresh.pg_cron_obstacles()",
    "same_schedule": "select qr_refresh.same_schedule()",
    "way_without_background_workers": "select qr_refresh.way_without_background_workers()",
    "skipped_minutes": "select * from qr_refresh.skipped_minutes()",
    "doctor": "select * from qr_refresh.doctor()",
}


@pytest.fixture
def session(connect: Callable[[], Connection]) -> Connection:
    """A session that compiles what a function does."""
    fresh = connect()
    compile_what_reads_a_table(fresh)
    return fresh


@pytest.mark.parametrize("function", CALLS)
def test_nothing_that_a_function_does_is_compiled(
    job: Job, session: Connection, function: str
) -> None:
    job.add("shop")
    job.run()
    session.execute(CALLS[function].encode())
    assert not has_compiled(session)
    assert value_of(session, "show jit") == "on"
    # It would have been noticed.
    session.execute("select count(*) from pg_class where relpages > 1")
    assert has_compiled(session)


def test_every_function_that_others_may_call_is_tested(job: Job) -> None:
    # live() commits, which a procedure with settings of its own cannot; live_tick() has them.
    callable_ = job.value(
        "select array_agg(proname::text) from pg_proc"
        " where pronamespace in ('qr_refresh'::regnamespace, 'public'::regnamespace)"
        " and proowner = 'qr_refresh_owner'::regrole and prokind = 'f'"
        " and has_function_privilege('service_role', oid, 'execute')"
    )
    assert set(callable_) == set(CALLS) - {
        "late_workers",
        "skipped_minutes",
        "doctor",
    }


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("is_analyzed", [False, True])
def test_to_read_a_view_costs_far_less_than_what_is_compiled(
    job: Job, view: str, is_analyzed: bool
) -> None:
    # A week of live mode with two workers, and many instances.
    job.connection.execute(
        "insert into qr_refresh.runs (started_at, finished_at, refreshed, failed, report)"
        " select now() - make_interval(mins => n), now() - make_interval(mins => n - 1), 1, 0,"
        """ '{"success": true, "mode": "live"}' from generate_series(10000, 1, -1) as n,"""
        " generate_series(1, 2)"
    )
    job.connection.execute(
        "insert into evolution_instances (instance_name, instance_token, instance_status)"
        " select 'shop ' || n, 'token', 'connecting' from generate_series(1, 1000) as n"
    )
    if is_analyzed:
        job.connection.execute("analyze qr_refresh.runs, evolution_instances")
    job.connection.execute("set jit = on; reset jit_above_cost")
    plan = job.value(f"explain (analyze, format json) select * from qr_refresh.{view}")[0]
    assert plan["Plan"]["Total Cost"] < float(job.value("show jit_above_cost")) / 20
    assert "JIT" not in plan
