-- qr_refresh.define_http_client(): an HTTP connection that another thread can end, in Python.
-- The time-out of requests counts for each single read, so a server that drips bytes can hold it
-- for ever. Here another thread calls expire() and stop(), which shut the socket down.
create or replace function qr_refresh.define_http_client()
returns void
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import contextlib
    import socket
    import ssl
    import threading
    import time
    from typing import Any

    import requests
    import urllib3
    from requests.adapters import HTTPAdapter
    from urllib3.util.ssl_match_hostname import CertificateError

    largest_body = 262144  # bytes; a real answer has 13,600
    reasons: dict[Any, str] = {
        TimeoutError: "Request timeout",
        ConnectionRefusedError: "connection refused",
        (ssl.SSLCertVerificationError, CertificateError): "TLS certificate is not trusted",
        ssl.SSLError: "TLS error",
    }

    def reason(error: BaseException | None) -> str:
        """A text of ours for an exception, whose own text may name the host or quote a header."""
        while error is not None:
            for kind, text in reasons.items():
                if isinstance(error, kind):
                    return text
            error = error.__cause__ or error.__context__
        return "connection closed"

    class Adapter(HTTPAdapter):
        """Sends over the one pool it is given, which has its certificates already."""

        pool: urllib3.HTTPConnectionPool

        def get_connection(self, *args: Any, **options: Any) -> Any:
            return self.pool
        get_connection_with_tls_context = get_connection  # its name since requests 2.32

        def cert_verify(self, *args: Any, **options: Any) -> None:
            pass

    class HttpClient:
        """One connection, for one thread, kept alive between requests."""

        def __init__(self, base_url: str, addresses: list[Any], trust: Any) -> None:
            self.addresses = addresses  # what getaddrinfo() gave
            self.lock = threading.Lock()
            self.deadline = float("inf")
            self.overrun = self.stopped = False
            self.sock: socket.socket | None = None
            self.connection: Any = None
            # ca_certs: Debian's urllib3 would otherwise add the system's CAs to the context's.
            tls = {"cert_reqs": "CERT_REQUIRED", "ca_certs": None, "ssl_context": trust}
            options = tls if trust else {}
            # Not a session: an adapter follows no redirect and reads no .netrc and no proxies.
            self.adapter = Adapter(pool_connections=1)
            self.adapter.pool = pool = urllib3.connection_from_url(base_url, **options)
            opener = {"_new_conn": lambda connection: self.connect(connection)}
            pool.ConnectionCls = type("Connection", (pool.ConnectionCls,), opener)
            # identity: a compressed answer could grow beyond all bounds.
            headers = {"Accept-Encoding": "identity", "User-Agent": "refresh-qr-codes"}
            self.request = requests.Request("GET", base_url, headers=headers).prepare()

        def get(self, url: str, apikey: str, deadline: float) -> tuple[int, bytes, str | None]:
            """Returns status, body, and why there is none. deadline: on time.monotonic()."""
            with self.lock:
                self.overrun, self.deadline = self.stopped, deadline
            try:
                status, body, failure = self.exchange(url, apikey)
            except Exception as e:
                status, body, failure = 0, b"", reason(e)
            # By the clock: after a shutdown a body may look complete.
            if self.overrun or time.monotonic() >= deadline:
                failure = "Request timeout"
            # What is not surely a whole answer may have left bytes for the next one to trip over.
            if failure or status != 200 or not body.endswith((b"}", b'"')):
                self.close()
            with self.lock:
                self.deadline = float("inf")
            return status, body, failure

        def exchange(self, url: str, apikey: str) -> tuple[int, bytes, str | None]:
            self.request.url = url
            self.request.headers["apikey"] = apikey
            rest = max(self.deadline - time.monotonic(), 0.001)
            response = self.adapter.send(self.request, stream=True, timeout=rest)
            try:
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    return 0, b"", "answer is compressed"
                body: bytes = response.raw.read(largest_body + 1, decode_content=False)
                status, size = response.status_code, len(body)
                length = response.headers.get("Content-Length", str(size))
                if status == 200 and size <= largest_body and length != str(size):
                    return 0, b"", "answer was cut short"
                return status, body, None
            finally:
                response.close()

        def connect(self, connection: Any) -> socket.socket:
            """Connects to the first address that answers; no socket blocks before it is known."""
            self.connection = connection
            failure = OSError()
            for family, kind, protocol, _, address in self.addresses:
                sock: socket.socket | None = None
                try:
                    sock = socket.socket(family, kind, protocol)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.settimeout(max(self.deadline - time.monotonic(), 0.001))
                    # A TLS handshake takes the descriptor away from `sock`; the duplicate stays.
                    self.watch(sock.dup())
                    sock.connect(address)
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
            if self.connection:
                self.connection.close()
            self.watch(None)

    GD["qr_refresh.HttpClient"] = HttpClient
$python$;

alter function qr_refresh.define_http_client() owner to qr_refresh_owner;
revoke all on function qr_refresh.define_http_client() from public;

comment on function qr_refresh.define_http_client() is
'Defines the Python class HttpClient for qr_refresh.fetch_qr_codes() of this session, in PL/Python''s dictionary GD. Imports requests, '
'which costs 120 to 300 ms the first time in a session.
Privileges: EXECUTE for nobody but the owner and superusers.';
