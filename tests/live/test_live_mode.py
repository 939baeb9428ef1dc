"""Live mode: runs that ask only who is due, and the procedure that ticks."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import psycopg
import pytest

from simulator import Simulator, Trouble, error_answer
from simulator.picture import data_url, qr_text
from tools.backend import run_python, threads
from tools.engines import Server
from tools.job import Connection, Job, read_qr, wait_until


@contextlib.contextmanager
def live(job: Job, connect: Callable[[], Connection], lane: str = "fast") -> Iterator[Connection]:
    """Call live() in a session of its own, minute after minute, while the block lasts."""
    session = connect()
    stopping = threading.Event()
    failures: list[Exception] = []

    def call_again_and_again() -> None:
        while not stopping.is_set():
            try:
                session.execute("call qr_refresh.live(%s)", (lane,))
            except psycopg.errors.QueryCanceled:
                if not stopping.is_set():
                    raise
            except psycopg.Error as e:
                failures.append(e)
                return

    thread = threading.Thread(target=call_again_and_again)
    thread.start()
    try:
        yield session
    finally:
        stopping.set()
        while thread.is_alive():
            # Again: between two calls there is nothing to cancel.
            session.cancel()
            thread.join(0.05)
    assert not failures, failures


def tick(job: Job, lane: str = "fast") -> list[str]:
    """Do what live() does at one tick, and return the names of whom it asked."""
    report = job.value("select report from qr_refresh.refresh_due(%s, 1, 1)", lane)
    return [result["instance_name"] for result in report["results"]] if report else []


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


def test_a_new_row_is_due_at_once_and_then_not_for_a_while(job: Job, simulator: Simulator) -> None:
    job.add("shop")
    first = job.value("select refresh_qr_codes(only_due => true)")
    assert first["results"] == [{"instance_name": "shop", "success": True, "qr_updated": True}]
    assert read_qr(job.row("shop").qr_code) == simulator.current_code("shop")
    asked = simulator.total_requests
    second = job.value("select refresh_qr_codes(only_due => true)")
    assert second == {
        "success": True,
        "total_instances": 0,
        "refreshed": 0,
        "failed": 0,
        "results": [],
    }
    assert simulator.total_requests == asked
    assert job.value("select count(*) from qr_refresh.runs") == 1


def test_a_plain_run_asks_also_whom_nobody_waits_for(job: Job, simulator: Simulator) -> None:
    job.add("shop")
    tick(job)
    assert tick(job) == []
    assert [r["instance_name"] for r in job.run()["results"]] == ["shop"]


def test_an_unchanged_qr_leaves_the_row_and_the_write_ahead_log_alone(job: Job) -> None:
    names = [f"shop {number}" for number in range(20)]
    for name in names:
        job.add(name)
    assert len(tick(job)) == len(names)
    version = "select array_agg(xmin::text || ctid::text order by id) from evolution_instances"
    before, stamps = job.value(version), [job.row(name).last_qr_update for name in names]
    # Else reading the table would tidy it up.
    job.connection.execute("vacuum evolution_instances")
    written = []
    for _ in range(3):
        job.let_time_pass(12)
        # Where this machine has much to do, an answer that took long is no matter of this test.
        job.connection.execute("update qr_refresh.instance_state set is_slow = false")
        plan = job.value(
            "explain (analyze, wal, format json) select qr_refresh.refresh_due('fast', 1, 1)"
        )
        written.append(plan[0]["Plan"]["WAL Bytes"])
        outcomes = job.value("select array_agg(distinct outcome) from qr_refresh.instance_state")
        assert outcomes == ["unchanged"]
    # Whoever reads a page of a catalog may tidy it up, but not each time.
    assert min(written) == 0, written
    assert job.value(version) == before
    assert [job.row(name).last_qr_update for name in names] == stamps


def test_a_stored_qr_that_somebody_has_cleared_comes_back_although_it_is_unchanged(
    job: Job,
) -> None:
    job.add("shop")
    tick(job)
    stored = job.row("shop").qr_code
    job.let_time_pass(12)
    tick(job)
    job.connection.execute("update evolution_instances set qr_code = null")
    job.let_time_pass(1)
    assert tick(job) == ["shop"]
    assert job.row("shop").qr_code == stored


def test_a_qr_that_is_cleared_again_and_again_is_asked_for_once_a_second_at_most(job: Job) -> None:
    job.connection.execute(
        "create function clear() returns trigger language plpgsql as"
        " $$ begin new.qr_code := null; return new; end $$;"
        "create trigger clear before update on evolution_instances"
        " for each row execute function clear()"
    )
    job.add("shop")
    assert tick(job) == ["shop"]
    # However long that took.
    job.connection.execute("update qr_refresh.instance_state set attempted_at = clock_timestamp()")
    assert tick(job) == []
    job.let_time_pass(1)
    assert tick(job) == ["shop"]


def test_a_row_without_a_name_costs_nobody_else_anything(job: Job) -> None:
    job.connection.execute("alter table evolution_instances alter instance_name drop not null")
    job.connection.execute(
        "insert into evolution_instances (instance_token, instance_status)"
        " values ('a-token', 'connecting')"
    )
    job.add("shop")
    assert tick(job) == ["shop"]
    assert job.value("select report from qr_refresh.refresh_due('fast', 1, 1)") is None
    assert [result["instance_name"] for result in job.run()["results"]] == ["shop"]


def test_a_transaction_that_is_left_open_stops_the_recording_of_nobody_else(
    job: Job, connect: Callable[[], Connection], simulator: Simulator
) -> None:
    for name in ("held", "shop", "other"):
        job.add(name)
    holder = connect()
    holder.execute("begin")
    holder.execute("select refresh_qr_codes('held')")
    asked = simulator.total_requests
    for _ in range(5):
        tick(job)
    # The fast lane asks a new instance for its state and for its code.
    assert simulator.total_requests == asked + 4
    assert job.row("shop").qr_code is not None
    known = "select array_agg(instance_name order by 1) from qr_refresh.instance_state"
    assert job.value(known) == ["other", "shop"]
    holder.execute("rollback")
    assert tick(job) == ["held"]


def test_who_holds_what_is_known_of_some_instances_holds_up_nobody(
    job: Job, connect: Callable[[], Connection], server: Server
) -> None:
    for name in ("held", "gone", "shop"):
        job.add(name)
    tick(job)
    job.let_time_pass(50)
    holder = connect()
    holder.execute("begin")
    holder.execute(
        "update qr_refresh.instance_state set attempted_at = attempted_at"
        " where instance_name <> 'shop'"
    )
    job.connection.execute(
        "update evolution_instances set instance_status = 'connected' where instance_name = 'gone'"
    )
    assert sorted(tick(job)) == ["held", "shop"]
    # What is known of shop is recorded, and of nobody else.
    assert tick(job) == ["held"]
    holder.execute("rollback")
    assert tick(job) == ["held"]
    assert tick(job) == []
    assert job.value("select count(*) from qr_refresh.instance_state") == 2


def test_a_locked_row_costs_a_tick_a_tenth_of_a_second(
    job: Job, connect: Callable[[], Connection]
) -> None:
    job.add("locked")
    holder = connect()
    lengths: list[float] = []
    with holder.transaction():
        holder.execute("select from evolution_instances for update")
        # The best of a few, because others may use this machine.
        while len(lengths) < 6 and min(lengths, default=1) >= 0.4:
            begun_at = time.monotonic()
            assert tick(job) == ["locked"]
            lengths.append(time.monotonic() - begun_at)
            job.let_time_pass(60)
    assert 0.1 < min(lengths) < 0.4, lengths
    assert tick(job) == ["locked"]
    assert job.row("locked").qr_code is not None


def test_an_idle_tick_writes_nothing_logs_nothing_and_loads_nothing(
    job: Job, server: Server
) -> None:
    job.add("shop")
    tick(job)
    session = psycopg.connect(job.connection.info.dsn, password=job.connection.info.password)
    with session:
        session.autocommit = True
        session.execute("begin")
        row = session.execute(
            "select report, next_attempt_at from qr_refresh.refresh_due('fast', 1, 1)"
        )
        report, next_attempt_at = row.fetchone() or (None, None)
        xid = session.execute("select pg_current_xact_id_if_assigned()").fetchone()
        session.execute("commit")
        assert report is None
        assert next_attempt_at is not None
        assert xid == (None,)
        loaded = run_python(session, "import sys; plpy.notice('requests' in sys.modules)")
        assert loaded == "False"
        assert threads(session) == 1
        begun_at = time.monotonic()
        for _ in range(20):
            session.execute("select qr_refresh.refresh_due('fast', 1, 1)")
        assert (time.monotonic() - begun_at) / 20 < 0.05
    # The one line of the tick that stored.
    mark = f"@{job.connection.info.dbname} LOG:  [refresh-qr-codes] "
    lines = [line.split(mark)[1] for line in server.log_text().splitlines() if mark in line]
    assert lines == ["✓ Successfully refreshed QR for shop"]


def test_what_is_known_of_an_instance_goes_when_it_is_no_longer_connecting(job: Job) -> None:
    for name in ("stays", "connects", "is deleted"):
        job.add(name)
    tick(job)
    job.connection.execute(
        "update evolution_instances set instance_status = 'connected'"
        " where instance_name = 'connects'"
    )
    job.connection.execute("delete from evolution_instances where instance_name = 'is deleted'")
    assert tick(job) == []
    known = "select array_agg(instance_name order by 1) from qr_refresh.instance_state"
    assert job.value(known) == ["stays"]
    # A plain run does the same.
    job.add("gives up")
    job.run()
    assert job.value(known) == ["gives up", "stays"]
    job.connection.execute(
        "update evolution_instances set instance_status = 'disconnected'"
        " where instance_name = 'gives up'"
    )
    job.run()
    assert job.value(known) == ["stays"]


def test_the_application_does_not_wait_for_a_run_in_the_middle_of_its_http(
    job: Job, connect: Callable[[], Connection], simulator: Simulator
) -> None:
    job.add("hangs").answer_with = Trouble.HANG
    job.add("shop")
    tick(job)
    job.connection.execute("delete from qr_refresh.instance_state where instance_name = 'shop'")
    job.set(request_timeout="3 s")
    asked = len(simulator.requests_of("hangs"))
    runner = connect()
    run = threading.Thread(target=runner.execute, args=("select refresh_qr_codes()",))
    run.start()
    try:
        wait_until(lambda: len(simulator.requests_of("hangs")) > asked, "the run hangs")
        slowest = 0.0
        for _ in range(20):
            begun_at = time.monotonic()
            job.connection.execute("update evolution_instances set updated_at = now()")
            slowest = max(slowest, time.monotonic() - begun_at)
        assert run.is_alive()
    finally:
        run.join()
    assert slowest < 1, "the run hangs for three seconds"


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
        # The slow lane is another matter.
        with pytest.raises(psycopg.errors.QueryCanceled):
            other.execute("set statement_timeout = '1 s'")
            other.execute("call qr_refresh.live('slow')")


def test_live_that_leaves_at_once_keeps_no_run(job: Job, connect: Callable[[], Connection]) -> None:
    with connect().transaction() as transaction:
        transaction.connection.execute(
            "select pg_advisory_xact_lock(hashtextextended('qr_refresh.live:fast:1', 0))"
        )
        job.connection.execute("call qr_refresh.live()")
    assert job.value("select count(*) from qr_refresh.runs") == 0


def test_live_waits_until_somebody_is_due_and_for_a_second_at_most(job: Job) -> None:
    def wait_after_a_tick(lane: str = "fast", worker: int = 1, workers: int = 1) -> float:
        progress = job.value("select qr_refresh.live_tick(%s, %s, %s, null)", lane, worker, workers)
        return float(progress["wait"])

    job.add_row("done", status="connected")
    assert wait_after_a_tick() == 1, "nothing is connecting"
    job.add("shop")
    assert wait_after_a_tick() == 0.1, "something was due"
    assert wait_after_a_tick() == 1, "nothing is due for a while"
    due_in = (
        "update qr_refresh.instance_state"
        " set next_attempt_at = clock_timestamp() + make_interval(secs => %s), is_slow = %s"
    )
    for seconds in (0.6, 0.02):
        job.connection.execute(due_in, (seconds, False))
        assert 0.1 <= wait_after_a_tick() <= max(0.1, seconds)
    # What is due for others is nothing to wait for.
    job.connection.execute(due_in, (0, True))
    assert wait_after_a_tick() == 1
    assert sorted(wait_after_a_tick("slow", worker, 2) for worker in (1, 2)) == [0.1, 1]


def test_live_ends_just_before_the_next_minute_begins(job: Job) -> None:
    second = "select extract(second from clock_timestamp())::float8"
    wait_until(lambda: job.value(second) < 57, "a minute in which there is time")
    goes_on = (
        "select qr_refresh.live_tick('fast', 1, 1, jsonb_build_object('ticks', 1, 'begun_at',"
        " date_trunc('minute', clock_timestamp()) - %s::interval)) is not null"
    )
    # pg_cron may come a moment before the minute does.
    for begun_before_the_minute, expected in (("0 s", True), ("1.9 s", True), ("2.1 s", False)):
        assert job.value(goes_on, begun_before_the_minute) is expected


def test_ticks_that_fail_are_counted_and_the_next_one_comes_a_second_later(job: Job) -> None:
    def tick_after(progress: dict[str, object] | None) -> dict[str, object]:
        # As if it had waited already, and whatever the time: no minute is over in between.
        now = job.value("select clock_timestamp()::text")
        begun = json.dumps((progress or {}) | {"wait": 0, "begun_at": now})
        found: dict[str, object] = job.value("select qr_refresh.live_tick('fast', 1, 1, %s)", begun)
        return found

    def counts_of_the_minute(progress: dict[str, object]) -> dict[str, object]:
        """Let the minute be over, and return what is kept of it."""
        job.connection.execute("delete from qr_refresh.runs")
        begun_at = job.value("select (now() - interval '90 seconds')::text")
        over = json.dumps(progress | {"wait": 0, "begun_at": begun_at})
        assert job.value("select qr_refresh.live_tick('fast', 1, 1, %s)", over) is None
        found: dict[str, object] = job.value("select report from qr_refresh.runs")
        return found

    job.add("shop")
    job.add("broken").answer_with = error_answer(500, "Internal Server Error", "boom")
    job.connection.execute("alter table evolution_instances rename to gone")
    progress = tick_after(None)
    assert progress["wait"] == 1
    job.connection.execute("alter table gone rename to evolution_instances")
    job.connection.execute("alter table qr_refresh.instance_state rename reconnects to r")
    progress = tick_after(progress)
    assert progress["wait"] == 1
    minute = counts_of_the_minute(progress)
    assert (minute["success"], minute["ticks"], minute["failed_ticks"]) == (False, 2, 2)
    job.connection.execute("alter table qr_refresh.instance_state rename r to reconnects")
    for _ in range(2):
        progress = tick_after(progress)
        job.connection.execute("update qr_refresh.instance_state set next_attempt_at = now()")
        job.connection.execute("update qr_refresh.instance_state set is_slow = false")
    minute = counts_of_the_minute(progress)
    assert (minute["success"], minute["ticks"], minute["failed_ticks"]) == (True, 4, 2)
    counts = ("qr_updated", "total_instances", "refreshed", "failed")
    # The second time the QR code was there already.
    assert [minute[count] for count in counts] == [1, 4, 2, 2]


def test_live_survives_a_tick_that_fails(
    job: Job, connect: Callable[[], Connection], server: Server
) -> None:
    job.connection.execute("alter table evolution_instances rename to gone")
    with live(job, connect):
        wait_until(
            lambda: "Live mode: a tick failed (SQLSTATE 42P01)" in server.log_text(),
            "a tick has failed",
        )
        job.connection.execute("alter table gone rename to evolution_instances")
        job.add("shop")
        wait_until(lambda: job.row("shop").qr_code, "the next tick works")


@pytest.mark.parametrize("arguments", ["'medium'", "null", "'fast', 0, 1", "'fast', 3, 2"])
def test_live_refuses_arguments_that_make_no_sense(job: Job, arguments: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        job.connection.execute(f"call qr_refresh.live({arguments})".encode())
    assert caught.value.sqlstate == "QR004"
    assert caught.value.diag.message_hint


def test_the_workers_share_the_instances(job: Job, simulator: Simulator) -> None:
    names = [f"shop {number}" for number in range(12)]
    for name in names:
        job.add(name)
    asked: list[list[str]] = []
    for worker in (1, 2, 3):
        report = job.value("select report from qr_refresh.refresh_due('fast', %s, 3)", worker)
        asked.append([result["instance_name"] for result in report["results"]])
    assert sorted(sum(asked, [])) == sorted(names)
    assert all(asked)


def test_an_instance_is_asked_at_the_server_that_it_names(
    job: Job, simulator: Simulator, server: Server
) -> None:
    job.add("at the default")
    job.add("elsewhere")
    job.add("nowhere")
    job.connection.execute(
        "insert into qr_refresh.evolution_servers values ('second', %s)",
        (simulator.base_url + "/second/",),
    )
    job.connection.execute(
        "update evolution_instances set evolution_server ="
        " case instance_name when 'elsewhere' then 'second' when 'nowhere' then 'third' end"
    )
    results = {r.pop("instance_name"): r for r in job.run()["results"]}
    assert results["at the default"] == {"success": True, "qr_updated": True}
    assert results["elsewhere"]["error"] == "Failed to fetch QR for elsewhere: 404 Not Found"
    assert (
        results["nowhere"]["error"] == "Failed to fetch QR for nowhere: Evolution server is unknown"
    )
    assert "/second/instance/connect/elsewhere" in [r.path for r in simulator.requests]
    assert not simulator.requests_of("nowhere")


def test_an_instance_that_is_connected_is_seen_and_its_row_left_to_the_application(
    job: Job, simulator: Simulator, server: Server
) -> None:
    job.add("shop")
    tick(job)
    before = job.row("shop")
    simulator.scan("shop")
    job.let_time_pass(60)
    assert tick(job) == ["shop"]
    assert job.value("select outcome from qr_refresh.instance_state") == "connected"
    assert job.row("shop") == before
    job.let_time_pass(60)
    assert tick(job) == ["shop"]
    assert (
        server.log_text().count(
            f"@{job.connection.info.dbname} LOG:  [refresh-qr-codes] shop is connected"
        )
        == 1
    )


def test_with_connected_status_the_status_is_written_and_the_used_qr_cleared(
    job: Job, simulator: Simulator
) -> None:
    job.set(connected_status="connected")
    job.connection.execute(
        "grant update (instance_status) on evolution_instances to qr_refresh_owner"
    )
    job.add("shop")
    job.add("other")
    tick(job)
    simulator.scan("shop")
    job.let_time_pass(60)
    assert sorted(tick(job)) == ["other", "shop"]
    row = job.row("shop")
    assert (row.instance_status, row.qr_code) == ("connected", None)
    assert job.row("other").qr_code is not None
    assert tick(job) == []
    assert job.value("select array_agg(instance_name) from qr_refresh.instance_state") == ["other"]


def test_connected_status_that_the_table_refuses_costs_nothing(
    job: Job, simulator: Simulator
) -> None:
    job.set(connected_status="no such status")
    job.connection.execute(
        "grant update (instance_status) on evolution_instances to qr_refresh_owner"
    )
    job.add("shop")
    tick(job)
    before = job.row("shop")
    simulator.scan("shop")
    job.let_time_pass(60)
    report = job.value("select report from qr_refresh.refresh_due('fast', 1, 1)")
    assert report["results"][0]["error"] == "Database update failed"
    assert job.row("shop") == before


def test_marking_as_connected_waits_for_no_lock_and_spares_rows_that_have_changed(
    job: Job, connect: Callable[[], Connection]
) -> None:
    locked = [f"locked {n}" for n in range(20)]
    names = ["refused", "skipped", "shop", "other token", "gave up", *locked]
    for name in names:
        job.add_row(name, "token", qr_code="a QR code")
    job.connection.execute(
        "alter table evolution_instances"
        " add check (instance_name <> 'refused' or instance_status = 'connecting');"
        "create function skip() returns trigger language plpgsql as $$ begin return null; end $$;"
        "update evolution_instances set instance_token = 'new' where instance_name = 'other token';"
        "update evolution_instances set instance_status = 'disconnected'"
        " where instance_name = 'gave up';"
        "create trigger skip before update on evolution_instances"
        " for each row when (new.instance_name = 'skipped') execute function skip()"
    )
    holder = connect()
    with holder.transaction():
        holder.execute(
            "select from evolution_instances where instance_name like 'locked%' for share"
        )
        begun_at = time.monotonic()
        found = job.connection.execute(
            "select * from qr_refresh.store_connected(%s, %s, 'connected')",
            (names, ["token"] * len(names)),
        ).fetchall()
        assert time.monotonic() - begun_at < 1, "at 0.1 s a row these would have taken 2 s"
    assert dict(zip(names, found, strict=True)) == {
        "refused": ("update_failed", "23514"),
        "skipped": ("update_failed", "09000"),
        "shop": ("connected", None),
        "other token": ("changed", None),
        "gave up": ("changed", None),
        **dict.fromkeys(locked, ("update_failed", "55P03")),
    }
    rows = {name: job.row(name) for name in names}
    assert (rows["shop"].instance_status, rows["shop"].qr_code) == ("connected", None)
    assert {name for name in names if rows[name].qr_code} == set(names) - {"shop"}


def test_a_failure_makes_no_new_qr_of_the_old_one(job: Job) -> None:
    instance = job.add("shop")
    job.run()
    instance.answer_with = error_answer(502, "Bad Gateway", "no upstream")
    job.let_time_pass(12)
    job.run()
    instance.answer_with = None
    job.let_time_pass(12)
    job.run()
    assert job.value("select outcome from qr_refresh.instance_state") == "stored"
    age = "select extract(epoch from clock_timestamp() - qr_first_seen_at)::float8"
    assert job.value(f"{age} from qr_refresh.instance_state") >= 24


def test_a_dead_qr_is_reported_and_not_stamped_again(job: Job, simulator: Simulator) -> None:
    instance = job.add("shop")
    tick(job)
    before = job.row("shop")
    # After scan and logout Evolution API hands out the used QR code, with status 200.
    instance.qr_delay = 1000
    simulator.scan("shop")
    simulator.logout("shop")
    for _ in range(3):
        job.let_time_pass(30)
        report = job.value("select refresh_qr_codes(only_due => true)")
    assert report["results"] == [
        {
            "instance_name": "shop",
            "success": True,
            "qr_updated": False,
            "error": "QR code expired, waiting for a new one",
        }
    ]
    assert job.row("shop") == before


def test_what_hangs_goes_to_the_slow_lane_and_holds_up_nobody_twice(
    job: Job, connect: Callable[[], Connection], simulator: Simulator
) -> None:
    job.add("hangs").answer_with = Trouble.HANG
    delays = []

    def has_qr(name: str) -> bool:
        return job.row(name).qr_code is not None

    with live(job, connect), live(job, connect, "slow"):
        wait_until(
            lambda: job.value(
                "select coalesce(bool_or(is_slow), false) from qr_refresh.instance_state"
            ),
            "the one that hangs is in the slow lane",
        )
        for number in range(10):
            name = f"shop {number}"
            begun_at = time.monotonic()
            job.add(name)
            wait_until(partial(has_qr, name), f"{name} has its QR code")
            delays.append(time.monotonic() - begun_at)
    assert len(simulator.requests_of("hangs")) >= 2
    # A tick comes at least once a second; one that waited for the slow one would take 8 more.
    assert max(delays) < 4


def test_a_tick_of_the_fast_lane_ends_after_four_seconds(job: Job) -> None:
    job.set(max_concurrency=1)
    for number in range(5):
        job.add(f"hangs {number}").answer_state_with = Trouble.HANG
    begun_at = time.monotonic()
    assert len(tick(job)) == 5
    # Each would take 1.5 seconds.
    assert 3.9 < time.monotonic() - begun_at < 6
    assert job.value("select count(*) from qr_refresh.instance_state where is_slow") == 3


def test_an_instance_that_answers_again_comes_back_to_the_fast_lane(job: Job) -> None:
    instance = job.add("shop")
    instance.answer_with = error_answer(502, "Bad Gateway", "no upstream")
    assert tick(job) == ["shop"]
    job.let_time_pass(12)
    assert tick(job) == []
    assert tick(job, "slow") == ["shop"]
    instance.answer_with = None
    job.let_time_pass(12)
    assert tick(job, "slow") == ["shop"]
    assert job.row("shop").qr_code is not None
    job.let_time_pass(12)
    assert tick(job, "slow") == []
    assert tick(job) == ["shop"]


def test_an_answer_that_takes_long_is_the_last_in_the_fast_lane(
    job: Job, simulator: Simulator
) -> None:
    job.add("shop")
    tick(job)
    job.let_time_pass(12)
    simulator.latency = 1.2
    assert tick(job) == ["shop"]
    simulator.latency = 0
    for lanes in (("slow", "fast"), ("fast", "slow")):
        job.let_time_pass(12)
        assert [tick(job, lane) for lane in lanes] == [["shop"], []]


def test_what_failed_together_does_not_come_back_together(job: Job) -> None:
    for number in range(10):
        job.add(f"shop {number}").answer_with = error_answer(502, "Bad Gateway", "no upstream")
    assert len(tick(job)) == 10
    spread = "select extract(epoch from max(next_attempt_at) - min(next_attempt_at))::float8"
    assert 0.02 < job.value(f"{spread} from qr_refresh.instance_state") < 0.2


def test_after_a_few_qr_codes_a_new_one_is_stored_soon_after_it_comes_with_few_calls(
    job: Job, simulator: Simulator
) -> None:
    job.add("shop", qr_age=17)
    begun_at = simulator.clock.now() - 17
    state = "select extract(epoch from {})::float8 from qr_refresh.instance_state"
    stored, calls = None, 0
    found = []
    while True:
        assert tick(job) == ["shop"]
        calls += 1
        if stored != job.row("shop").qr_code:
            stored = job.row("shop").qr_code
            late = (simulator.clock.now() - begun_at) % 45
            found.append((calls, late, job.value(state.format("poll_interval"))))
            calls = 0
        if len(found) == 6:
            break
        # The job's own clock goes on as well.
        job.let_time_pass(
            max(0, job.value(state.format("next_attempt_at - clock_timestamp()"))) + 0.001
        )
    assert max(calls for calls, _, _ in found) <= 5, found
    # A quarter each time: 9.1, 2.4, 0.7, 0.3 seconds, and a little for what the calls take.
    assert all(late < 1 and interval < 0.6 for _, late, interval in found[3:]), found
    # Who asks in between does not change when the next one is expected.
    job.let_time_pass(10)
    job.run("shop")
    assert 30 < job.value(state.format("next_attempt_at - clock_timestamp()")) < 35


def test_most_instances_have_their_first_qr_within_two_seconds_of_the_server(
    job: Job, connect: Callable[[], Connection], simulator: Simulator
) -> None:
    job.set(log_detail="off")
    count = 50
    # Nobody waits for the simulator to draw: it keeps the pictures that it has drawn.
    for number in range(count):
        data_url(qr_text(f"shop {number}/1"))
    waits: dict[str, float] = {}
    with live(job, connect), live(job, connect, "slow"):
        served_at = {}
        for number in range(count):
            name = f"shop {number}"
            # From at once to 5 seconds after the row begins to connect.
            delay = 5.0 * number / count
            instance = job.add(name, qr_delay=delay)
            served_at[name] = time.monotonic() + delay
            assert instance.qr is None or delay == 0
        deadline = time.monotonic() + 30
        while len(waits) < count and time.monotonic() < deadline:
            stored = job.connection.execute(
                "select instance_name from evolution_instances where qr_code is not null"
            ).fetchall()
            for (name,) in stored:
                waits.setdefault(name, time.monotonic() - served_at[name])
            time.sleep(0.02)
    assert len(waits) == count
    in_time = sum(wait <= 2 for wait in waits.values())
    assert in_time >= 0.95 * count, sorted(waits.values())


def test_most_of_the_time_the_stored_qr_is_the_one_that_the_server_serves(
    job: Job, simulator: Simulator
) -> None:
    """Three minutes, made short by moving both clocks; `make freshness` takes real time."""
    job.set(log_detail="off", max_concurrency=4)
    count, seconds = 20, 180
    for number in range(count):
        job.add(f"shop {number}", qr_age=45 * number / count)
    good = samples = 0
    begun_at = simulator.clock.now()
    while simulator.clock.now() < begun_at + seconds:
        tick(job)
        for name, stored in job.connection.execute(
            "select instance_name, qr_code from evolution_instances"
        ).fetchall():
            samples += 1
            good += stored == data_url(simulator.current_code(name) or "")
        job.let_time_pass(0.5)
    assert samples > 100 * count
    # Once a minute would be 38 %.
    assert good / samples > 0.9
    assert len(simulator.requests) / count / seconds * 45 < 6
