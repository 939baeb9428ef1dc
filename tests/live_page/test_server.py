"""Who gets the page, what it sends, and what its role in the database may do."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import requests

from examples.live_page import board
from examples.live_page.server import serving
from simulator.background import in_background
from simulator.picture import data_url, qr_text
from tests.live_page.screen import add_with_code
from tools.engines import ROOT, Server
from tools.job import Connection, Job, install, wait_until
from tools.page_role import CREATE_ROLE, create_page_role

TOKEN = "a-token-of-enough-characters"
# A page must answer before its database does.
NO_DATABASE = "postgresql://qr_page@127.0.0.1:1/postgres"


def get(address: str, **options: Any) -> requests.Response:
    return requests.get(address, timeout=10, allow_redirects=False, **options)


def events(address: str) -> Iterator[dict[str, Any]]:
    """Yield the server-sent events of the page, each as long as it takes to come."""
    with requests.get(f"{address}events", stream=True, timeout=30) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        for line in response.iter_lines():
            if line:
                assert line.startswith(b"data: ")
                yield json.loads(line.removeprefix(b"data: "))


@pytest.fixture
def guarded_page(page_database: str) -> Iterator[str]:
    """The address of a page that asks for TOKEN."""
    with in_background(serving(page_database, token=TOKEN)) as address:
        yield address


def test_an_instance_arrives_with_its_picture_and_without_its_token(
    job: Job, live_page: str
) -> None:
    picture = data_url(qr_text("bakery"))
    job.add_row("bakery", token="the-instance-token", qr_code=picture)
    stream = events(live_page)
    # The reasons are read less often than the rows.
    event = next(event for event in stream if event["cards"] and event["cards"][0]["reason"])
    (card,) = event["cards"]
    assert 3600 <= card.pop("age") < 3660
    assert card == {
        "key": '[null, "bakery"]',
        "name": "bakery",
        "server": None,
        "status": "connecting",
        "picture": picture,
        "reason": "not_asked",
        "error": None,
        "made_up": False,
    }
    assert "the-instance-token" not in json.dumps(event)


def test_only_what_has_changed_is_sent(job: Job, live_page: str) -> None:
    for name in ("bakery", "hotel"):
        job.add_row(name, qr_code=data_url(qr_text(name)))
    stream = events(live_page)
    shown: set[str] = set()
    while shown != {"bakery", "hotel"}:
        shown |= {card["name"] for card in next(stream)["cards"]}
    job.connection.execute(
        "update evolution_instances set qr_code = %s, last_qr_update = now()"
        " where instance_name = 'hotel'",
        (data_url(qr_text("next")),),
    )
    event = next(event for event in stream if event["cards"])
    assert [card["name"] for card in event["cards"]] == ["hotel"]
    assert event["cards"][0]["picture"] == data_url(qr_text("next"))
    assert not event["all"]


def test_the_browser_is_told_to_load_nothing_from_elsewhere(live_page: str) -> None:
    for path in ("", "page.css", "page.js"):
        response = get(live_page + path)
        assert response.status_code == 200
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy and "http" not in policy
        assert response.headers["Cache-Control"] == "no-store"
        # What is called a style must not be run as a script, nor anything as a page.
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
    assert get(live_page + "board.py").status_code == 404


def test_without_a_token_no_other_machine_may_reach_it(page_database: str) -> None:
    with (
        pytest.raises(ValueError, match="a token is needed"),
        in_background(serving(page_database, host="0.0.0.0")),
    ):
        pass
    with (
        pytest.raises(ValueError, match="a token is needed"),
        in_background(serving(page_database, host="example.org")),
    ):
        pass


def test_somebody_elses_name_for_this_machine_gets_nothing(live_page: str) -> None:
    port = urlsplit(live_page).port
    for name, status in [("localhost", 200), ("127.0.0.1", 200), ("evil.example", 403)]:
        response = get(live_page, headers={"Host": f"{name}:{port}"})
        assert (name, response.status_code) == (name, status)


def answer_to(address: str, request: bytes) -> bytes:
    """Send these bytes, and return all that comes back."""
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(4096), b""))


HOST = b"Host: 127.0.0.1\r\n"


@pytest.mark.parametrize("guard", [None, TOKEN], ids=["open", "guarded"])
@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1:x\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1:99999\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1]x\r\n",
        b"GET / HTTP/1.1\r\nHost: \xff\r\n",
        b"GET / HTTP/1.1\r\nHost: me@127.0.0.1\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1/x\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n",
        b"GET / HTTP/1.1\r\nHost: \r\n",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + HOST,
        b"GET * HTTP/1.1\r\n" + HOST,
        b"GET http://[/ HTTP/1.1\r\n" + HOST,
        b"GET http://127.0.0.1:x/ HTTP/1.1\r\n" + HOST,
        b"GET /\xff HTTP/1.1\r\n" + HOST,
        b"GET / HTTP/9.9\r\n" + HOST,
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n" + HOST,
        b"GET / HTTP/1.1\r\n" + b"A" * 10_000 + b": x\r\n" + HOST,
        b"NONSENSE\r\n",
    ],
    ids=lambda head: ascii(head[:48]),
)
def test_a_malformed_request_is_told_so_and_leaves_no_traceback(
    guard: str | None, request_head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with in_background(serving(NO_DATABASE, token=guard)) as address:
        status = answer_to(address, request_head + b"Connection: close\r\n\r\n").split()[1]
    assert status == b"400"
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "shown",
    [{}, {"params": {"token": "wrong"}}, {"cookies": {"live_page_token": TOKEN[:-1]}}],
    ids=["none", "wrong in the address", "wrong in the cookie"],
)
def test_without_its_token_a_guarded_page_gives_nothing(
    guarded_page: str, shown: dict[str, Any]
) -> None:
    for path in ("", "page.js", "events"):
        response = get(guarded_page + path, **shown)
        assert response.status_code == 401
        assert "needs its token" in response.text
        assert TOKEN not in response.text


def test_the_token_goes_from_the_address_into_a_cookie(guarded_page: str) -> None:
    response = get(guarded_page, params={"token": TOKEN})
    assert (response.status_code, response.headers["Location"]) == (303, "/")
    cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    assert get(guarded_page, cookies=response.cookies).status_code == 200


def test_its_role_reads_what_the_page_shows_and_nothing_else(job: Job, page_database: str) -> None:
    job.add_row("bakery", qr_code=data_url(qr_text("bakery")))
    with psycopg.connect(page_database, autocommit=True) as connection:
        assert rows(connection, "select instance_name, instance_status from evolution_instances")
        for refused in (
            "select instance_token from evolution_instances",
            "select * from evolution_instances",
            "update evolution_instances set qr_code = null",
            "delete from evolution_instances",
            "select * from qr_refresh.settings",
            "select * from qr_refresh.instance_state",
            "select refresh_qr_codes()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused.encode())


def rows(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode()).fetchall()


def test_its_role_can_be_made_twice(job: Job, page_database: str) -> None:
    job.connection.execute(CREATE_ROLE.read_bytes())
    job.add_row("bakery")
    with psycopg.connect(page_database) as connection:
        assert rows(connection, "select instance_name from evolution_instances") == [("bakery",)]


def test_a_database_that_refuses_is_told_apart_from_one_that_is_away(
    job: Job, page_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    job.connection.execute("revoke all on qr_refresh.settings from qr_page")
    job.connection.execute("revoke select (qr_lifetime) on qr_refresh.settings from qr_page")
    with in_background(serving(page_database)) as address:
        event = next(event for event in events(address) if event["database"] != "unread")
        assert event["database"] == "refused"
    assert "permission denied for table settings" in caplog.text

    password = urlsplit(page_database).password
    assert password is not None
    away = page_database.replace(str(urlsplit(page_database).port), "1")
    with in_background(serving(away)) as address:
        event = next(event for event in events(address) if event["database"] != "unread")
        assert event["database"] == "offline"
    assert password not in caplog.text


def test_a_database_that_hangs_is_offline_and_its_end_is_noticed(
    job: Job, server: Server, page_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "READ_TIMEOUT", 1.5)
    if server.engine == "url":
        pytest.skip("stops a process of the server: PG=docker or PG=local runs it")
    job.add_row("bakery")
    with in_background(serving(page_database)) as address:
        stream = events(address)
        assert next(event for event in stream if event["cards"])["database"] == "online"
        pid = job.value(
            "select pid from pg_stat_activity where usename = 'qr_page'"
            " and datname = current_database()"
        )

        def send(signal_name: str) -> None:
            command = ["sh", "-c", f"kill -{signal_name} {pid}"]
            if server.engine == "docker":
                assert server.run_as_root(command).returncode == 0
            else:
                subprocess.run(command, check=True)

        send("STOP")
        try:
            assert next(event for event in stream if event["database"] != "online")
            # A new connection shows that the server is there.
            assert next(event for event in stream if event["database"] == "online")
        finally:
            send("CONT")


@contextlib.asynccontextmanager
async def mute_database(asked: list[bytes]) -> AsyncIterator[str]:
    """A server that lets everybody in and never answers what is `asked` then; yields its URL."""

    async def let_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            length = int.from_bytes(await reader.readexactly(4), "big")
            await reader.readexactly(length - 4)
            writer.write(b"R\0\0\0\x08\0\0\0\0")  # AuthenticationOk
            writer.write(b"K\0\0\0\x0c12345678")  # BackendKeyData
            writer.write(b"Z\0\0\0\x05I")  # ReadyForQuery
            asked.append(await reader.read(1))
            await reader.read()

    async with await asyncio.start_server(let_in, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        yield f"postgresql://qr_page@127.0.0.1:{port}/postgres?sslmode=disable&gssencmode=disable"


def test_a_database_that_never_answers_is_offline_and_does_not_keep_the_page_from_ending(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(board, "READ_TIMEOUT", 1.0)
    asked: list[bytes] = []
    with in_background(mute_database(asked)) as url:
        with in_background(serving(url)) as address:
            stream = events(address)
            next(stream)
            # Not the heartbeat, which says the same as before.
            assert next(stream)["database"] == "offline"
            assert "database offline: no answer in time" in caplog.text
            monkeypatch.setattr(board, "READ_TIMEOUT", 3600.0)
            before = len(asked)
            wait_until(lambda: len(asked) > before, "it has connected anew, and waits")
            begun_at = time.monotonic()
        assert time.monotonic() - begun_at < 5


@contextlib.asynccontextmanager
async def database_without_tls(first: list[bytes]) -> AsyncIterator[str]:
    """A server that has no TLS; `first` gets what each client asks it for at the beginning."""

    async def refuse_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError):
            first.append(await reader.readexactly(8))
            writer.write(b"N")
            first.append(await reader.readexactly(8))

    async with await asyncio.start_server(refuse_tls, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        yield f"postgresql://qr_page:secret@127.0.0.1:{port}/postgres?gssencmode=disable"


@pytest.mark.parametrize(("option", "goes_on"), [("", True), ("&sslmode=require", False)])
def test_the_database_is_asked_for_tls_first_and_its_url_may_insist(
    monkeypatch: pytest.MonkeyPatch, option: str, goes_on: bool
) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    monkeypatch.setattr(board, "RECONNECT_INTERVAL", 0.01)
    first: list[bytes] = []
    with in_background(database_without_tls(first)) as url, in_background(serving(url + option)):
        wait_until(lambda: len(first) >= 3, "it has connected more than once")
    tls = struct.pack("!ii", 8, 80877103)
    assert first[0] == tls
    # The password only follows where the URL allows it without TLS.
    assert all(packet == tls for packet in first) is not goes_on


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_names_come_through_in_another_encoding(
    create_database: Callable[[str], str], encoding: str
) -> None:
    url = create_database(f"template template0 encoding '{encoding}' locale 'C'")
    install(url)
    with psycopg.connect(url, autocommit=True, client_encoding="utf8") as connection:
        connection.execute(
            "insert into evolution_instances (instance_name, instance_status)"
            " values ('Bäckerei', 'connecting')"
        )
    with in_background(serving(create_page_role(url))) as address:
        event = next(event for event in events(address) if event["cards"])
    assert [card["name"] for card in event["cards"]] == ["Bäckerei"]


@pytest.mark.parametrize("value", ["infinity", None], ids=["infinite", "none"])
def test_a_time_that_is_none_does_no_harm(job: Job, live_page: str, value: str | None) -> None:
    job.add_row("bakery", qr_code=data_url(qr_text("bakery")))
    job.connection.execute("update evolution_instances set last_qr_update = %s", (value,))
    deadline = time.monotonic() + 60
    for event in events(live_page):
        ages = [card["age"] for card in event["cards"]]
        if ages == [None]:
            break
        assert event["database"] in ("unread", "online")
        assert time.monotonic() < deadline, "the age is still shown"
    else:
        pytest.fail("the page's server has ended the events")


def test_a_row_without_a_name_is_not_shown(job: Job, live_page: str) -> None:
    job.connection.execute("alter table evolution_instances alter instance_name drop not null")
    job.add_row("bakery")
    job.connection.execute(
        "insert into evolution_instances (instance_status) values ('connecting')"
    )
    event = next(event for event in events(live_page) if event["cards"])
    assert [card["name"] for card in event["cards"]] == ["bakery"]


def store(job: Job, text: str) -> None:
    job.connection.execute(
        "update evolution_instances set qr_code = %s, last_qr_update = now()",
        (data_url(qr_text(text)),),
    )


def next_age(stream: Iterator[dict[str, Any]]) -> Any:
    # Not longer than a few heartbeats.
    (card,) = next(event for event in itertools.islice(stream, 4) if event["cards"])["cards"]
    return card["age"]


def test_a_picture_that_is_stored_again_is_as_old_as_before(job: Job, live_page: str) -> None:
    add_with_code(job, "first", "30 seconds")
    stream = events(live_page)
    assert 30 <= next_age(stream) < 60
    store(job, "first")
    assert 30 <= next_age(stream) < 60
    store(job, "second")
    assert 0 <= next_age(stream) < 30


def test_a_picture_of_before_a_connection_is_no_live_one_after_it(job: Job, live_page: str) -> None:
    add_with_code(job, "first")
    stream = events(live_page)
    assert next_age(stream) is not None
    for status in ("connected", "connecting"):
        job.connection.execute("update evolution_instances set instance_status = %s", (status,))
        assert next_age(stream) is None
    store(job, "second")
    assert next_age(stream) is not None


def test_a_time_in_the_future_makes_no_code_live_for_longer(job: Job, live_page: str) -> None:
    add_with_code(job, "first", "-1 hour")
    assert 0 <= next_age(events(live_page)) < 30


def test_a_code_of_before_a_machine_slept_is_as_old_as_the_database_says(
    job: Job, page_database: str
) -> None:
    def set_clock(ahead: str) -> None:
        job.connection.execute(
            "create or replace function public.clock_timestamp() returns timestamptz language sql"
            f" as $$ select pg_catalog.clock_timestamp() + interval '{ahead}' $$".encode()
        )

    # The function of that name in public is the page's clock.
    job.connection.execute(
        "do $$ begin execute format('alter database %I set search_path = public, pg_catalog',"
        " current_database()); end $$"
    )
    set_clock("0 seconds")
    add_with_code(job, "first")
    with in_background(serving(page_database)) as address:
        stream = events(address)
        assert 0 <= next_age(stream) < 30
        # As if the page's own machine, or all of them, had stood still for an hour.
        set_clock("1 hour")
        assert 3600 <= next_age(stream) < 3660


def test_a_status_that_is_an_enum_serves_as_well(job: Job, live_page: str) -> None:
    job.connection.execute("create type status as enum ('connecting', 'connected')")
    job.connection.execute("drop policy qr_page_reads on evolution_instances")
    job.connection.execute(
        "alter table evolution_instances drop constraint evolution_instances_instance_status_check,"
        " alter column instance_status drop default,"
        " alter column instance_status type status using instance_status::status"
    )
    job.connection.execute(CREATE_ROLE.read_bytes())
    job.add_row("bakery")
    assert next(event for event in events(live_page) if event["cards"])


@pytest.mark.parametrize(
    ("column", "type_name"),
    [
        ("instance_name", "uuid"),
        ("instance_name", "numeric"),
        ("instance_name", "kind"),
        ("last_qr_update", "timestamp"),
        ("last_qr_update", "text"),
    ],
)
def test_a_column_may_be_of_each_type_that_the_job_takes(
    job: Job, page_database: str, column: str, type_name: str
) -> None:
    name = "1" if type_name == "numeric" else "6b1f4a3e-6a5c-4a3e-9d5b-6b1f4a3e6a5c"
    job.add_row(name, qr_code=data_url(qr_text(name)))
    job.connection.execute(f"create type kind as enum ('{name}')".encode())
    job.connection.execute(
        f"alter table evolution_instances alter column {column} type {type_name}"
        f" using {column}::text::{type_name}".encode()
    )
    with in_background(serving(page_database)) as address:
        stream = events(address)
        event = next(event for event in stream if event["database"] != "unread")
        (card,) = event["cards"]
        assert card["name"] == name
        assert 3600 <= card["age"] < 3660
        # Those that are known are asked for by their names.
        job.connection.execute("update evolution_instances set instance_status = 'connected'")
        event = next(event for event in stream if event["cards"])
        assert event["cards"][0]["status"] == "connected"


def page_process(url: str | None, *options: str, **environment: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    if url is not None:
        kept["DATABASE_URL"] = url
    return subprocess.Popen(
        [sys.executable, "-m", "examples.live_page", *options],
        cwd=ROOT,
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_for_other_machines_the_command_makes_a_token_and_prints_the_address_with_it(
    page_database: str,
) -> None:
    with page_process(page_database, "--host", "0.0.0.0", "--port", "0") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"(http://127\.0\.0\.1:\d+/)(\?token=\S{20,})\n", line)
        assert found, line
        address, query = found.groups()
        assert get(address).status_code == 401
        assert get(address + query).status_code == 303
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0


def test_a_token_that_was_given_is_not_printed(page_database: str) -> None:
    with page_process(page_database, "--port", "0", LIVE_PAGE_TOKEN=TOKEN) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"(http://127\.0\.0\.1:\d+/)\?token=\$LIVE_PAGE_TOKEN\n", line)
        assert found, line
        assert get(found[1]).status_code == 401
        assert get(found[1], cookies={"live_page_token": TOKEN}).status_code == 200
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=10)
        assert process.returncode == 0
        assert TOKEN not in line + output + errors


@pytest.mark.parametrize(
    ("url", "options", "environment", "complaint"),
    [
        (None, [], {}, "DATABASE_URL is not set"),
        ("postgresql://", [], {"LIVE_PAGE_TOKEN": "short"}, "shorter than 16 characters"),
        ("postgresql://", ["--port", "99999"], {}, "Cannot listen on 127.0.0.1:99999"),
        # An address of nobody's; a name would be asked for at a name server.
        ("postgresql://", ["--host", "192.0.2.1"], {}, "Cannot listen on 192.0.2.1:8765"),
    ],
)
def test_bad_input_gets_a_clear_error(
    url: str | None, options: list[str], environment: dict[str, str], complaint: str
) -> None:
    with page_process(url, *options, **environment) as process:
        _, errors = process.communicate(timeout=60)
        assert process.returncode != 0
        assert complaint in errors
        assert "Traceback" not in errors
