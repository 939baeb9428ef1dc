"""What the kernel knows of a backend and of its HTTP client, and what troubles them.

The troubles: a resolver that hangs, a port that answers nobody or refuses, a file on the server.
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import psycopg
import pytest
from psycopg import sql

from simulator.hostile import HostileServer
from tools.engines import Server
from tools.job import Connection, wait_until

# For change_client(). Real names wait in the C library for a name server that does not answer; that
# cannot be arranged without being root where the server runs. What is simulated is the waiting.
NEVER_RESOLVES = """
    def never_resolve(*arguments, **options):
        threading.Event().wait()
    socket.getaddrinfo = never_resolve
"""


def is_process_1(connection: Connection) -> bool:
    """Tell whether the postmaster is process 1, as in a container without an init of its own.

    A run then ends its client: one that is killed while it is idle would be left to the postmaster,
    which takes that for the crash of a session.
    """
    return run_python(connection, "import os; plpy.notice(os.getppid())") == "1"


def run_python(connection: Connection, body: str) -> str:
    """Run a PL/Python block in this session, and return the last thing it passes to plpy.notice."""
    notices: list[str] = [""]

    def keep(notice: psycopg.errors.Diagnostic) -> None:
        notices.append(notice.message_primary or "")

    block = f"do language plpython3u $python$\n{dedent(body)}\n$python$"
    connection.add_notice_handler(keep)
    try:
        connection.execute(block.encode())
    finally:
        connection.remove_notice_handler(keep)
    return notices[-1]


def threads(connection: Connection, pid: int | None = None) -> int:
    """Count the threads of this session's backend, or of another one's."""
    folder = f"/proc/{pid or 'self'}/task"
    return int(run_python(connection, f"import os; plpy.notice(len(os.listdir('{folder}')))"))


def processes(connection: Connection) -> list[tuple[int, int, str, str]]:
    """Return pid, parent, state (Z: a zombie) and name of all processes where the server runs."""
    body = """
        import json, os
        found = []
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                before, _, after = open('/proc/' + pid + '/stat').read().rpartition(')')
            except OSError:
                continue  # it has just ended
            state, parent = after.split()[:2]
            found.append((int(pid), int(parent), state, before.partition('(')[2]))
        plpy.notice(json.dumps(found))
    """
    return [tuple(process) for process in json.loads(run_python(connection, body))]


def clients(connection: Connection, pid: int) -> list[int]:
    """Return the pids of the child processes of a backend: its HTTP client, and every zombie."""
    return [child for child, parent, _, _ in processes(connection) if parent == pid]


def client_of(watcher: Connection, pid: int) -> int:
    """Return the pid of the one HTTP client that a backend has."""
    (client,) = clients(watcher, pid)
    return client


def wait_until_gone(watcher: Connection, *pids: int, timeout: float = 10) -> None:
    """Wait until of these processes not even a zombie is there."""
    wait_until(
        lambda: not {pid for pid, *_ in processes(watcher)} & {*pids},
        "the processes are gone",
        timeout,
    )


def sockets(connection: Connection, pid: int | None = None) -> int:
    """Count the sockets of this session's backend, or of another process of its server."""
    body = f"""
        import os
        def is_socket(fd):
            try:
                return os.readlink('/proc/{pid or "self"}/fd/' + fd).startswith('socket:')
            except OSError:
                return False
        plpy.notice(sum(map(is_socket, os.listdir('/proc/{pid or "self"}/fd'))))
    """
    return int(run_python(connection, body))


def wait_for_requests(server: HostileServer, count: int) -> None:
    """Wait until a hostile server has so many connections open, each with a request that hangs."""
    wait_until(lambda: server.open_connections >= count, f"{count} requests under way")


def change_client(connection: Connection, code: str) -> None:
    """Have the HTTP clients of this database run this code before they begin to serve."""
    last = 'if __name__ == "__main__":\n    main()'
    query = b"select qr_refresh.evolution_client()"
    program = str((connection.execute(query).fetchone() or [""])[0])
    assert last in program
    replace_client(connection, program.replace(last, f"{dedent(code)}\n{last}"))


def replace_client(connection: Connection, program: str) -> None:
    """Deploy another program as the HTTP client of this database."""
    connection.execute(
        sql.SQL(
            "create or replace function qr_refresh.evolution_client() returns text"
            " language sql immutable as {}"
        ).format(f"select $client${program}$client$")
    )


def memory(connection: Connection, line: str) -> int:
    """Return a line of the backend's /proc/self/status, such as VmRSS or VmHWM, in bytes."""
    body = f"""
        for line in open('/proc/self/status'):
            if line.startswith('{line}:'):
                plpy.notice(line.split()[1])
    """
    return int(run_python(connection, body)) * 1024


def has_compiled(connection: Connection) -> bool:
    """Tell whether a query was compiled in this session: then the compiler is loaded."""
    loaded = "plpy.notice('llvmjit' in open('/proc/self/maps').read())"
    return run_python(connection, loaded) == "True"


def compile_what_reads_a_table(connection: Connection) -> None:
    """Have what a function does compiled in this session, and not the call of the function."""
    connection.execute("set jit = on")
    # It would load the compiler.
    with psycopg.connect(connection.info.dsn, password=connection.info.password) as other:
        other.execute("set jit = on")
        row = other.execute("select pg_jit_available()").fetchone()
    if row != (True,):
        pytest.skip("this PostgreSQL cannot compile: Debian's package is postgresql-N-jit")
    connection.execute("set jit_above_cost = 1.5; set jit_optimize_above_cost = -1")
    assert not has_compiled(connection)


def forget_peak_memory(connection: Connection) -> None:
    """Let VmHWM of this session's backend begin anew."""
    run_python(connection, "open('/proc/self/clear_refs', 'w').write('5')")


@contextlib.contextmanager
def file_on_server(server: Server, content: str, path: str | None = None) -> Iterator[str]:
    """Put a file where the server runs, which its operating system user can read."""
    if server.engine == "url":
        pytest.skip("a file cannot be put on the server of DATABASE_URL")
    # Not pytest's own temporary folder: it is closed to the user postgres.
    path = path or f"/tmp/refresh-qr-codes-{secrets.token_hex(8)}"
    if server.engine == "docker":
        encoded = base64.b64encode(content.encode()).decode()
        server.run_as_root(["sh", "-c", f"echo {encoded} | base64 -d > {path}"])
        yield path
        server.run_as_root(["rm", path])
    else:
        Path(path).write_text(content)
        try:
            Path(path).chmod(0o644)
            yield path
        finally:
            Path(path).unlink()


@contextlib.contextmanager
def refusing_port(host: str) -> Iterator[int]:
    """Hold a port at which connections are refused: no other program can come to listen there."""
    with socket.socket() as held:
        held.bind((host, 0))
        yield held.getsockname()[1]


@contextlib.contextmanager
def full_backlog(host: str) -> Iterator[int]:
    """Listen on a port whose queue is full: whoever connects now waits. Yields the port."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((host, 0), backlog=0))
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
