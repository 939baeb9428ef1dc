"""An HTTP server that misbehaves in ways that no HTTP framework can.

Each behaviour is a coroutine function that is given the `Exchange` (one request and the connection
it came on). A test picks them by instance name:

    with running_hostile_server() as server:
        server.behave("one", hostile.drip_body)
        server.behave("two", hostile.good, hostile.never_answer)  # first request, then the rest
"""

import asyncio
import base64
import json
import socket
import ssl
import struct
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias
from urllib.parse import unquote

from simulator.answers import qr_answer
from simulator.background import in_background
from simulator.instance import QrCode
from simulator.picture import qr_text

PATIENCE = 120.0  # seconds after which every behaviour ends by itself
DRIP_INTERVAL = 0.1  # seconds between two dripped bytes, well under any time-out for one read
BOMB_SIZE = 210 * 2**20  # bytes that the gzip bomb unpacks to
BODY_CAP = 256 * 1024  # bytes; a body past this is too large for a QR answer
FLOOD_LIMIT = 2**30  # bytes after which a flood ends, should a client swallow it all
PIECE = bytes(64 * 1024).replace(b"\0", b"A")

QR_CODE = QrCode(qr_text("hostile"), 1)
GOOD_BODY = qr_answer(QR_CODE).body
STATE_BODY = json.dumps({"instance": {"instanceName": "x", "state": "connecting"}}).encode()


@dataclass(frozen=True, slots=True)
class HostileRequest:
    """One request as it arrived.

    Attributes:
        time: When, as `time.monotonic()`.
        connection: The number of its connection, from 1.
        method: As sent.
        path: As sent.
        headers: By lower-case name.
        instance_name: The last segment of the path, decoded.
    """

    time: float
    connection: int
    method: str
    path: str
    headers: dict[str, str]
    instance_name: str


class Exchange:
    """One request and the raw connection to answer it on.

    Attributes:
        keep_open: Set by a behaviour that leaves the connection to the next request.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take over a connection whose request has been read."""
        self.keep_open = False
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes as they are.

        Raises:
            ConnectionError: If the client has gone.
        """
        self._writer.write(data)
        await self._writer.drain()

    async def drip(self, data: bytes) -> None:
        """Send `data` byte by byte, one each `DRIP_INTERVAL`."""
        for byte in data:
            await self.send(bytes([byte]))
            await asyncio.sleep(DRIP_INTERVAL)

    async def flood(self, head: bytes, piece: bytes) -> None:
        """Send `head`, then `piece` again and again."""
        await self.send(head)
        for _ in range(FLOOD_LIMIT // len(piece)):
            await self.send(piece)
            # A client that reads fast enough would have this server do nothing else.
            await asyncio.sleep(0)

    async def hold(self) -> None:
        """Do nothing until the client goes or sends more."""
        await self._reader.read(1)

    def reset(self) -> None:
        """Close the connection with RST."""
        # Closing with a linger time of 0 sends RST in place of FIN.
        linger = struct.pack("ii", 1, 0)
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()


Behaviour: TypeAlias = Callable[[Exchange], Awaitable[None]]


def head(status: str = "200 OK", **fields: str | int) -> bytes:
    """Return a status line and headers; `Content_Length=3` becomes `Content-Length: 3`."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json; charset=utf-8"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def good(exchange: Exchange) -> None:
    """Answer with a QR, and keep the connection open."""
    await exchange.send(head(Content_Length=len(GOOD_BODY)) + GOOD_BODY)
    exchange.keep_open = True


async def never_answer(exchange: Exchange) -> None:
    """Read the request and send nothing."""
    await exchange.hold()


async def drip_headers(exchange: Exchange) -> None:
    """Send the headers byte by byte."""
    await exchange.drip(head(X_Slow="z" * 5000))


async def drip_body(exchange: Exchange) -> None:
    """Send the headers at once and the body byte by byte."""
    await exchange.send(head(Content_Length=len(GOOD_BODY)))
    await exchange.drip(GOOD_BODY)


async def half_body_then_stall(exchange: Exchange) -> None:
    """Send half of the body, then nothing."""
    await _send_half(exchange)
    await exchange.hold()


async def half_body_then_close(exchange: Exchange) -> None:
    """Send half of the body, then close properly."""
    await _send_half(exchange)


async def close_at_once(exchange: Exchange) -> None:
    """Close the connection properly in place of an answer."""


async def reset_at_once(exchange: Exchange) -> None:
    """Reset the connection in place of an answer."""
    exchange.reset()


async def reset_in_body(exchange: Exchange) -> None:
    """Send half of the body, then reset."""
    await _send_half(exchange)
    # A reset throws away what the client's kernel has not handed over yet.
    await asyncio.sleep(0.05)
    exchange.reset()


async def content_length_too_large(exchange: Exchange) -> None:
    """Promise more than the whole body, send the body and close."""
    await exchange.send(head(Content_Length=len(GOOD_BODY) + 1000) + GOOD_BODY)


async def content_length_too_small(exchange: Exchange) -> None:
    """Promise half of the body, send all of it and keep the connection open."""
    await exchange.send(head(Content_Length=len(GOOD_BODY) // 2) + GOOD_BODY)
    exchange.keep_open = True


async def chunked_cut_short(exchange: Exchange) -> None:
    """Send the body as one chunk, then close without the chunk that ends it."""
    chunk = f"{len(GOOD_BODY):x}\r\n".encode() + GOOD_BODY + b"\r\n"
    await exchange.send(head(Transfer_Encoding="chunked") + chunk)


async def gzip_bomb(exchange: Exchange) -> None:
    """Send a small gzip body that unpacks to a JSON object of 210 MiB."""
    bomb = gzip_bomb_body()
    await exchange.send(head(Content_Encoding="gzip", Content_Length=len(bomb)) + bomb)


async def oversized_body(exchange: Exchange) -> None:
    """Send a proper answer, with a PNG signature, of more than 256 KiB."""
    picture = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(BODY_CAP)).decode()
    body = json.dumps({"base64": "data:image/png;base64," + picture}).encode()
    await exchange.send(head(Content_Length=len(body)) + body)


async def endless_body(exchange: Exchange) -> None:
    """Send a chunked body that does not end."""
    chunk = f"{len(PIECE):x}\r\n".encode() + PIECE + b"\r\n"
    await exchange.flood(head(Transfer_Encoding="chunked"), chunk)


async def endless_headers(exchange: Exchange) -> None:
    """Send header lines that do not end."""
    line = b"X-More: " + PIECE[:1000] + b"\r\n"
    await exchange.flood(b"HTTP/1.1 200 OK\r\n", line)


async def long_headers(exchange: Exchange) -> None:
    """Answer properly, after 6 MB of headers that http.client would read."""
    lines = [f"X-{number}: ".encode() + PIECE[:65000] + b"\r\n" for number in range(95)]
    await exchange.send(b"HTTP/1.1 200 OK\r\n" + b"".join(lines))
    await exchange.send(f"Content-Length: {len(GOOD_BODY)}\r\n\r\n".encode() + GOOD_BODY)


async def endless_status_line(exchange: Exchange) -> None:
    """Send a status line that does not end."""
    await exchange.flood(b"HTTP/1.1 200 ", PIECE)


async def endless_small_chunks(exchange: Exchange) -> None:
    """Send a body of chunks of one byte that does not end."""
    await exchange.flood(head(Transfer_Encoding="chunked"), b"1\r\nA\r\n" * 1000)


async def endless_redirect(exchange: Exchange) -> None:
    """Redirect with a body that does not end."""
    begin = head("302 Found", Location="http://elsewhere.invalid/", Transfer_Encoding="chunked")
    await exchange.flood(begin, b"%x\r\n%s\r\n" % (len(PIECE), PIECE))


async def endless_trailers(exchange: Exchange) -> None:
    """Send a whole body as one chunk, then trailer lines that do not end."""
    chunk = f"{len(GOOD_BODY):x}\r\n".encode() + GOOD_BODY + b"\r\n"
    line = b"X-More: " + PIECE[:1000] + b"\r\n"
    await exchange.flood(head(Transfer_Encoding="chunked") + chunk + b"0\r\n", line)


async def continue_flood(exchange: Exchange) -> None:
    """Send `100 Continue` again and again, and never an answer."""
    await exchange.flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n")


async def not_modified(exchange: Exchange) -> None:
    """Answer 304, though nobody asked whether it had changed."""
    await exchange.send(head("304 Not Modified", ETag='W/"b-ch7MNww9+xUYoTgutbGr6VU0GaU"'))
    exchange.keep_open = True


async def not_http(exchange: Exchange) -> None:
    """Send plain text that is not HTTP, and close."""
    await exchange.send(b"220 mail.example.com ESMTP ready\r\n")


def redirect(status: int, url: str) -> Behaviour:
    """Return a behaviour that redirects to `url` with `status` (301, 302, 307, 308)."""

    async def redirect_to_url(exchange: Exchange) -> None:
        await exchange.send(head(f"{status} Moved", Location=url, Content_Length=0))
        exchange.keep_open = True

    return redirect_to_url


class HostileServer:
    """A running hostile server.

    Attributes:
        base_url: Where it listens, without a slash at the end.
        requests: All requests so far.
        connections: How many connections it has accepted.
        misbehaves_on_state: Whether requests for the state are answered as those for a QR code are.
            False (the start): with state connecting, and they are not among the requests.
    """

    def __init__(self) -> None:
        """Make a server that does not listen yet."""
        self.base_url = ""
        self.requests: list[HostileRequest] = []
        self.connections = 0
        self.misbehaves_on_state = False
        self._behaviours: dict[str, tuple[Behaviour, ...]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._tasks)

    def behave(self, name: str, *behaviours: Behaviour) -> None:
        """Choose how requests for the instance `name` are answered, from the next one on.

        Args:
            name: The decoded last segment of the path. Every other name gets `good`.
            behaviours: One for each request; the last one also serves all that follow.

        Raises:
            ValueError: If no behaviour is given.
        """
        if not behaviours:
            raise ValueError("give at least one behaviour")
        self._behaviours[name] = behaviours

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, request after request."""
        async with self._connection(writer) as number:
            exchange = Exchange(reader, writer)
            exchange.keep_open = True
            while exchange.keep_open:
                request = _parsed(await reader.readuntil(b"\r\n\r\n"), number)
                if "/connectionState/" in request.path and not self.misbehaves_on_state:
                    await exchange.send(head(Content_Length=len(STATE_BODY)) + STATE_BODY)
                    continue
                self.requests.append(request)
                exchange.keep_open = False
                await self._next_behaviour(request.instance_name)(exchange)

    async def ignore(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection by saying nothing until the client goes."""
        async with self._connection(writer):
            await reader.read()

    async def stop(self) -> None:
        """End all connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)

    @asynccontextmanager
    async def _connection(self, writer: asyncio.StreamWriter) -> AsyncIterator[int]:
        """Count a connection while the block lasts, and close it whatever ends the block."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        is_closed = False
        try:
            async with asyncio.timeout(PATIENCE):
                yield self.connections
                writer.close()
                await writer.wait_closed()
                is_closed = True
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went first, or it has more patience than this server
        except asyncio.CancelledError:
            pass  # only `stop` cancels; asyncio's streams would log it as an error
        finally:
            # asyncio fails on one that has gone after sending what it still had at close().
            if not is_closed:
                writer.transport.abort()
            self._tasks.discard(task)

    def _next_behaviour(self, name: str) -> Behaviour:
        behaviours = self._behaviours.get(name, (good,))
        if len(behaviours) > 1:
            self._behaviours[name] = behaviours[1:]
        return behaviours[0]


@contextmanager
def running_hostile_server(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    ssl_context: ssl.SSLContext | None = None,
    never_handshake: bool = False,
) -> Iterator[HostileServer]:
    """Run a hostile server in a background thread.

    Args:
        host: The address to listen on.
        port: The port to listen on; 0 for a free one.
        ssl_context: Misbehave inside TLS, with it; None for plain HTTP.
        never_handshake: Call it https, accept connections, and never begin the TLS handshake.

    Yields:
        The running server. It has stopped, with all its connections, when the block ends.

    Raises:
        OSError: If it cannot listen there.
    """
    server = HostileServer()
    scheme = "https" if ssl_context or never_handshake else "http"
    accept = server.ignore if never_handshake else server.accept

    @asynccontextmanager
    async def serving() -> AsyncIterator[None]:
        listener = await asyncio.start_server(accept, host, port, ssl=ssl_context, backlog=1024)
        server.base_url = f"{scheme}://{host}:{listener.sockets[0].getsockname()[1]}"
        try:
            yield
        finally:
            listener.close()
            await server.stop()

    # Made before anybody waits for it: that takes a while, in which nobody would be answered.
    gzip_bomb_body()
    with in_background(serving()):
        yield server


@lru_cache
def gzip_bomb_body() -> bytes:
    """Return about 220 kB of gzip that unpacks to a JSON object of `BOMB_SIZE` bytes."""
    opening = b'{"count":1,"base64":"data:image/png;base64,'
    closing = b'"}'
    piece = PIECE * 16
    pieces = (BOMB_SIZE - len(opening) - len(closing)) // len(piece)
    filler = b" " * (BOMB_SIZE - len(opening) - len(closing) - pieces * len(piece))
    # Flushed in full, a compressed piece depends on nothing before it and can be repeated.
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = deflate.compress(opening) + deflate.flush(zlib.Z_FULL_FLUSH)
    repeated = deflate.compress(piece) + deflate.flush(zlib.Z_FULL_FLUSH)
    last = deflate.compress(closing + filler) + deflate.flush()
    checksum = zlib.crc32(opening)
    for _ in range(pieces):
        checksum = zlib.crc32(piece, checksum)
    checksum = zlib.crc32(closing + filler, checksum)
    gzip_header = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
    return gzip_header + first + repeated * pieces + last + struct.pack("<II", checksum, BOMB_SIZE)


async def _send_half(exchange: Exchange) -> None:
    half = GOOD_BODY[: len(GOOD_BODY) // 2]
    await exchange.send(head(Content_Length=len(GOOD_BODY)) + half)


def _parsed(request: bytes, connection: int) -> HostileRequest:
    first_line, *lines = request.decode("latin-1").rstrip().split("\r\n")
    method, path, _ = first_line.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    name = unquote(path.partition("?")[0].rpartition("/")[2])
    return HostileRequest(time.monotonic(), connection, method, path, headers, name)
