"""Who is asked: whose turn it is, by which worker, at which server, and what is known of whom."""

from __future__ import annotations

from simulator import Simulator
from tools.engines import Server
from tools.job import Job, read_qr


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
    job.tick()
    assert job.tick() == []
    assert [r["instance_name"] for r in job.run()["results"]] == ["shop"]


def test_a_stored_qr_that_somebody_has_cleared_comes_back_although_it_is_unchanged(
    job: Job,
) -> None:
    job.add("shop")
    job.tick()
    stored = job.row("shop").qr_code
    job.let_time_pass(12)
    job.tick()
    job.connection.execute("update evolution_instances set qr_code = null")
    job.let_time_pass(1)
    assert job.tick() == ["shop"]
    assert job.row("shop").qr_code == stored


def test_a_qr_that_is_cleared_again_and_again_is_asked_for_once_a_second_at_most(job: Job) -> None:
    job.connection.execute(
        "create function clear() returns trigger language plpgsql as"
        " $$ begin new.qr_code := null; return new; end $$;"
        "create trigger clear before update on evolution_instances"
        " for each row execute function clear()"
    )
    job.add("shop")
    assert job.tick() == ["shop"]
    # However long that took.
    job.connection.execute("update qr_refresh.instance_state set attempted_at = clock_timestamp()")
    assert job.tick() == []
    job.let_time_pass(1)
    assert job.tick() == ["shop"]


def test_a_row_without_a_name_costs_nobody_else_anything(job: Job) -> None:
    job.connection.execute("alter table evolution_instances alter instance_name drop not null")
    job.connection.execute(
        "insert into evolution_instances (instance_token, instance_status)"
        " values ('a-token', 'connecting')"
    )
    job.add("shop")
    assert job.tick() == ["shop"]
    assert job.tick_report() == []
    assert [result["instance_name"] for result in job.run()["results"]] == ["shop"]


def test_an_instance_that_is_no_longer_connecting_is_noticed_to_have_left(job: Job) -> None:
    for name in ("stays", "connects", "is deleted"):
        job.add(name)
    job.tick()
    job.connection.execute(
        "update evolution_instances set instance_status = 'connected'"
        " where instance_name = 'connects'"
    )
    job.connection.execute("delete from evolution_instances where instance_name = 'is deleted'")
    assert job.tick() == []
    known = "select array_agg(instance_name order by instance_name) from qr_refresh.instance_state"
    known += " where left_at is null"
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


def test_the_workers_share_the_instances(job: Job, simulator: Simulator) -> None:
    names = [f"shop {number}" for number in range(12)]
    for name in names:
        job.add(name)
    asked = [job.tick(worker, 3) for worker in (1, 2, 3)]
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
    assert "/second/instance/connectionState/elsewhere" in [r.path for r in simulator.requests]
    assert not simulator.requests_of("nowhere")
