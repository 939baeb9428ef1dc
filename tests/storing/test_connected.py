"""An instance that is found connected: its row is left alone, or marked as the settings say."""

from __future__ import annotations

import time
from collections.abc import Callable

from simulator import Simulator
from tools.engines import Server
from tools.job import Connection, Job


def test_an_instance_that_is_connected_is_seen_and_its_row_left_to_the_application(
    job: Job, simulator: Simulator, server: Server
) -> None:
    job.add("shop")
    job.tick()
    before = job.row("shop")
    simulator.scan("shop")
    job.let_time_pass(60)
    assert job.tick() == ["shop"]
    assert job.value("select outcome from qr_refresh.instance_state") == "connected"
    assert job.row("shop") == before
    job.let_time_pass(60)
    assert job.tick() == ["shop"]
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
    job.tick()
    simulator.scan("shop")
    job.let_time_pass(60)
    assert sorted(job.tick()) == ["other", "shop"]
    row = job.row("shop")
    assert (row.instance_status, row.qr_code) == ("connected", None)
    assert job.row("other").qr_code is not None
    assert job.tick() == []
    there = "select array_agg(instance_name) from qr_refresh.instance_state where left_at is null"
    assert job.value(there) == ["other"]


def test_connected_status_that_the_table_refuses_costs_nothing(
    job: Job, simulator: Simulator
) -> None:
    job.set(connected_status="no such status")
    job.connection.execute(
        "grant update (instance_status) on evolution_instances to qr_refresh_owner"
    )
    job.add("shop")
    job.tick()
    before = job.row("shop")
    simulator.scan("shop")
    job.let_time_pass(60)
    (result,) = job.tick_report()
    assert result["error"] == "Database update failed"
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
            "select s.outcome, s.error from unnest(qr_refresh.store_connected(array("
            "select (sha256(convert_to(n.name, 'UTF8')), n.name, null, 'token', null, true, true,"
            " now(), 'connected', null, null, null, false, 0.01, now(), null)::qr_refresh.attempt"
            " from unnest(%s::text[]) with ordinality as n (name, position) order by n.position"
            "), now(), 'connected')) as s",
            (names,),
        ).fetchall()
        assert time.monotonic() - begun_at < 1, "at 0.1 s a row these would have taken 2 s"
    assert dict(zip(names, found, strict=True)) == {
        "refused": ("update_failed", "SQLSTATE 23514"),
        "skipped": ("update_failed", "SQLSTATE 09000"),
        "shop": ("connected", None),
        "other token": ("changed", None),
        "gave up": ("changed", None),
        **dict.fromkeys(locked, ("update_failed", "SQLSTATE 55P03")),
    }
    rows = {name: job.row(name) for name in names}
    assert (rows["shop"].instance_status, rows["shop"].qr_code) == ("connected", None)
    assert {name for name in names if rows[name].qr_code} == set(names) - {"shop"}
