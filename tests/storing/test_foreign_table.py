"""evolution_instances is a foreign table: the rows are on another server, with other names."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psycopg
import pytest

from db.connection import database_name
from db.order import PRIVILEGES
from simulator import Simulator
from simulator.picture import data_url
from tools.engines import Server
from tools.job import (
    OLD_QR,
    STORED,
    Connection,
    Job,
    install,
    read_qr,
    refusal,
    value_of,
    wait_until,
)

REFUSED = {"success": False, "qr_updated": False, "error": "Database update failed"}
CHANGED = {"success": True, "qr_updated": False, "error": "Instance changed during the run"}

OVER_THERE = """
    create table wa_accounts (
        id integer primary key generated always as identity, name text, api_key text,
        status text, qr text, qr_at timestamptz, server text
    );
    create role {role} login password 'a-secret';
    grant usage on schema public to {role};
    grant select (name, api_key, status, qr, qr_at, server), update (status, qr, qr_at)
    on wa_accounts to {role}
"""
HERE = """
    drop table public.evolution_instances;
    create extension postgres_fdw;
    create server far foreign data wrapper postgres_fdw options (
        host '127.0.0.1', port '{port}', dbname '{dbname}', fetch_size '10000',
        connect_timeout '5', options '-c lock_timeout=10ms -c statement_timeout=8s'
    );
    grant usage on foreign server far to qr_refresh_owner;
    create user mapping for qr_refresh_owner server far
    options (user '{role}', password 'a-secret')
"""
COLUMNS = """
    instance_name text options (column_name 'name'),
    instance_token text options (column_name 'api_key'),
    instance_status text options (column_name 'status'),
    qr_code text options (column_name 'qr'),
    last_qr_update timestamptz options (column_name 'qr_at')
"""
WORDS = """
    create foreign table public.evolution_instances_rows ({columns}) server far
    options (table_name 'wa_accounts');
    grant select, update on public.evolution_instances_rows to qr_refresh_owner;
    create view public.evolution_instances with (security_invoker = true) as
    select t.instance_name, t.instance_token, t.qr_code, t.last_qr_update,
        case when t.instance_status in ('connecting', 'qr') then 'connecting'
        else t.instance_status end as instance_status, null::text as evolution_server
    from public.evolution_instances_rows as t
"""
# evolution_server is a column over there where there are several servers; the view has none.
ALONE = """
    create foreign table public.evolution_instances ({columns}, evolution_server text
        options (column_name 'server')) server far options (table_name 'wa_accounts')
"""
KINDS = {"a foreign table": ALONE, "a view over one": WORDS}


@dataclass
class FarJob(Job):
    """The job, whose rows are in a database of another server."""

    def __init__(self, connection: Connection, simulator: Simulator, far: Connection) -> None:
        super().__init__(connection, simulator)
        self.far = far

    def add_row(
        self,
        name: str,
        token: str | None = "a-token",
        status: str = "connecting",
        qr_code: str | None = None,
    ) -> None:
        """Add a row over there."""
        self.far.execute(
            "insert into wa_accounts (name, api_key, status, qr) values (%s, %s, %s, %s)",
            (name, token, status, qr_code),
        )

    def tick(self, worker: int = 1, workers: int = 1) -> list[str]:
        """Do a tick as the role that live mode works as, who alone may ask the other server."""
        self.connection.execute("set role qr_refresh_owner")
        try:
            return super().tick(worker, workers)
        finally:
            self.connection.execute("reset role")

    def picture(self, name: str) -> str | None:
        """Return what is stored over there."""
        picture: str | None = value_of(self.far, "select qr from wa_accounts where name = %s", name)
        return picture

    def is_current(self, name: str) -> bool:
        return read_qr(self.picture(name)) == self.simulator.current_code(name)


@contextlib.contextmanager
def far_job(kind: str, database: str, far_database: str, simulator: Simulator) -> Iterator[FarJob]:
    role = f"app_of_{database_name(far_database)}"
    with (
        psycopg.connect(far_database, autocommit=True) as far,
        psycopg.connect(database, autocommit=True) as here,
    ):
        far.execute(OVER_THERE.format(role=role).encode())
        try:
            port = value_of(far, "show port")
            here.execute(
                HERE.format(port=port, dbname=database_name(far_database), role=role).encode()
            )
            here.execute(KINDS[kind].format(columns=COLUMNS).encode())
            install(database, [PRIVILEGES])
            job = FarJob(here, simulator, far)
            job.set(evolution_api_base_url=simulator.base_url)
            yield job
        finally:
            here.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", (role,)
            )
            far.execute(f"drop owned by {role}; drop role {role}".encode())


@pytest.fixture(params=KINDS)
def job(
    request: pytest.FixtureRequest,
    database: str,
    create_database: Callable[[str], str],
    simulator: Simulator,
) -> Iterator[FarJob]:
    with far_job(request.param, database, create_database("template template0"), simulator) as made:
        yield made


def by_name(report: dict[str, list[dict[str, object]]]) -> dict[object, dict[str, object]]:
    return {result.pop("instance_name"): result for result in report["results"]}


def test_qr_codes_are_stored_over_there_and_nothing_else_is_touched(job: FarJob) -> None:
    job.add("shop")
    job.add_row("done", "x", "open", OLD_QR)
    before = value_of(job.far, "select to_jsonb(a) from wa_accounts as a where name = 'done'")
    report = job.run()
    assert report["refreshed"] == 1, report
    assert job.is_current("shop")
    assert value_of(
        job.far, "select qr_at > now() - interval '1 minute' from wa_accounts where name = 'shop'"
    )
    assert (
        value_of(job.far, "select to_jsonb(a) from wa_accounts as a where name = 'done'") == before
    )


def test_live_mode_writes_a_new_qr_code_and_leaves_the_same_one_alone(job: FarJob) -> None:
    job.add("shop")
    assert job.tick() == ["shop"]
    assert job.is_current("shop")
    version = value_of(job.far, "select ctid::text from wa_accounts")
    job.connection.execute("update qr_refresh.instance_state set next_attempt_at = now()")
    assert job.tick() == ["shop"]
    assert value_of(job.far, "select ctid::text from wa_accounts") == version
    assert job.value("select outcome from qr_refresh.instance_state") == "unchanged"
    job.let_time_pass(46)
    assert job.tick() == ["shop"]
    assert job.is_current("shop")


def test_a_row_that_is_locked_over_there_costs_itself_alone(job: FarJob) -> None:
    names = [f"shop-{number}" for number in range(9)]
    for name in names:
        job.add(name)
    with psycopg.connect(job.far.info.dsn, password=job.far.info.password) as application:
        application.execute("select from wa_accounts where name = 'shop-4' for update")
        results = by_name(job.run())
    assert results.pop("shop-4") == REFUSED
    assert set(map(str, results)) == set(names) - {"shop-4"}
    assert all(result == STORED for result in results.values())
    assert all(job.is_current(name) for name in names if name != "shop-4")
    assert job.picture("shop-4") is None


def test_a_row_that_is_refused_over_there_costs_itself_alone(job: FarJob) -> None:
    for name in ("checked", "raising", "ignored", "shop"):
        job.add(name)
    job.far.execute(
        "alter table wa_accounts add check (name <> 'checked' or qr is null);"
        "create function refuse() returns trigger language plpgsql as $$ begin"
        " if new.name = 'raising' then raise exception 'no'; end if;"
        " if new.name = 'ignored' then return null; end if; return new; end $$;"
        "create trigger refuse before update on wa_accounts for each row execute function refuse()"
    )
    results = by_name(job.run())
    assert results == {"checked": REFUSED, "raising": REFUSED, "ignored": REFUSED, "shop": STORED}
    assert job.is_current("shop")


def test_no_token_and_no_picture_gets_into_the_log_over_there(job: FarJob, server: Server) -> None:
    """A statement that is refused is in the log of its server, which others may read."""
    for name in ("locked", "shop"):
        job.add(name)
    job.run()
    with psycopg.connect(job.far.info.dsn, password=job.far.info.password) as application:
        application.execute("select from wa_accounts where name = 'locked' for update")
        job.simulator.clock.advance(46)
        assert by_name(job.run())["locked"] == REFUSED
    wait_until(lambda: "UPDATE public.wa_accounts" in server.log_text(), "it is in the log")
    log = server.log_text()
    assert job.is_current("shop")
    for picture in (job.picture("shop"), data_url(job.simulator.current_code("locked") or "")):
        assert picture is not None and picture[-200:-100] not in log
    lines = [line for line in log.splitlines() if "wa_accounts" in line]
    assert not [line for line in lines if "token-of-" in line and "insert into" not in line]


def test_no_row_over_there_is_locked_that_is_not_written(job: FarJob) -> None:
    job.add("shop")
    job.add_row("other", "x", "open")
    job.add_row("broken", "", "connecting")
    with job.connection.transaction():
        assert job.run()["refreshed"] == 1
        free = job.far.execute("select name from wa_accounts for update skip locked").fetchall()
    assert {name for (name,) in free} == {"other", "broken"}


def test_the_word_is_pushed_down_and_a_batch_is_one_foreign_update(job: FarJob) -> None:
    """Else every row of the other server would come here, or be locked there."""
    for name in ("shop", "bakery"):
        job.add(name)
    job.connection.execute("load 'auto_explain'")
    job.connection.execute(
        "set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;"
        "set auto_explain.log_verbose = on; set client_min_messages = log"
    )
    plans: list[str] = []
    job.connection.add_notice_handler(lambda notice: plans.append(notice.message_primary or ""))
    job.run()
    job.tick()
    remote = [line.strip() for plan in plans for line in plan.splitlines() if "Remote SQL" in line]
    assert remote
    for line in remote:
        assert "FOR UPDATE" not in line and "FOR NO KEY" not in line, line
        assert "status" in line.partition("WHERE")[2], line
    updates = [line for line in remote if "UPDATE public.wa_accounts" in line]
    assert len(updates) == 1, updates
    pictures = [line for line in remote if "SELECT" in line and " qr," in line.partition("FROM")[0]]
    assert not pictures
    assert any("Foreign Update on public.evolution_instances" in plan for plan in plans)


def test_an_instance_that_is_connected_is_marked_over_there(
    database: str, create_database: Callable[[str], str], simulator: Simulator
) -> None:
    with far_job(
        "a foreign table", database, create_database("template template0"), simulator
    ) as job:
        job.set(connected_status="connected")
        job.connection.execute(
            "grant update (instance_status) on evolution_instances to qr_refresh_owner"
        )
        job.add("shop", qr_code=OLD_QR, state="open")
        job.run()
        row = job.far.execute("select status, qr from wa_accounts").fetchone()
        assert row == ("connected", None)


def test_a_row_that_changes_over_there_meanwhile_is_left_alone(
    job: FarJob, simulator: Simulator
) -> None:
    """The snapshot over there is as old as the run; its rows are guarded all the same."""
    job.add("shop")
    job.add("bakery")
    simulator.latency = 0.5
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(job.run)
        wait_until(lambda: simulator.requests, "the run waits for Evolution API")
        job.far.execute("update wa_accounts set status = 'open' where name = 'shop'")
        results = by_name(running.result(30))
    assert results == {"shop": CHANGED, "bakery": STORED}
    assert job.picture("shop") is None


def test_a_server_that_is_away_is_said_and_is_found_again(job: FarJob) -> None:
    job.add("shop")
    port = job.value("select o from pg_foreign_server, unnest(srvoptions) as o where o ~ '^port='")
    job.connection.execute("alter server far options (set port '1')")
    assert job.run() == {"success": False, "error": "Error fetching instances"}
    job.connection.execute(f"alter server far options (set port '{port[5:]}')".encode())
    assert job.run()["refreshed"] == 1
    assert job.is_current("shop")


# --- what goes wrong on the way -------------------------------------------------------------------


def test_a_statement_that_hangs_over_there_can_be_cancelled_and_has_an_end(job: FarJob) -> None:
    """A trigger that waits for something: the other server ends it, or whoever asks here."""
    job.add("shop")
    job.far.execute(
        "create function wait() returns trigger language plpgsql as $$ begin"
        " perform pg_sleep(60); return new; end $$;"
        "create trigger wait before update on wa_accounts for each row execute function wait()"
    )
    job.connection.execute("set statement_timeout = '1s'")
    begun_at = time.monotonic()
    assert refusal(job.connection, "select refresh_qr_codes()").sqlstate == "57014"
    assert time.monotonic() - begun_at < 5
    job.connection.execute("reset statement_timeout")
    job.connection.execute("alter server far options (set options '-c statement_timeout=500ms')")
    assert by_name(job.run()) == {"shop": REFUSED}
    assert time.monotonic() - begun_at < 15
    job.far.execute("drop trigger wait on wa_accounts")
    assert by_name(job.run()) == {"shop": STORED}


def test_a_row_that_hangs_over_there_does_not_cost_the_others_for_long(job: FarJob) -> None:
    """It takes all the time there is; whoever stood in a statement with it is tried before it."""
    others = [f"other-{number}" for number in range(5)]
    for name in ("hanging", *others):
        job.add(name)
    job.far.execute(
        "create function wait() returns trigger language plpgsql as $$ begin"
        " if new.name = 'hanging' then perform pg_sleep(60); end if; return new; end $$;"
        "create trigger wait before update on wa_accounts for each row execute function wait()"
    )
    job.connection.execute("alter server far options (set options '-c statement_timeout=1500ms')")
    stored: set[object] = set()
    for _ in range(20):
        results = by_name(job.run())
        stored |= {name for name, result in results.items() if result == STORED}
        if stored == set(others):
            break
    assert stored == set(others)
    # From then on they have nothing to do with it.
    results = by_name(job.run())
    assert results.pop("hanging") == REFUSED
    assert results == dict.fromkeys(others, STORED)


def test_a_read_that_hangs_over_there_is_said_and_has_an_end(job: FarJob) -> None:
    job.add("shop")
    job.connection.execute("alter server far options (set options '-c statement_timeout=500ms')")
    with psycopg.connect(job.far.info.dsn, password=job.far.info.password) as application:
        application.execute("lock table wa_accounts")
        assert job.run() == {"success": False, "error": "Error fetching instances"}
        tick = "select (qr_refresh.live_tick(1, 1, null) ->> 'failed_ticks')::integer"
        assert job.value(tick) == 1
        # Here it is somebody's wish.
        job.connection.execute("set statement_timeout = '200ms'")
        for statement in ("select refresh_qr_codes()", "select qr_refresh.live_tick(1, 1, null)"):
            assert refusal(job.connection, statement).sqlstate == "57014"
        job.connection.execute("reset statement_timeout")
    assert by_name(job.run()) == {"shop": STORED}


def test_a_connection_that_is_lost_loses_nothing_and_is_made_again(
    job: FarJob, simulator: Simulator
) -> None:
    for name in ("shop", "bakery"):
        job.add(name, qr_code=OLD_QR)
    simulator.latency = 0.5
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(refusal, job.connection, "select refresh_qr_codes()")
        wait_until(lambda: simulator.requests, "the run waits for Evolution API")
        ended = job.far.execute(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = %s",
            (f"app_of_{job.far.info.dbname}",),
        ).fetchone()
        assert ended is not None and ended[0] > 0
        # What cannot be stored over there is not remembered here either.
        assert str(running.result(30).sqlstate).startswith("08")
    assert {job.picture(name) for name in ("shop", "bakery")} == {OLD_QR}
    assert job.value("select count(*) from qr_refresh.instance_state") == 0
    assert by_name(job.run()) == {"shop": STORED, "bakery": STORED}


def test_a_transaction_that_is_rolled_back_here_stores_nothing_there(job: FarJob) -> None:
    job.add("shop")
    with job.connection.transaction(force_rollback=True):
        assert job.run()["refreshed"] == 1
    assert job.picture("shop") is None


def test_many_rows_that_stay_locked_do_not_hold_up_the_others(job: FarJob) -> None:
    """Those that were refused the last time are in a statement of their own."""
    for number in range(30):
        job.add(f"locked-{number}")
        job.add(f"free-{number}")
    with psycopg.connect(job.far.info.dsn, password=job.far.info.password) as application:
        application.execute("select from wa_accounts where name ~ 'locked' for update")
        job.run()
        job.far.execute("update wa_accounts set qr = null where name ~ 'free'")
        results = by_name(job.run())
    assert {name for name, result in results.items() if result == STORED} == {
        f"free-{number}" for number in range(30)
    }


def test_where_the_rows_are_here_every_cancel_is_obeyed(
    database: str, simulator: Simulator
) -> None:
    """Also where a statement of a trigger has a line in it as postgres_fdw writes one."""
    with psycopg.connect(database, autocommit=True) as here:
        local = Job(here, simulator)
        local.set(evolution_api_base_url=simulator.base_url)
        here.execute(
            "create function wait() returns trigger language plpgsql as $$ begin"
            " perform pg_sleep(60 /*\nnote: SELECT it */); return new; end $$;"
            "create trigger wait before update on evolution_instances"
            " for each row execute function wait(); set statement_timeout = '1s'"
        )
        local.add("shop")
        for statement in ("select refresh_qr_codes()", "call qr_refresh.live()"):
            assert refusal(here, statement).sqlstate == "57014"
