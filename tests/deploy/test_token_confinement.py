"""Who may run the job, and cannot read a token, gets at none by running it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from db.order import FUNCTIONS, ROOT, VIEWS
from tools.backend import client_of, is_process_1, run_python
from tools.job import Connection, Job

SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
TOKEN = "token-9f3c1e"

REFUSED = [
    "select instance_token from evolution_instances",
    "select * from evolution_instances",
    "select instance_name from evolution_instances where instance_token like 'a%'",
    "update evolution_instances set qr_code = instance_token",
    "update qr_refresh.settings set evolution_api_base_url = 'http://127.0.0.1:1'",
    "update qr_refresh.settings set ca_file = '/tmp/mine.pem'",
    "insert into qr_refresh.settings values (false)",
    "select * from qr_refresh.settings",
    "select * from qr_refresh.instance_state",
    "insert into qr_refresh.evolution_servers values ('mine', 'http://127.0.0.1:1')",
    "update evolution_instances set evolution_server = 'mine'",
    "select qr_refresh.evolution_client()",
    "select qr_refresh.evolution_api_base_url()",
    "select qr_refresh.schedule()",
    "set role qr_refresh_owner",
    "alter function refresh_qr_codes set search_path = public",
    "alter function refresh_qr_codes security invoker",
    "drop function refresh_qr_codes",
    "create table qr_refresh.mine ()",
    "do language plpython3u $$ GD.clear() $$",
    "create function pg_temp.peek() returns void language plpython3u as $$ GD.clear() $$",
    "create policy mine on evolution_instances using (true)",
    "alter table evolution_instances disable row level security",
    "create rule mine as on update to evolution_instances do also select 1",
    "create cast (text as integer) without function as implicit",
    "create operator class mine default for type text using btree as storage text",
]


@pytest.fixture
def messages(job: Job) -> list[str]:
    """Everything that the server tells the session of the job, from now on."""
    heard: list[str] = []

    def keep(notice: psycopg.errors.Diagnostic) -> None:
        parts = (notice.message_primary, notice.message_detail, notice.message_hint, notice.context)
        heard.extend(part for part in parts if part)

    job.connection.add_notice_handler(keep)
    return heard


def holds_token(text: str) -> bool:
    """Tell whether a text has a token in it, as it is or as the bytes in a plan of Postgres."""
    as_bytes = " ".join(str(byte) for byte in TOKEN.encode())
    as_hex = TOKEN.encode().hex()
    return any(form in text for form in (TOKEN, as_bytes, as_hex))


def add(job: Job, name: str, token: str = TOKEN) -> None:
    job.add_row(name, token)
    job.simulator.add_instance(name, token)


def become_caller(job: Job) -> None:
    """Not by SET ROLE, from which a superuser's session can go on to any role."""
    job.connection.execute("set session authorization service_role")


def tick_live(job: Job) -> None:
    """Let live mode ask, once, for whom it has not asked before."""
    tick = job.value("select qr_refresh.live_tick(1, 1, null)")
    while tick["under_way"]:
        tick = job.value("select qr_refresh.live_tick(1, 1, %s)", json.dumps(tick))
    assert (tick["refreshed"], tick["failed"]) == (1, 0)


def test_what_would_lead_to_a_token_is_refused(job: Job) -> None:
    add(job, "shop")
    job.run()
    become_caller(job)
    for attempt in REFUSED:
        with pytest.raises((InsufficientPrivilege, psycopg.errors.WrongObjectType)):
            job.connection.execute(attempt.encode())
            pytest.fail(f"not refused: {attempt}")


def test_no_argument_and_no_environment_of_the_http_client_holds_a_token(job: Job) -> None:
    if is_process_1(job.connection):
        pytest.skip("where the postmaster is process 1 a run ends its client: PG=local keeps it")
    add(job, "shop")
    assert job.run()["refreshed"] == 1
    client = client_of(job.connection, job.connection.info.backend_pid)
    for file in ("cmdline", "environ"):
        body = f"plpy.notice(open('/proc/{client}/{file}').read().replace(chr(0), ' '))"
        shown = run_python(job.connection, body)
        assert ("import requests" if file == "cmdline" else "PATH=/usr/bin:/bin") in shown
        assert not holds_token(shown)


def test_a_trigger_of_the_callers_cannot_be_put_on_the_table(job: Job) -> None:
    become_caller(job)
    job.connection.execute(
        "create function pg_temp.peek() returns trigger language plpgsql"
        " as $$ begin raise notice '%', new.instance_token; return new; end $$"
    )
    with pytest.raises(InsufficientPrivilege):
        job.connection.execute(
            "create trigger peek before update on evolution_instances"
            " for each row execute function pg_temp.peek()"
        )


def test_no_setting_of_the_session_shows_a_token(job: Job, messages: list[str]) -> None:
    """Such as debug_print_plan: a plan holds the values that a query was given."""
    add(job, "shop")
    become_caller(job)
    switches = job.connection.execute(
        "select name from pg_settings where context = 'user' and vartype = 'bool'"
        " and name ~ '^(debug|log|trace|plpgsql|auto_explain|show)' order by name"
    ).fetchall()
    assert ("debug_print_plan",) in switches
    for (name,) in switches:
        job.connection.execute(sql.SQL("set {} = on").format(sql.SQL(name)))
    job.connection.execute("set client_min_messages = debug5")
    tick_live(job)
    assert job.run()["refreshed"] == 1
    assert job.run("shop")["refreshed"] == 1
    assert "[refresh-qr-codes] Processing shop..." in messages, "the messages did not arrive"
    assert not [message for message in messages if holds_token(message)]


def test_no_function_operator_table_or_type_of_the_callers_is_used_by_ours(
    job: Job, connect: Callable[[], Connection]
) -> None:
    """Each function of Postgres that ours call has a double, which raises, ahead in the path."""
    called = {
        name
        for path in (*FUNCTIONS, *VIEWS)
        for name in re.findall(r"\b(\w+)\(", path.read_text("utf-8"))
    }
    add(job, "shop")
    connect().execute("grant create on schema public to service_role")
    become_caller(job)
    doubles = job.connection.execute(
        "select proname, pg_get_function_identity_arguments(oid),"
        " case when proretset then 'setof ' else '' end || prorettype::regtype::text"
        " from pg_proc where pronamespace = 'pg_catalog'::regnamespace and proname = any(%s)"
        " and prokind = 'f' and provariadic = 0 and proargmodes is null"
        " and 'internal'::regtype <> all(proargtypes) and prorettype <> 'internal'::regtype",
        (sorted(called),),
    ).fetchall()
    assert {"pg_notify", "unnest", "sha256", "clock_timestamp"} <= {row[0] for row in doubles}
    body = "language plpgsql as $$ begin raise 'taken in'; end $$"
    for name, arguments, returned in doubles:
        define = f'create function public."{name}"({arguments}) returns {returned} {body}'
        job.connection.execute(define.encode())
    for kind in ("text", "timestamptz", "bool", "int4"):
        operand = f"pg_catalog.{kind}"
        define = f"create function public.taken_in({operand}, {operand}) returns bool {body}"
        job.connection.execute(define.encode())
        for operator in ("=", "<>", "<", ">"):
            job.connection.execute(
                f"create operator public.{operator} (leftarg = {operand},"
                f" rightarg = {operand}, function = public.taken_in)".encode()
            )
        job.connection.execute(f"create domain pg_temp.{kind} as pg_catalog.int2".encode())
    for table in ("evolution_instances", "settings", "runs", "instance_state"):
        job.connection.execute(
            f"create temp table {table} (instance_name pg_catalog.text)".encode()
        )
    job.connection.execute("set search_path = pg_temp, public, pg_catalog")
    for query in ("select pg_notify('a', 'b')", "select 'a'::pg_catalog.text = 'a'"):
        with pytest.raises(psycopg.errors.RaiseException, match="taken in"):
            job.connection.execute(query.encode())
    tick_live(job)
    assert job.value("select public.refresh_qr_codes()")["refreshed"] == 1


def test_who_may_change_the_time_outs_cannot_change_where_tokens_go(job: Job) -> None:
    (grants,) = re.findall(r"```sql\n(GRANT USAGE .*?)```", SECURITY, re.DOTALL)
    job.connection.execute(
        "do $$ begin create role operator; exception when duplicate_object then null; end $$"
    )
    job.connection.execute(grants.encode())
    job.connection.execute("set session authorization operator")
    job.set(request_timeout="5 s", run_timeout="20 s", max_concurrency=2)
    for column in ("evolution_api_base_url", "ca_file"):
        with pytest.raises(InsufficientPrivilege):
            job.set(**{column: None})
    job.connection.execute("reset session authorization")
    assert job.value("select request_timeout::text from qr_refresh.settings") == "00:00:05"
