"""https: the server's certificate is verified, against the system's CAs or a file of one's own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from simulator import Simulator, hostile
from simulator.certificates import new_certificate
from simulator.hostile import Behaviour, Exchange, HostileServer
from tests.evolution_api import hostile_server_for
from tools.backend import ADDRESS_OF, file_on_server, run_python
from tools.engines import Server, start_postgres
from tools.job import Job, install, read_qr


@pytest.fixture
def certificate(server: Server, tmp_path: Path, tls_server: HostileServer) -> str:
    """The certificate of `tls_server`, which is its own CA, as PEM."""
    return (tmp_path / f"{server.reachable_host}.pem").read_text()


@pytest.fixture
def tls_server(server: Server, tmp_path: Path) -> Iterator[HostileServer]:
    _, context = new_certificate(tmp_path, server.reachable_host)
    with hostile_server_for(server, ssl_context=context) as running:
        yield running


@pytest.fixture
def tls_job(job: Job, tls_server: HostileServer) -> Job:
    job.set(evolution_api_base_url=tls_server.base_url, request_timeout="5 s")
    job.add_row("shop", "a-secret")
    return job


REFUSED = {
    "success": False,
    "qr_updated": False,
    "error": "Failed to fetch QR for shop: TLS certificate is not trusted",
}


def test_a_self_signed_certificate_is_refused_before_a_token_is_sent(
    tls_job: Job, tls_server: HostileServer
) -> None:
    assert tls_job.result("shop") == REFUSED
    assert tls_job.row("shop").qr_code is None
    assert tls_server.requests == []


def test_a_private_ca_is_trusted_where_the_settings_name_its_file(
    tls_job: Job, tls_server: HostileServer, certificate: str, server: Server
) -> None:
    tls_job.add_row("stall")
    tls_server.behave("stall", hostile.drip_body)
    tls_job.set(request_timeout="1500 ms", max_concurrency=1)
    with file_on_server(server, certificate) as path:
        tls_job.set(ca_file=path)
        report = tls_job.run()
    assert [(r["instance_name"], r.get("error")) for r in report["results"]] == [
        ("shop", None),
        ("stall", "Request timeout"),
    ]
    assert tls_job.row("shop").qr_code is not None
    # Also inside TLS one connection serves a worker's requests.
    assert [(r.headers["apikey"], r.connection) for r in tls_server.requests] == [
        ("a-secret", 1),
        ("a-token", 1),
    ]


def test_the_certificate_of_another_ca_is_refused(
    tls_job: Job, tls_server: HostileServer, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other, _ = new_certificate(tmp_path / "other", server.reachable_host)
    with file_on_server(server, other) as path:
        tls_job.set(ca_file=path)
        assert tls_job.result("shop") == REFUSED
    assert tls_server.requests == []


@pytest.mark.parametrize("host", ["192.0.2.1", "example.org"], ids=["address", "name"])
def test_a_trusted_certificate_for_another_host_is_refused(
    job: Job, server: Server, tmp_path: Path, host: str
) -> None:
    certificate, context = new_certificate(tmp_path, host)
    with (
        hostile_server_for(server, ssl_context=context) as running,
        file_on_server(server, certificate) as path,
    ):
        job.set(evolution_api_base_url=running.base_url, ca_file=path)
        job.add_row("shop")
        assert job.result("shop") == REFUSED
        assert running.requests == []


@pytest.mark.parametrize("content", [None, "no certificate"], ids=["missing", "not PEM"])
def test_a_ca_file_that_cannot_be_used_is_reported(
    tls_job: Job, tls_server: HostileServer, server: Server, content: str | None
) -> None:
    with file_on_server(server, content or "") as path:
        tls_job.set(ca_file=path if content else path + ".missing")
        assert tls_job.result("shop") == {
            "success": False,
            "qr_updated": False,
            "error": "Failed to fetch QR for shop: CA file cannot be read",
        }
    assert tls_server.connections == 0


def test_a_private_ca_takes_the_place_of_the_systems(
    tls_job: Job, server: Server, certificate: str
) -> None:
    # Everything that any TLS context of this session loads from now on; from requests 2.32 on its
    # import alone fills a context that the job does not use.
    run_python(
        tls_job.connection,
        """
        import ssl
        import requests
        GD['loaded'] = []
        load = ssl.SSLContext.load_verify_locations
        load_default = ssl.SSLContext.load_default_certs
        def load_and_tell(self, cafile=None, capath=None, cadata=None):
            GD['loaded'].append([cafile, capath, cadata])
            return load(self, cafile, capath, cadata)
        def load_default_and_tell(self, *arguments):
            GD['loaded'].append('default')
            return load_default(self, *arguments)
        ssl.SSLContext.load_verify_locations = load_and_tell
        ssl.SSLContext.load_default_certs = load_default_and_tell
        """,
    )
    for number in range(4):
        tls_job.add_row(f"shop {number}")
    with file_on_server(server, certificate) as path:
        tls_job.set(ca_file=path)
        assert tls_job.run()["refreshed"] == 5
    loaded = run_python(tls_job.connection, "import json; plpy.notice(json.dumps(GD['loaded']))")
    assert json.loads(loaded) == [[path, None, None]], "once, and nothing else"


@pytest.mark.engines
def test_a_certificate_signed_by_a_ca_of_the_system_is_trusted_without_a_setting(
    server: Server, simulator: Simulator, tmp_path: Path
) -> None:
    if server.engine != "docker":
        pytest.skip("only in a container of its own may a test add a CA to the system: PG=docker")
    authority, _ = new_certificate(tmp_path, "authority")
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(start_postgres("docker"))
        install(own.dsn())
        _, context = new_certificate(tmp_path, own.reachable_host, signed_by="authority")
        tls = stack.enter_context(hostile_server_for(own, ssl_context=context))
        connection = stack.enter_context(psycopg.connect(own.dsn(), autocommit=True))
        job = Job(connection, simulator)
        job.set(evolution_api_base_url=tls.base_url)
        job.add_row("shop")
        assert job.result("shop") == REFUSED
        with file_on_server(own, authority, "/usr/local/share/ca-certificates/authority.crt"):
            own.run_as_root(["update-ca-certificates"])
            # In the same session, which has read the former file.
            assert job.run()["refreshed"] == 1
        own.run_as_root(["update-ca-certificates", "--fresh"])
        assert job.result("shop") == REFUSED


@pytest.mark.parametrize("rest", [b"", b"}" * 100_000], ids=["kept", "a talks on"])
def test_a_tls_connection_is_kept_unless_there_is_more_on_it(
    tls_job: Job, tls_server: HostileServer, server: Server, certificate: str, rest: bytes
) -> None:
    async def answer(exchange: Exchange) -> None:
        body = hostile.GOOD_BODY
        await exchange.send(hostile.head(Content_Length=len(body)) + body + rest)
        exchange.keep_open = True

    tls_server.behave("shop", answer)
    tls_job.add_row("tea")
    tls_job.set(max_concurrency=1)
    with file_on_server(server, certificate) as path:
        tls_job.set(ca_file=path)
        assert tls_job.run()["refreshed"] == 2
    assert [r.instance_name for r in tls_server.requests] == ["shop", "tea"]
    assert read_qr(tls_job.row("tea").qr_code) == hostile.QR_CODE.code
    assert tls_server.connections == (2 if rest else 1)


@pytest.mark.parametrize("behaviour", [hostile.close_at_once, hostile.reset_at_once])
def test_a_request_upon_which_a_kept_tls_connection_is_closed_is_made_on_a_new_one(
    tls_job: Job,
    tls_server: HostileServer,
    server: Server,
    certificate: str,
    behaviour: Behaviour,
) -> None:
    tls_server.behave("tea", behaviour, hostile.good)
    tls_job.add_row("tea")
    tls_job.set(max_concurrency=1)
    with file_on_server(server, certificate) as path:
        tls_job.set(ca_file=path)
        assert tls_job.run()["refreshed"] == 2
    assert [(r.instance_name, r.connection) for r in tls_server.requests] == [
        ("shop", 1),
        ("tea", 1),
        ("tea", 2),
    ]


def test_the_certificate_of_an_ipv6_address_is_verified_without_a_port(
    job: Job, server: Server, tmp_path: Path
) -> None:
    certificate, context = new_certificate(tmp_path, "2001:db8::1")
    with (
        hostile_server_for(server, ssl_context=context) as running,
        file_on_server(server, certificate) as path,
    ):
        reached, port = running.base_url.removeprefix("https://").split(":")
        run_python(job.connection, ADDRESS_OF.format(host=reached, port=port))
        job.set(evolution_api_base_url="https://[2001:db8::1]", ca_file=path)
        job.add_row("shop")
        assert job.run()["refreshed"] == 1
        job.set(evolution_api_base_url="https://[2001:db8::2]")
        assert job.result("shop") == REFUSED


@pytest.mark.parametrize("host", ["[1]", "[:::]"])
def test_an_address_that_is_none_is_reported_as_a_host_that_is_not_found(
    job: Job, host: str
) -> None:
    job.set(evolution_api_base_url=f"http://{host}")
    job.add_row("shop")
    assert job.result("shop")["error"] == "Failed to fetch QR for shop: host not found"
