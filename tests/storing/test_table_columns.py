"""The application's table may have columns of any name and type, and names that are not unique."""

from __future__ import annotations

import re

import pytest
from psycopg import sql

from tools.job import Job, read_qr

# Arguments and results of our functions, and the columns of our tables.
NAMES = """
    select unnest(p.proargnames) from pg_proc as p
    where p.pronamespace = 'qr_refresh'::regnamespace or p.proname = 'refresh_qr_codes'
    union
    select a.attname from pg_attribute as a inner join pg_class as c on a.attrelid = c.oid
    where c.relnamespace = 'qr_refresh'::regnamespace and c.relkind in ('r', 'v') and a.attnum > 0
    except
    select a.attname from pg_attribute as a where a.attrelid = 'evolution_instances'::regclass
"""
BODIES = """
    select p.prosrc from pg_proc as p inner join pg_language as l on p.prolang = l.oid
    where p.pronamespace = 'qr_refresh'::regnamespace and l.lanname = 'plpgsql'
"""
VARIABLE = re.compile(r"^    (\w+) (?:constant )?[\w ]+(?:\[\])?[^\n]*(?::=|;)", re.MULTILINE)


def add_columns_named_like_variables(job: Job) -> set[str]:
    """Add a column for each name that our functions use for something of their own."""
    names = {name for (name,) in job.connection.execute(NAMES.encode()) if name}
    for (body,) in job.connection.execute(BODIES.encode()):
        declarations = re.search(r"^declare$(.*?)^begin$", body, re.MULTILINE | re.DOTALL)
        if declarations:
            names |= set(VARIABLE.findall(declarations[1]))
    there = {
        name
        for (name,) in job.connection.execute(
            "select attname from pg_attribute where attrelid = 'evolution_instances'::regclass"
        )
    }
    for name in sorted(names - there):
        # No operator that our functions use takes a point.
        add = sql.SQL("alter table evolution_instances add column {} point default '(1,2)'")
        job.connection.execute(add.format(sql.Identifier(name)))
    return names - there


def test_columns_named_like_our_arguments_and_variables_are_in_nobodys_way(job: Job) -> None:
    names = add_columns_named_like_variables(job)
    assert names >= {"stored_at", "only_due", "patience", "base_url", "worker", "attempts"}, names
    job.set(connected_status="connected")
    job.connection.execute(
        "grant update (instance_status) on evolution_instances to qr_refresh_owner"
    )
    job.add("shop")
    job.add("scanned")
    job.add("refused")
    job.connection.execute(
        "alter table evolution_instances add check (instance_name <> 'refused' or qr_code is null)"
    )
    results = {result.pop("instance_name"): result for result in job.run()["results"]}
    assert results == {
        "shop": {"success": True, "qr_updated": True},
        "scanned": {"success": True, "qr_updated": True},
        "refused": {"success": False, "qr_updated": False, "error": "Database update failed"},
    }
    # All at once works too; where it fails, row by row hides that.
    at_once = (
        "select (qr_refresh.store_qr_codes(array[(sha256('shop'), 'shop', null, 'token-of-0', null,"
        " true, true, now(), 'qr_code', null, 'QR', null, false, 0.01, now(), null)"
        "::qr_refresh.attempt], now(), %s))[1].outcome"
    )
    assert [job.value(at_once, changed) for changed in (True, True)] == ["stored", "unchanged"]
    assert job.run("shop")["refreshed"] == 1
    job.simulator.scan("scanned")
    job.let_time_pass(60)
    for worker in (1, 2):
        job.tick(worker, 2)
    assert job.row("scanned").instance_status == "connected"
    assert read_qr(job.row("shop").qr_code) == job.simulator.current_code("shop")
    status = job.connection.execute(
        "select instance_name, is_live from qr_refresh.status order by instance_name"
    ).fetchall()
    assert status == [("refused", False), ("shop", True)]
    assert len(job.value("select qr_refresh.show_qr('shop')")) > 400
    failed = job.connection.execute(
        "select \"check\", detail from qr_refresh.doctor() where detail like 'cannot be checked%'"
    ).fetchall()
    assert failed == []
    for view in ("health", "alerts", "metrics"):
        job.connection.execute(f"select * from qr_refresh.{view}".encode())


@pytest.mark.parametrize("types", ["enum", "char"])
def test_connected_status_is_written_to_a_status_of_another_type(job: Job, types: str) -> None:
    job.set(connected_status="connected")
    job.add("shop")
    job.connection.execute(OTHER_TYPES[types].encode())
    job.connection.execute(
        "grant update (instance_status) on evolution_instances to qr_refresh_owner"
    )
    job.run()
    job.simulator.scan("shop")
    assert job.run()["failed"] == 0
    assert job.value(
        "select instance_status = 'connected' and qr_code is null from evolution_instances"
    )


def test_names_that_differ_in_case_only_get_each_their_own(job: Job) -> None:
    names = ("shop", "Shop", "SHOP")
    for name in names:
        job.add(name)
    assert job.run()["refreshed"] == 3
    assert len({job.simulator.current_code(name) for name in names}) == 3
    for name in names:
        assert read_qr(job.row(name).qr_code) == job.simulator.current_code(name)


def test_rows_of_one_name_are_all_stored(job: Job) -> None:
    job.connection.execute(
        "alter table evolution_instances drop constraint evolution_instances_instance_name_key"
    )
    job.add("shop")
    job.add_row("shop", "token-of-0")
    job.add("other")
    # They are the same instance, which is asked once.
    assert [result["success"] for result in job.run()["results"]] == [True] * 2
    assert job.simulator.routes_of("shop") == ["connectionState", "connect"]
    codes = job.connection.execute(
        "select qr_code from evolution_instances where instance_name = 'shop'"
    ).fetchall()
    assert [read_qr(code) for (code,) in codes] == [job.simulator.current_code("shop")] * 2


RETYPE = "alter table evolution_instances alter {} type {};"
OTHER_TYPES = {
    "char": RETYPE.format("instance_name", "char(60)")
    + RETYPE.format("instance_token", "char(60)")
    + RETYPE.format("instance_status", "char(20)")
    + RETYPE.format("qr_code", "char(40000)"),
    "citext": "create schema app; create extension citext schema app;"
    + RETYPE.format("instance_name", "app.citext")
    + RETYPE.format("instance_token", "app.citext")
    + RETYPE.format("instance_status", "app.citext")
    + RETYPE.format("qr_code", "app.citext"),
    "case-insensitive collation": "create collation ci"
    " (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
    + RETYPE.format("instance_name", "text collate ci")
    + RETYPE.format("instance_token", "text collate ci")
    + RETYPE.format("qr_code", "text collate ci"),
    "enum": "create type status as enum ('connecting', 'connected');"
    " alter table evolution_instances"
    " drop constraint evolution_instances_instance_status_check,"
    " alter instance_status drop default,"
    " alter instance_status type status using instance_status::status;",
    "domain": "create domain picture as text check (value like 'data:image/png;base64,%');"
    "create domain token as varchar(60) check (length(value) > 3);"
    + RETYPE.format("qr_code", "picture")
    + RETYPE.format("instance_token", "token"),
    "uuid": RETYPE.format("instance_name", "uuid using instance_name::uuid")
    + RETYPE.format("evolution_server", "uuid using evolution_server::uuid"),
    "number": RETYPE.format("evolution_server", "integer using evolution_server::integer"),
    "timestamp": RETYPE.format("last_qr_update", "timestamp"),
    "text": RETYPE.format("last_qr_update", "text"),
}


@pytest.mark.parametrize("types", OTHER_TYPES)
def test_columns_of_other_types_are_used_everywhere(job: Job, types: str) -> None:
    name = "6b1f4a3e-6a5c-4a3e-9d5b-6b1f4a3e6a5c"
    job.add(name)
    job.connection.execute(OTHER_TYPES[types].encode())
    assert job.run()["refreshed"] == 1
    first = read_qr(job.value("select qr_code::text from evolution_instances"))
    assert first == job.simulator.current_code(name)
    job.let_time_pass(60)
    job.tick()
    second = read_qr(job.value("select qr_code::text from evolution_instances"))
    assert second == job.simulator.current_code(name) != first
    status = job.connection.execute("select instance_name, is_live from qr_refresh.status")
    assert status.fetchall() == [(name, True)]
    assert len(job.value("select qr_refresh.show_qr(%s)", name)) > 400
    failed = job.connection.execute(
        "select \"check\", detail from qr_refresh.doctor() where detail like 'cannot be checked%'"
    ).fetchall()
    assert failed == []
    for view in ("health", "alerts", "metrics"):
        job.connection.execute(f"select * from qr_refresh.{view}".encode())
