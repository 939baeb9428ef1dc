"""Who may do what, and that every object says what it is."""

from __future__ import annotations

import psycopg
import pytest

from tests.job import Connection, Job

OURS = "n.nspname = 'qr_refresh' or (n.nspname = 'public' and p.proname = 'refresh_qr_codes')"


@pytest.fixture
def roles(job: Job) -> list[str]:
    """Two roles of Supabase's, made here where they are missing."""
    for role in ("anon", "authenticated"):
        job.connection.execute(
            f"do $$ begin create role {role};"
            " exception when duplicate_object then null; end $$".encode()
        )
    return ["anon", "authenticated"]


def test_nobody_but_service_role_can_call_a_function_of_ours(job: Job, roles: list[str]) -> None:
    allowed = job.connection.execute(
        f"select r.rolname, p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace,"
        f" pg_roles r where ({OURS}) and not r.rolsuper and r.rolname <> 'qr_refresh_owner'"
        " and r.rolname !~ '^pg_' and has_schema_privilege(r.oid, n.oid, 'usage')"
        " and has_function_privilege(r.oid, p.oid, 'execute')".encode()
    ).fetchall()
    assert sorted(allowed) == [
        ("service_role", name) for name in ("live", "live_tick", "refresh_qr_codes")
    ]


def test_nobody_reads_our_tables(job: Job, roles: list[str]) -> None:
    readers = job.value(
        "select count(*) from pg_class c, pg_roles r"
        " where c.relnamespace = 'qr_refresh'::regnamespace"
        " and c.relkind in ('r', 'v') and not r.rolsuper"
        " and r.rolname not in ('qr_refresh_owner', 'pg_read_all_data', 'pg_write_all_data')"
        " and has_table_privilege(r.oid, c.oid, 'select, insert, update, delete')"
    )
    assert readers == 0


def test_service_role_runs_the_job_but_reads_no_token(job: Job) -> None:
    job.add("shop")
    job.connection.execute("set role service_role")
    assert job.run()["refreshed"] == 1
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        job.connection.execute("select instance_token from evolution_instances")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        job.connection.execute("select * from qr_refresh.settings")


def test_the_owner_of_the_functions_is_no_superuser_and_cannot_log_in(job: Job) -> None:
    owners = job.connection.execute(
        f"select distinct r.rolname, r.rolsuper, r.rolcanlogin from pg_proc p"
        f" join pg_namespace n on n.oid = p.pronamespace join pg_roles r on r.oid = p.proowner"
        f" where {OURS}".encode()
    ).fetchall()
    assert owners == [("qr_refresh_owner", False, False)]


def test_the_owner_writes_only_the_two_columns(job: Job) -> None:
    columns = job.value(
        "select array_agg(attname::text order by attname) from pg_attribute"
        " where attrelid = 'evolution_instances'::regclass and attnum > 0"
        " and has_column_privilege('qr_refresh_owner', attrelid, attnum, 'update')"
    )
    assert columns == ["last_qr_update", "qr_code"]


def test_every_function_has_a_search_path_and_a_comment(job: Job) -> None:
    bare = job.connection.execute(
        f"select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
        f" where ({OURS}) and (obj_description(p.oid, 'pg_proc') is null"
        " or not p.proconfig @> '{\"search_path=pg_catalog, pg_temp\"}')".encode()
    ).fetchall()
    assert bare == []


def test_every_table_and_column_of_ours_has_a_comment(job: Job) -> None:
    bare = job.connection.execute(
        "select c.relname, a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid"
        " where c.relnamespace = 'qr_refresh'::regnamespace and c.relkind in ('r', 'v')"
        " and a.attnum > 0 and not a.attisdropped"
        " and (col_description(c.oid, a.attnum) is null or obj_description(c.oid) is null)"
    ).fetchall()
    assert bare == []


def test_row_level_security_does_not_stop_the_job(job: Job) -> None:
    job.connection.execute("alter table evolution_instances enable row level security")
    job.connection.execute("alter table evolution_instances force row level security")
    job.add("shop")
    job.connection.execute("set role service_role")
    assert job.run()["refreshed"] == 1


def test_objects_in_a_callers_path_are_not_used_in_place_of_ours(job: Job, database: str) -> None:
    job.add("shop")
    with psycopg.connect(database, autocommit=True) as caller:
        attacker: Connection = caller
        attacker.execute("grant create on schema public to service_role")
        attacker.execute("set role service_role")
        attacker.execute("create temp table evolution_instances (instance_name text)")
        attacker.execute(
            "create function public.now() returns timestamptz language sql"
            " as 'select 1 / 0; select null::timestamptz'"
        )
        attacker.execute("set search_path = pg_temp, public, pg_catalog")
        row = attacker.execute("select public.refresh_qr_codes()").fetchone()
    assert row is not None and row[0]["refreshed"] == 1
