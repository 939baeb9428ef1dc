"""The HTTP client is a child process: how it starts, what it inherits, whom its end concerns."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from simulator import hostile
from simulator.hostile import HostileServer
from tests.evolution_api import hostile_server_for
from tests.http.asking import ASK_ALL, prepare_to_ask
from tools.backend import (
    change_client,
    client_of,
    clients,
    is_process_1,
    processes,
    replace_client,
    run_python,
    threads,
    wait_for_requests,
    wait_until_gone,
)
from tools.engines import Server, start_postgres
from tools.job import OLD_QR, Connection, Job, install, wait_until

HANGING = 20
SESSIONS = 50
TOKEN = "marker-5b1d77-token"
GOOD = ("qr_code", None, True)


def asked(session: Connection, url: str, *names: str) -> list[tuple[str, str | None, bool]]:
    """Ask, and return outcome, error and whether there is a QR code; those that failed last."""
    rows = session.execute(ASK_ALL, {"names": [*names], "url": url}).fetchall()
    return sorted(rows, key=lambda row: row[0] == "failed")


def kill(watcher: Connection, pid: int) -> None:
    run_python(watcher, f"import os, signal; os.kill({pid}, signal.SIGKILL)")


def is_zombie(watcher: Connection, pid: int) -> bool:
    """Tell whether a process has ended, and its parent has not asked for its exit status yet."""
    state = {number: state for number, _, state, _ in processes(watcher)}[pid]
    # Its main thread may be the first to end, and its parent cannot ask before the last one has.
    return state == "Z" and threads(watcher, pid) == 1


# --- how long it lives ----------------------------------------------------------------------------


def test_a_session_keeps_its_client_between_runs_and_takes_it_along(
    job: Job, connect: Callable[[], Connection]
) -> None:
    if is_process_1(job.connection):
        pytest.skip("where the postmaster is process 1 a run ends its client: PG=local keeps it")
    watcher, pid = connect(), job.connection.info.backend_pid
    job.add("shop")
    assert clients(watcher, pid) == []
    assert job.run()["refreshed"] == 1
    client = client_of(watcher, pid)
    assert job.run()["refreshed"] == 1
    assert clients(watcher, pid) == [client]
    job.connection.close()
    wait_until_gone(watcher, client, pid)


def test_where_the_postmaster_is_process_1_a_run_takes_its_client_along(job: Job) -> None:
    if not is_process_1(job.connection):
        pytest.skip("the postmaster has a parent here: PG=docker has none")
    job.add("shop")
    for _ in range(2):
        assert job.run()["refreshed"] == 1
        assert clients(job.connection, job.connection.info.backend_pid) == []


# Answers at once, with pictures of the usual size.
INSTANT_CLIENT = """
import json, sys, time
for line in sys.stdin:
    answer = {"id": json.loads(line)["id"], "outcome": "qr_code", "error": None, "late": 0}
    answer |= {"qr_code": "x" * 13000, "qr_count": None}
    answer |= {"reconnected": False, "round_trip": None}
    sys.stdout.write(json.dumps(answer | {"answered_at": time.time()}) + chr(10))
    sys.stdout.flush()
"""


def test_more_answers_are_taken_at_once_than_the_pipe_holds(job: Job) -> None:
    """A tick that commits slowly, as beside a far database, would else take five at a time."""
    replace_client(job.connection, INSTANT_CLIENT)
    ask = (
        "select count(*) from qr_refresh.ask(array(select ("
        " sha256(n::text::bytea), n, null, 'a-token', 'http://x', true, false, now(), null, null,"
        " null, null, null, null, null, null)::qr_refresh.attempt"
        " from generate_series(1, %s) as n), 60, 0)"
    )
    most = 0
    # Several times: on a busy machine the client may not be at work when it is asked.
    for _ in range(50):
        missing = 60 - job.value(ask, 60)
        while missing:
            taken = job.value(ask, 0)
            most, missing = max(most, taken), missing - taken
        if most > 10:
            break
    assert most > 10


def test_another_program_reaches_open_sessions(job: Job, connect: Callable[[], Connection]) -> None:
    if is_process_1(job.connection):
        pytest.skip("where the postmaster is process 1 a run ends its client: PG=local keeps it")
    watcher, pid = connect(), job.connection.info.backend_pid
    job.add("shop")
    job.run()
    former = client_of(watcher, pid)
    change_client(watcher, "HEADERS['User-Agent'] = 'another'")
    assert job.run()["refreshed"] == 1
    client = client_of(watcher, pid)
    assert client != former
    assert "'another'" in arguments_of(watcher, client)[-1]
    assert job.run()["refreshed"] == 1
    assert clients(watcher, pid) == [client]


def test_a_client_that_is_killed_fails_its_calls_and_another_goes_on(
    hostile_server: HostileServer, connect: Callable[[], Connection]
) -> None:
    session, watcher = connect(), connect()
    pid = session.info.backend_pid
    hostile_server.behave("hangs", hostile.never_answer)
    prepare_to_ask(session)
    with ThreadPoolExecutor(1) as executor:
        run = executor.submit(asked, session, hostile_server.base_url, *["hangs"] * HANGING)
        wait_for_requests(hostile_server, HANGING)
        former = client_of(watcher, pid)
        kill(watcher, former)
        assert run.result(30) == [("failed", "HTTP client has ended", False)] * HANGING
    assert asked(session, hostile_server.base_url, "good") == [GOOD]
    assert client_of(watcher, pid) != former
    wait_until(lambda: hostile_server.open_connections <= 5, "its connections are closed")


def test_a_client_that_is_killed_between_two_runs_is_replaced(
    job: Job, connect: Callable[[], Connection]
) -> None:
    if is_process_1(job.connection):
        pytest.skip("where the postmaster is process 1 a run ends its client: PG=local keeps it")
    watcher, pid = connect(), job.connection.info.backend_pid
    job.add("shop")
    job.run()
    former = client_of(watcher, pid)
    kill(watcher, former)
    wait_until(lambda: is_zombie(watcher, former), "it has ended")
    assert job.run()["refreshed"] == 1
    assert client_of(watcher, pid) != former


def test_a_closed_client_connection_ends_session_and_client_while_calls_hang(
    hostile_server: HostileServer, connect: Callable[[], Connection]
) -> None:
    session, watcher = connect(), connect()
    pid = session.info.backend_pid
    hostile_server.behave("hangs", hostile.never_answer)
    prepare_to_ask(session)
    session.execute("set client_connection_check_interval = '20 ms'")
    cursor = psycopg.ClientCursor(session)
    arguments = {"names": ["hangs"] * HANGING, "url": hostile_server.base_url}
    query = cursor.mogrify(ASK_ALL, arguments)
    session.pgconn.send_query(query.encode())
    wait_for_requests(hostile_server, HANGING)
    client = client_of(watcher, pid)
    session.close()
    # The calls would hang for a minute.
    wait_until_gone(watcher, client, pid)
    wait_until(lambda: hostile_server.open_connections == 0, "its connections are closed")


# --- what it inherits -----------------------------------------------------------------------------


def arguments_of(watcher: Connection, pid: int, file: str = "cmdline") -> list[str]:
    """Return the arguments of a process where the server runs, or its environment."""
    body = f"import json; plpy.notice(json.dumps(open('/proc/{pid}/{file}').read().split(chr(0))))"
    return [str(text) for text in json.loads(run_python(watcher, body))][:-1]


def test_nothing_but_a_path_is_in_its_environment_and_no_token_in_its_arguments(
    hostile_job: Job, hostile_server: HostileServer, connect: Callable[[], Connection]
) -> None:
    if is_process_1(hostile_job.connection):
        pytest.skip("where the postmaster is process 1 a run ends its client: PG=local keeps it")
    watcher, pid = connect(), hostile_job.connection.info.backend_pid
    run_python(hostile_job.connection, "import os; os.environ['PYTHONPATH'] = '/nowhere'")
    hostile_job.add_row("shop", TOKEN)
    assert hostile_job.run()["refreshed"] == 1
    assert [request.headers["apikey"] for request in hostile_server.requests] == [TOKEN] * len(
        hostile_server.requests
    )
    client = client_of(watcher, pid)
    assert arguments_of(watcher, client, "environ") == ["PATH=/usr/bin:/bin"]
    _, *options, program = arguments_of(watcher, client)
    assert options == ["-I", "-c"]
    query = "select qr_refresh.evolution_client()"
    assert program == hostile_job.value(query)
    assert TOKEN not in program
    assert hostile_server.base_url not in program


def test_it_has_no_file_of_the_backend_and_no_folder(
    job: Job, connect: Callable[[], Connection]
) -> None:
    if is_process_1(job.connection):
        pytest.skip("where the postmaster is process 1 a run ends its client: PG=local keeps it")
    watcher, pid = connect(), job.connection.info.backend_pid
    job.add("shop")
    job.run()
    client = client_of(watcher, pid)
    look = f"""
        import json, os
        fds = sorted(map(int, os.listdir('/proc/{client}/fd')))
        links = [os.readlink('/proc/{client}/fd/%d' % fd) for fd in fds]
        links.append(os.readlink('/proc/{client}/cwd'))
        plpy.notice(json.dumps(links))
    """
    source, output, errors, *others, folder = json.loads(run_python(watcher, look))
    assert (source[:5], output[:5], errors, folder) == ("pipe:", "pipe:", "/dev/null", "/")
    # The one connection to Evolution API; none of the backend's.
    assert [link.partition(":")[0] for link in others] == ["socket"]


# --- where it cannot start ------------------------------------------------------------------------


def refused_run(job: Job) -> psycopg.errors.Diagnostic:
    """Run for two instances, of which one has a QR code; return the error. Nothing is lost."""
    job.add_row("shop", TOKEN, qr_code=OLD_QR)
    job.add_row("other", TOKEN)
    with pytest.raises(psycopg.Error) as raised:
        job.run()
    assert job.row("shop").qr_code == OLD_QR
    assert clients(job.connection, job.connection.info.backend_pid) == []
    diagnostic = raised.value.diag
    for secret in (TOKEN, job.simulator.base_url.split("/")[2]):
        assert secret not in str(raised.value)
        assert secret not in (diagnostic.context or "")
    for text in (diagnostic.message_primary, diagnostic.message_detail):
        assert text is not None
        assert "/" not in text
        assert "Traceback" not in text
    return diagnostic


def recovers(job: Job) -> bool:
    """Tell whether the next run of this session works, as if nothing had been."""
    job.connection.execute("delete from evolution_instances")
    job.add("good")
    return bool(job.run()["refreshed"] == 1)


def test_a_missing_interpreter_is_one_clear_error(job: Job) -> None:
    hide = "import sys; GD['prefix'] = sys.exec_prefix; sys.exec_prefix = '/nowhere'"
    run_python(job.connection, hide)
    error = refused_run(job)
    assert error.sqlstate == "QR010"
    assert (error.message_primary or "").endswith("the HTTP client cannot be started")
    assert error.message_detail == "Starting Python failed: No such file or directory."
    assert error.message_hint is not None
    assert "must be able to run /nowhere/bin/python3." in error.message_hint
    run_python(job.connection, "import sys; sys.exec_prefix = GD['prefix']")
    assert recovers(job)


@pytest.mark.parametrize("code", ["import no_such_library", "raise SystemExit(3)"])
def test_a_library_that_is_missing_or_broken_is_one_clear_error(job: Job, code: str) -> None:
    program = job.value("select qr_refresh.evolution_client()")
    replace_client(job.connection, program.replace("import requests\n", f"{code}\n", 1))
    error = refused_run(job)
    assert error.sqlstate == "QR011"
    assert (error.message_primary or "").endswith("the HTTP client does not start")
    assert error.message_detail is not None
    assert "requests is missing" in error.message_detail
    assert error.message_hint is not None
    assert error.message_hint.endswith("python3 -I -c 'import requests'")
    replace_client(job.connection, program)
    assert recovers(job)


# --- whom its end concerns ------------------------------------------------------------------------


@pytest.fixture
def own() -> Iterator[Server]:
    """A server of this test's own: a crash of one session would end them all."""
    with start_postgres(own=True) as running:
        install(running.dsn())
        yield running


def no_client_is_left(watcher: Connection) -> bool:
    """Tell whether among the descendants of the postmaster is no Python, not even a zombie."""
    found = processes(watcher)
    backend = watcher.info.backend_pid
    (postmaster,) = (parent for pid, parent, _, _ in found if pid == backend)
    family = {postmaster}
    while more := {pid for pid, parent, _, _ in found if parent in family} - family:
        family |= more
    return not any(pid in family and name.startswith("python") for pid, _, _, name in found)


@pytest.mark.engines
def test_fifty_sessions_come_and_go_and_no_other_ends(own: Server) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(hostile_server_for(own))
        server.behave("hangs", hostile.never_answer)
        watcher = stack.enter_context(psycopg.connect(own.dsn(), autocommit=True))
        bystander = stack.enter_context(psycopg.connect(own.dsn(), autocommit=True))
        prepare_to_ask(bystander)
        assert asked(bystander, server.base_url, "good") == [GOOD]
        kept = client_of(watcher, bystander.info.backend_pid)

        def come_and_go(number: int) -> int:
            """Ask, and go: properly, terminated while a call hangs, or after a killed client."""
            with psycopg.connect(own.dsn(), autocommit=True) as session:
                pid = session.info.backend_pid
                prepare_to_ask(session)
                assert asked(session, server.base_url, "good") == [GOOD]
                with psycopg.connect(own.dsn(), autocommit=True) as killer:
                    client = client_of(killer, pid)
                    if number % 3 == 1:
                        # Asked again: who goes before that leaves the killed one to the postmaster,
                        # to whom, where it is process 1, this is the crash of a session.
                        kill(killer, client)
                        wait_until(lambda: is_zombie(killer, client), "it has ended")
                        assert asked(session, server.base_url, "good") == [GOOD]
                    elif number % 3 == 2:
                        hanging = ["hangs"] * 5
                        with ThreadPoolExecutor(1) as executor:
                            run = executor.submit(asked, session, server.base_url, *hanging)
                            wait_until(
                                lambda: (
                                    killer.execute(
                                        "select from pg_stat_activity where pid = %s and state ="
                                        " 'active'",
                                        (pid,),
                                    ).rowcount
                                ),
                                "it asks",
                            )
                            killer.execute("select pg_terminate_backend(%s)", (pid,))
                            assert run.exception(30) is not None
                return client

        with ThreadPoolExecutor(4) as executor:
            gone = list(executor.map(come_and_go, range(SESSIONS)))
        wait_until_gone(watcher, *gone)
        assert clients(watcher, bystander.info.backend_pid) == [kept]
        assert asked(bystander, server.base_url, "good") == [GOOD]
        bystander.close()
        wait_until(lambda: no_client_is_left(watcher), "no client is left")
        log = own.log_text()
        assert "terminated by signal" not in log
        assert "terminating any other active server processes" not in log


@pytest.mark.engines
def test_a_killed_backend_takes_its_client_along(own: Server) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(hostile_server_for(own))
        server.behave("hangs", hostile.never_answer)
        session = stack.enter_context(psycopg.connect(own.dsn(), autocommit=True))
        watcher = stack.enter_context(psycopg.connect(own.dsn(), autocommit=True))
        executor = stack.enter_context(ThreadPoolExecutor(1))
        prepare_to_ask(session)
        run = executor.submit(asked, session, server.base_url, *["hangs"] * HANGING)
        wait_for_requests(server, HANGING)
        pid = session.info.backend_pid
        client = client_of(watcher, pid)
        with contextlib.suppress(psycopg.OperationalError):  # it is ended with all sessions
            kill(watcher, pid)
        assert isinstance(run.exception(30), psycopg.OperationalError)
        wait_until(lambda: server.open_connections == 0, "its connections are closed")
        wait_until(lambda: can_connect(own), "the server takes sessions again")
        with psycopg.connect(own.dsn(), autocommit=True) as other:
            wait_until_gone(other, client)
            wait_until(lambda: no_client_is_left(other), "no client is left")
            # The server began again once, for the backend, and not once more for its orphan.
            assert own.log_text().count("terminating any other active server processes") == 1
            prepare_to_ask(other)
            assert asked(other, server.base_url, "good") == [GOOD]


def can_connect(server: Server) -> bool:
    try:
        psycopg.connect(server.dsn(), connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True
