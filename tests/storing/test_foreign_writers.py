"""The application writes into its table while a run is in the middle of its HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from simulator import hostile
from simulator.hostile import Exchange, HostileServer
from tools.engines import Server
from tools.job import OLD_QR, STORED, Connection, Job, read_qr, value_of, wait_until

CHANGED = {"success": True, "qr_updated": False, "error": "Instance changed during the run"}
REFUSED = {"success": False, "qr_updated": False, "error": "Database update failed"}
WHOLE_TABLE = "select to_jsonb(e) from evolution_instances as e order by instance_name"


@dataclass
class HeldRun:
    """A run whose requests have all arrived and are not answered before `release`."""

    outcome: Future[dict[str, Any]]
    released: threading.Event

    def release(self) -> dict[str, dict[str, Any]]:
        """Let Evolution API answer; returns the results by name, when the run has ended."""
        assert not self.outcome.done(), "the run did not wait for Evolution API"
        self.released.set()
        results = self.outcome.result(30)["results"]
        return {result.pop("instance_name"): result for result in results}


@pytest.fixture
def hold(hostile_job: Job, hostile_server: HostileServer) -> Iterator[Callable[..., HeldRun]]:
    """Adds rows that are connecting, begins a run, and holds it where it waits for answers."""
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))
        released = threading.Event()
        stack.callback(released.set)

        async def answer_when_released(exchange: Exchange) -> None:
            while not released.is_set():
                await asyncio.sleep(0.005)
            await hostile.good(exchange)

        def asked() -> set[str]:
            return {request.instance_name for request in hostile_server.requests}

        def begin(*names: str) -> HeldRun:
            hostile_job.set(max_concurrency=64)
            for name in names:
                hostile_server.behave(name, answer_when_released)
                hostile_job.add_row(name, qr_code=OLD_QR)
            held = HeldRun(pool.submit(hostile_job.run), released)
            wait_until(lambda: asked() >= set(names), "all is asked")
            return held

        yield begin


def fetched(job: Job, name: str) -> bool:
    """The row has the QR code that the server gave, whole."""
    return read_qr(job.row(name).qr_code) == hostile.QR_CODE.code


@pytest.mark.parametrize(
    "change",
    [
        "update evolution_instances set instance_status = 'connected' where {shop}",
        "update evolution_instances set instance_status = 'disconnected', qr_code = null,"
        " last_qr_update = null where {shop}",
        "update evolution_instances set instance_token = 'another' where {shop}",
        "update evolution_instances set instance_token = null where {shop}",
        "update evolution_instances set instance_name = 'renamed' where {shop}",
        "delete from evolution_instances where {shop}",
        "delete from evolution_instances where {shop}; insert into evolution_instances"
        " (instance_name, instance_token, instance_status) values ('shop', 'new', 'connecting')",
        "truncate evolution_instances",
    ],
    ids=["connects", "gives up", "token", "no token", "name", "deleted", "replaced", "truncated"],
)
def test_a_row_that_changes_meanwhile_stays_as_the_application_left_it(
    hostile_job: Job, connect: Callable[[], Connection], hold: Callable[..., HeldRun], change: str
) -> None:
    application = connect()
    application.execute("set lock_timeout = '1s'")
    run = hold("shop")
    if change.startswith("truncate"):
        # What needs the table for itself waits for the run to end: that is PostgreSQL's rule.
        with pytest.raises(psycopg.errors.LockNotAvailable):
            application.execute(change.encode())
        assert run.release() == {"shop": STORED}
        return
    application.execute(change.format(shop="instance_name = 'shop'").encode())
    left = application.execute(WHOLE_TABLE.encode()).fetchall()
    assert run.release() == {"shop": CHANGED}
    assert application.execute(WHOLE_TABLE.encode()).fetchall() == left


def test_names_that_are_swapped_meanwhile_get_nobody_elses_qr_code(
    hostile_job: Job, connect: Callable[[], Connection], hold: Callable[..., HeldRun]
) -> None:
    hostile_job.add_row("a", "token of a")
    hostile_job.add_row("b", "token of b")
    application = connect()
    run = hold("c")
    for former, name in (("a", "x"), ("b", "a"), ("x", "b")):
        application.execute(
            "update evolution_instances set instance_name = %s where instance_name = %s",
            (name, former),
        )
    assert run.release() == {"a": CHANGED, "b": CHANGED, "c": STORED}


def test_the_application_waits_for_nothing_while_a_run_waits_for_answers(
    hostile_job: Job, connect: Callable[[], Connection], hold: Callable[..., HeldRun]
) -> None:
    application = connect()
    run = hold("shop")
    slowest = 0.0
    for number in range(20):
        begun_at = time.monotonic()
        application.execute(
            "update evolution_instances set updated_at = now(), instance_token = %s",
            (f"token {number}",),
        )
        slowest = max(slowest, time.monotonic() - begun_at)
    assert slowest < 0.5  # it takes about a millisecond
    assert run.release() == {"shop": CHANGED}


@pytest.mark.parametrize("locked", [1, 40])
def test_rows_that_stay_locked_are_given_up_soon_however_many(
    hostile_job: Job, connect: Callable[[], Connection], hold: Callable[..., HeldRun], locked: int
) -> None:
    application = connect()
    names = [f"locked {number}" for number in range(locked)]
    run = hold("free", *names)
    with application.transaction():
        application.execute(
            "select from evolution_instances where instance_name like 'locked%' for update"
        )
        begun_at = time.monotonic()
        results = run.release()
        assert time.monotonic() - begun_at < 2
    assert results == {"free": STORED} | dict.fromkeys(names, REFUSED)
    assert fetched(hostile_job, "free")
    assert {hostile_job.row(name).qr_code for name in names} == {OLD_QR}


def test_a_row_that_is_locked_for_a_moment_is_stored(
    hostile_job: Job, connect: Callable[[], Connection], hold: Callable[..., HeldRun]
) -> None:
    application = connect()
    # Without this the moment is too short to hit. A sequence counts also what is rolled back.
    hostile_job.connection.execute(
        "create sequence attempts; grant usage on sequence attempts to qr_refresh_owner;"
        "create function slow() returns trigger language plpgsql as"
        " $$ begin perform nextval('public.attempts'); perform pg_sleep(0.4); return null; end $$;"
        "create trigger slow before update on evolution_instances"
        " for each statement execute function slow()"
    )
    run = hold("shop")
    with application.transaction():
        application.execute("select from evolution_instances for update")
        run.released.set()
        second = "select last_value >= 2 from attempts"
        wait_until(lambda: value_of(application, second), "the job tries once more")
    assert run.outcome.result(30)["results"] == [{"instance_name": "shop", **STORED}]
    assert fetched(hostile_job, "shop")


def test_a_row_that_another_table_refers_to_meanwhile_is_stored(
    hostile_job: Job, connect: Callable[[], Connection], hold: Callable[..., HeldRun]
) -> None:
    hostile_job.connection.execute(
        "create table messages (instance_name text references evolution_instances (instance_name))"
    )
    application = connect()
    run = hold("shop")
    with application.transaction():
        application.execute("insert into messages values ('shop')")
        assert run.release() == {"shop": STORED}
    assert fetched(hostile_job, "shop")


@pytest.mark.parametrize("what", ["raise exception 'no, %', new.instance_token", "assert false"])
def test_a_trigger_that_comes_meanwhile_and_raises_costs_only_its_row(
    hostile_job: Job,
    connect: Callable[[], Connection],
    hold: Callable[..., HeldRun],
    what: str,
) -> None:
    application = connect()
    run = hold("bad", "good")
    application.execute(
        "create function refuse() returns trigger language plpgsql as"
        f" $$ begin {what}; end $$;"
        " create trigger refuse before update on evolution_instances"
        " for each row when (new.instance_name = 'bad') execute function refuse()"
    )
    assert run.release() == {"bad": REFUSED, "good": STORED}
    assert hostile_job.row("bad").qr_code == OLD_QR
    assert fetched(hostile_job, "good")


OF_APP = "create trigger of_app before update on evolution_instances for each row execute function "
FUNCTION = "create function of_app() returns trigger language plpgsql {} as $$ begin {}; end $$;"
# What applications, above all on Supabase, have on their tables: name, then what sets it up.
USUAL_TRIGGERS = {
    "now()": FUNCTION.format("", "new.updated_at = now(); return new") + OF_APP + "of_app()",
    "moddatetime": "create schema extensions; create extension moddatetime schema extensions;"
    + OF_APP
    + "extensions.moddatetime(updated_at)",
    "auth.uid()": "create schema auth; grant usage on schema auth to public;"
    "create function auth.uid() returns uuid language sql stable as"
    " $$ select nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$;"
    "alter table evolution_instances add updated_by uuid default gen_random_uuid();"
    + FUNCTION.format(
        "", "new.updated_by = auth.uid(); new.updated_at = clock_timestamp(); return new"
    )
    + OF_APP
    + "of_app()",
    "audit": "create table audit (name text);"
    + FUNCTION.format(
        "security definer set search_path = public",
        "insert into audit values (new.instance_name); new.updated_at = now(); return new",
    )
    + OF_APP
    + "of_app()",
}


@pytest.mark.parametrize("trigger", USUAL_TRIGGERS)
def test_the_usual_triggers_work(job: Job, trigger: str) -> None:
    job.add("shop")
    job.connection.execute(USUAL_TRIGGERS[trigger].encode())
    job.connection.execute("set role service_role")
    assert job.run()["results"] == [{"instance_name": "shop", **STORED}]
    job.connection.execute("reset role")
    assert job.value("select updated_at > created_at from evolution_instances")
    assert read_qr(job.row("shop").qr_code) == job.simulator.current_code("shop")


def test_a_row_that_a_trigger_skips_is_refused_and_is_no_locked_one(job: Job) -> None:
    job.add("good")
    job.add("skipped")
    job.connection.execute(
        "create function skip() returns trigger language plpgsql as $$ begin return null; end $$;"
        " create trigger skip before update on evolution_instances"
        " for each row when (new.instance_name = 'skipped') execute function skip()"
    )
    assert [job.result(name) for name in ("good", "skipped")] == [STORED, REFUSED]
    assert job.row("skipped").qr_code is None
    # 55P03 would be that of a locked row, for which the run would have waited.
    assert job.value("select last_error from qr_refresh.status where failures > 0") == (
        "SQLSTATE 09000"
    )


def test_a_check_that_a_row_fails_from_now_on_costs_only_that_row(
    hostile_job: Job, connect: Callable[[], Connection], hold: Callable[..., HeldRun]
) -> None:
    hostile_job.connection.execute(
        "alter table evolution_instances add column frozen text,"
        " add check (qr_code = frozen)"  # NULL passes
    )
    run = hold("bad", "good")
    connect().execute("update evolution_instances set frozen = qr_code where instance_name = 'bad'")
    assert run.release() == {"bad": REFUSED, "good": STORED}
    assert hostile_job.row("bad").qr_code == OLD_QR
    assert fetched(hostile_job, "good")


def test_more_columns_stay_as_they_are_and_generated_ones_follow(
    hostile_job: Job, connect: Callable[[], Connection], hold: Callable[..., HeldRun]
) -> None:
    hostile_job.connection.execute(
        "alter table evolution_instances add column number bigint generated always as identity,"
        " add column has_qr boolean generated always as (qr_code is not null) stored,"
        " add column qr_length integer generated always as (length(qr_code)) stored,"
        " add column tags text[] not null default '{a}', add column note text"
    )
    run = hold("shop")
    application = connect()
    application.execute("update evolution_instances set note = 'meanwhile'")
    before = value_of(application, WHOLE_TABLE)
    assert run.release() == {"shop": STORED}
    after = value_of(application, WHOLE_TABLE)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"qr_code", "last_qr_update", "qr_length"}
    assert after["qr_length"] == len(after["qr_code"])


def test_a_table_that_somebody_holds_for_itself_is_not_waited_for_long(
    job: Job, connect: Callable[[], Connection]
) -> None:
    job.add("shop")
    application = connect()
    with application.transaction():
        application.execute("lock table evolution_instances in access exclusive mode")
        begun_at = time.monotonic()
        assert job.run() == {"success": False, "error": "Error fetching instances"}
        assert time.monotonic() - begun_at < 5
    assert job.result("shop") == STORED
    assert job.value("show lock_timeout") == "0"


def test_a_table_that_only_lets_itself_be_read_costs_a_moment_and_no_qr_code(
    hostile_job: Job, connect: Callable[[], Connection], hold: Callable[..., HeldRun]
) -> None:
    names = [f"instance {number}" for number in range(40)]
    run = hold(*names)
    application = connect()
    with application.transaction():
        application.execute("lock table evolution_instances in share mode")
        begun_at = time.monotonic()
        assert run.release() == dict.fromkeys(names, REFUSED)
        assert time.monotonic() - begun_at < 2
    assert {hostile_job.row(name).qr_code for name in names} == {OLD_QR}


def test_who_holds_some_rows_and_waits_for_others_is_in_no_deadlock(
    job: Job, connect: Callable[[], Connection]
) -> None:
    # The server looks for a deadlock after deadlock_timeout; at once is the worst case.
    application = connect()
    application.execute("set deadlock_timeout = '10ms'")
    names = [f"instance {number:02}" for number in range(40)]
    for name in names:
        job.add(name)
    job.connection.execute(
        "create function slow() returns trigger language plpgsql as"
        " $$ begin perform pg_advisory_xact_lock_shared(1); return new; end $$;"
        "create trigger slow after update on evolution_instances"
        " for each row when (new.instance_name = 'instance 39') execute function slow()"
    )
    job.set(max_concurrency=64)
    gate = connect()
    with ThreadPoolExecutor(1) as pool, application.transaction():
        application.execute(
            "select from evolution_instances where instance_name < 'instance 30' for update"
        )
        with gate.transaction():
            # The run holds its ten rows until the gate opens.
            gate.execute("select pg_advisory_xact_lock(1)")
            run = pool.submit(job.run)
            waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
            wait_until(lambda: value_of(gate, waits) > 0, "the run writes")
        # Now it tries the other thirty, which the application holds.
        application.execute("update evolution_instances set updated_at = now()")
        report = run.result(30)
    assert report["refreshed"] + report["failed"] == 40


@pytest.mark.outage
def test_no_deadlock_in_30_runs_beside_transactions_that_update_in_any_order(
    job: Job, connect: Callable[[], Connection], server: Server
) -> None:
    names = [f"instance {number}" for number in range(10)]
    for name in names:
        job.add(name)
    order = random.Random(5)
    runs_done = threading.Event()
    errors: list[psycopg.Error] = []
    transactions = [0, 0]

    def update_again_and_again(number: int, connection: Connection) -> None:
        shuffled = random.Random(number)
        while not runs_done.is_set():
            # The two of them would be in deadlocks with each other: each has its own half.
            chosen = names[number::2]
            shuffled.shuffle(chosen)
            try:
                with connection.transaction():
                    for name in chosen:
                        connection.execute(
                            "update evolution_instances set updated_at = clock_timestamp()"
                            " where instance_name = %s",
                            (name,),
                        )
                transactions[number] += 1
            except psycopg.Error as error:
                errors.append(error)
            runs_done.wait(order.uniform(0, 0.02))

    sessions = [connect(), connect()]
    for session in sessions:
        session.execute("set deadlock_timeout = '10ms'")
    writers = [
        threading.Thread(target=update_again_and_again, args=pair) for pair in enumerate(sessions)
    ]
    for writer in writers:
        writer.start()
    stored = 0
    try:
        for _ in range(30):
            report = job.run()
            assert report["success"], report
            assert all(r["success"] or r["error"] == REFUSED["error"] for r in report["results"])
            stored += report["refreshed"]
    finally:
        runs_done.set()
        for writer in writers:
            writer.join()
    assert errors == []
    assert min(transactions) > 6
    # Two that wait for each other cannot both go on: then it is the run that gives up.
    assert stored > 150
    assert job.run()["refreshed"] == 10
    if server.engine != "url":
        assert "deadlock detected" not in server.log_text()
