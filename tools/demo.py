"""`make demo`: the whole job in a throw-away PostgreSQL, against a simulated Evolution API."""

from __future__ import annotations

import contextlib
import io
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import segno

from db.deploy import migrate, uninstall
from simulator import Simulator, Trouble, running_simulator
from tools.engines import Server, engine_errors_in_words, start_postgres
from tools.job import Connection, read_qr

# Shorter than the default 8 s, so that the hanging instance does not hold the demo up.
REQUEST_TIMEOUT = "3 seconds"


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n== {text}", flush=True)


def add_instances(connection: Connection, simulator: Simulator) -> None:
    """Add one instance for each state that a run can meet, to the server and to the table."""
    for name in ("bakery", "florist", "garage", "hotel", "laundry", "tailor"):
        simulator.add_instance(name, f"token-of-{name}")
    simulator.add_instance("florist", "token-of-florist", state="close")
    simulator.add_instance("garage", "token-of-garage", qr_delay=3600)
    simulator.add_instance("hotel", "token-of-hotel", state="open")
    simulator.instance("laundry").answer_with = Trouble.HANG
    connection.execute(
        "insert into evolution_instances (instance_name, instance_token, instance_status)"
        " select name, 'token-of-' || name, 'connecting'"
        " from unnest('{bakery,florist,garage,hotel,laundry,museum}'::text[]) as name"
        " union all values ('museum of art', null, 'connecting'),"
        " ('tailor', 'token-of-tailor', 'connected')"
    )


def print_table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows in columns, as psql does."""
    cells = [["" if value is None else str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for row in [headings, ["-" * width for width in widths], *cells]:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


@contextlib.contextmanager
def throw_away_database(server: Server) -> Iterator[str]:
    """A database of the demo's own, because the server may be one that DATABASE_URL names."""
    name = f"refresh_qr_codes_demo_{secrets.token_hex(4)}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"create database {name} template template0".encode())
        try:
            yield server.dsn(name)
        finally:
            # With it go the roles, where no other database has the job.
            with contextlib.redirect_stdout(io.StringIO()):
                uninstall(server.dsn(name))
            admin.execute(f"drop database {name} with (force)".encode())


def run_demo(server: Server, url: str) -> None:
    """Install, add instances, run the job and show what it did."""
    say("make migrate")
    migrate(url)

    with (
        running_simulator(server.listen_host) as simulator,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        add_instances(connection, simulator)
        base_url = server.as_reached(simulator.base_url)
        connection.execute(
            "update qr_refresh.settings set evolution_api_base_url = %s, request_timeout = %s",
            (base_url, REQUEST_TIMEOUT),
        )

        say("SELECT jsonb_pretty(refresh_qr_codes());")
        begun_at = time.monotonic()
        row = connection.execute("select jsonb_pretty(refresh_qr_codes())").fetchone()
        assert row is not None
        print(row[0])
        print(f"Time: {time.monotonic() - begun_at:.1f} s")

        say("The application's table")
        rows = connection.execute(
            "select instance_name, instance_status, left(qr_code, 34) || '...',"
            " length(qr_code), date_trunc('second', last_qr_update)"
            " from evolution_instances order by instance_name"
        ).fetchall()
        print_table(
            ("instance_name", "instance_status", "qr_code", "length", "last_qr_update"), rows
        )

        say("The stored QR code of bakery, to scan")
        (stored,) = connection.execute(
            "select qr_code from evolution_instances where instance_name = 'bakery'"
        ).fetchall()
        text = read_qr(stored[0])
        segno.make(text, error="L", boost_error=False).terminal(compact=True)
        same = text == simulator.current_code("bakery")
        print(f"It holds {text[:30]}..., {len(text)} characters.")
        print(f"The server's current code is {'the same' if same else 'ANOTHER ONE'}.")
        if not same:
            raise SystemExit(1)


def main() -> None:
    """Start a throw-away PostgreSQL, show the job, and leave nothing behind."""
    say("Starting a throw-away PostgreSQL")
    with engine_errors_in_words(), start_postgres() as server:
        print(f"PostgreSQL {server.version}, engine {server.engine}")
        with throw_away_database(server) as url:
            run_demo(server, url)
    say("Done: the throw-away PostgreSQL and the simulator are gone")


if __name__ == "__main__":
    main()
