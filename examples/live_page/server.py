"""The HTTP side of the page: four static files, and one stream of server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http import HttpProcessingError

from .board import Board, Card, Key

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

FOLDER = Path(__file__).resolve().parent
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/texts.json": ("texts.json", "application/json"),
}
BOARD = web.AppKey("board", Board)
MADE_UP = web.AppKey[Collection[str | None]]("made_up")
LOG = logging.getLogger(__name__)
COOKIE = "live_page_token"
# A name or an address, and a port: what a browser sends. aiohttp raises later at some others.
HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
HIGHEST_PORT = 65535
# A browser that has heard nothing for twice as long connects anew.
HEARTBEAT = 10.0

# Nothing comes from another host, and nothing that a name could smuggle into the page would run.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@contextlib.asynccontextmanager
async def serving(
    database_url: str,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    made_up: Collection[str | None] = (),
) -> AsyncIterator[str]:
    """Serve the page until the block ends.

    Args:
        database_url: a postgresql:// URL, of a role as ./create_role.sql makes it.
        host: the address to listen on.
        port: the port to listen on; 0 for a free one.
        token: what a browser must show; None for none, which only a loopback address allows.
        made_up: the Evolution servers, as in evolution_server, whose codes are made up, for a demo.

    Yields:
        The address of the page on this machine, without the token.

    Raises:
        ValueError: other machines could reach it, and there is no token.
        OSError: it cannot listen there.
    """
    if token is None and not is_loopback(host):
        raise ValueError(f"{host} can be reached from other machines: a token is needed")
    board = Board()
    application = web.Application(middlewares=[_guard(token)])
    application[BOARD] = board
    application[MADE_UP] = made_up
    application.on_response_prepare.append(_add_headers)
    for path in FILES:
        application.router.add_get(path, _static)
    application.router.add_get("/events", _events)
    # A stream has no end of its own: it is cut off when its reader has gone, or the server stops.
    runner = web.AppRunner(
        application,
        access_log=None,
        logger=LOG,
        handler_cancellation=True,
        shutdown_timeout=0.01,
    )
    await runner.setup()
    watching = asyncio.create_task(board.watch(database_url))
    try:
        await web.TCPSite(runner, host, port).start()
        reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        shown_host = f"[{reached}]" if ":" in reached else reached
        yield f"http://{shown_host}:{runner.addresses[0][1]}/"
    finally:
        # More than once: psycopg takes the first as a reason to wait for a server that hangs.
        while not watching.done():
            watching.cancel()
            await asyncio.wait([watching], timeout=1.0)
        await runner.cleanup()


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _guard(token: str | None) -> Any:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = HOST.fullmatch(request.host)
        if host is None or int(host[2] or 0) > HIGHEST_PORT:
            raise web.HTTPBadRequest(text="The header Host is malformed.\n")
        if token is None:
            # A name of somebody else's that leads to 127.0.0.1 would let his page read this one.
            if not is_loopback(host[1].strip("[]")):
                raise web.HTTPForbidden(text="This page is served under the name localhost only.\n")
            return await handler(request)
        if _equal(request.query.get("token", ""), token):
            # From the address bar, where it could be read, into a cookie, which no script reads.
            redirect = web.HTTPSeeOther("/")
            redirect.set_cookie(COOKIE, token, path="/", httponly=True, samesite="Lax")
            raise redirect
        if not _equal(request.cookies.get(COOKIE, ""), token):
            raise web.HTTPUnauthorized(
                text="This page needs its token. Open it once as /?token=... with the token that"
                " its server was started with.\n"
            )
        return await handler(request)

    return check


def _without_traceback(record: logging.LogRecord) -> bool:
    """Log a request that is no HTTP in one line: nothing of ours has failed."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.exc_info = None
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg, record.args = "malformed request, answered %s", (error.code,)
    return True


LOG.addFilter(_without_traceback)


def _equal(given: str, token: str) -> bool:
    # Takes as long for a wrong first character as for a wrong last one.
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SECURITY_HEADERS)


async def _static(request: web.Request) -> web.Response:
    name, content_type = FILES[request.path]
    return web.Response(
        body=(FOLDER / name).read_bytes(), content_type=content_type, charset="utf-8"
    )


async def _events(request: web.Request) -> web.StreamResponse:
    board = request.app[BOARD]
    made_up = request.app[MADE_UP]
    # A reverse proxy (nginx) would otherwise collect events before it passes them on.
    headers = {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    # What this reader has. One that is slow misses what lies between, and nothing piles up for it.
    sent: dict[Key, Card] = {}
    seen = 0
    is_first = True
    while True:
        seen = await board.wait_for_change(seen, 0 if is_first else HEARTBEAT)
        now = time.monotonic()
        event = {
            "all": is_first,
            "time": now,
            "database": board.database,
            "lifetime": board.lifetime,
            "cards": [
                _shown(card, now) | {"made_up": card.server in made_up}
                for key, card in board.cards.items()
                if sent.get(key) is not card
            ],
            "gone": [_key(card) for key, card in sent.items() if key not in board.cards],
        }
        sent = dict(board.cards)
        is_first = False
        await response.write(f"data: {json.dumps(event)}\n\n".encode())


def _key(card: Card) -> str:
    """What tells the card from all others, for the browser."""
    return json.dumps([card.server, card.name])


def _shown(card: Card, now: float) -> dict[str, Any]:
    return {
        "key": _key(card),
        "name": card.name,
        "server": card.server,
        "status": card.status,
        "picture": card.picture,
        "age": None if card.stored_at is None else now - card.stored_at,
        "reason": card.reason,
        "error": card.error,
    }
