"""The procedure live(): its transactions, its minute, and how it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from simulator import error_answer
from tests.live.sessions import live
from tools.engines import Server
from tools.job import Connection, Job, read_qr, wait_until


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_live_mode_is_read_committed_whatever_the_default(
    job: Job, connect: Callable[[], Connection], level: str
) -> None:
    job.connection.execute(
        "create function note() returns trigger language plpgsql as $$ begin"
        " new.level = current_setting('transaction_isolation'); return new; end $$;"
        "alter table evolution_instances add level text;"
        "create trigger note before update on evolution_instances"
        " for each row execute function note()"
    )
    name = job.connection.info.dbname
    job.connection.execute(
        f"alter database {name} set default_transaction_isolation = '{level}'".encode()
    )
    job.add("shop")
    with live(job, connect) as session:
        wait_until(lambda: job.row("shop").qr_code, "a QR code is stored")
        job.let_time_pass(60)
        code = job.simulator.current_code("shop")
        wait_until(lambda: read_qr(job.row("shop").qr_code) == code, "the next one is stored")
    assert session.execute("show default_transaction_isolation").fetchone() == (level,)
    assert job.value("select level from evolution_instances") == "read committed"


def test_live_mode_inside_a_transaction_block_asks_nobody(job: Job) -> None:
    job.add("shop")
    with (
        pytest.raises(psycopg.errors.InvalidTransactionTermination),
        job.connection.transaction(),
    ):
        job.connection.execute("call qr_refresh.live()")
    assert job.simulator.total_requests == 0


def test_live_stores_in_transactions_of_their_own_and_stops_at_once_on_cancel(
    job: Job, connect: Callable[[], Connection]
) -> None:
    job.add("first")
    with live(job, connect) as session:
        wait_until(lambda: job.row("first").qr_code, "the first is stored while live() runs")
        job.add("second")
        wait_until(lambda: job.row("second").qr_code, "the second, in the same call")
        state = "select state from pg_stat_activity where pid = %s"
        assert job.value(state, session.info.backend_pid) == "active"
        cancelled_at = time.monotonic()
    assert time.monotonic() - cancelled_at < 1
    assert session.execute("select refresh_qr_codes()").fetchone() is not None


def test_a_second_live_leaves_at_once(job: Job, connect: Callable[[], Connection]) -> None:
    with live(job, connect):
        held = "select count(*) from pg_locks where locktype = 'advisory'"
        wait_until(lambda: job.value(held), "the first is at work")
        other = connect()
        other.execute("set statement_timeout = '5 s'")
        # Between two ticks there is a moment without the lock: then the first one leaves.
        other.execute("call qr_refresh.live()")
        # Another worker is another matter.
        with pytest.raises(psycopg.errors.QueryCanceled):
            other.execute("set statement_timeout = '1 s'")
            other.execute("call qr_refresh.live(2, 2)")


def test_live_that_leaves_at_once_keeps_no_run(job: Job, connect: Callable[[], Connection]) -> None:
    with connect().transaction() as transaction:
        transaction.connection.execute(
            "select pg_advisory_xact_lock(hashtextextended('qr_refresh.live:1', 0))"
        )
        job.connection.execute("call qr_refresh.live()")
    assert job.value("select count(*) from qr_refresh.runs") == 0


def test_a_tick_waits_until_somebody_is_due_and_for_a_second_at_most(job: Job) -> None:
    progress: dict[str, Any] = {}

    def tick() -> float:
        """Do a tick, and return how long it took."""
        nonlocal progress
        begun_at = time.monotonic()
        progress = job.value("select qr_refresh.live_tick(1, 1, %s)", json.dumps(progress))
        return time.monotonic() - begun_at

    def due_in(seconds: float) -> None:
        job.connection.execute(
            "update qr_refresh.instance_state"
            " set next_attempt_at = clock_timestamp() + make_interval(secs => %s)",
            (seconds,),
        )

    job.add("shop")
    tick()
    assert progress["under_way"] == 1
    while progress["under_way"]:
        tick()
    assert job.row("shop").qr_code is not None
    # Whoever looks whether somebody has begun to connect comes first.
    progress["looks_at"] = job.value("select (clock_timestamp() + interval '1 minute')::text")
    due_in(30)
    assert 0.9 < tick() < 2, "nobody is due for a while"
    due_in(0.3)
    refreshed = progress["refreshed"]
    assert 0.2 < tick() < 0.9, "somebody is"
    tick()
    # A fast answer comes while this tick waits; then nothing is under way any more.
    assert progress["under_way"] + progress["refreshed"] == refreshed + 1


def test_ticks_that_fail_are_counted_and_the_next_one_comes_a_second_later(job: Job) -> None:
    def tick_after(progress: dict[str, object] | None) -> dict[str, object]:
        """Do a tick, and those that take what it has asked."""
        while True:
            # Whatever the time: no minute is over in between.
            now = job.value("select clock_timestamp()::text")
            begun = json.dumps((progress or {}) | {"begun_at": now, "looks_at": None})
            progress = job.value("select qr_refresh.live_tick(1, 1, %s)", begun)
            assert progress is not None
            if not progress["under_way"]:
                return progress

    def counts_of_the_minute(progress: dict[str, object]) -> dict[str, object]:
        """Let the minute be over, and return what is kept of it."""
        job.connection.execute("delete from qr_refresh.runs")
        begun_at = job.value("select (now() - interval '90 seconds')::text")
        over = json.dumps(progress | {"begun_at": begun_at})
        assert job.value("select qr_refresh.live_tick(1, 1, %s)", over) is None
        found: dict[str, object] = job.value("select report from qr_refresh.runs")
        return found

    job.add("shop")
    job.add("broken").answer_with = error_answer(500, "Internal Server Error", "boom")
    job.connection.execute("alter table evolution_instances rename to gone")
    begun_at = time.monotonic()
    progress = tick_after(None)
    assert time.monotonic() - begun_at >= 1
    job.connection.execute("alter table gone rename to evolution_instances")
    job.connection.execute("alter table qr_refresh.instance_state rename reconnects to r")
    progress = tick_after(progress)
    minute = counts_of_the_minute(progress)
    assert (minute["success"], minute["ticks"], minute["failed_ticks"]) == (False, 2, 2)
    job.connection.execute("alter table qr_refresh.instance_state rename r to reconnects")
    for _ in range(2):
        progress = tick_after(progress)
        job.connection.execute("update qr_refresh.instance_state set next_attempt_at = now()")
    minute = counts_of_the_minute(progress)
    assert (minute["success"], minute["failed_ticks"]) == (True, 2)
    counts = ("qr_updated", "total_instances", "refreshed", "failed")
    # The second time the QR code was there already.
    assert [minute[count] for count in counts] == [1, 4, 2, 2]


def test_live_survives_a_tick_that_fails(
    job: Job, connect: Callable[[], Connection], server: Server
) -> None:
    job.connection.execute("alter table evolution_instances rename to gone")
    with live(job, connect):
        # Not one of another test's.
        mark = f"@{job.connection.info.dbname} LOG:  [refresh-qr-codes] "
        line = f"{mark}Live mode: a tick failed (SQLSTATE 42P01)"
        wait_until(lambda: line in server.log_text(), "a tick has failed")
        job.connection.execute("alter table gone rename to evolution_instances")
        job.add("shop")
        wait_until(lambda: job.row("shop").qr_code, "the next tick works")


@pytest.mark.parametrize("arguments", ["null", "0, 1", "3, 2", "1, null"])
def test_live_refuses_arguments_that_make_no_sense(job: Job, arguments: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        job.connection.execute(f"call qr_refresh.live({arguments})".encode())
    assert caught.value.sqlstate == "QR004"
    assert caught.value.diag.message_hint
