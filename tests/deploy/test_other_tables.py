"""evolution_instances as a view or a foreign table, and tables with other columns and words."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from db.connection import database_name
from simulator import Simulator
from tests.deploy.installation import OURS, made, make, migrated, run_dist, value
from tests.doctor.findings import findings
from tools.engines import Server
from tools.job import Connection, read_qr, refusal

WAYS: dict[str, Callable[[str], object]] = {"migrate": migrated, "dist": run_dist}
each_way = pytest.mark.parametrize("way", WAYS)

SESSIONS = """
    create schema app;
    create table app.sessions (
        id integer primary key, name text, api_key text, state text, qr text, qr_at timestamptz
    );
    insert into app.sessions values (1, 'shop', 'token-of-shop', 'CONECTANDO'),
        (2, 'done', 'token-of-done', 'ABERTO');
"""
SELECT = """
    select s.id, s.name as instance_name, s.api_key as instance_token,
        case s.state when 'CONECTANDO' then 'connecting' else lower(s.state) end as instance_status,
        s.qr as qr_code, s.qr_at as last_qr_update, null::text as evolution_server
    from app.sessions as s
"""
GRANTS = """
    grant usage on schema app to qr_refresh_owner;
    grant select (id, name, api_key, state, qr, qr_at), update (qr, qr_at)
    on app.sessions to qr_refresh_owner
"""
JOINED = """
    create schema app;
    create table app.instances (id integer primary key, name text, token text);
    create table app.sessions (
        id integer references app.instances, state text, qr text, qr_at timestamptz
    );
    insert into app.instances values (1, 'shop', 'token-of-shop'), (2, 'done', 'x');
    insert into app.sessions values (1, 'connecting'), (2, 'open');
    create view public.evolution_instances as
    select i.name as instance_name, i.token as instance_token, s.state as instance_status,
        s.qr as qr_code, s.qr_at as last_qr_update, null::text as evolution_server
    from app.instances as i join app.sessions as s using (id);
    create function app.store() returns trigger language plpgsql security definer
    set search_path = app as $$
    begin
        update sessions as s set qr = new.qr_code, qr_at = new.last_qr_update
        from instances as i where i.id = s.id and i.name = new.instance_name;
        return new;
    end $$;
    create trigger store instead of update on public.evolution_instances
    for each row execute function app.store()
"""
# What makes the view, and what it needs once the job's role is there.
VIEWS = {
    "over another schema, with other columns and words": (
        f"{SESSIONS} create view public.evolution_instances as {SELECT}",
        "",
    ),
    "with the rights of whoever uses it": (
        f"{SESSIONS} create view public.evolution_instances with (security_invoker = true)"
        f" as {SELECT}",
        GRANTS,
    ),
    "with row level security below it": (
        f"{SESSIONS} alter table app.sessions enable row level security;"
        f" create view public.evolution_instances as {SELECT}",
        "",
    ),
    "with row level security below it and the rights of whoever uses it": (
        f"{SESSIONS} alter table app.sessions enable row level security;"
        " create view public.evolution_instances with (security_invoker = true)"
        f" as {SELECT}",
        GRANTS,
    ),
    "over a join, with a trigger that writes": (JOINED, ""),
}


def stored(url: str) -> str | None:
    found = value(url, "select qr from app.sessions where id = 1")
    assert found is None or isinstance(found, str)
    return found


@each_way
@pytest.mark.parametrize("kind", VIEWS)
def test_a_view_in_the_place_of_the_table_gets_its_qr_codes(
    empty_database: str, simulator: Simulator, way: str, kind: str
) -> None:
    before, after = VIEWS[kind]
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(before.encode())
        WAYS[way](empty_database)
        WAYS[way](empty_database)
        if after:
            connection.execute(after.encode())
        simulator.add_instance("shop", "token-of-shop")
        connection.execute(
            "update qr_refresh.settings set evolution_api_base_url = %s", (simulator.base_url,)
        )
        found = findings(connection)
        for check in ("table evolution_instances", "view can be written", "connecting instances"):
            assert found[check]["ok"] is True, found[check]
        row = connection.execute("select refresh_qr_codes()").fetchone()
    assert row is not None and row[0]["refreshed"] == 1, row
    assert read_qr(stored(empty_database)) == simulator.current_code("shop")
    made("uninstall", empty_database)
    assert read_qr(stored(empty_database)) == simulator.current_code("shop")
    assert value(empty_database, "select count(*) from evolution_instances") == 2


def test_grants_that_lack_below_a_view_are_said_ready_to_paste(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(VIEWS["with the rights of whoever uses it"][0].encode())
        output = migrated(empty_database)
        assert "WARNING: view can be written: permission denied for" in output
        found = findings(connection)["view can be written"]
        assert found["ok"] is False
        assert found["fix"] in output
        connection.execute(found["fix"].encode())
        assert findings(connection)["view can be written"]["ok"] is True
        assert findings(connection)["connecting instances"]["ok"] is True


def test_row_level_security_that_hides_rows_from_a_view_is_said(empty_database: str) -> None:
    owner = f"owner_of_{database_name(empty_database)}"
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(VIEWS["with row level security below it"][0].encode())
        connection.execute(
            f"create role {owner}; alter view evolution_instances owner to {owner};"
            f"grant usage on schema app to {owner};"
            f"grant select, update on app.sessions to {owner}".encode()
        )
        try:
            migrated(empty_database)
            found = findings(connection)["view shows all rows"]
            assert found["ok"] is None
            said = f"row level security chooses the rows of app.sessions, for {owner}"
            assert said in found["detail"]
        finally:
            connection.execute(f"drop owned by {owner} cascade; drop role {owner}".encode())


def test_a_view_that_cannot_be_written_is_refused_with_what_postgres_says(
    empty_database: str,
) -> None:
    with psycopg.connect(empty_database) as connection:
        view = JOINED.split("create function")[0]
        connection.execute(view.encode())
    result = make("migrate", empty_database)
    assert result.returncode != 0
    assert re.search(
        r"cannot use column (qr_code|last_qr_update) of public.evolution_instances", result.stderr
    )
    assert "INSTEAD OF UPDATE trigger" in result.stderr
    assert value(empty_database, OURS) == 1  # the view


@each_way
def test_what_a_view_calls_is_not_run_by_a_superuser(empty_database: str, way: str) -> None:
    """Whoever owns the view may put functions into it."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(
            f"{SESSIONS} create table app.callers (name text); grant usage on schema app to public;"
            "grant insert on app.callers to public;"
            "create function app.spy(text) returns text language plpgsql as $$"
            " begin insert into app.callers values (current_user); return $1; end $$;"
            "create view public.evolution_instances as"
            f" {SELECT.replace('s.api_key as', 'app.spy(s.api_key) as')}".encode()
        )
        WAYS[way](empty_database)
        connection.execute("select * from qr_refresh.doctor_instances()")
        callers = connection.execute("select distinct name from app.callers").fetchall()
    assert callers == [("qr_refresh_owner",)]


# --- foreign tables -------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server that answers nobody, and in whose queue those wait who have connected."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


FOREIGN = """
    create extension postgres_fdw;
    create server far foreign data wrapper postgres_fdw
    options (host '127.0.0.1', port '{port}', use_remote_estimate 'true', connect_timeout '2');
    create user mapping for current_user server far options (user 'nobody', password 'x');
    create foreign table public.evolution_instances (
        instance_name text options (column_name 'name'), instance_token text,
        instance_status text, qr_code text, last_qr_update timestamptz, evolution_server text
    ) server far
"""


@each_way
def test_a_foreign_table_is_installed_without_asking_its_server(
    empty_database: str, server: Server, listener: socket.socket, way: str
) -> None:
    if server.engine != "local":
        pytest.skip("sees who connects to a port of this machine: PG=local runs it")
    columns = "select count(*) from pg_attribute where attrelid = 'evolution_instances'::regclass"
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(FOREIGN.format(port=listener.getsockname()[1]).encode())
        before = value(empty_database, columns)
        for _ in range(2):
            WAYS[way](empty_database)
        assert value(empty_database, columns) == before
        with pytest.raises(BlockingIOError):
            listener.accept()
        # The test would notice it.
        listener.setblocking(True)
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(refusal, connection, "select from evolution_instances")
            listener.accept()[0].close()
            assert asked.result().sqlstate == "08001"


def test_a_foreign_table_is_not_published_and_that_is_said(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(FOREIGN.format(port=1).encode())
        connection.execute("create publication supabase_realtime")
    output = migrated(empty_database)
    assert "evolution_instances is not in publication supabase_realtime" in output
    assert "only tables can be published" in output


def test_doctor_says_what_a_foreign_table_lacks_and_uninstall_leaves_it(
    empty_database: str,
) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(FOREIGN.format(port=1).encode())
        migrated(empty_database)
        found = findings(connection)["connecting instances"]
        assert found["ok"] is False
        assert "CREATE USER MAPPING FOR qr_refresh_owner" in found["fix"]
        connection.execute("create user mapping for qr_refresh_owner server far")
    made("uninstall", empty_database)
    mappings = "select count(*) from pg_user_mappings where usename = 'qr_refresh_owner'"
    assert value(empty_database, mappings) == 0
    assert value(empty_database, OURS) == 1  # the foreign table


# --- other columns and words ----------------------------------------------------------------------

OTHERS = {
    "other columns": (
        "create table evolution_instances (id integer primary key, name text, api_key text,"
        " status text)",
        "connecting",
        ["name for instance_name", "api_key for instance_token", "status for instance_status"],
    ),
    "a status beside a name of ours": (
        "create table evolution_instances (instance_name text, instance_token text, status text)",
        "connecting",
        ["status for instance_status"],
    ),
    "camel case and an enum": (
        "create type state as enum ('CONECTANDO', 'ABERTO');"
        'create table evolution_instances ("instanceName" text, "apiKey" text, state state,'
        ' "qrCode" text)',
        "CONECTANDO",
        ['"instanceName" for instance_name', '"qrCode" for qr_code', "ABERTO, CONECTANDO"],
    ),
    "a CHECK without connecting": (
        "create table evolution_instances (instance_name text, instance_token text,"
        " instance_status text check (instance_status in ('conectando', 'aberto')))",
        "conectando",
        ["may only be aberto, conectando"],
    ),
    "a CHECK of a varchar": (
        "create table evolution_instances (instance_name text, instance_token text,"
        " instance_status varchar(20) check (instance_status in ('CONNECTING', 'OPEN')))",
        "CONNECTING",
        ["may only be CONNECTING, OPEN"],
    ),
}


def script_of(text: str) -> str:
    found = re.search(r"^(?:HINT: )?.*?(BEGIN;\n.*?^COMMIT;)", text, re.DOTALL | re.MULTILINE)
    assert found, text
    return found[1]


def refused(way: str, url: str) -> str:
    if way == "migrate":
        result = make("migrate", url)
        assert result.returncode != 0
        return result.stdout + result.stderr
    with pytest.raises(psycopg.Error) as raised:
        run_dist(url)
    diagnosis = raised.value.diag
    assert raised.value.sqlstate in ("QR009", "QR013")
    return f"{raised.value}\n{diagnosis.message_detail}\n{diagnosis.message_hint}"


@each_way
@pytest.mark.parametrize("table", OTHERS)
def test_a_table_with_other_columns_or_words_gets_the_view_that_fits(
    empty_database: str, simulator: Simulator, way: str, table: str
) -> None:
    create, word, said = OTHERS[table]
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(create.encode())
        columns = "select array_agg(attname::text) from pg_attribute where attnum > 0"
        columns += " and attrelid = 'evolution_instances'::regclass"
        before = value(empty_database, columns)
        output = refused(way, empty_database)
        for part in said:
            assert part in output
        assert value(empty_database, columns) == before
        assert value(empty_database, OURS) == 1

        connection.execute(script_of(output).encode())
        WAYS[way](empty_database)
        connection.execute(findings(connection)["view can be written"]["fix"].encode())
        insert_instance(connection, "evolution_instances_rows", "shop", word)
        simulator.add_instance("shop", "token-of-shop")
        connection.execute(
            "update qr_refresh.settings set evolution_api_base_url = %s", (simulator.base_url,)
        )
        row = connection.execute("select refresh_qr_codes()").fetchone()
        assert row is not None and row[0]["refreshed"] == 1, row
        picture = connection.execute("select qr_code from evolution_instances").fetchone()
        assert picture is not None
        assert read_qr(picture[0]) == simulator.current_code("shop")


def insert_instance(connection: Connection, table: str, name: str, word: str) -> None:
    """Add a row, into whichever of the columns there are."""
    rows = connection.execute(
        "select attname::text from pg_attribute where attnum > 0 and not attisdropped"
        " and attrelid = to_regclass(%s)",
        (table,),
    ).fetchall()
    values: dict[str, object] = {}
    for (column,) in rows:
        spelling = column.lower().replace("_", "")
        if spelling in ("name", "instancename"):
            values[column] = name
        elif spelling in ("apikey", "instancetoken"):
            values[column] = f"token-of-{name}"
        elif spelling in ("status", "state", "instancestatus"):
            values[column] = word
        elif spelling == "id":
            values[column] = 1
    names = ", ".join(f'"{column}"' for column in values)
    places = ", ".join(["%s"] * len(values))
    connection.execute(
        f"insert into {table} ({names}) values ({places})".encode(), list(values.values())
    )


def test_grants_and_owner_of_the_table_are_those_of_the_view_as_well(empty_database: str) -> None:
    app = f"app_of_{database_name(empty_database)}"
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(OTHERS["other columns"][0].encode())
        connection.execute(
            f"create role {app}; grant select, insert, update on evolution_instances to {app};"
            "alter table evolution_instances enable row level security;"
            f"create policy own on evolution_instances to {app} using (name = 'mine');"
            "insert into evolution_instances values (1, 'mine'), (2, 'other')".encode()
        )
        try:
            connection.execute(script_of(refused("migrate", empty_database)).encode())
            connection.execute(f"set role {app}".encode())
            # The application goes on with the same columns, and sees no more than before.
            seen = connection.execute("select name, status from evolution_instances").fetchall()
            assert seen == [("mine", None)]
            connection.execute("update evolution_instances set status = 'connecting'")
            connection.execute("reset role")
        finally:
            connection.execute(f"drop owned by {app} cascade; drop role {app}".encode())


@pytest.mark.parametrize("word", ["CONNECTING", "conectando"])
def test_words_of_the_rows_that_mean_connecting_are_said_with_a_view(
    empty_database: str, word: str
) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(
            "create table evolution_instances (instance_name text, instance_token text,"
            " instance_status text);"
            f"insert into evolution_instances values ('a', 'b', '{word}')".encode()
        )
        output = migrated(empty_database)
        assert f"instance_status is {word} (1)" in output
        found = findings(connection)["connecting instances"]
        assert f"instance_status is {word} (1)" in found["detail"]
        connection.execute(script_of(found["fix"]).encode())
        assert value(empty_database, "select instance_status from evolution_instances") == (
            "connecting"
        )
        assert value(empty_database, "select instance_status from evolution_instances_rows") == word


def test_a_table_that_says_connecting_is_taken_without_a_word(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(
            "create table evolution_instances (instance_name text, instance_token text,"
            " instance_status text check (instance_status in ('connecting', 'open')), state text)"
        )
    assert "WARNING: connecting" not in migrated(empty_database)


# --- names ----------------------------------------------------------------------------------------

COLLATION = (
    "create collation of_app (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
    "create table evolution_instances (instance_name text collate of_app, instance_token text);"
)


@each_way
def test_names_that_only_the_database_takes_for_the_same_are_refused(
    empty_database: str, way: str
) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(COLLATION.encode())
        connection.execute("insert into evolution_instances values ('Shop'), ('shop'), ('bar')")
        if way == "migrate":
            result = make("migrate", empty_database)
            assert result.returncode != 0
            output = result.stdout + result.stderr
        else:
            with pytest.raises(psycopg.Error) as raised:
                run_dist(empty_database)
            assert raised.value.sqlstate == "QR014"
            output = f"{raised.value} {raised.value.diag.message_hint}"
        assert "instances have the same name for the database: Shop, shop" in output
        command = re.search(r"ALTER TABLE .*;", output)
        assert command
        connection.execute(command[0].encode())
    WAYS[way](empty_database)


def test_such_a_collation_alone_is_no_trouble(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(COLLATION.encode())
        connection.execute("insert into evolution_instances values ('Shop'), ('bar'), ('Shop')")
    migrated(empty_database)
