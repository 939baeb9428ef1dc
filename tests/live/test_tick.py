"""A tick of live mode: what it writes, what it leaves alone, and whom its locks make wait."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg

from simulator import Simulator
from tools.backend import clients
from tools.engines import Server
from tools.job import Connection, Job


def test_an_unchanged_qr_leaves_the_row_and_the_write_ahead_log_alone(job: Job) -> None:
    names = [f"shop {number}" for number in range(20)]
    job.set(max_concurrency=20)
    for name in names:
        job.add(name)
    assert len(job.tick()) == len(names)
    version = "select array_agg(xmin::text || ctid::text order by id) from evolution_instances"
    before, stamps = job.value(version), [job.row(name).last_qr_update for name in names]
    # Else reading the table would tidy it up.
    job.connection.execute("vacuum evolution_instances")
    written = []
    for _ in range(3):
        job.let_time_pass(12)
        job.look()
        # However busy this machine was: all are due.
        job.connection.execute("update qr_refresh.instance_state set next_attempt_at = now()")
        wal, under_way = 0, 0
        while True:
            tick = f"select qr_refresh.refresh_due(1, 1, 1, {under_way})"
            plan = job.value(f"explain (analyze, wal, format json) {tick}")
            wal += plan[0]["Plan"]["WAL Bytes"]
            under_way = job.value(
                "select count(*) from qr_refresh.instance_state where under_way_until is not null"
            )
            if not under_way:
                break
        written.append(wal)
        outcomes = job.value("select array_agg(distinct outcome) from qr_refresh.instance_state")
        assert outcomes == ["unchanged"]
    # Whoever reads a page of a catalog may tidy it up, but not each time.
    assert min(written) == 0, written
    assert job.value(version) == before
    assert [job.row(name).last_qr_update for name in names] == stamps


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
        job.tick()
    # Each for its state and for its code.
    assert simulator.total_requests == asked + 4
    assert job.row("shop").qr_code is not None
    known = "select array_agg(instance_name order by instance_name) from qr_refresh.instance_state"
    assert job.value(known) == ["other", "shop"]
    holder.execute("rollback")
    assert job.tick() == ["held"]


def test_who_holds_what_is_known_of_some_instances_holds_up_nobody(
    job: Job, connect: Callable[[], Connection], server: Server
) -> None:
    for name in ("held", "gone", "shop"):
        job.add(name)
    job.tick()
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
    # What cannot be recorded is not asked.
    assert job.tick() == ["shop"]
    assert job.tick() == []
    holder.execute("rollback")
    assert job.tick() == ["held"]
    assert job.tick() == []
    left = (
        "select array_agg(instance_name) from qr_refresh.instance_state where left_at is not null"
    )
    assert job.value(left) == ["gone"]


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
            assert job.tick() == ["locked"]
            lengths.append(time.monotonic() - begun_at)
            job.let_time_pass(60)
    assert 0.1 < min(lengths) < 0.4, lengths
    assert job.tick() == ["locked"]
    assert job.row("locked").qr_code is not None


def test_an_idle_tick_writes_nothing_logs_nothing_and_starts_nothing(
    job: Job, server: Server
) -> None:
    job.add("shop")
    job.tick()
    session = psycopg.connect(job.connection.info.dsn, password=job.connection.info.password)
    with session:
        session.autocommit = True
        session.execute("begin")
        session.execute("select qr_refresh.notice(1, 1), qr_refresh.notice_new(1, 1)")
        results = session.execute("select results from qr_refresh.refresh_due(1, 1)").fetchone()
        xid = session.execute("select pg_current_xact_id_if_assigned()").fetchone()
        session.execute("commit")
        assert results == ([],)
        assert xid == (None,)
        assert clients(session, session.info.backend_pid) == []
        begun_at = time.monotonic()
        for _ in range(20):
            session.execute("select qr_refresh.refresh_due(1, 1)")
        assert (time.monotonic() - begun_at) / 20 < 0.05
    # The one line of the tick that stored.
    mark = f"@{job.connection.info.dbname} LOG:  [refresh-qr-codes] "
    lines = [line.split(mark)[1] for line in server.log_text().splitlines() if mark in line]
    assert lines == ["✓ Successfully refreshed QR for shop"]


def test_a_dead_qr_is_reported_and_not_stamped_again(job: Job, simulator: Simulator) -> None:
    instance = job.add("shop")
    job.tick()
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
