"""The HTTP client: asks Evolution API for QR codes, many at a time, and ends with its caller.

It is a program of its own. qr_refresh.ask() starts it as a child process of the session, hands over
calls on its standard input and takes answers from its standard output, each one line of JSON.
`requests` is used as its documentation shows it. The main thread does what its time-outs do not do,
a total deadline: it answers `timeout` at that moment and leaves the thread behind.

A call:    {"id", "base_url", "ca_file", "instance_name", "instance_token", "may_connect" (false:
           only the state is asked for), "connect_on_close" (true: connect also in state close),
           "places" (most calls at a time to this server), "timeout" (seconds for this call),
           "ends_in" (seconds from now; what has not begun shortly before is not begun any more)}
An answer: {"id", "outcome", "qr_code", "qr_count" (how manieth one it is), "error",
           "reconnected" (connect was called on state close, where it opens a WhatsApp socket),
           "round_trip" (seconds that the shorter request took),
           "answered_at" (seconds since 1970), "late" (threads left behind that are still at it)}
"""

from __future__ import annotations

if __name__ == "__main__":
    # Whatever ends this program, its exit status is 0. Where the postmaster is process 1 it
    # inherits orphans, and takes another status for the crash of a session.
    import atexit
    import os

    atexit.register(os._exit, 0)

import base64
import collections
import contextlib
import http.client
import json
import os
import queue
import re
import resource
import select
import socket
import ssl
import threading
import time
import zlib
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidURL
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.exceptions import IncompleteRead, LocationParseError, ReadTimeoutError
from urllib3.util.ssl_match_hostname import CertificateError

GRACE = 0.05  # seconds after its deadline, until the main thread ends a call
LARGEST_BODY = 262144  # bytes; a real answer has 13,600
PIECE = 16384  # bytes of it that are read at a time
DATA_URL_PREFIX = "data:image/png;base64,"
# identity: compressing a QR code costs the server more than it saves on the way.
HEADERS = {"Accept-Encoding": "identity", "Accept": "*/*", "User-Agent": "refresh-qr-codes"}
REASONS: dict[Any, str] = {
    TimeoutError: "Request timeout",
    ReadTimeoutError: "Request timeout",
    ConnectionRefusedError: "connection refused",
    (socket.gaierror, InvalidURL, LocationParseError): "host not found",
    (ssl.SSLCertVerificationError, CertificateError): "TLS certificate is not trusted",
    ssl.SSLError: "TLS error",
    IncompleteRead: "answer was cut short",  # of a length; one of chunks is a closed connection
}


class FailedError(Exception):
    """An instance could not be asked; the text is a short reason without host, token and body."""


# --- what an answer means -------------------------------------------------------------------------


def parse(status: int, body: bytes) -> Any:
    """Return the JSON object or string of an answer.

    Raises:
        FailedError: it has another status than 200, is no JSON, or reports an error.
    """
    answer: Any = None
    try:
        answer = json.loads(body)
        is_json = True
    except (ValueError, RecursionError):
        is_json = False
    if status == 503 and isinstance(answer, dict) and answer.get("code") == "LICENSE_REQUIRED":
        raise FailedError("Evolution API needs its license activated")
    if status == 404 and not isinstance(answer, dict):
        raise FailedError("404 Not Found by something before Evolution API")
    if status != 200:
        raise FailedError(phrase(status))
    if not body.strip():
        raise FailedError("answer is empty")
    if not is_json:
        raise FailedError("answer is not JSON")
    if not isinstance(answer, dict | str):
        raise FailedError("answer is not a JSON object")
    if isinstance(answer, dict) and answer.get("error"):
        raise FailedError("Evolution API reports an error")
    return answer


def state_of(answer: Any) -> str | None:
    """Return open, connecting or close; None where the answer names none of them."""
    instance = answer.get("instance") if isinstance(answer, dict) else None
    state = instance.get("state") if isinstance(instance, dict) else None
    return state if state in ("open", "connecting", "close") else None


def read_state(status: int, body: bytes) -> str | None:
    """Return the state in an answer of GET /instance/connectionState; None: it has none of it.

    Raises:
        FailedError: it is no such answer.
    """
    answer = parse(status, body)
    if not isinstance(answer, dict):
        raise FailedError("answer is not a JSON object")
    return state_of(answer)


def read_version(status: int, body: bytes) -> str | None:
    """Return what GET / says: Evolution's version, and that of WhatsApp Web; None: nothing.

    Raises:
        FailedError: it is no such answer.
    """
    answer = parse(status, body)
    versions = []
    for name, words in (("version", ""), ("whatsappWebVersion", "WhatsApp Web ")):
        found = answer.get(name) if isinstance(answer, dict) else None
        if isinstance(found, str) and re.fullmatch(r"[\w.+-]{1,40}", found):
            versions.append(words + found)
    return ", ".join(versions) or None


def read_qr_code(status: int, body: bytes) -> tuple[str, str | None, int | None]:
    """Return the outcome of GET /instance/connect, the QR code as a data URL, and its number.

    Raises:
        FailedError: it is no such answer, or its picture is not a whole PNG.
    """
    answer = picture = parse(status, body)
    number = answer.get("count") if isinstance(answer, dict) else None
    if isinstance(answer, dict):
        wrapped = answer.get("qrcode")
        picture = answer.get("base64") or wrapped
        if isinstance(wrapped, dict) and not answer.get("base64"):
            picture = wrapped.get("base64")
        if not picture:
            return "connected" if state_of(answer) == "open" else "no_qr_code", None, None
        if not isinstance(picture, str):
            raise FailedError("QR code is not a string")
    encoded = picture.removeprefix(DATA_URL_PREFIX)
    try:
        png = base64.b64decode(encoded, validate=True)
    except ValueError:
        png = b""
    # Python lets an excess = and stray bits pass.
    if base64.b64encode(png).decode() != encoded:
        raise FailedError("QR code is not base64")
    # From the signature to the last chunk: a picture that was cut short is not one.
    if not (png.startswith(b"\x89PNG\r\n\x1a\n") and png.endswith(b"IEND\xaeB`\x82")):
        raise FailedError("QR code is not a PNG picture")
    is_number = type(number) is int and 0 < number < 1_000_000
    return "qr_code", DATA_URL_PREFIX + encoded, number if is_number else None


def unpacked(body: bytes) -> bytes:
    """Return the body as it was before it was compressed, whatever Content-Encoding says.

    Raises:
        FailedError: it is larger than any answer.
    """
    if body[:1] in (b"\x1f", b"\x78"):  # gzip and zlib; no JSON begins like this
        with contextlib.suppress(zlib.error):
            body = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, LARGEST_BODY + 1)
    if len(body) > LARGEST_BODY:
        raise FailedError("answer is over 256 kB")
    return body


# --- one call -------------------------------------------------------------------------------------


@dataclass(eq=False)
class Call:
    """What is asked about one instance, as it came in, and how far it has come."""

    id: int
    base_url: str
    ca_file: str | None
    instance_name: str
    instance_token: str
    may_connect: bool
    connect_on_close: bool
    places: int
    timeout: float
    ends_in: float
    came_at: float = field(default_factory=time.monotonic)
    has_begun: bool = False
    ends_at: float = 0.0
    reconnected: bool = False
    round_trip: float | None = None

    def __post_init__(self) -> None:
        """Let it wait for its turn, and not for so long that too little time would be left."""
        self.ends_at = self.came_at + self.ends_in - min(0.5, self.timeout / 4)

    def begin(self) -> None:
        """Let its time begin."""
        self.has_begun = True
        self.ends_at = min(time.monotonic() + self.timeout, self.came_at + self.ends_in)

    @property
    def rest(self) -> float:
        """The seconds that are left, and a moment at least: requests refuses less."""
        return max(self.ends_at - time.monotonic(), 0.001)

    @property
    def is_overdue(self) -> bool:
        """Whether the time-outs of requests, which end what only hangs, have not ended this."""
        return time.monotonic() > self.ends_at + self.has_begun * GRACE


class TrustingAdapter(HTTPAdapter):
    """Sends over TLS with one context, from a file that no environment variable names."""

    def __init__(self, context: ssl.SSLContext) -> None:
        """Keep the context; it takes 25 ms to make."""
        self.context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Hand the context over. Without ca_certs: Debian's urllib3 1.26 would add the system's."""
        super().init_poolmanager(*args, **options, ssl_context=self.context, ca_certs=None)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Verify; requests would read its own file of CAs for each connection."""
        conn.cert_reqs = "CERT_REQUIRED"
        conn.ca_certs = conn.ca_cert_dir = None


contexts: dict[str, tuple[tuple[int, ...], ssl.SSLContext]] = {}
contexts_lock = threading.Lock()


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Return the context that trusts the CAs of this PEM file, None: of the system's.

    Raises:
        FailedError: the file cannot be read.
    """
    path = ca_file or DEFAULT_CA_BUNDLE_PATH
    with contexts_lock:
        try:
            file = Path(path).stat()
            version = (file.st_ino, file.st_size, file.st_mtime_ns)
            if path not in contexts or contexts[path][0] != version:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                context.check_hostname = False  # urllib3 does that, for addresses as well
                context.load_verify_locations(path)
                contexts[path] = (version, context)
        except OSError:  # of which an SSLError is one
            raise FailedError("CA file cannot be read") from None
        return contexts[path][1]


class DirectSession(requests.Session):
    """Leaves redirects alone: even where it follows none, requests reads their whole bodies."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Tell that there is none."""


def new_session(context: ssl.SSLContext | None) -> requests.Session:
    """Return a session that reads no environment, keeps no cookies and follows no redirect."""
    session = DirectSession()
    session.trust_env = False  # neither proxies nor .netrc
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    if context is not None:
        session.mount("https://", TrustingAdapter(context))
    return session


class Connections:
    """What one thread keeps open between its calls."""

    def __init__(self) -> None:
        """Begin without any."""
        self.context: ssl.SSLContext | None = None
        self.session = new_session(None)
        self.kept: set[str] = set()  # the servers that may have left a connection open

    def ask(self, call: Call) -> dict[str, Any]:
        """Ask for the state, then for the QR code; return what is answered.

        connect is harmless in state connecting only, so the state is asked for just before it.
        """
        try:
            if not call.instance_name:  # the server itself is asked about
                return {"outcome": "no_qr_code", "error": read_version(*self.get(call, ""))}
            begun_at = time.monotonic()
            state = read_state(*self.get(call, "connectionState"))
            call.round_trip = time.monotonic() - begun_at
            if state == "open":
                return {"outcome": "connected"}
            if state == "close" and not call.connect_on_close:
                return {"outcome": "closed"}
            if not call.may_connect:
                return {"outcome": "pairing"}
            call.reconnected = state == "close"
            begun_at = time.monotonic()
            answer = self.get(call, "connect")
            # The first request of a connection takes longer: it opens it.
            call.round_trip = min(call.round_trip, time.monotonic() - begun_at)
            outcome, picture, number = read_qr_code(*answer)
            return {"outcome": outcome, "qr_code": picture, "qr_count": number}
        except FailedError as error:
            return {"outcome": "failed", "error": str(error)}
        except Exception as error:
            reason = reason_of(error)
            if reason == "Request timeout":
                return {"outcome": "timeout"}
            return {"outcome": "failed", "error": reason}

    def get(self, call: Call, route: str) -> tuple[int, bytes]:
        """Return status and body; once more where a kept connection turns out to be closed."""
        if call.base_url in self.kept:
            self.kept.remove(call.base_url)
            try:
                return self.get_once(call, route)
            except requests.ConnectionError as error:
                if reason_of(error) != "connection closed":
                    raise
        return self.get_once(call, route)

    def get_once(self, call: Call, route: str) -> tuple[int, bytes]:
        """Return status and body of one request.

        Raises:
            requests.RequestException: it failed.
            FailedError: the answer is larger than any, or was cut short.
        """
        if call.base_url.startswith("https:") and self.context is not tls_context(call.ca_file):
            self.session.close()
            self.context = tls_context(call.ca_file)
            self.session = new_session(self.context)
        name = quote(call.instance_name, safe="")
        url = f"{call.base_url}/instance/{route}/{name}" if name else f"{call.base_url}/"
        headers = HEADERS | {"apikey": call.instance_token}
        # Not session.get(): it merges settings for a third of its time, and there are none.
        request = requests.Request("GET", url, headers).prepare()
        # An address that swallows packets takes a third of the time, and leaves some for others.
        with self.session.send(
            request,
            timeout=(call.rest / 3, call.rest),
            allow_redirects=False,
            stream=True,
        ) as response:
            connection = getattr(response.raw.connection, "sock", None)
            answer = final_answer(response)
            body = b""
            # In pieces: of chunks of one byte urllib3 makes 60 times as much.
            while len(body) <= LARGEST_BODY and (piece := answer.read(PIECE)):
                body += piece
            if isinstance(connection, ssl.SSLSocket) and connection.pending():
                self.session.close()  # urllib3 sees only what is not decrypted yet
            length = str(len(body))
            is_whole = answer.headers.get("Content-Length", length) == length
            if answer.status == 200 and len(body) <= LARGEST_BODY and not is_whole:
                raise FailedError("answer was cut short")
            self.kept.add(call.base_url)
            if 300 <= answer.status < 400 and not name:
                raise FailedError(redirect(answer.status, answer.headers.get("Location")))
            return answer.status, unpacked(body)


def redirect(status: int, location: str | None) -> str:
    """Return a redirect's status and where to: scheme and host, for who looks after the server."""
    with contextlib.suppress(ValueError):
        target = urlsplit(location or "")
        if target.scheme in ("http", "https") and re.fullmatch(r"[\w.:-]+", target.hostname or ""):
            return f"{phrase(status)} to {target.scheme}://{target.hostname}"
    return phrase(status)


def phrase(status: int) -> str:
    """Return the status with its standard phrase: the server's own may hold anything."""
    return f"{status} {http.client.responses.get(status, '')}".rstrip()


def final_answer(response: requests.Response) -> Any:
    """Return the answer to read from: http.client takes 103 Early Hints for one."""
    original: Any = response.raw._original_response
    if not 100 <= original.status < 200:
        return response.raw
    for _ in range(10):
        original.headers = None  # begin() then reads the next status line
        original.begin()
        if original.status >= 200:
            break
    return original


def reason_of(error: BaseException | None) -> str:
    """Return a text of ours for an exception: its own may name the host or quote a header."""
    while error is not None:
        for kind, text in REASONS.items():
            if isinstance(error, kind):
                return text
        error = error.__cause__ or error.__context__
    return "connection closed"


# --- many calls -----------------------------------------------------------------------------------


class Worker:
    """A thread that asks, one call after the other."""

    def __init__(self, client: Client) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the system allows no more.
        """
        self.client = client
        self.calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        threading.Thread(target=self.work, daemon=True).start()

    def work(self) -> None:
        """Ask for as long as the program runs."""
        connections = Connections()
        while True:
            call = self.calls.get()
            self.client.finish(self, call, connections.ask(call))


class Client:
    """The calls under way. Its main thread takes calls and ends those that take too long."""

    def __init__(self, output: int, most_workers: int) -> None:
        """Write the answers to this file descriptor."""
        self.output = output
        self.most_workers = most_workers
        self.lock = threading.RLock()
        self.under_way: dict[int, Call] = {}
        self.waiting: dict[str, collections.deque[Call]] = {}  # of each server
        self.taken: collections.Counter[str] = collections.Counter()  # places of each server
        self.idle: list[Worker] = []
        self.late = 0

    def run(self, source: int) -> None:
        """Take calls from this file descriptor until it ends."""
        rest = b""
        while True:
            with self.lock:
                rests = [call.rest + GRACE for call in self.under_way.values()]
            if select.select([source], [], [], min(rests, default=None))[0]:
                data = os.read(source, 1 << 16)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self.take(Call(**json.loads(line)))
            self.end_overdue()

    def take(self, call: Call) -> None:
        """Take a call, which waits for a place at its server and a thread."""
        with self.lock:
            self.under_way[call.id] = call
            self.waiting.setdefault(call.base_url, collections.deque()).append(call)
            self.hand_out()

    def hand_out(self) -> None:
        """Give what can begin to the worker that was free last: its connection is the warmest."""
        for server, calls in self.waiting.items():
            while calls and (calls[0].is_overdue or self.taken[server] < calls[0].places):
                if calls[0].is_overdue:
                    self.tell(calls.popleft(), {"outcome": "not_attempted"})
                    continue
                if not self.idle and threading.active_count() <= self.most_workers:
                    with contextlib.suppress(RuntimeError):
                        self.idle.append(Worker(self))
                if self.idle:
                    self.taken[server] += 1
                    calls[0].begin()
                    self.idle.pop().calls.put(calls.popleft())
                elif threading.active_count() == 1:
                    error = "no thread could be started"
                    self.tell(calls.popleft(), {"outcome": "failed", "error": error})
                else:
                    return

    def end_overdue(self) -> None:
        """Answer for what has passed its deadline; a thread that is at it is left behind."""
        with self.lock:
            for call in [call for call in self.under_way.values() if call.is_overdue]:
                if call.has_begun:
                    self.late += 1
                    self.taken[call.base_url] -= 1
                    self.tell(call, {"outcome": "timeout"})
                else:
                    self.waiting[call.base_url].remove(call)
                    self.tell(call, {"outcome": "not_attempted"})
            self.hand_out()

    def finish(self, worker: Worker, call: Call, answer: dict[str, Any]) -> None:
        """Tell the answer, unless it comes too late; the worker is free again. For its thread."""
        with self.lock:
            self.idle.append(worker)
            if call.id in self.under_way:
                self.taken[call.base_url] -= 1
                self.tell(call, answer)
            else:
                self.late -= 1
            self.hand_out()

    def tell(self, call: Call, answer: dict[str, Any]) -> None:
        """Write the answer to a call."""
        del self.under_way[call.id]
        told: dict[str, Any] = {"id": call.id, "qr_code": None, "qr_count": None, "error": None}
        told |= {
            "reconnected": call.reconnected,
            "round_trip": call.round_trip,
            "answered_at": time.time(),
            "late": self.late,
        }
        data = memoryview(json.dumps(told | answer).encode() + b"\n")
        while data:
            data = data[os.write(self.output, data) :]


def main() -> None:
    """Serve the caller until it closes our standard input."""
    # A connection takes a descriptor; Debian allows 1,024 at first, and more on demand.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    http.client._MAXLINE = 8192  # type: ignore[attr-defined]  # of 100 headers; it allows 6 MB
    most_workers = 512 if most == resource.RLIM_INFINITY else max(most // 4, 1)
    Client(1, most_workers).run(0)


if __name__ == "__main__":
    main()
