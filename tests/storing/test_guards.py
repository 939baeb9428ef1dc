"""A QR code reaches only the row that was asked: still connecting, and with the same token.

A row that is locked is tried again by itself, and a refused one has all the others stored one by
one. Each test goes that way, too.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tools.job import OLD_QR, STORED, Connection, Job, read_qr, value_of, wait_until

CHANGED = {"success": True, "qr_updated": False, "error": "Instance changed during the run"}
# All that the application can see but for the row that opens the gate.
LEFT = "select to_jsonb(array_agg(e)) from evolution_instances e where instance_name <> 'a gate'"

# Counts the job's own UPDATE statements, also those that find no row. The second one, which is for
# the first row when all were locked before, waits until the application has committed.
GATE = """
    create sequence attempts;
    create table gate (is_open boolean);
    grant usage on attempts to qr_refresh_owner;
    grant select on gate to qr_refresh_owner;
    create function count_attempts() returns trigger language plpgsql as $$
    begin
        if current_user = 'qr_refresh_owner' and nextval('public.attempts') = 2 then
            for n in 1 .. 2000 loop
                exit when exists (select from public.gate);
                perform pg_sleep(0.01);
            end loop;
        end if;
        return null;
    end $$;
    create trigger count_attempts before update on evolution_instances
    for each statement execute function count_attempts()
"""


def refuse_a_row(job: Job) -> None:
    """Add a row that takes no QR code, so that all are stored one by one."""
    job.add("refused")
    job.connection.execute(
        "alter table evolution_instances add check (instance_name <> 'refused' or qr_code is null)"
    )


@pytest.mark.parametrize(
    "change",
    [
        "update evolution_instances set instance_status = 'connected' where {}",
        "update evolution_instances set instance_status = 'disconnected', qr_code = null where {}",
        "update evolution_instances set instance_token = 'a new token' where {}",
        "update evolution_instances set instance_name = 'renamed' where {}",
        "delete from evolution_instances where {}",
    ],
    ids=["connects", "gives up", "token", "name", "deleted"],
)
def test_a_change_that_is_committed_while_the_job_tries_again_leaves_the_row_as_it_is(
    job: Job, connect: Callable[[], Connection], change: str
) -> None:
    job.add("a gate")
    job.add("shop", qr_code=OLD_QR)
    job.connection.execute(GATE.encode())
    application = connect()
    with ThreadPoolExecutor(1) as pool:
        with application.transaction():
            application.execute("select from evolution_instances for update")
            application.execute(change.format("instance_name = 'shop'").encode())
            left = value_of(application, LEFT)
            run = pool.submit(job.run)
            attempts = "select last_value from attempts"
            wait_until(lambda: value_of(application, attempts) >= 2, "the job tries again")
            application.execute("insert into gate values (true)")
        # The job has done with the other row, and comes to this one.
        results = {r.pop("instance_name"): r for r in run.result(30)["results"]}
    assert results == {"a gate": STORED, "shop": CHANGED}
    assert value_of(application, LEFT) == left


@pytest.mark.parametrize("one_by_one", [False, True])
def test_of_the_rows_of_one_name_only_those_that_were_asked_are_written(
    job: Job, one_by_one: bool
) -> None:
    job.connection.execute(
        "alter table evolution_instances drop constraint evolution_instances_instance_name_key"
    )
    job.add("shop")
    job.add_row("shop", "token-of-0", status="connected", qr_code=OLD_QR)
    job.add_row("shop", "another token", qr_code=OLD_QR)  # Evolution API refuses this one
    if one_by_one:
        refuse_a_row(job)
    job.run()
    rows = job.connection.execute(
        "select instance_token, instance_status, qr_code from evolution_instances"
        " where instance_name = 'shop'"
    ).fetchall()
    codes = {(token, status): code for token, status, code in rows}
    asked = codes.pop(("token-of-0", "connecting"))
    assert read_qr(asked) == job.simulator.current_code("shop")
    assert list(codes.values()) == [OLD_QR, OLD_QR]


def test_of_two_rows_of_one_instance_the_one_without_its_qr_code_gets_it(job: Job) -> None:
    job.connection.execute(
        "alter table evolution_instances drop constraint evolution_instances_instance_name_key"
    )
    job.add("shop")
    job.tick()
    stored = job.row("shop").qr_code
    # The first one has what the second one lacks.
    job.add_row("shop", "token-of-0")
    job.let_time_pass(2)
    assert "shop" in job.tick()
    codes = job.value("select array_agg(qr_code) from evolution_instances")
    assert codes == [stored, stored]


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_row_that_another_table_refers_to_meanwhile_is_stored_at_once(
    job: Job, connect: Callable[[], Connection], one_by_one: bool
) -> None:
    job.add("shop", qr_code=OLD_QR)
    job.connection.execute(
        "create table messages (instance_name text references evolution_instances (instance_name))"
    )
    if one_by_one:
        refuse_a_row(job)
    else:
        job.connection.execute(GATE.encode())
    application = connect()
    with application.transaction():
        application.execute("insert into messages values ('shop')")
        assert job.result("shop") == STORED
    assert read_qr(job.row("shop").qr_code) == job.simulator.current_code("shop")
    if not one_by_one:
        assert job.value("select last_value from attempts") == 1
