"""The HTTP client: asks Evolution API for QR codes, many at a time, and ends with its caller.

It is a program of its own. qr_refresh.fetch_qr_codes() starts it as a child process of the session,
hands over calls on its standard input and takes answers from its standard output, each one line of
JSON. `requests` is used as its documentation shows it; what its time-outs do not do, a total
deadline, the main thread does: it answers `timeout` at that moment and leaves the thread behind.

A call:    {"id", "base_url", "ca_file", "instance_name", "instance_token", "check_state",
           "connect_on_close", "timeout" (seconds)}
An answer: {"id", "outcome", "qr_code", "error", "reconnected", "elapsed" (seconds), "answered_at"
           (seconds since 1970), "late" (threads that were left behind and are still at it)}
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
from urllib.parse import quote

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
    if status != 200:
        # The standard phrase: the server's own may hold anything.
        raise FailedError(f"{status} {http.client.responses.get(status, '')}".rstrip())
    if not body.strip():
        raise FailedError("answer is empty")
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise FailedError("answer is not JSON") from None
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


def read_qr_code(status: int, body: bytes) -> tuple[str, str | None]:
    """Return the outcome of GET /instance/connect and the QR code as a data URL.

    Raises:
        FailedError: it is no such answer, or its picture is not a whole PNG.
    """
    answer = picture = parse(status, body)
    if isinstance(answer, dict):
        wrapped = answer.get("qrcode")
        picture = answer.get("base64") or wrapped
        if isinstance(wrapped, dict) and not answer.get("base64"):
            picture = wrapped.get("base64")
        if not picture:
            return "connected" if state_of(answer) == "open" else "no_qr_code", None
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
    return "qr_code", DATA_URL_PREFIX + encoded


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


@dataclass(frozen=True)
class Call:
    """What is asked about one instance, as it came in."""

    id: int
    base_url: str
    ca_file: str | None
    instance_name: str
    instance_token: str
    check_state: bool
    connect_on_close: bool
    timeout: float  # seconds, for all of it
    begun_at: float = field(default_factory=time.monotonic)

    @property
    def rest(self) -> float:
        """The seconds that are left, and a moment at least: requests refuses less."""
        return max(self.begun_at + self.timeout - time.monotonic(), 0.001)

    @property
    def is_overdue(self) -> bool:
        """Whether the time-outs of requests, which end what only hangs, have not ended this."""
        return time.monotonic() > self.begun_at + self.timeout + GRACE


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


def new_session(context: ssl.SSLContext | None) -> requests.Session:
    """Return a session that reads no environment and keeps no cookies."""
    session = requests.Session()
    session.trust_env = False  # neither proxies nor .netrc
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.clear()
    session.headers.update(HEADERS)
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
        """Ask for the state where that is wanted, then for the QR code; return what is answered.

        reconnected: connect was called on state close, where it opens a WhatsApp socket; None: it
        was called without asking for the state.
        """
        answer: dict[str, Any] = {"qr_code": None, "error": None, "reconnected": False}
        try:
            if call.check_state:
                state = read_state(*self.get(call, "connectionState"))
                if state == "open":
                    return answer | {"outcome": "connected"}
                if state == "close" and not call.connect_on_close:
                    return answer | {"outcome": "closed"}
            answer["reconnected"] = state == "close" if call.check_state else None
            outcome, picture = read_qr_code(*self.get(call, "connect"))
            return answer | {"outcome": outcome, "qr_code": picture}
        except FailedError as error:
            return answer | {"outcome": "failed", "error": str(error)}
        except Exception as error:
            reason = reason_of(error)
            if reason == "Request timeout":
                return answer | {"outcome": "timeout"}
            return answer | {"outcome": "failed", "error": reason}

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
        url = f"{call.base_url}/instance/{route}/{quote(call.instance_name, safe='')}"
        # An address that swallows packets takes a third of the time, and leaves some for others.
        with self.session.get(
            url,
            headers={"apikey": call.instance_token},
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
            return answer.status, unpacked(body)


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
        self.waiting: collections.deque[Call] = collections.deque()
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
                    self.begin(Call(**json.loads(line)))
            self.end_overdue()

    def begin(self, call: Call) -> None:
        """Take a call; where there may be no more workers it waits for one of those there are."""
        with self.lock:
            self.under_way[call.id] = call
            self.waiting.append(call)
            if not self.idle and threading.active_count() <= self.most_workers:
                with contextlib.suppress(RuntimeError):
                    self.idle.append(Worker(self))
            self.hand_out()
            if self.waiting and threading.active_count() == 1:
                error = "no thread could be started"
                self.tell(self.waiting.pop(), {"outcome": "failed", "error": error})

    def hand_out(self) -> None:
        """Give a call to the worker that was free last: its connection is the warmest."""
        while self.waiting and self.idle:
            self.idle.pop().calls.put(self.waiting.popleft())

    def end_overdue(self) -> None:
        """Answer for what has passed its deadline; where a thread is at it that is left behind."""
        with self.lock:
            for call in [call for call in self.under_way.values() if call.is_overdue]:
                has_thread = call not in self.waiting
                if not has_thread:
                    self.waiting.remove(call)
                self.tell(call, {"outcome": "timeout"}, left_behind=has_thread)

    def finish(self, worker: Worker, call: Call, answer: dict[str, Any]) -> None:
        """Tell the answer, unless it comes too late; the worker is free again. For its thread."""
        with self.lock:
            # First, as the next call may come as soon as this one is answered.
            self.idle.append(worker)
            self.late -= not self.tell(call, answer)
            self.hand_out()

    def tell(self, call: Call, answer: dict[str, Any], left_behind: int = 0) -> bool:
        """Write the answer to a call, once; return whether this was the first."""
        nothing = {"qr_code": None, "error": None, "reconnected": None}
        with self.lock:
            if self.under_way.pop(call.id, None) is None:
                return False
            self.late += left_behind
            told = nothing | answer | {"id": call.id, "late": self.late}
            told |= {"elapsed": time.monotonic() - call.begun_at, "answered_at": time.time()}
            data = memoryview(json.dumps(told).encode() + b"\n")
            while data:
                data = data[os.write(self.output, data) :]
            return True


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
