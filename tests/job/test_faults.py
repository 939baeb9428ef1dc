"""The server, pg_cron or Evolution API fails in the middle of a run: what is left, what follows.

Each of these breaks a PostgreSQL server, so they have servers of their own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from simulator import Instance, Simulator, Trouble, running_simulator
from tests.evolution_api import simulator_for
from tools.backend import refusing_port, run_python
from tools.engines import CommandResult, Server, start_postgres
from tools.job import Connection, Job, install, read_qr, wait_until

NAMES = [f"instance {number}" for number in range(5)]
LAUNCHER = "select pid from pg_stat_activity where backend_type = 'pg_cron launcher'"
ROWS = "select instance_name, qr_code, last_qr_update from evolution_instances order by 1"


@pytest.fixture(scope="module")
def breakable() -> Iterator[Server]:
    """A server that tests may break, with the job in the database postgres."""
    with start_postgres(own=True) as running:
        install(running.dsn())
        yield running


def connection_to(server: Server) -> Connection:
    """A new session, as soon as the server takes one."""
    opened: list[Connection] = []

    def is_open() -> bool:
        try:
            opened.append(psycopg.connect(server.dsn(), autocommit=True, connect_timeout=5))
        except psycopg.OperationalError:
            return False
        return True

    wait_until(is_open, "the server takes sessions again", timeout=30)
    return opened[0]


@pytest.fixture
def evolution(breakable: Server) -> Iterator[Simulator]:
    with simulator_for(breakable) as running:
        yield running


@pytest.fixture
def connected(breakable: Server, evolution: Simulator) -> Iterator[Job]:
    """The job with five instances that have a QR code; nothing of the test is left afterwards."""
    with contextlib.closing(connection_to(breakable)) as connection:
        job = Job(connection, evolution)
        job.set(evolution_api_base_url=evolution.base_url, log_detail="cycle")
        for name in NAMES:
            job.add(name)
        assert job.run()["refreshed"] == len(NAMES)
        yield job
    with contextlib.closing(connection_to(breakable)) as connection:
        connection.execute("drop trigger if exists gate on evolution_instances")
        connection.execute("alter function qr_refresh.store_qr_codes set lock_timeout = '100ms'")
        for table in ("qr_refresh.runs", "evolution_instances"):
            connection.execute(f"delete from {table}".encode())


@pytest.fixture
def cron(breakable: Server, connected: Job, pg_cron: None) -> Iterator[Job]:
    """The same where pg_cron can run it."""
    connected.connection.execute("create extension pg_cron")
    yield connected
    with contextlib.closing(connection_to(breakable)) as connection:
        connection.execute("drop extension pg_cron")


def kill_backend(server: Server, pid: int) -> None:
    ready = "database system is ready to accept connections"
    starts = server.log_text().count(ready)
    # The session that kills ends as well: the server ends all where one is killed.
    with (
        contextlib.suppress(psycopg.OperationalError),
        contextlib.closing(connection_to(server)) as killer,
    ):
        run_python(killer, f"import os; os.kill({pid}, 9)")
    wait_until(lambda: server.log_text().count(ready) > starts, "the server has recovered", 30)
    assert "was terminated by signal 9" in server.log_text()


def kill_launcher(server: Server, pid: int) -> None:
    found: list[int] = []

    def is_there() -> bool:
        with contextlib.closing(connection_to(server)) as watcher:
            found.extend(pid for (pid,) in watcher.execute(LAUNCHER))
        return bool(found)

    # It starts a moment after the server.
    wait_until(is_there, "pg_cron's launcher is there")
    kill_backend(server, found[0])


def crash(server: Server, pid: int) -> None:
    server.stop("immediate")
    server.start()


def wait_in_http(job: Job, pid: int) -> None:
    wait_until(lambda: job.simulator.total_requests == 2 * len(NAMES), "the run waits for answers")


def wait_in_update(job: Job, pid: int) -> None:
    row = "select count(*) from pg_locks where pid = %s and locktype = 'advisory' and not granted"
    wait_until(lambda: job.value(row, pid), "the run writes")


@pytest.mark.outage
@pytest.mark.parametrize("fault", [kill_backend, kill_launcher, crash])
@pytest.mark.parametrize("moment", [wait_in_http, wait_in_update])
def test_a_run_that_is_cut_off_leaves_every_row_as_it_was_and_the_next_one_works(
    breakable: Server,
    connected: Job,
    evolution: Simulator,
    moment: Callable[[Job, int], None],
    fault: Callable[[Server, int], None],
    request: pytest.FixtureRequest,
) -> None:
    if fault is kill_launcher:
        request.getfixturevalue("pg_cron")
    evolution.clock.advance(46)
    if moment is wait_in_http:
        for instance in evolution.instances:
            instance.answer_with = Trouble.HANG
    else:
        # Four rows are written when the fifth waits; nobody else sees them yet.
        connected.connection.execute(
            "create or replace function gate() returns trigger language plpgsql as"
            " $$ begin perform pg_advisory_xact_lock_shared(1); return new; end $$;"
            "create trigger gate before update on evolution_instances for each row"
            " when (new.instance_name = 'instance 4') execute function gate();"
            "select pg_advisory_lock(1)"
        )
        connected.connection.execute(
            b"alter function qr_refresh.store_qr_codes set lock_timeout = 0"
        )
    before = connected.connection.execute(ROWS.encode()).fetchall()
    second = Job(connection_to(breakable), evolution)
    pid = second.connection.info.backend_pid
    with ThreadPoolExecutor(1) as pool, contextlib.closing(second.connection):
        run = pool.submit(second.run)
        moment(connected, pid)
        fault(breakable, pid)
        assert isinstance(run.exception(30), psycopg.OperationalError)

    with contextlib.closing(connection_to(breakable)) as connection:
        assert connection.execute(ROWS.encode()).fetchall() == before
        again = Job(connection, evolution)
        # It wrote nothing, so there is no row of it; the server log says what happened.
        assert again.value("select count(*) from qr_refresh.runs") == 1
        for instance in evolution.instances:
            instance.answer_with = None
        assert again.run()["refreshed"] == len(NAMES)
        for name in NAMES:
            assert read_qr(again.row(name).qr_code) == evolution.current_code(name)
        assert again.value("select count(*) from qr_refresh.runs") == 2


def hangs_once() -> Callable[[Instance], Trouble | None]:
    calls = itertools.count()
    return lambda instance: None if next(calls) else Trouble.HANG


@pytest.mark.cron_minute
def test_pg_cron_comes_back_after_a_kill_runs_the_job_and_its_history_tells_both(
    breakable: Server, cron: Job, evolution: Simulator
) -> None:
    evolution.clock.advance(46)
    for instance in evolution.instances:
        instance.answer_with = hangs_once()
    # pg_cron runs such a job as soon as it has started, also a version that knows no seconds.
    cron.connection.execute("select qr_refresh.schedule('@reboot')")
    breakable.restart()
    wait_until(lambda: evolution.total_requests == 4 * len(NAMES), "pg_cron runs the job", 30)
    with contextlib.closing(connection_to(breakable)) as connection:
        running = connection.execute(
            "select pid from pg_stat_activity where query = 'SELECT refresh_qr_codes()'"
        ).fetchone()
        assert running is not None
    kill_backend(breakable, running[0])
    with contextlib.closing(connection_to(breakable)) as connection:
        job = Job(connection, evolution)
        ended = "select count(*) from cron.job_run_details where status = 'succeeded'"
        wait_until(lambda: job.value(ended), "the next run ends", 30)
        history = connection.execute(
            "select status, return_message from cron.job_run_details order by runid"
        ).fetchall()
        assert [status for status, _ in history] == ["failed", "succeeded"]
        assert history[0][1] == "server restarted"
        for name in NAMES:
            assert read_qr(job.row(name).qr_code) == evolution.current_code(name)
        refreshed = "select array_agg(refreshed order by id) from qr_refresh.runs"
        assert job.value(refreshed) == [len(NAMES)] * 2


@pytest.mark.outage
def test_evolution_api_is_down_for_a_while(breakable: Server, connected: Job) -> None:
    before = connected.connection.execute(ROWS.encode()).fetchall()
    with refusing_port(breakable.listen_host) as port:
        connected.set(evolution_api_base_url=f"http://{breakable.reachable_host}:{port}")
        for _ in range(3):
            report = connected.run()
            assert (report["success"], report["failed"]) == (True, len(NAMES))
            assert {result["error"].partition(": ")[2] for result in report["results"]} == {
                "connection refused"
            }
    assert connected.connection.execute(ROWS.encode()).fetchall() == before
    with running_simulator(breakable.listen_host, port) as back:
        for instance in connected.simulator.instances:
            back.add_instance(instance.name, instance.token)
        assert connected.run()["refreshed"] == len(NAMES)
        for name in NAMES:
            assert read_qr(connected.row(name).qr_code) == back.current_code(name)
    failed = connected.value("select array_agg(failed order by id) from qr_refresh.runs")
    assert failed == [0, *[len(NAMES)] * 3, 0]


@pytest.mark.engines
def test_a_full_disk_for_the_log_costs_the_log_only() -> None:
    with start_postgres(own=True) as server, simulator_for(server) as evolution:
        install(server.dsn())
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            # Whatever is written to /dev/full finds the disk full.
            run_python(
                connection,
                "import os; os.mkdir('full'); os.symlink('/dev/full', 'full/full.log')",
            )
            for setting in (
                "logging_collector = on",
                "log_directory = 'full'",
                "log_filename = 'full.log'",
            ):
                connection.execute(f"alter system set {setting}".encode())
        server.restart()
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            job = Job(connection, evolution)
            job.set(evolution_api_base_url=evolution.base_url)
            job.add("good")
            job.add_row("bad")
            for _ in range(3):
                evolution.clock.advance(46)
                report = job.run()
                assert (report["refreshed"], report["failed"]) == (1, 1)
                assert read_qr(job.row("good").qr_code) == evolution.current_code("good")
            assert job.value("select count(*) from qr_refresh.runs where failed = 1") == 3
        wait_until(lambda: "No space left on device" in server.log_text(), "the log is full")


def as_postgres(server: Server, script: str, *arguments: str) -> CommandResult:
    """Run a shell script beside the server, as an operating system user that may start one."""
    # Where this user may not enter the present folder, PostgreSQL's programs say so each time.
    argv = ["sh", "-ec", f"cd /\n{script}", "sh", *arguments]
    if server.engine == "local" and os.geteuid() == 0:
        argv = ["runuser", "-u", "postgres", "--", *argv]
    return server.run_client(argv)


START_STANDBY = """
umask 077
folder=$(mktemp -d)
echo "$folder"
pg_basebackup --pgdata "$folder/data" --write-recovery-conf --checkpoint fast --no-sync
cd "$folder/data"
printf 'local all all trust\\n' > pg_hba.conf
{
    echo "listen_addresses = ''"
    echo "unix_socket_directories = '$folder'"
    echo "shared_preload_libraries = '$(psql -XAtc 'show shared_preload_libraries')'"
    echo "max_worker_processes = 16"
} > postgresql.conf
touch pg_ident.conf
pg_ctl --pgdata . --log "$folder/log" --silent --wait start || { cat "$folder/log"; exit 1; }
"""
STOP_STANDBY = """
pg_ctl --pgdata "$1/data" --silent --mode immediate stop
rm -r "$1"
"""


@pytest.fixture
def standby(breakable: Server, connected: Job) -> Iterator[str]:
    """A hot standby of the server, on the same machine: the folder of its socket."""
    started = as_postgres(breakable, START_STANDBY)
    folder = started.output.splitlines()[0] if started.output else ""
    try:
        assert started.returncode == 0, started.output
        yield folder
    finally:
        if folder:
            as_postgres(breakable, STOP_STANDBY, folder)


@pytest.mark.engines
def test_on_a_standby_the_error_says_to_run_it_on_the_primary(
    breakable: Server, connected: Job, evolution: Simulator, standby: str
) -> None:
    requests = evolution.total_requests
    asked = as_postgres(
        breakable,
        'psql -X -h "$1" -v VERBOSITY=verbose -c "SELECT refresh_qr_codes()" 2>&1',
        standby,
    )
    assert asked.returncode != 0
    assert "QR003: " in asked.output
    assert "refresh_qr_codes() writes, and this transaction is read-only" in asked.output
    assert "HINT:  This server is a standby: run it on the primary." in asked.output
    assert evolution.total_requests == requests, "nothing is asked that cannot be stored"
    # The row that the primary writes arrives there, and nothing else is different.
    evolution.clock.advance(46)
    assert connected.run()["refreshed"] == len(NAMES)
    digest = "select md5(string_agg(qr_code, ',' order by instance_name)) from evolution_instances"
    expected = connected.value(digest)

    def arrived() -> bool:
        query = 'psql -XAt -h "$1" -c "$2"'
        return as_postgres(breakable, query, standby, digest).output.strip() == str(expected)

    wait_until(arrived, "the standby has the new QR codes", timeout=30)


def test_in_a_read_only_transaction_the_error_says_so(job: Job) -> None:
    job.add("shop")
    with pytest.raises(psycopg.Error) as raised, job.connection.transaction():
        job.connection.execute("set transaction read only")
        job.run()
    assert raised.value.sqlstate == "QR003"
    diagnosis: Any = raised.value.diag
    assert "this transaction is read-only" in diagnosis.message_primary
    assert "BEGIN READ ONLY" in diagnosis.message_hint
    assert job.simulator.total_requests == 0
    assert job.run()["refreshed"] == 1
