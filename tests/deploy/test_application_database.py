"""The rows are in another, managed database: `make foreign-table`, then `make migrate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
import pytest

from db.connection import changed, database_name
from db.foreign_table import SPELLINGS
from db.order import function
from simulator import Simulator
from tests.deploy.conftest import TlsServer
from tests.deploy.installation import made, make, migrated
from tests.doctor.findings import findings
from tools.engines import Server
from tools.job import Connection, read_qr, value_of

PASSWORD = "nope"
TABLE = """
    create table wa_accounts (
        id integer primary key generated always as identity, name varchar(80) not null,
        api_key text, status text, tenant text
    );
    alter table wa_accounts enable row level security;
    alter table wa_accounts force row level security;
    create policy tenants on wa_accounts using (tenant = current_setting('app.tenant', true))
"""


@dataclass
class Application:
    """The application's database, which gives no superuser and has no PL/Python."""

    owner: Connection
    url: str
    role: str

    def run(self, statements: str) -> None:
        self.owner.execute(statements.encode())


@pytest.fixture
def application(
    server: Server, create_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Application]:
    if server.engine != "local":
        pytest.skip("needs one address for this process and for the server: PG=local runs it")
    url = create_database("template template0")
    role = f"app_of_{database_name(url)}"
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(f"create role {role} login password '{PASSWORD}'".encode())
        made_of = changed(url, user=role, password=PASSWORD)
        monkeypatch.setenv("APPLICATION_DATABASE_URL", made_of)
        try:
            yield Application(owner, made_of, role)
        finally:
            owner.execute(
                b"select pg_terminate_backend(pid) from pg_stat_activity where usename = %s",
                (role,),
            )
            owner.execute(f"drop owned by {role}; drop role {role}".encode())


def lacking(url: str) -> list[str]:
    """What the application's database lacks, as statements."""
    result = make("foreign-table", url)
    assert result.returncode != 0
    assert "lacks something" in result.stderr, result.stderr
    assert PASSWORD not in result.stdout + result.stderr
    return [line.strip() for line in result.stderr.splitlines() if line.endswith(";")]


def add_instance(application: Application, simulator: Simulator, name: str, word: str) -> None:
    application.owner.execute(
        "insert into wa_accounts (name, api_key, status, tenant) values (%s, %s, %s, 'a')",
        (name, f"token-of-{name}", word),
    )
    simulator.add_instance(name, f"token-of-{name}")


def run_of(url: str, simulator: Simulator) -> dict[str, object]:
    with psycopg.connect(url, autocommit=True) as here:
        here.execute(
            "update qr_refresh.settings set evolution_api_base_url = %s", (simulator.base_url,)
        )
        report: dict[str, object] = value_of(here, "select refresh_qr_codes()")
        return report


def test_what_it_lacks_is_said_ready_to_run_and_then_it_works(
    empty_database: str,
    application: Application,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EVOLUTION_TABLE", "public.wa_accounts")
    monkeypatch.setenv("EVOLUTION_COLUMNS", "last_qr_update=qr_at")
    application.run(TABLE)
    add_instance(application, simulator, "shop", "connecting")
    add_instance(application, simulator, "done", "open")
    statements = lacking(empty_database)
    role = application.role
    assert statements == [
        'ALTER TABLE "public"."wa_accounts"'
        ' ADD COLUMN "qr_code" text, ADD COLUMN "qr_at" timestamptz;',
        'GRANT SELECT ("name", "api_key", "status", "qr_code", "qr_at")'
        f' ON "public"."wa_accounts" TO "{role}";',
        f'GRANT UPDATE ("qr_code", "qr_at") ON "public"."wa_accounts" TO "{role}";',
        f'CREATE POLICY refresh_qr_codes ON "public"."wa_accounts" TO "{role}" USING (true);',
    ]
    application.run("".join(statements))
    output = made("foreign-table", empty_database)
    assert "evolution_instances is public.wa_accounts of the application's database" in output
    assert PASSWORD not in output + migrated(empty_database)

    bound = (
        "select array_agg(c) from pg_db_role_setting as s, unnest(s.setconfig) as c"
        " where s.setrole = 'qr_refresher'::regrole"
        " and s.setdatabase = (select oid from pg_database where datname = current_database())"
    )
    with psycopg.connect(empty_database) as here:
        assert value_of(here, bound) == ["statement_timeout=90s"]
    report = run_of(empty_database, simulator)
    assert report["refreshed"] == 1, report
    row = application.owner.execute(
        "select qr_code, qr_at > now() - interval '1 minute' from wa_accounts where name = 'shop'"
    ).fetchone()
    assert row is not None and read_qr(row[0]) == simulator.current_code("shop") and row[1]
    with psycopg.connect(empty_database) as here:
        found = findings(here)
        for check in ("table evolution_instances", "view can be written", "connecting instances"):
            assert found[check]["ok"] is True, found[check]
        assert found["state of the job is not published"]["ok"] is True
        assert "in another database" in found["table is published for Realtime"]["detail"]
    made("uninstall", empty_database)
    with psycopg.connect(empty_database) as here:
        assert value_of(
            here, "select count(*) from pg_roles where rolname = 'qr_refresher'"
        ) == 0 or (value_of(here, bound) is None)


@pytest.mark.parametrize("type_", ["text", "state_of_app"])
def test_other_words_are_followed_also_when_they_change(
    empty_database: str,
    application: Application,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    type_: str,
) -> None:
    monkeypatch.setenv("EVOLUTION_TABLE", "wa_accounts")
    application.run(
        "create type state_of_app as enum ('qr', 'pending', 'open');"
        f"create table wa_accounts (name text, api_key text, status {type_}, qr text,"
        f" qr_at timestamp, tenant text); grant select, update on wa_accounts to {application.role}"
    )
    for name, word in (("one", "qr"), ("two", "pending"), ("three", "open")):
        add_instance(application, simulator, name, word)
    output = made("foreign-table", empty_database)
    assert "WARNING: no row is connecting now. The status of the rows is" in output
    for word in ("open", "pending", "qr"):
        assert f"{word} (1)" in output
    for words, expected in (("qr", {"one"}), ("qr,pending", {"one", "two"}), ("pending", {"two"})):
        monkeypatch.setenv("EVOLUTION_CONNECTING", words)
        assert "WARNING" not in made("foreign-table", empty_database)
        if words == "qr":
            migrated(empty_database)
        application.run("update wa_accounts set qr = null, qr_at = null")
        report = run_of(empty_database, simulator)
        assert report["refreshed"] == len(expected), report
        stored = application.owner.execute("select name from wa_accounts where qr is not null")
        assert {name for (name,) in stored} == expected


def test_a_password_that_has_changed_is_said_and_the_new_one_taken(
    empty_database: str,
    application: Application,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EVOLUTION_TABLE", "wa_accounts")
    application.run(
        "create table wa_accounts (name text, api_key text, status text, qr text,"
        f" qr_at timestamptz, tenant text);"
        f" grant select, update on wa_accounts to {application.role}"
    )
    add_instance(application, simulator, "shop", "connecting")
    made("foreign-table", empty_database)
    migrated(empty_database)
    application.run(f"alter role {application.role} password 'a-secret'")
    assert run_of(empty_database, simulator) == {
        "success": False,
        "error": "Error fetching instances",
    }
    result = make("foreign-table", empty_database)
    assert result.returncode != 0 and "password authentication failed" in result.stderr
    monkeypatch.setenv("APPLICATION_DATABASE_URL", changed(application.url, password="a-secret"))
    made("foreign-table", empty_database)
    assert run_of(empty_database, simulator)["refreshed"] == 1


@pytest.mark.engines
def test_tls_is_as_the_url_says_also_for_the_job(
    tls_server: TlsServer, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, authority = tls_server
    monkeypatch.setenv("EVOLUTION_TABLE", "wa_accounts")
    with psycopg.connect(own.dsn(), autocommit=True) as owner:
        owner.execute("create database app")
        owner.execute(f"create role app login password '{PASSWORD}'".encode())
    url = changed(
        own.dsn("app"),
        user="app",
        password=PASSWORD,
        sslmode="verify-full",
        sslrootcert=str(authority),
    )
    with psycopg.connect(own.dsn("app"), autocommit=True) as owner:
        owner.execute(
            "create table wa_accounts (name text, api_key text, status text, qr text,"
            " qr_at timestamptz, tenant text); grant select, update on wa_accounts to app"
        )
        add_instance(Application(owner, url, "app"), simulator, "shop", "connecting")
        # Whoever is let in without TLS is another database of that name.
        monkeypatch.setenv("APPLICATION_DATABASE_URL", changed(url, host="localhost"))
        refused = make("foreign-table", own.dsn())
        assert refused.returncode != 0 and "certificate" in refused.stderr
        monkeypatch.setenv("APPLICATION_DATABASE_URL", url)
        made("foreign-table", own.dsn())
        migrated(own.dsn())
        with psycopg.connect(own.dsn(), autocommit=True) as here:
            here.execute(
                "update qr_refresh.settings set evolution_api_base_url = %s", (simulator.base_url,)
            )
            assert value_of(here, "select refresh_qr_codes()")["refreshed"] == 1
            # The session that the job has opened is kept while this one lasts.
            secure = value_of(
                owner,
                "select bool_and(s.ssl) from pg_stat_ssl as s join pg_stat_activity as a"
                " using (pid) where a.usename = 'app'",
            )
            assert secure is True


def test_what_is_asked_for_wrongly_is_said_with_an_example(
    empty_database: str, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    application.run("create table things (id integer, name integer)")

    def refusal(**variables: str) -> str:
        with monkeypatch.context() as context:
            for name, value in variables.items():
                context.setenv(name, value)
            result = make("foreign-table", empty_database)
        assert result.returncode != 0
        assert PASSWORD not in result.stdout + result.stderr
        return result.stderr

    assert "has no table public.evolution_instances" in refusal()
    assert "no column for instance_token, instance_status" in refusal(EVOLUTION_TABLE="things")
    said = refusal(EVOLUTION_TABLE="things", EVOLUTION_COLUMNS="token=key")
    assert "'token=key' is no pair" in said
    columns = ",".join(f"{ours}=name" for ours in SPELLINGS if ours != "evolution_server")
    said = refusal(EVOLUTION_TABLE="things", EVOLUTION_COLUMNS=columns)
    assert "things.name has the type integer" in said
    assert "is no postgresql:// URL" in refusal(APPLICATION_DATABASE_URL="mysql://x")


def test_a_table_that_is_here_already_is_not_touched(
    database: str, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOLUTION_TABLE", "wa_accounts")
    application.run(
        "create table wa_accounts (name text, api_key text, status text, qr text,"
        f" qr_at timestamptz); grant select, update on wa_accounts to {application.role}"
    )
    with psycopg.connect(database, autocommit=True) as here:
        here.execute("insert into evolution_instances (instance_name) values ('kept')")
        result = make("foreign-table", database)
        assert result.returncode != 0
        assert "there is a table evolution_instances" in result.stderr
        assert value_of(here, "select instance_name from evolution_instances") == "kept"


def test_columns_are_found_by_the_names_that_the_installation_knows() -> None:
    text = function("fitting_view").read_text()
    for ours, spellings in SPELLINGS.items():
        assert f"'{ours}'" in text
        assert f"'{spellings}')" in text
