"""`make far`: live mode where the rows are in another database, and other servers share them.

One PostgreSQL holds the application's table, as a managed one would. The job is in one or several
small servers beside it, each with a view of its own share of the rows, and reaches them through a
proxy that delays. All instances begin to connect in the same second.

Environment: FAR_INSTANCES (1000), FAR_ROUND_TRIP (30; milliseconds to the application's database),
FAR_SERVERS (1), FAR_SECONDS (140).
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import psycopg

from db.connection import changed
from db.foreign_table import Wanted, create, look
from simulator import running_simulator
from simulator.background import in_background
from tools.engines import Server, engine_errors_in_words, start_postgres
from tools.freshness import SAMPLE_EVERY, Mode
from tools.job import install, wait_until

PASSWORD = "nope"
FIRST = 60.0  # seconds, printed apart
APPLICATION = """
    create table evolution_instances (
        id integer primary key generated always as identity, instance_name text unique,
        instance_token text, instance_status text, qr_code text, last_qr_update timestamptz
    );
    create index on evolution_instances (instance_status);
    create role app login password '{password}'
"""
SHARE = """
    create view share_{number} as
    select * from evolution_instances where id % {servers} = {number};
    grant select, update on share_{number} to app
"""


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Write what comes, in its order, each piece so many seconds later."""
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def send() -> None:
        while True:
            moment, data = await pieces.get()
            await asyncio.sleep(moment - time.monotonic())
            if not data:
                break
            writer.write(data)
            await writer.drain()
        writer.close()

    sending = asyncio.create_task(send())
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            pieces.put_nowait((time.monotonic() + delay, data))
    pieces.put_nowait((time.monotonic() + delay, b""))
    with contextlib.suppress(ConnectionError):
        await sending


@asynccontextmanager
async def delaying_proxy(host: str, there: Server, round_trip: float) -> AsyncIterator[int]:
    """Pass everything on to a server, half a round trip later; yields a port of this host."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(there.host, there.port)
        # Those that are open at the end are cancelled.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(
                pass_on(reader, far_writer, round_trip / 2),
                pass_on(far_reader, writer, round_trip / 2),
            )

    async with await asyncio.start_server(serve, host, 0) as listening:
        yield listening.sockets[0].getsockname()[1]


def install_beside(server: Server, application_url: str, share: str, base_url: str) -> None:
    """Install the job in a small server, for the rows of this view of the application's."""
    as_we_reach_it = Wanted(application_url, f"public.{share}")
    as_it_reaches_it = Wanted(server.as_reached(application_url), f"public.{share}")
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("create extension if not exists pg_cron")
        with contextlib.redirect_stdout(io.StringIO()):
            create(server.dsn(), as_it_reaches_it, look(as_we_reach_it))
        install(server.dsn())
        connection.execute(
            "update qr_refresh.settings set evolution_api_base_url = %s, log_detail = 'off',"
            " max_concurrency = 100",
            (server.as_reached(base_url),),
        )


def run_seconds(server: Server) -> float:
    """Return what a run by hand takes, with its session."""
    begun_at = time.monotonic()
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("select refresh_qr_codes()")
    return time.monotonic() - begun_at


def end_live_mode(server: Server) -> None:
    """Unschedule it, and wait until its session has ended."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:

        def has_ended() -> bool:
            row = connection.execute(
                "select count(*) from pg_stat_activity"
                " where query like '%qr_refresh.live(%' and pid <> pg_backend_pid()"
            ).fetchone()
            return row == (0,)

        connection.execute("select qr_refresh.unschedule()")
        wait_until(has_ended, "the end of live mode", 90)


def main() -> None:
    """Print what came of it."""
    instances = int(os.environ.get("FAR_INSTANCES", "1000"))
    round_trip = float(os.environ.get("FAR_ROUND_TRIP", "30"))
    count = int(os.environ.get("FAR_SERVERS", "1"))
    seconds = float(os.environ.get("FAR_SECONDS", "140"))
    with ExitStack() as stack:
        application = stack.enter_context(start_postgres(own=True))
        servers = [stack.enter_context(start_postgres(own=True)) for _ in range(count)]
        listen = servers[0].listen_host
        simulator = stack.enter_context(running_simulator(listen))
        simulator.add_instances(instances, spread=True)
        rows = stack.enter_context(psycopg.connect(application.dsn(), autocommit=True))
        rows.execute(APPLICATION.format(password=PASSWORD).encode())
        rows.cursor().executemany(
            "insert into evolution_instances (instance_name, instance_token, instance_status)"
            " values (%s, %s, 'connecting')",
            [(instance.name, instance.token) for instance in simulator.instances],
        )
        rows.execute("vacuum analyze evolution_instances")
        proxy = delaying_proxy(listen, application, round_trip / 1000)
        port = stack.enter_context(in_background(proxy))
        url = changed(application.dsn(), host=listen, port=str(port), user="app", password=PASSWORD)
        for number, server in enumerate(servers):
            rows.execute(SHARE.format(number=number, servers=count).encode())
            install_beside(server, url, f"share_{number}", simulator.base_url)
        print(
            f"PostgreSQL {application.version}, engine {application.engine}: {instances} instances,"
            f" {count} with the job, {round_trip:.0f} ms from the rows",
            flush=True,
        )
        for server in servers:
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                connection.execute("select qr_refresh.schedule('live')")
        wait_until(lambda: simulator.total_requests, "calls of live mode", 70)

        mode = Mode("live", "postgres", simulator, rows, first=FIRST)
        begun_at = next_sample = time.monotonic()
        all_after = None
        while time.monotonic() < begun_at + seconds:
            next_sample += SAMPLE_EVERY
            time.sleep(max(0.0, next_sample - time.monotonic()))
            mode.sample(time.monotonic() - begun_at)
            if all_after is None:
                row = rows.execute("select bool_and(qr_code is not null) from evolution_instances")
                all_after = time.monotonic() - begun_at if row.fetchone() == (True,) else None
        requests = simulator.total_requests / (time.monotonic() - begun_at)
        for server in servers:
            end_live_mode(server)
        print(f"all have a first QR code after {all_after or seconds:9.0f} s")
        print(f"current QR code in the first minute {mode.share(0):>7}")
        print(f"current QR code after it      {mode.share(1):>13}")
        print(f"requests in a second          {requests:13.0f}")
        print(f"a run by hand takes           {run_seconds(servers[0]):13.1f} s")


if __name__ == "__main__":
    with engine_errors_in_words():
        main()
