-- qr_refresh.define_http_client(): an HTTP connection that another thread can end, in Python.
-- The time-out of requests counts for each single read, so a server that drips bytes can hold it
-- for ever. Here another thread calls expire() and stop(), which shut the socket down.
create or replace function qr_refresh.define_http_client()
returns void
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import contextlib
    import http.client
    import socket
    import threading
    import time
    from typing import Any

    import requests
    from urllib3.util import wait_for_read

    largest_body = 262144  # bytes; a real answer has 13,600
    largest_answer = largest_body + 65536  # with its headers
    # identity: a compressed answer could grow beyond all bounds. The URL of each call comes later.
    headers = {"Accept-Encoding": "identity", "User-Agent": "refresh-qr-codes"}
    prepared = requests.Request("GET", "http://localhost", headers=headers).prepare()

    class HttpClient:
        """One connection, for one thread, kept alive between requests."""

        def __init__(self, base_url: str, addresses: list[Any], trust: Any) -> None:
            self.addresses = addresses  # what getaddrinfo() gave, for all clients of a server
            self.lock = threading.Lock()
            self.deadline = float("inf")
            self.overrun = self.stopped = False
            self.sock: socket.socket | None = None
            self.connection = GD["qr_refresh.watched_connection"](self, base_url, trust)
            # Not a session: an adapter follows no redirect and reads no .netrc and no proxies.
            self.adapter = GD["qr_refresh.HttpAdapter"](self)
            self.request = prepared.copy()

        def get(self, path: str, apikey: str, deadline: float) -> tuple[int, bytes, str | None]:
            """Returns status, body, and why there is none. deadline: on time.monotonic()."""
            with self.lock:
                self.overrun, self.deadline = self.stopped, deadline
            try:
                status, body, failure = self.exchange(path, apikey)
            except Exception as e:
                status, body, failure = 0, b"", GD["qr_refresh.failure_reason"](e)
            # By the clock: after a shutdown a body may look complete.
            if self.overrun or time.monotonic() >= deadline:
                failure = "Request timeout"
            # What is not surely a whole answer may have left bytes for the next one to trip over.
            is_whole = len(body) <= largest_body and body.endswith((b"}", b'"'))
            if failure or status != 200 or not is_whole:
                self.close()
            with self.lock:
                self.deadline = float("inf")
            return status, body, failure

        def exchange(self, path: str, apikey: str) -> tuple[int, bytes, str | None]:
            self.request.url = path
            self.request.headers["apikey"] = apikey
            answer: Any = self.adapter.send(self.request)
            with answer:
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    return 0, b"", "answer is compressed"
                body: bytes = answer.read(largest_body + 1)
                length = answer.headers.get("Content-Length", str(len(body)))
                if answer.status == 200 and len(body) <= largest_body and length != str(len(body)):
                    return 0, b"", "answer was cut short"
                return answer.status, body, None

        def urlopen(self, *, method: str, url: str, headers: Any, **options: Any) -> Any:
            """What requests calls: one request, in place of urllib3's pool."""
            sock = self.connection.sock
            # Readable before it was asked anything: closed, or an answer too many. (One that comes
            # still later cannot be told from the answer to this request.)
            if sock is not None and (wait_for_read(sock, 0) or getattr(sock, "pending", int)()):
                self.close()
            elif sock is not None:
                sock.settimeout(self.rest())
            is_kept, self.received = self.connection.sock is not None, 0  # bytes
            try:
                self.connection.request(method, url, headers=headers)
                # urllib3 2 would wrap the answer; its reading and unpacking are of no use here.
                return http.client.HTTPConnection.getresponse(self.connection)
            except ConnectionError:
                # A server may close a kept connection at any time, also just now.
                if not is_kept or self.received or self.overrun:
                    raise
            self.close()
            return self.urlopen(method=method, url=url, headers=headers)

        def receive(self, size: int) -> None:
            """Counts what has come of an answer, and raises once that is too much or too late."""
            self.received += size
            # http.client would read 6 MB of headers, and trailers and 100 Continue without end.
            # After a shutdown, what had come before can still be read.
            if self.received > largest_answer or self.overrun or time.monotonic() >= self.deadline:
                raise OSError

        def rest(self) -> float:
            return max(self.deadline - time.monotonic(), 0.001)

        def connect(self) -> socket.socket:
            """Connects to the first address that answers; no socket blocks before it is known."""
            failure = OSError()
            addresses = list(self.addresses)
            for i, (family, kind, protocol, _, address) in enumerate(addresses):
                sock: socket.socket | None = None
                try:
                    sock = socket.socket(family, kind, protocol)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    # One that swallows packets must leave time for the others.
                    sock.settimeout(self.rest() / (len(addresses) - i))
                    # A TLS handshake takes the descriptor away from `sock`; the duplicate stays.
                    self.watch(sock.dup())
                    sock.connect(address)
                    sock.settimeout(self.rest())
                    if i:  # the others need not try the same
                        self.addresses[:] = addresses[i:] + addresses[:i]
                    return sock
                except OSError as e:
                    failure = e
                    if sock:
                        sock.close()
            raise failure

        def watch(self, sock: socket.socket | None) -> None:
            with self.lock:
                if self.sock is not None:
                    self.sock.close()
                self.sock = sock
                if sock is not None and self.overrun:
                    raise OSError

        def expire(self, now: float) -> None:
            """Ends the request under way once its deadline has passed. For another thread."""
            with self.lock:
                if now >= self.deadline:
                    self.shut_down()

        def stop(self) -> None:
            """Ends the request under way and every later one. For another thread."""
            with self.lock:
                self.stopped = True
                self.shut_down()

        def shut_down(self) -> None:
            self.overrun = True
            with contextlib.suppress(OSError):  # not connected, or no longer
                if self.sock is not None:
                    self.sock.shutdown(socket.SHUT_RDWR)

        def close(self) -> None:
            self.connection.close()
            self.watch(None)

    GD["qr_refresh.HttpClient"] = HttpClient
$python$;

comment on function qr_refresh.define_http_client() is
'Defines the Python class HttpClient for qr_refresh.fetch_qr_codes() of this session, in PL/Python''s dictionary GD. Imports requests, '
'which costs 120 to 300 ms the first time in a session.
Private.';
