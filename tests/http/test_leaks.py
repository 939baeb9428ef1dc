"""Tokens go to Evolution API and nowhere else, whatever fails and whatever the environment says."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from simulator import Simulator, hostile
from simulator.certificates import new_certificate
from simulator.hostile import Behaviour, Exchange, HostileServer, head
from tests.evolution_api import hostile_server_for
from tools.backend import NEVER_RESOLVES, change_client, file_on_server, run_python
from tools.engines import Server, start_postgres
from tools.job import Connection, Job, install

MARKER = "marker-9f3c1e-token"


def sending(data: bytes) -> Behaviour:
    """Send these bytes as they are, and close."""

    async def send(exchange: Exchange) -> None:
        await exchange.send(data)

    return send


def body(text: str, status: str = "200 OK") -> Behaviour:
    return sending(head(status, Content_Length=len(text)) + text.encode())


# --- redirects ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(
    hostile_job: Job, hostile_server: HostileServer, server: Server, status: int
) -> None:
    with hostile_server_for(server) as other:
        for name, url in {"away": other.base_url, "home": hostile_server.base_url}.items():
            target = f"{url}/instance/connect/target"
            hostile_server.behave(name, hostile.redirect(status, target))
            hostile_job.add_row(name)
        report = hostile_job.run()
        assert other.connections == 0
    assert [r["error"].split(": ")[1][:3] for r in report["results"]] == [str(status)] * 2
    assert {r.instance_name for r in hostile_server.requests} == {"away", "home"}


# --- the environment of the server ----------------------------------------------------------------


@contextlib.contextmanager
def misleading_server(server: Server, proxy: HostileServer, certificate: str) -> Iterator[Server]:
    """A server with a job, in whose environment everything that requests reads is set."""
    url = proxy.base_url
    ca_file, netrc, key_log = (f"/tmp/refresh-qr-codes-{secrets.token_hex(8)}" for _ in range(3))
    proxies = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    bundles = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
    environment = dict.fromkeys(proxies, url) | dict.fromkeys(bundles, ca_file)
    environment |= {"NETRC": netrc, "SSLKEYLOGFILE": key_log}
    login = f"machine {server.reachable_host} login somebody password something\n"
    with contextlib.ExitStack() as stack:
        # A container's own files can be made only once it runs.
        own = stack.enter_context(start_postgres(environment=environment))
        stack.enter_context(file_on_server(own, certificate, ca_file))
        stack.enter_context(file_on_server(own, login, netrc))
        install(own.dsn())
        yield own


def logged_keys(connection: Connection) -> int:
    """Count the TLS secrets that this session has written for who listens in."""
    # Importing requests 2.32 alone begins the file with a line of comment.
    body = """
        import os
        from pathlib import Path
        path = Path(os.environ['SSLKEYLOGFILE'])
        lines = path.read_text().splitlines() if path.exists() else []
        plpy.notice(sum(not line.startswith('#') for line in lines))
    """
    return int(run_python(connection, body))


@pytest.mark.engines
def test_proxies_netrc_ca_files_and_key_logs_of_the_environment_do_not_matter(
    server: Server, simulator: Simulator, tmp_path: Path
) -> None:
    host = server.reachable_host
    certificate, context = new_certificate(tmp_path, host)
    with contextlib.ExitStack() as stack:
        proxy, plain, tls = (
            stack.enter_context(hostile_server_for(server, ssl_context=context_))
            for context_ in (None, None, context)
        )
        own = stack.enter_context(misleading_server(server, proxy, certificate))
        connection: Connection = stack.enter_context(psycopg.connect(own.dsn(), autocommit=True))
        job = Job(connection, simulator)
        job.add_row("shop", "a-secret")

        job.set(evolution_api_base_url=plain.base_url)
        assert job.run()["refreshed"] == 1
        (request,) = plain.requests
        assert request.headers["apikey"] == "a-secret"
        assert "authorization" not in request.headers

        job.set(evolution_api_base_url=tls.base_url)
        error = job.result("shop")["error"]
        assert error == "Failed to fetch QR for shop: TLS certificate is not trusted"
        assert tls.requests == []
        with file_on_server(own, certificate) as path:
            job.set(ca_file=path)
            assert job.run()["refreshed"] == 1
        assert proxy.connections == 0
        assert logged_keys(connection) == 0

        # The same environment does mislead requests itself, or this test would prove nothing.
        ask = "import os, requests; plpy.notice(requests.get('{}', timeout=5).status_code)"
        assert run_python(connection, ask.format(f"http://{host}:9/control")) == "200"
        (misled,) = proxy.requests
        assert "authorization" in misled.headers
        ask = "import os; os.environ['no_proxy'] = '*'\n" + ask
        url = tls.base_url
        assert run_python(connection, ask.format(url)) == "200"
        assert logged_keys(connection) > 0
        run_python(connection, "import os; os.unlink(os.environ['SSLKEYLOGFILE'])")


# --- the marker -----------------------------------------------------------------------------------

QUOTED = json.dumps({"message": MARKER, "error": True, "base64": MARKER})
FAILING: dict[str, Behaviour] = {
    "401": body(QUOTED, "401 Unauthorized"),
    "404": body(QUOTED, "404 Not Found"),
    "500": body(QUOTED, f"500 {MARKER}"),
    "299": body(QUOTED, f"299 {MARKER}"),
    "HTML": body(f"<html>{MARKER}</html>"),
    "a list": body(json.dumps([MARKER])),
    "error true": body(QUOTED),
    "not base64": body(json.dumps({"base64": MARKER})),
    "not a string": body(json.dumps({"base64": [MARKER]})),
    "no QR": body(json.dumps({"code": MARKER, "count": 0})),
    "a string": body(json.dumps(MARKER)),
    "redirect": hostile.redirect(302, f"http://{MARKER}.invalid/{MARKER}"),
    "bad redirect": hostile.redirect(302, f"://[{MARKER}"),
    "length": sending(head(Content_Length=MARKER) + b"{}"),
    "chunk": sending(head(Transfer_Encoding="chunked") + MARKER.encode() + b"\r\n"),
    "encoding": sending(head(Content_Encoding=MARKER, Content_Length=2) + b"{}"),
    "bad header": sending(f"HTTP/1.1 200 OK\r\n{MARKER}\r\nX: y\r\n\r\n{{}}".encode()),
    "bad status": sending(f"HTTP/1.1 {MARKER}\r\n\r\n".encode()),
    "bad version": sending(f"HTTP/{MARKER} 200 OK\r\n\r\n".encode()),
    "not HTTP": sending(MARKER.encode() + b"\r\n"),
    "cookie": sending(head(Set_Cookie=f"{MARKER}; expires={MARKER}", Content_Length=0)),
    "hangs": hostile.never_answer,
    "drips": hostile.drip_body,
    "resets": hostile.reset_at_once,
    "resets in the body": hostile.reset_in_body,
    "half": hostile.half_body_then_close,
    "bomb": hostile.gzip_bomb,
}
UNSENDABLE = [f"{MARKER}\r\nX: y", f"{MARKER}\n", f" {MARKER}", f"{MARKER}é", MARKER * 20]


class Ear:
    """Keeps everything that PostgreSQL says to a client and shows to other sessions."""

    def __init__(self, connection: Connection, watcher: Connection) -> None:
        self.heard: list[str] = []
        self.connection, self.watcher = connection, watcher
        connection.add_notice_handler(self._keep)
        # What is found in an ordinary session must not depend on what that leaves out.
        connection.execute("set client_min_messages = debug1")
        connection.execute("set log_min_messages = debug1")
        connection.execute("set log_error_verbosity = verbose")

    def _keep(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        fields = (name for name in dir(diagnostic) if not name.startswith("_"))
        self.heard += [str(getattr(diagnostic, name)) for name in fields]

    def call(
        self, query: str = "select refresh_qr_codes()", *arguments: Any
    ) -> psycopg.Error | None:
        """Run a query, look at pg_stat_activity all the time, and return the error."""
        error: BaseException | None
        with ThreadPoolExecutor(1) as executor:
            run = executor.submit(self._execute, query, arguments)
            activity = "select coalesce(string_agg(a::text, ''), '') from pg_stat_activity as a"
            looks = 0
            while not run.done() or not looks:
                self._remember(self.watcher, activity)
                looks += 1
            error = run.exception()
        if isinstance(error, psycopg.Error):
            self.heard.append(str(error))
            self._keep(error.diag)
            return error
        assert error is None
        return None

    def _execute(self, query: str, arguments: tuple[Any, ...]) -> None:
        self._remember(self.connection, query, *arguments)

    def _remember(self, connection: Connection, query: str, *arguments: Any) -> None:
        rows = connection.execute(query.encode(), arguments).fetchall()
        if (text := str(rows)) not in self.heard[-2:]:
            self.heard.append(text)

    def tables(self) -> None:
        """Read every table and view of schema qr_refresh."""
        names = self.watcher.execute(
            "select oid::regclass::text from pg_class"
            " where relnamespace = 'qr_refresh'::regnamespace and relkind in ('r', 'v', 'm', 'p')"
        ).fetchall()
        assert len(names) >= 3
        for (name,) in names:
            self._remember(self.watcher, f"select row_to_json(t)::text from {name} as t")


@pytest.fixture
def ear(hostile_job: Job, connect: Callable[[], Connection], server: Server) -> Iterator[Ear]:
    """After the test, nobody must have seen the marker."""
    if server.engine == "url":
        pytest.skip("the log of the server of DATABASE_URL cannot be read")
    ear = Ear(hostile_job.connection, connect())
    yield ear
    ear.tables()
    assert sum(len(text) for text in ear.heard) > 500, "something must have been heard"
    found = [text for text in ear.heard if MARKER in text]
    found += [line for line in server.log_text().splitlines() if MARKER in line]
    assert found == []


def test_no_failing_request_shows_its_token(
    hostile_job: Job, hostile_server: HostileServer, ear: Ear
) -> None:
    hostile_job.set(request_timeout="2 s", max_concurrency=40)
    for name, behaviour in FAILING.items():
        hostile_server.behave(name, behaviour)
        hostile_job.add_row(name, MARKER)
    for number, token in enumerate(UNSENDABLE):
        hostile_job.add_row(f"unsendable {number}", token)
    hostile_job.add_row("..", MARKER)
    ear.call()
    ear.call("select * from qr_refresh.runs")
    count = hostile_job.value("select count(*) from qr_refresh.instance_state")
    assert count == len(FAILING) + len(UNSENDABLE) + 1
    # Every one that can be sent has been sent, so each of these servers knew the token.
    sent = {r.instance_name for r in hostile_server.requests if r.headers["apikey"] == MARKER}
    assert sent == set(FAILING)


def test_no_failure_of_the_database_shows_a_token(hostile_job: Job, ear: Ear) -> None:
    for name in ("good", "check", "trigger", "divides"):
        hostile_job.add_row(name, MARKER)
    execute = hostile_job.connection.execute
    execute(
        "alter table evolution_instances add constraint none"
        " check (instance_name <> 'check' or qr_code is null)"
    )
    execute(
        """
        create function refuse() returns trigger language plpgsql as $$
        begin
            if new.instance_name = 'trigger' then
                raise exception 'no, %', new.instance_token
                    using detail = new.instance_token, hint = new.instance_token;
            elsif new.instance_name = 'divides' then
                perform new.instance_token::integer;
            end if;
            return new;
        end $$
        """
    )
    execute(
        "create trigger refuse before update on evolution_instances"
        " for each row execute function refuse()"
    )
    assert ear.call() is None
    stored = "select array_agg(instance_name) from evolution_instances where qr_code is not null"
    assert hostile_job.value(stored) == ["good"]


def test_no_failure_of_the_whole_run_shows_a_token(
    hostile_job: Job, hostile_server: HostileServer, stalled_tls_server: HostileServer, ear: Ear
) -> None:
    hostile_job.set(request_timeout="500 ms")
    hostile_job.add_row("shop", MARKER)
    plain = hostile_server.base_url
    for url in (
        plain.replace("http:", "https:"),
        stalled_tls_server.base_url,
        "http://nowhere.invalid",
        "http://[1]",
        plain.rpartition(":")[0] + ":1",
        plain.rpartition(":")[0] + ":99999",
    ):
        hostile_job.set(evolution_api_base_url=url)
        assert ear.call() is None
    hostile_job.set(evolution_api_base_url="https://nowhere.invalid", ca_file="/nowhere")
    assert ear.call() is None
    hostile_job.set(evolution_api_base_url=None)
    run_python(
        hostile_job.connection,
        f"import os; os.environ['EVOLUTION_API_BASE_URL'] = 'http://u:' + '{MARKER[::-1]}'[::-1]"
        " + '@example.org'",
    )
    assert ear.call() is None
    hostile_job.set(evolution_api_base_url=plain)
    assert isinstance(ear.call("select refresh_qr_codes('nobody')"), psycopg.Error)


@pytest.mark.parametrize("kind", ["hangs", "name"])
def test_no_cancel_shows_a_token(
    hostile_job: Job, hostile_server: HostileServer, ear: Ear, kind: str
) -> None:
    hostile_server.behave("shop", hostile.drip_body)
    hostile_job.add_row("shop", MARKER)
    if kind == "name":
        change_client(hostile_job.connection, NEVER_RESOLVES)
    hostile_job.connection.execute("set statement_timeout = '2 s'")
    assert isinstance(ear.call(), psycopg.errors.QueryCanceled)
    hostile_job.connection.execute("reset statement_timeout")


def test_the_table_in_the_way_shows_no_token(hostile_job: Job, ear: Ear) -> None:
    hostile_job.add_row("shop", MARKER)
    hostile_job.connection.execute("alter table qr_refresh.instance_state rename to gone")
    ear.call()
    hostile_job.connection.execute("alter table qr_refresh.gone rename to instance_state")
    hostile_job.connection.execute(
        "alter table qr_refresh.runs add check (report is null) not valid"
    )
    # A run that cannot be kept is one nevertheless.
    assert ear.call() is None
    hostile_job.connection.execute("alter table evolution_instances rename to gone")
    ear.call()
    # The views, which are searched as well, cannot do without it.
    hostile_job.connection.execute("alter table gone rename to evolution_instances")
