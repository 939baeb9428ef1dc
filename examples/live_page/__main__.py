"""Runs the live page until Ctrl-C or SIGTERM: python -m examples.live_page."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import signal

from .server import is_loopback, serving

SHORTEST_TOKEN = 16


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.live_page",
        description="A page with the QR codes of the connecting instances, which changes with the"
        " database.",
        epilog="Environment: DATABASE_URL, as postgresql://qr_page:secret@127.0.0.1:5432/postgres."
        " LIVE_PAGE_TOKEN, what a browser must show, as /?token=...; where other machines reach the"
        " page and it is not set, a new one is made at each start and printed.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8765, help="port; 0 for a free one")
    parser.add_argument(
        "--made-up",
        action="append",
        default=[],
        metavar="SERVER",
        help="mark the codes of this evolution_server as made up, as in a demo",
    )
    options = parser.parse_args()
    url = os.environ.get("DATABASE_URL", "")
    if not url:
        parser.error("DATABASE_URL is not set; --help has an example")
    token = os.environ.get("LIVE_PAGE_TOKEN") or None
    if token is not None and len(token) < SHORTEST_TOKEN:
        parser.error(
            f"LIVE_PAGE_TOKEN is shorter than {SHORTEST_TOKEN} characters; make one with:"
            " openssl rand -hex 16"
        )
    query = ""
    if token is not None:
        query = "?token=$LIVE_PAGE_TOKEN"
    elif not is_loopback(options.host):
        token = secrets.token_urlsafe(24)
        query = f"?token={token}"
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        asyncio.run(_serve(url, options.host, options.port, token, query, options.made_up))
    except (OSError, OverflowError) as error:
        raise SystemExit(f"Cannot listen on {options.host}:{options.port}: {error}") from None


async def _serve(
    url: str, host: str, port: int, token: str | None, query: str, made_up: list[str]
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(url, host, port, token, made_up) as address:
        print(f"Live page: {address}{query}\nStop it with Ctrl-C.", flush=True)
        await stop.wait()


if __name__ == "__main__":
    main()
