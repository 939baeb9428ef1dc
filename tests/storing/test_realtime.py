"""Supabase Realtime and whatever else decodes the WAL: what they see of a run."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple

import psycopg
import pytest

from db.order import ROOT
from simulator import Simulator, error_answer
from tests.deploy.installation import migrated, run_dist
from tests.storing.test_foreign_table import far_job
from tools.engines import Server, start_postgres
from tools.job import Connection, Job, install, read_qr

SETUP = (ROOT / "docs" / "setup.md").read_text(encoding="utf-8")
(COMMAND,) = re.findall(r"^CREATE PUBLICATION supabase_realtime .*;$", SETUP, re.MULTILINE)
TABLE = "public.evolution_instances"
_numbers = itertools.count(1)


class Change(NamedTuple):
    """A change of a row as a decoder gives it out; without the columns that it leaves out."""

    action: str
    table: str
    columns: dict[str, str | None]


# --- decoders -------------------------------------------------------------------------------------


def pgoutput(connection: Connection, slot: str) -> list[Change]:
    """What logical replication of Postgres itself sends: the binary messages, decoded."""
    messages = connection.execute(
        "select data from pg_logical_slot_get_binary_changes(%s, null, null,"
        " 'proto_version', '1', 'publication_names', 'supabase_realtime')",
        (slot,),
    ).fetchall()
    relations: dict[int, tuple[str, list[str]]] = {}
    changes = []
    for (message,) in messages:
        reader = Reader(message)
        kind = reader.take(1)
        if kind == b"R":
            oid, schema, table = reader.integer(4), reader.text(), reader.text()
            reader.take(1)
            columns = []
            for _ in range(reader.integer(2)):
                reader.take(1)
                columns.append(reader.text())
                reader.take(8)
            relations[oid] = f"{schema}.{table}", columns
        elif kind in b"IUD":
            table, columns = relations[reader.integer(4)]
            if reader.take(1) in (b"K", b"O") and kind == b"U":
                reader.row(columns)  # the row as it was
                reader.take(1)
            changes.append(Change(kind.decode(), table, reader.row(columns)))
    return changes


class Reader:
    """Reads a message of pgoutput from its beginning to its end."""

    def __init__(self, message: bytes) -> None:
        self.rest = message

    def take(self, size: int) -> bytes:
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def text(self) -> str:
        taken, _, self.rest = self.rest.partition(b"\0")
        return taken.decode()

    def row(self, columns: list[str]) -> dict[str, str | None]:
        row: dict[str, str | None] = {}
        assert self.integer(2) == len(columns)
        for column in columns:
            match self.take(1):
                case b"t":
                    row[column] = self.take(self.integer(4)).decode()
                case b"n":
                    row[column] = None
                case b"u":
                    pass  # TOASTed and unchanged: the value is not sent
                case kind:
                    raise ValueError(f"a column of the kind {kind!r}")
        return row


def test_decoding(connection: Connection, slot: str) -> list[Change]:
    """Everything that is written in the database, as text."""
    lines = connection.execute(
        "select data from pg_logical_slot_get_changes(%s, null, null, 'include-xids', '0')", (slot,)
    ).fetchall()
    changes = []
    for (line,) in lines:
        if found := re.fullmatch(r"table (\S+): (\w+): (.*)", line, re.DOTALL):
            table, action, columns = found.groups()
            pairs = re.findall(r"(\w+)\[[^\]]+\]:('(?:[^']|'')*'|\S+)", columns)
            row = {
                name: None if value == "null" else value.strip("'").replace("''", "'")
                for name, value in pairs
                if value != "unchanged-toast-datum"
            }
            changes.append(Change(action[0], table, row))
    return changes


def wal2json(connection: Connection, slot: str) -> list[Change]:
    """What Supabase Realtime reads: the tables of its publication, as JSON."""
    lines = connection.execute(
        "select data from pg_logical_slot_get_changes(%s, null, null, 'format-version', '2',"
        " 'include-transaction', 'false', 'add-tables', (select string_agg("
        " schemaname || '.' || tablename, ',') from pg_publication_tables"
        " where pubname = 'supabase_realtime'))",
        (slot,),
    ).fetchall()
    changes = []
    for (line,) in lines:
        found = json.loads(line)
        columns = found.get("columns") or found["identity"]
        row = {column["name"]: column["value"] for column in columns}
        changes.append(Change(found["action"], f"{found['schema']}.{found['table']}", row))
    return changes


test_decoding.__test__ = False  # type: ignore[attr-defined]
Decoder = Callable[[Connection, str], list[Change]]
DECODERS: list[Decoder] = [pgoutput, test_decoding, wal2json]


# --- fixtures -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decoding_server() -> Iterator[Server]:
    """A server whose WAL can be decoded, with all three decoders where Debian has them."""
    with start_postgres(settings={"wal_level": "logical"}) as running:
        if running.engine == "docker":
            # Not in the image, which is also the one of compose.yaml.
            script = (
                "apt-get update -qq && apt-get install -qq -y --no-install-recommends"
                f" postgresql-{running.major}-wal2json"
            )
            result = running.run_as_root(["sh", "-c", script])
            assert result.returncode == 0, result.output[-500:]
        yield running


@pytest.fixture
def decoding_job(decoding_server: Server, simulator: Simulator) -> Iterator[Job]:
    """The job in a database with Supabase's publication."""
    name = f"decoded_{next(_numbers)}"
    with psycopg.connect(decoding_server.dsn(), autocommit=True) as admin:
        admin.execute(f"create database {name} template template0".encode())
    with psycopg.connect(decoding_server.dsn(name), autocommit=True) as connection:
        # The latest minor versions use no decoder that is not on this list.
        connection.execute(
            "select set_config(name, setting || ', wal2json', false) from pg_settings"
            " where name = 'output_plugin_libraries'"
        )
        connection.execute("create publication supabase_realtime")
        install(decoding_server.dsn(name))
        job = Job(connection, simulator)
        job.set(evolution_api_base_url=simulator.base_url)
        yield job
        connection.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
            " where database = current_database()"
        )


def start(job: Job, decoder: Decoder) -> str:
    """Let a decoder see what is written from now on; returns the name of its slot."""
    if decoder is wal2json:
        try:
            job.connection.execute("load 'wal2json'")
        except psycopg.errors.UndefinedFile:
            pytest.skip("this server has no wal2json: PG=docker runs it")
    slot = f"slot_{next(_numbers)}"
    job.connection.execute(
        "select pg_create_logical_replication_slot(%s, %s)", (slot, decoder.__name__)
    )
    return slot


# --- what a decoder sees --------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.__name__)
def test_each_new_qr_code_arrives_whole_with_its_time(decoding_job: Job, decoder: Decoder) -> None:
    job = decoding_job
    for name in ("bar", "shop"):
        job.add(name)
    job.run()
    slot = start(job, decoder)
    # The same picture again, and then a new one.
    for _ in range(2):
        job.run()
        changes = [c for c in decoder(job.connection, slot) if c.table == TABLE]
        assert [change.action for change in changes] == ["U", "U"]
        for change in changes:
            name = str(change.columns["instance_name"])
            assert read_qr(change.columns["qr_code"]) == job.simulator.current_code(name)
            row = job.row(name)
            assert change.columns["qr_code"] == row.qr_code
            at = datetime.fromisoformat(f"{change.columns['last_qr_update']}:00")
            assert at == row.last_qr_update
        job.simulator.clock.advance(46)


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.__name__)
def test_a_row_that_gets_no_new_qr_code_makes_no_event(decoding_job: Job, decoder: Decoder) -> None:
    job = decoding_job
    job.add("good")
    job.add("bad").answer_with = error_answer(500, "Internal Server Error", "boom")
    job.add("none yet", qr_delay=3600.0)
    job.add_row("connected", status="connected")
    job.add("refused")
    job.connection.execute(
        "alter table evolution_instances add check (instance_name <> 'refused' or qr_code is null)"
    )
    slot = start(job, decoder)
    job.run()
    names = [c.columns["instance_name"] for c in decoder(job.connection, slot) if c.table == TABLE]
    assert names == ["good"]


@pytest.mark.parametrize("decoder", [pgoutput, wal2json], ids=lambda decoder: decoder.__name__)
def test_nothing_of_the_job_itself_is_published(decoding_job: Job, decoder: Decoder) -> None:
    job = decoding_job
    job.add("shop")
    slot, everything = start(job, decoder), start(job, test_decoding)
    job.run()
    job.set(max_concurrency=2)
    assert {change.table for change in decoder(job.connection, slot)} == {TABLE}
    written = {change.table for change in test_decoding(job.connection, everything)}
    assert {"qr_refresh.runs", "qr_refresh.settings"} <= written


def test_in_a_publication_for_all_tables_our_own_hold_no_token_and_no_qr_code(
    decoding_job: Job,
) -> None:
    """Postgres leaves none out of such a publication; what is in them must be harmless."""
    job = decoding_job
    job.connection.execute("drop publication supabase_realtime")
    job.connection.execute("create publication supabase_realtime for all tables")
    job.add("shop")
    slot = start(job, pgoutput)
    job.run()
    changes = pgoutput(job.connection, slot)
    (qr_code,) = (c.columns["qr_code"] for c in changes if c.table == TABLE)
    assert qr_code is not None
    ours = [change for change in changes if change.table != TABLE]
    tables = {change.table for change in ours}
    assert "qr_refresh.runs" in tables
    # It is not logged, so there is nothing to decode.
    assert "qr_refresh.instance_state" not in tables
    for change in ours:
        assert "token-of-0" not in str(change)
        assert qr_code[30:60] not in str(change)


def test_elsewhere_the_command_of_the_readme_lets_subscribers_see_the_table(
    decoding_job: Job,
) -> None:
    job = decoding_job
    job.connection.execute("drop publication supabase_realtime")
    job.connection.execute(COMMAND.encode())
    job.add("shop")
    slot = start(job, wal2json)
    job.run()
    assert [change.columns["instance_name"] for change in wal2json(job.connection, slot)] == [
        "shop"
    ]


def test_over_there_each_new_qr_code_arrives_whole_and_no_other_write(
    decoding_server: Server, simulator: Simulator
) -> None:
    """The table is a foreign one: what Realtime sees is in the other server's WAL."""
    names = [f"decoded_{next(_numbers)}" for _ in range(2)]
    with psycopg.connect(decoding_server.dsn(), autocommit=True) as admin:
        for name in names:
            admin.execute(f"create database {name} template template0".encode())
    here, there = map(decoding_server.dsn, names)
    install(here)
    with far_job("a foreign table", here, there, simulator) as job:
        job.add("shop")
        job.tick()
        slot = f"slot_{next(_numbers)}"
        job.far.execute("select pg_create_logical_replication_slot(%s, 'test_decoding')", (slot,))
        try:
            job.connection.execute("update qr_refresh.instance_state set next_attempt_at = now()")
            assert job.tick() == ["shop"]
            assert test_decoding(job.far, slot) == []
            job.let_time_pass(46)
            assert job.tick() == ["shop"]
            (change,) = test_decoding(job.far, slot)
            assert (change.action, change.table) == ("U", "public.wa_accounts")
            assert read_qr(change.columns["qr"]) == simulator.current_code("shop")
            assert change.columns["qr_at"] is not None
        finally:
            job.far.execute("select pg_drop_replication_slot(%s)", (slot,))


# --- how the table joins --------------------------------------------------------------------------

NOT_PUBLISHED = "WARNING: evolution_instances is not in publication supabase_realtime"
PUBLISHED = (
    "select count(*) from pg_publication_tables"
    " where pubname = 'supabase_realtime' and tablename = 'evolution_instances'"
)


COLUMNS = "evolution_instances (id integer default 1, instance_name text)"
TABLE_WITH_KEY = f"create table {COLUMNS}; alter table evolution_instances add primary key (id);"
BEFORE: dict[str, tuple[str, int]] = {
    "no publication": (TABLE_WITH_KEY, 0),
    "a new table": ("create publication supabase_realtime", 1),
    "an existing table": (f"{TABLE_WITH_KEY} create publication supabase_realtime", 1),
    "one that has joined before": (
        f"{TABLE_WITH_KEY} create publication supabase_realtime for table evolution_instances",
        1,
    ),
    "a partitioned one that has joined before": (
        f"create table {COLUMNS} partition by hash (id);"
        "alter table evolution_instances add primary key (id);"
        "create table the_only_part partition of evolution_instances"
        " for values with (modulus 1, remainder 0);"
        "create publication supabase_realtime for table evolution_instances",
        0,  # the partition is what this publishes
    ),
    "one that is in with all tables": (
        f"{TABLE_WITH_KEY} create publication supabase_realtime for all tables",
        1,
    ),
    "one that is in with its schema": (
        f"{TABLE_WITH_KEY} create publication supabase_realtime for tables in schema public",
        1,
    ),
    "one without a key": (f"create table {COLUMNS}; create publication supabase_realtime", 0),
    "one without a key that sends whole rows": (
        f"create table {COLUMNS}; alter table evolution_instances replica identity full;"
        "create publication supabase_realtime",
        1,
    ),
    "one with an index as its key": (
        f"create table {COLUMNS}; alter table evolution_instances alter id set not null;"
        "create unique index by_id on evolution_instances (id);"
        "alter table evolution_instances replica identity using index by_id;"
        "create publication supabase_realtime",
        1,
    ),
    "one that is not logged": (
        f"create unlogged table {COLUMNS}; alter table evolution_instances add primary key (id);"
        "create publication supabase_realtime",
        0,
    ),
}


@pytest.mark.parametrize(("before", "published"), BEFORE.values(), ids=BEFORE)
def test_the_table_joins_once_where_it_can(
    empty_database: str, before: str, published: int
) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(before.encode())
        for _ in range(2):
            install(empty_database)
        assert connection.execute(PUBLISHED.encode()).fetchone() == (published,)
        # A published table without a replica identity would refuse every UPDATE.
        connection.execute("insert into evolution_instances (instance_name) values ('a')")
        connection.execute("update evolution_instances set instance_name = 'b'")


@pytest.mark.parametrize("install_it", [migrated, run_dist], ids=["migrate", "dist"])
def test_a_table_that_was_taken_out_stays_out_after_an_upgrade(
    empty_database: str, install_it: Callable[[str], object]
) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("create publication supabase_realtime")
        install_it(empty_database)
        assert connection.execute(PUBLISHED.encode()).fetchone() == (1,)
        connection.execute("alter publication supabase_realtime drop table evolution_instances")
        install_it(empty_database)
        assert connection.execute(PUBLISHED.encode()).fetchone() == (0,)
        assert NOT_PUBLISHED in migrated(empty_database)
        assert connection.execute(PUBLISHED.encode()).fetchone() == (0,)


def test_migrate_says_where_realtime_does_not_see_the_table(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        assert NOT_PUBLISHED not in migrated(empty_database)
        connection.execute(COMMAND.encode())
        assert NOT_PUBLISHED not in migrated(empty_database)
        connection.execute("drop publication supabase_realtime")
        connection.execute("create publication supabase_realtime")
        assert NOT_PUBLISHED in migrated(empty_database)
