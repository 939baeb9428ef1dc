"""`make demo-live`: a simulated Evolution API, the job, and the live page, until Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator

import psycopg

from db.deploy import migrate
from examples.live_page.server import serving
from simulator import Simulator, running_simulator
from simulator.background import in_background
from tools.engines import Server, engine_errors_in_words, start_postgres
from tools.job import Connection
from tools.page_role import create_page_role

PORT = 8765
# The rows name no evolution_server: the simulator is that of the settings.
THE_ONLY_SERVER = None
# What changes by itself: a phone scans the code of `tailor`, and logs out again.
SCANNED = "tailor"
SCAN_INTERVAL = 20.0


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n== {text}", flush=True)


def add_instances(connection: Connection, simulator: Simulator) -> None:
    """Add instances to the server and to the table, whose codes change at different times."""
    names = ["bakery", "florist", "hotel", "museum of art", SCANNED]
    for number, name in enumerate(names):
        simulator.add_instance(name, f"token-of-{name}", qr_age=8.0 * number)
    # After a log-out Evolution API hands out the used code for a moment.
    simulator.instance(SCANNED).stale_for = 1.0
    # WhatsApp takes a while for its first one.
    simulator.add_instance("garage", "token-of-garage", qr_delay=25.0)
    connection.execute(
        "insert into evolution_instances (instance_name, instance_token, instance_status)"
        " select name, 'token-of-' || name, 'connecting' from unnest(%s::text[]) as name",
        ([*names, "garage"],),
    )


def scan_or_log_out(connection: Connection, simulator: Simulator) -> None:
    """Play the phone, and the application that writes down what became of the instance."""
    is_scanned = simulator.state(SCANNED) == "open"
    if is_scanned:
        simulator.logout(SCANNED)
    else:
        simulator.scan(SCANNED)
    connection.execute(
        "update evolution_instances set instance_status = %s, qr_code = null"
        " where instance_name = %s",
        ("connecting" if is_scanned else "connected", SCANNED),
    )
    event = "wants to connect again" if is_scanned else "was scanned by a phone"
    print(f"{SCANNED} {event}", flush=True)


@contextlib.contextmanager
def live_page(url: str) -> Iterator[str]:
    """Serve the page at its usual port, or at a free one; yield its address."""
    with contextlib.ExitStack() as stack:
        try:
            page = serving(url, port=PORT, made_up={THE_ONLY_SERVER})
            address = stack.enter_context(in_background(page))
        except OSError:
            page = serving(url, made_up={THE_ONLY_SERVER})
            address = stack.enter_context(in_background(page))
        yield address


def run_demo(server: Server) -> None:
    """Install the job, schedule it, and show what it does until somebody presses Ctrl-C."""
    say("make migrate")
    migrate(server.dsn())
    with (
        running_simulator(server.listen_host) as simulator,
        psycopg.connect(server.dsn(), autocommit=True) as connection,
        live_page(create_page_role(server.dsn())) as address,
    ):
        add_instances(connection, simulator)
        base_url = server.as_reached(simulator.base_url)
        connection.execute(
            "update qr_refresh.settings set evolution_api_base_url = %s", (base_url,)
        )
        connection.execute("create extension if not exists pg_cron")
        connection.execute("select qr_refresh.schedule('live')")
        say(f"Open {address}    (Ctrl-C ends everything)")
        # pg_cron begins with the next minute; until then this session does the same.
        connection.execute("call qr_refresh.live()")
        while True:
            time.sleep(SCAN_INTERVAL)
            scan_or_log_out(connection, simulator)


def main() -> None:
    """Start a throw-away PostgreSQL, run the demo, and leave nothing behind."""
    # Ctrl-C and `kill` end it in the same way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    say("Starting a throw-away PostgreSQL")
    with engine_errors_in_words(), start_postgres(own=True) as server:
        print(f"PostgreSQL {server.version}, engine {server.engine}")
        run_demo(server)


if __name__ == "__main__":
    main()
