"""Who may do what to each object of ours. The catalog is read, so new objects are covered."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pglast
import psycopg
import pytest
from pglast import ast as sql
from psycopg.errors import InsufficientPrivilege

from db.order import FUNCTIONS, PRIVILEGES, VIEWS
from tests.deploy.installation import migrated, run_dist
from tools.job import Connection, Job, install

OURS = (
    "(p.pronamespace = 'qr_refresh'::regnamespace"
    " or p.pronamespace = 'public'::regnamespace"
    " and p.proname in ('refresh_qr_codes', 'receive_evolution_event'))"
)

# Every yes of every role, and by that every no: what is not here must not be. The owner of the
# functions may also call each of them, superusers may do everything.
YES = {
    ("service_role", "schema qr_refresh", "USAGE"),
    ("service_role", "function public.refresh_qr_codes", "EXECUTE"),
    ("service_role", "function qr_refresh.live", "EXECUTE"),
    ("service_role", "function qr_refresh.live_tick", "EXECUTE"),
    ("service_role", "function public.receive_evolution_event", "EXECUTE"),
    ("service_role", "function qr_refresh.show_qr", "EXECUTE"),
    ("qr_refresher", "schema qr_refresh", "USAGE"),
    ("qr_refresher", "function public.refresh_qr_codes", "EXECUTE"),
    ("qr_refresher", "function qr_refresh.live", "EXECUTE"),
    ("qr_refresher", "function qr_refresh.live_tick", "EXECUTE"),
    ("qr_refresher", "function qr_refresh.prune_history", "EXECUTE"),
    ("qr_refresher", "function qr_refresh.check_pg_cron", "EXECUTE"),
    ("qr_refresher", "column qr_refresh.settings.history_retention", "SELECT"),
    ("qr_refresh_owner", "schema qr_refresh", "USAGE"),
    ("qr_refresh_owner", "table qr_refresh.settings", "SELECT"),
    ("qr_refresh_owner", "table qr_refresh.instance_state", "SELECT"),
    ("qr_refresh_owner", "table qr_refresh.instance_state", "INSERT"),
    ("qr_refresh_owner", "table qr_refresh.instance_state", "UPDATE"),
    ("qr_refresh_owner", "table qr_refresh.instance_state", "DELETE"),
    ("qr_refresh_owner", "table qr_refresh.outcomes", "SELECT"),
    ("qr_refresh_owner", "table qr_refresh.server_state", "SELECT"),
    ("qr_refresh_owner", "table qr_refresh.server_state", "INSERT"),
    ("qr_refresh_owner", "table qr_refresh.server_state", "UPDATE"),
    # FOR UPDATE SKIP LOCKED asks for it.
    ("qr_refresh_owner", "column qr_refresh.runs.id", "UPDATE"),
    ("qr_refresh_owner", "table qr_refresh.runs", "SELECT"),
    ("qr_refresh_owner", "table qr_refresh.runs", "INSERT"),
    ("qr_refresh_owner", "table qr_refresh.runs", "DELETE"),
    ("qr_refresh_owner", "column evolution_instances.instance_name", "SELECT"),
    ("qr_refresh_owner", "column evolution_instances.instance_token", "SELECT"),
    ("qr_refresh_owner", "column evolution_instances.instance_status", "SELECT"),
    ("qr_refresh_owner", "table qr_refresh.evolution_servers", "SELECT"),
    ("qr_refresh_owner", "column evolution_instances.evolution_server", "SELECT"),
    ("qr_refresh_owner", "column evolution_instances.qr_code", "SELECT"),
    ("qr_refresh_owner", "column evolution_instances.qr_code", "UPDATE"),
    ("qr_refresh_owner", "column evolution_instances.last_qr_update", "UPDATE"),
}

# The views, and the functions in them: those are called with the privileges of who reads the view.
YES |= {
    (role, f"{kind} qr_refresh.{name}", privilege)
    for role in ("pg_monitor", "service_role")
    for kind, privilege, names in (
        ("table", "SELECT", ("alerts", "health", "metrics", "runs", "status")),
        ("function", "EXECUTE", ("active_alerts", "connecting_instances", "cron_jobs")),
        ("function", "EXECUTE", ("jobs_wait_for_each_other", "pg_cron_obstacles")),
        ("function", "EXECUTE", ("same_schedule", "way_without_background_workers")),
    )
    for name in names
}
INLINED = (
    "qr_refresh.connecting_rows(",
    "qr_refresh.instance_key(",
    "qr_refresh.is_share_of(",
)
YES |= {("pg_monitor", "schema qr_refresh", "USAGE")}
YES |= {
    ("qr_refresh_owner", f"table qr_refresh.{view}", privilege)
    for view in ("alerts", "health", "metrics", "status")
    for privilege in ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"]
}
YES |= {("qr_refresh_owner", "column evolution_instances.last_qr_update", "SELECT")}

# What each role can do in effect, by whatever way: its own grants, PUBLIC's, a membership. A column
# is listed where it goes beyond its table; evolution_instances for our role only, since what others
# may do there is the application's affair.
EFFECTIVE = f"""
    with roles as (
        select rolname::text as role from pg_roles
        where not rolsuper and (rolname !~ '^pg_' or rolname = 'pg_monitor')
        union all select 'public'
    ), relations as (
        select c.oid, c.relkind = 'S' as is_sequence, format('qr_refresh.%s', c.relname) as name
        from pg_class as c
        where c.relnamespace = 'qr_refresh'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S')
    )
    select role, 'schema qr_refresh', privilege
    from roles, unnest('{{USAGE, CREATE}}'::text[]) as privilege
    where has_schema_privilege(role, 'qr_refresh', privilege)
    union all
    select role, format('function %s.%s', p.pronamespace::regnamespace, p.proname), 'EXECUTE'
    from roles, pg_proc as p
    where {OURS} and role <> 'qr_refresh_owner' and has_function_privilege(role, p.oid, 'EXECUTE')
    union all
    select role, 'table ' || r.name, privilege
    from roles, relations as r,
        unnest('{{SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER}}'::text[])
            as privilege
    where not r.is_sequence and has_table_privilege(role, r.oid, privilege)
    union all
    select role, 'sequence ' || r.name, privilege
    from roles, relations as r, unnest('{{USAGE, SELECT, UPDATE}}'::text[]) as privilege
    -- CASE: the function refuses what is no sequence, and AND has no order.
    where case when r.is_sequence then has_sequence_privilege(role, r.oid, privilege) end
    union all
    select role, format('column %s.%s', a.attrelid::regclass, a.attname), privilege
    from roles, pg_attribute as a,
        unnest('{{SELECT, INSERT, UPDATE, REFERENCES}}'::text[]) as privilege
    where a.attnum > 0 and not a.attisdropped
        and (
            a.attrelid in (select r.oid from relations as r where not r.is_sequence)
            or a.attrelid = 'evolution_instances'::regclass and role = 'qr_refresh_owner'
        )
        and has_column_privilege(role, a.attrelid, a.attnum, privilege)
        and not has_table_privilege(role, a.attrelid, privilege)
"""

# What Supabase has in schema public, and the same for every schema.
DEFAULT_PRIVILEGES = "".join(
    f"alter default privileges {where} grant all on {what} to anon, authenticated, service_role;"
    for where in ("in schema public", "")
    for what in ("functions", "tables", "sequences", "schemas")
    if not (where and what == "schemas")
)

WAYS: dict[str, Callable[[str], object]] = {"migrate": migrated, "dist": run_dist}


@dataclass(frozen=True)
class Installed:
    """A database with the job, and what installs it over itself."""

    connection: Connection
    install_again: Callable[[], object]


@pytest.fixture(params=["no default privileges", "migrate", "dist"])
def installed(request: pytest.FixtureRequest, empty_database: str) -> Iterator[Installed]:
    """One database without default privileges, and one with all of them for each way to install."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        for role in ("anon", "authenticated", "service_role"):
            connection.execute(
                f"do $$ begin create role {role};"
                " exception when duplicate_object then null; end $$".encode()
            )
        if request.param in WAYS:
            connection.execute(DEFAULT_PRIVILEGES.encode())
        deploy = WAYS.get(request.param, install)
        deploy(empty_database)
        yield Installed(connection, lambda: deploy(empty_database))


def effective(connection: Connection) -> set[tuple[str, str, str]]:
    rows = connection.execute(EFFECTIVE.encode()).fetchall()
    return {(role, thing, privilege) for role, thing, privilege in rows}


def test_every_role_has_exactly_the_privileges_of_the_table(installed: Installed) -> None:
    connection = installed.connection
    found = effective(connection)
    assert found - YES == set(), "more than the table says"
    assert YES - found == set(), "less than the table says"


def test_the_list_of_privileges_has_every_object_of_ours_and_no_other(database: str) -> None:
    listed = re.findall(
        r"\('([a-z0-9_ ]+)', '[a-z ]*', '[a-z_ ]*'\)", PRIVILEGES.read_text("utf-8")
    )
    names = sorted(" ".join(listed).split())
    with psycopg.connect(database) as connection:
        connection.execute("create table qr_refresh.schema_migrations ()")  # dbmate's
        rows = connection.execute(
            f"select p.proname from pg_proc as p where {OURS}"
            " union all select c.relname from pg_class as c"
            " where c.relnamespace = 'qr_refresh'::regnamespace"
            " and c.relkind in ('r', 'p', 'v', 'm', 'S')".encode()
        ).fetchall()
    present = sorted(name for (name,) in rows)
    # runs has two lines: for those who read it, and for the owner of the functions.
    assert sorted(names) == sorted([*present, "qr_refresh", "runs"])


def test_installing_again_changes_no_owner_and_no_privilege(
    database: str, connect: Callable[[], Connection]
) -> None:
    versions = (
        "select format('%s %s', oid::regclass, xmin) from pg_class"
        " where relnamespace = 'qr_refresh'::regnamespace"
        f" union all select format('%s %s', oid::regprocedure, xmin) from pg_proc as p where {OURS}"
        " union all select format('%s %s', nspname, xmin) from pg_namespace order by 1"
    )
    before = connect().execute(versions.encode()).fetchall()
    connect().execute(PRIVILEGES.read_bytes())
    assert connect().execute(versions.encode()).fetchall() == before


def test_what_is_planted_or_changed_by_others_is_put_right(installed: Installed) -> None:
    connection = installed.connection
    (name,) = signatures(connection, "refresh_qr_codes")
    connection.execute(
        f"grant execute on function {name} to public;"
        f" alter function {name} owner to current_user;"
        " alter view qr_refresh.status owner to current_user;"
        " grant all on qr_refresh.settings, qr_refresh.status to public;"
        " grant all on schema qr_refresh to public;"
        " revoke all on qr_refresh.runs from qr_refresh_owner;"
        " revoke all on schema qr_refresh from service_role".encode()
    )
    installed.install_again()
    assert effective(connection) == YES


def test_installing_again_keeps_what_the_operator_has_granted(installed: Installed) -> None:
    connection = installed.connection
    operators = {
        ("pg_monitor", "table qr_refresh.runs", "SELECT"),
        ("pg_monitor", "column qr_refresh.settings.run_timeout", "UPDATE"),
        ("pg_monitor", "function public.refresh_qr_codes", "EXECUTE"),
    }
    connection.execute("grant select on qr_refresh.runs to pg_monitor")
    connection.execute("grant update (run_timeout) on qr_refresh.settings to pg_monitor")
    (name,) = signatures(connection, "refresh_qr_codes")
    connection.execute(f"grant execute on function {name} to pg_monitor".encode())
    installed.install_again()
    assert effective(connection) == YES | operators


def signatures(connection: Connection, name: str) -> list[str]:
    rows = connection.execute(
        "select oid::regprocedure::text from pg_proc where proname = %s", (name,)
    )
    return [signature for (signature,) in rows]


def test_what_anon_authenticated_and_public_call_is_refused(installed: Installed) -> None:
    connection = installed.connection
    for role in ("anon", "authenticated"):
        connection.execute(f"set role {role}".encode())
        for query in (
            "select refresh_qr_codes()",
            "select qr_refresh.schedule()",
            "select * from qr_refresh.settings",
            "select * from qr_refresh.runs",
        ):
            with pytest.raises(InsufficientPrivilege):
                connection.execute(query.encode())
        connection.execute("reset role")


def test_a_table_that_is_made_here_shows_nobody_a_row_before_there_is_a_policy(
    installed: Installed,
) -> None:
    connection = installed.connection
    connection.execute("insert into evolution_instances (instance_name) values ('shop')")
    # More than that the application may well have wanted: it is its table.
    connection.execute("grant select on evolution_instances to anon, authenticated")
    for role in ("anon", "authenticated"):
        connection.execute(f"set role {role}".encode())
        assert connection.execute("select count(*) from evolution_instances").fetchone() == (0,)
        connection.execute("reset role")


def test_the_owner_of_the_functions_is_no_superuser_and_cannot_log_in(job: Job) -> None:
    row = job.connection.execute(
        "select rolsuper, rolcanlogin, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls"
        " from pg_roles where rolname = 'qr_refresh_owner'"
    ).fetchone()
    assert row == (False, False, False, False, False, True)
    members = (
        "select count(*) from pg_auth_members where 'qr_refresh_owner'::regrole in (roleid, member)"
    )
    assert job.value(members) == 0


def test_every_function_has_an_owner_a_search_path_and_a_comment(job: Job) -> None:
    lacking = defaultdict(list)
    functions = job.connection.execute(
        "select p.oid::regprocedure::text, p.prokind, p.prosecdef,"
        " exists (select from aclexplode(p.proacl) where grantee <> p.proowner),"
        " pg_get_userbyid(p.proowner),"
        " coalesce(p.proconfig, '{}'), coalesce(obj_description(p.oid, 'pg_proc'), '')"
        f" from pg_proc as p where {OURS}".encode()
    ).fetchall()
    for name, kind, is_definer, is_granted, owner, config, comment in functions:
        # A procedure that commits can have neither SET nor SECURITY DEFINER.
        commits = kind == "p" and name.startswith("qr_refresh.live(")
        if owner != "qr_refresh_owner":
            lacking[name].append("owner")
        # One with SET is not planned together with the query that asks it for each row.
        is_inlined = name.startswith(INLINED) and not is_granted
        if "search_path=pg_catalog, pg_temp" not in config and not commits and not is_inlined:
            lacking[name].append("search_path")
        if commits and is_definer:
            lacking[name].append("security invoker")
        hidden = {f"debug_print_{what}=off" for what in ("parse", "rewritten", "plan")}
        if is_definer and is_granted and not hidden <= set(config):
            lacking[name].append("plans hidden from the caller")
        if ("Privileges: " if is_granted else "Private") not in comment:
            lacking[name].append("comment that says who may call it")
    assert len(functions) > 20
    assert lacking == {}


@pytest.mark.parametrize("path", [*FUNCTIONS, *VIEWS], ids=lambda path: path.stem)
def test_every_function_file_states_volatility_parallel_and_security(path: Path) -> None:
    created = []
    for statement in pglast.parse_sql(path.read_text(encoding="utf-8")):
        if isinstance(statement.stmt, sql.CreateFunctionStmt):
            created.append(statement.stmt.funcname[-1].sval)
            stated = {option.defname for option in statement.stmt.options}
            wanted = {"security"}
            if not statement.stmt.is_procedure:
                wanted |= {"volatility", "parallel"}
            assert wanted <= stated, f"not stated: {wanted - stated}"
        elif isinstance(statement.stmt, sql.ViewStmt):
            created.append(statement.stmt.view.relname)
    assert created == [path.stem], "one object a file, of the file's name"


def test_every_table_view_and_column_of_ours_has_a_comment(job: Job) -> None:
    bare = job.connection.execute(
        "select c.relname, a.attname from pg_class as c"
        " join pg_attribute as a on a.attrelid = c.oid"
        " where c.relnamespace = 'qr_refresh'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')"
        " and a.attnum > 0 and not a.attisdropped"
        " and (col_description(c.oid, a.attnum) is null or obj_description(c.oid) is null)"
    ).fetchall()
    assert bare == []


def test_a_view_of_ours_belongs_to_the_owner_of_the_functions_or_asks_as_its_reader(
    job: Job,
) -> None:
    """A view runs with its owner's privileges: a superuser's would hand on everything."""
    views = job.connection.execute(
        "select c.relname from pg_class as c"
        " where c.relnamespace = 'qr_refresh'::regnamespace and c.relkind in ('v', 'm')"
        " and c.relowner <> 'qr_refresh_owner'::regrole"
        " and not coalesce(c.reloptions, '{}') && '{security_invoker=true, security_invoker=on}'"
    ).fetchall()
    assert views == []
