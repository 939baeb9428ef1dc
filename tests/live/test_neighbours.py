"""No tenant and no transaction stops the job for the others, and the job stops none."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from simulator import Simulator
from tests.live.sessions import live
from tools.job import Connection, Job, wait_until

SOON = 20.0  # seconds for what takes ten on a quiet machine: a new instance has its QR code


def has_qr_code_soon(job: Job, name: str) -> bool:
    begun_at = time.monotonic()
    wait_until(lambda: job.row(name).qr_code, f"{name} has its QR code", SOON + 20)
    return time.monotonic() - begun_at < SOON


def test_names_and_tokens_of_any_length_stop_nobody(
    job: Job, connect: Callable[[], Connection]
) -> None:
    job.connection.execute(
        "alter table evolution_instances drop constraint evolution_instances_instance_name_key"
    )
    job.connection.execute(
        "insert into evolution_instances (instance_name, instance_token, instance_status)"
        " select repeat('a', 150000) || n, 't', 'connecting' from generate_series(1, 300) as n"
        " union all select repeat(md5('x'), 32000), 't', 'connecting'"
        " union all select 'long token', repeat(md5('x'), 32000), 'connecting'"
    )
    job.add("shop")
    begun_at = time.monotonic()
    report = job.run()
    assert time.monotonic() - begun_at < 5
    assert job.row("shop").qr_code is not None
    # Ten of them are named, by their beginning.
    assert report["total_instances"] == 11
    assert len(str(report)) < 5000
    with live(job, connect):
        job.add("later")
        assert has_qr_code_soon(job, "later")
    assert job.value("select max(octet_length(instance_name)) from qr_refresh.instance_state") < 50


def test_a_crowd_of_new_rows_makes_a_new_one_and_the_living_wait_only_a_little(
    job: Job, connect: Callable[[], Connection], simulator: Simulator
) -> None:
    job.set(log_detail="off")
    living = [f"living {number}" for number in range(5)]
    for name in living:
        job.add(name)
    job.tick()
    job.connection.execute(
        "insert into evolution_instances (instance_name, instance_token, instance_status)"
        " select 'crowd ' || n, 't', 'connecting' from generate_series(1, 10000) as n"
    )
    with live(job, connect):
        noticed = "select count(*) > 10000 from qr_refresh.instance_state"
        wait_until(lambda: job.value(noticed), "the crowd is there")
        job.add("honest")
        assert has_qr_code_soon(job, "honest")
        # All of the living change.
        simulator.clock.advance(46)
        job.connection.execute(
            "update qr_refresh.instance_state set next_attempt_at = clock_timestamp()"
            " where queue = 'rotating'"
        )
        before = {name: job.row(name).qr_code for name in living}
        begun_at = time.monotonic()
        wait_until(
            lambda: all(job.row(name).qr_code != before[name] for name in living),
            "the living have their next QR code",
        )
        assert time.monotonic() - begun_at < SOON


def test_a_crowd_that_comes_at_once_does_not_stop_the_look_at_the_rows(
    job: Job, simulator: Simulator
) -> None:
    job.add("shop")
    # As often as PostgreSQL makes a plan for what it sees; later it keeps the one it has.
    for _ in range(6):
        job.look()
    job.connection.execute(
        "insert into evolution_instances (instance_name, instance_token, instance_status)"
        " select 'crowd ' || n, 't', 'connecting' from generate_series(1, 30000) as n"
    )
    # One look takes 0.3 s; comparing each row with each took over 25 s.
    job.connection.execute("set statement_timeout = '8 s'")
    for _ in range(4):
        job.look()
    assert job.value("select count(*) from qr_refresh.instance_state") == 30001


def test_a_crowd_that_fails_leaves_places_to_a_new_one(
    job: Job, connect: Callable[[], Connection]
) -> None:
    job.set(log_detail="off", max_concurrency=4)
    job.connection.execute(
        "insert into evolution_instances (instance_name, instance_token, instance_status)"
        " select 'crowd ' || n, 't', 'connecting' from generate_series(1, 3000) as n"
    )
    job.look()
    job.connection.execute(
        "update qr_refresh.instance_state set queue = 'failing', outcome = 'failed', failures = 1,"
        " next_attempt_at = clock_timestamp()"
    )
    with live(job, connect):
        job.add("honest")
        assert has_qr_code_soon(job, "honest")


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_a_transaction_that_is_left_open_stops_nobody(
    job: Job, connect: Callable[[], Connection], simulator: Simulator, level: str
) -> None:
    for name in ("held", "shop"):
        job.add(name)
    job.connection.execute(
        "insert into qr_refresh.runs (started_at, finished_at, report)"
        " select now() - interval '8 days', now() - interval '8 days', '{}'"
        " from generate_series(1, 3)"
    )
    holder = connect()
    holder.execute(f"begin isolation level {level}".encode())
    holder.execute("select refresh_qr_codes('held')")
    other = Job(connect(), simulator)
    other.connection.execute("set statement_timeout = '10 s'")
    # What the open transaction has not locked is cut by others.
    report = other.run()
    assert {result["instance_name"] for result in report["results"]} == {"held", "shop"}
    assert job.row("shop").qr_code is not None
    with live(job, connect):
        job.add("later")
        assert has_qr_code_soon(job, "later")
        asked = len(simulator.requests_of("held"))
        begun_at = time.monotonic()
        job.add("last")
        assert has_qr_code_soon(job, "last")
        # Its state cannot be recorded, so it is not asked.
        assert len(simulator.requests_of("held")) == asked
        assert time.monotonic() - begun_at < SOON
    # The job made the application wait for nothing but that.
    holder.execute("update evolution_instances set updated_at = now() where instance_name = 'held'")
    holder.execute("commit")
    assert job.row("held").qr_code is not None
    known = "select array_agg(instance_name order by instance_name) from qr_refresh.instance_state"
    assert job.value(known) == ["held", "last", "later", "shop"]


def test_housekeeping_waits_for_nobody(job: Job, connect: Callable[[], Connection]) -> None:
    job.connection.execute(
        "insert into qr_refresh.runs (started_at, finished_at, report)"
        " select now() - interval '8 days', now() - interval '8 days', '{}'"
        " from generate_series(1, 3)"
    )
    holder = connect()
    with holder.transaction():
        holder.execute("select from qr_refresh.runs where id = 1 for update")
        job.connection.execute("set statement_timeout = '5 s'")
        job.run()
        assert job.value("select count(*) from qr_refresh.runs where report = '{}'") == 1
    job.run()
    assert job.value("select count(*) from qr_refresh.runs where report = '{}'") == 0


def test_a_corrected_token_is_asked_within_two_seconds_whatever_was_before(
    job: Job, connect: Callable[[], Connection]
) -> None:
    job.add("shop")
    job.connection.execute("update evolution_instances set instance_token = 'wrong'")
    job.tick()
    job.connection.execute(
        "update qr_refresh.instance_state set failures = 13,"
        " next_attempt_at = clock_timestamp() + interval '10 minutes'"
    )
    with live(job, connect):
        held = "select count(*) from pg_locks where locktype = 'advisory'"
        wait_until(lambda: job.value(held), "live mode is at work")
        job.connection.execute("update evolution_instances set instance_token = 'token-of-0'")
        begun_at = time.monotonic()
        wait_until(lambda: job.row("shop").qr_code, "it has its QR code")
        assert time.monotonic() - begun_at < 5
    assert job.value("select failures from qr_refresh.status") == 0


def test_a_server_that_is_back_serves_all_its_instances_within_seconds(
    job: Job, connect: Callable[[], Connection], simulator: Simulator
) -> None:
    job.set(log_detail="off")
    names = [f"shop {number}" for number in range(40)]
    for name in names:
        job.add(name)
    job.tick()
    # For half an hour nobody got an answer.
    job.connection.execute(
        "update qr_refresh.instance_state set queue = 'failing', outcome = 'failed',"
        " error = 'connection refused', failures = 12,"
        " next_attempt_at = clock_timestamp() + interval '9 minutes'"
    )
    job.connection.execute(
        "update qr_refresh.server_state set away_since = clock_timestamp() - interval '30 minutes',"
        " answered_at = clock_timestamp() - interval '30 minutes',"
        " next_probe_at = clock_timestamp() + interval '8 seconds'"
    )
    job.connection.execute("update evolution_instances set qr_code = 'of an hour ago'")
    simulator.clock.advance(60)
    with live(job, connect):
        begun_at = time.monotonic()
        wait_until(
            lambda: job.value("select bool_and(is_live) from qr_refresh.status"),
            "all have a live QR code",
            40,
        )
        assert time.monotonic() - begun_at < 15
    assert simulator.peak_concurrency <= 16


def test_a_restart_of_evolution_api_costs_a_living_instance_seconds_and_no_socket(
    job: Job, connect: Callable[[], Connection], simulator: Simulator
) -> None:
    job.add("shop", qr_delay=2.0)
    closed = job.add("closed", state="close")
    simulator.clock.advance(3)
    with live(job, connect):
        assert has_qr_code_soon(job, "shop")
        wait_until(lambda: closed.sockets_opened, "it is connected")
        before = job.row("shop").qr_code
        simulator.restart()
        wait_until(lambda: simulator.current_code("shop"), "it has a QR code again")
        # Nobody has seen its first one come, so it is asked each 4 seconds.
        wait_until(lambda: job.row("shop").qr_code != before, "the new one is stored", 30)
    assert simulator.instance("shop").sockets_opened == 0


def test_the_same_name_on_two_servers_is_two_instances(
    job: Job, simulator: Simulator, second_simulator: Simulator
) -> None:
    job.connection.execute(
        "alter table evolution_instances drop constraint evolution_instances_instance_name_key"
    )
    for server, at in (("north", simulator), ("south", second_simulator)):
        job.connection.execute(
            "insert into qr_refresh.evolution_servers values (%s, %s)", (server, at.base_url)
        )
        # The later one shows its second QR code, which differs.
        at.add_instance("main", "same-token", qr_age=46.0 if server == "south" else 0.0)
        job.add_row("main", "same-token")
        job.connection.execute(
            "update evolution_instances set evolution_server = %s where evolution_server is null",
            (server,),
        )
    assert job.run()["refreshed"] == 2
    stored: dict[str, str] = dict(
        job.connection.execute(
            "select evolution_server, qr_code from evolution_instances"
        ).fetchall()
    )
    assert stored["north"] != stored["south"]
    second_simulator.remove_instance("main")
    job.let_time_pass(46)
    job.run()
    status: dict[str, str] = dict(
        job.connection.execute(
            "select evolution_server, last_outcome from qr_refresh.status"
        ).fetchall()
    )
    assert status == {"north": "stored", "south": "failed"}
