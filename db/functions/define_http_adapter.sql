-- qr_refresh.define_http_adapter(): requests without its pool and its error messages, in Python.
create or replace function qr_refresh.define_http_adapter()
returns void
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import ssl
    from typing import Any

    from requests.adapters import HTTPAdapter
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

    GD["qr_refresh.HttpAdapter"], GD["qr_refresh.failure_reason"] = Adapter, failure_reason
$python$;

alter function qr_refresh.define_http_adapter() owner to qr_refresh_owner;
revoke all on function qr_refresh.define_http_adapter() from public;

comment on function qr_refresh.define_http_adapter() is
'Defines the Python class HttpAdapter and function failure_reason() for qr_refresh.define_http_client() of this session, in PL/Python''s '
'dictionary GD: how requests sends with a connection of ours, and a short reason, without host and token, for any exception.
Privileges: EXECUTE for nobody but the owner and superusers.';
