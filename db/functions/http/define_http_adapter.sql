-- qr_refresh.define_http_adapter(): requests and urllib3 without pool and messages, in Python.
create or replace function qr_refresh.define_http_adapter()
returns void
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import http.client
    import io
    import socket
    import ssl
    from collections.abc import Callable
    from typing import Any
    from urllib.parse import urlsplit

    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.util.ssl_match_hostname import CertificateError

    reasons: dict[Any, str] = {
        TimeoutError: "Request timeout",
        ConnectionRefusedError: "connection refused",
        (ssl.SSLCertVerificationError, CertificateError): "TLS certificate is not trusted",
        ssl.SSLError: "TLS error",
    }

    def failure_reason(error: BaseException | None) -> str:
        """A text of ours for an exception, whose own text may name the host or quote a header."""
        while error is not None:
            for kind, text in reasons.items():
                if isinstance(error, kind):
                    return text
            error = error.__cause__ or error.__context__
        return "connection closed"

    class Adapter(HTTPAdapter):
        """Sends with the client it is given, in place of a pool, and changes no answer."""

        def __init__(self, client: Any) -> None:
            super().__init__(pool_connections=1)
            self.client = client

        def get_connection(self, *args: Any, **options: Any) -> Any:
            return self.client
        get_connection_with_tls_context = get_connection  # its name since requests 2.32

        def cert_verify(self, *args: Any, **options: Any) -> None:
            pass

        def request_url(self, request: Any, *args: Any, **options: Any) -> Any:
            return request.url

        def build_response(self, request: Any, answer: Any) -> Any:
            return answer

    class Counted(io.RawIOBase):
        """A raw stream that tells the size of each read."""

        def __init__(self, raw: io.RawIOBase, tell_size: Callable[[int], None]) -> None:
            self.raw, self.tell_size = raw, tell_size

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            size = self.raw.readinto(buffer) or 0
            self.tell_size(size)
            return size

        def close(self) -> None:
            self.raw.close()
            super().close()

    class Watched:
        """A connection of urllib3 whose socket its client opens, and which counts for it."""

        client: Any

        def _new_conn(self) -> socket.socket:
            sock: socket.socket = self.client.connect()
            return sock

        def answer(self, sock: Any, **options: Any) -> http.client.HTTPResponse:
            answer = http.client.HTTPResponse(sock, **options)
            raw: Any = Counted(answer.fp.detach(), self.client.receive)
            # A small buffer: of small chunks http.client reads 1,300 from 8 kB, for 10 ms of CPU.
            answer.fp = io.BufferedReader(raw, 1024)
            return answer

    class WatchedHTTPConnection(Watched, HTTPConnection):
        pass

    class WatchedHTTPSConnection(Watched, HTTPSConnection):
        pass

    def watched_connection(client: Any, base_url: str, trust: ssl.SSLContext | None) -> Any:
        url = urlsplit(base_url)
        kind: Any = WatchedHTTPSConnection if trust else WatchedHTTPConnection
        options = {"ssl_context": trust} if trust else {}
        # Without a port, http.client takes the last group of an IPv6 address for one.
        connection = kind(url.hostname, url.port or kind.default_port, **options)
        connection.client, connection.response_class = client, connection.answer
        # urllib3 1 leaves these to its pool, and would not verify without.
        connection.cert_reqs = ssl.CERT_REQUIRED
        connection.assert_hostname = connection.assert_fingerprint = None
        return connection

    GD["qr_refresh.watched_connection"] = watched_connection
    GD["qr_refresh.HttpAdapter"], GD["qr_refresh.failure_reason"] = Adapter, failure_reason
$python$;

comment on function qr_refresh.define_http_adapter() is
'Defines the Python class HttpAdapter and the functions watched_connection() and failure_reason() for qr_refresh.define_http_client() of '
'this session, in PL/Python''s dictionary GD: how requests sends with a connection of ours, which counts what it receives, and a short '
'reason, without host and token, for any exception.
Private.';
