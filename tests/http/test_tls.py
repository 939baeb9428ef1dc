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
from simulator.hostile import Behaviour, HostileServer, running_hostile_server
from tests.evolution_api import hostile_server_for
from tests.http.client import Client, address_of, problem, running_client
from tests.http.misbehaviour import answering, asked, qr_body
from tools.backend import file_on_server
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


@pytest.fixture
def tls_api(tmp_path: Path) -> Iterator[HostileServer]:
    """A hostile server inside TLS, which this machine reaches."""
    _, context = new_certificate(tmp_path, "127.0.0.1")
    with running_hostile_server(ssl_context=context) as running:
        yield running


@pytest.fixture
def tls_client(tls_api: HostileServer) -> Iterator[Client]:
    with running_client(tls_api.base_url) as running:
        yield running


@pytest.fixture
def ca_file(tmp_path: Path, tls_api: HostileServer) -> str:
    """The certificate of `tls_api`, which is its own CA."""
    return str(tmp_path / "127.0.0.1.pem")


UNTRUSTED = "TLS certificate is not trusted"
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


def test_nothing_is_sent_to_a_server_whose_certificate_is_not_trusted(
    tls_client: Client, tls_api: HostileServer
) -> None:
    assert problem(tls_client.ask()) == UNTRUSTED
    assert tls_api.requests == []


def test_the_certificate_of_another_ca_is_refused(
    tls_client: Client, tls_api: HostileServer, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    new_certificate(tmp_path / "other", "127.0.0.1")
    other = str(tmp_path / "other" / "127.0.0.1.pem")
    assert problem(tls_client.ask(ca_file=other)) == UNTRUSTED
    assert tls_api.requests == []


@pytest.mark.parametrize("host", ["192.0.2.1", "example.org"], ids=["address", "name"])
def test_a_trusted_certificate_for_another_host_is_refused(tmp_path: Path, host: str) -> None:
    _, context = new_certificate(tmp_path, host)
    with (
        running_hostile_server(ssl_context=context) as api,
        running_client(api.base_url) as client,
    ):
        assert problem(client.ask(ca_file=str(tmp_path / f"{host}.pem"))) == UNTRUSTED
        assert api.requests == []


@pytest.mark.parametrize("content", [None, "", "no certificate"], ids=["missing", "empty", "text"])
def test_a_ca_file_that_cannot_be_used_is_reported(
    tls_client: Client, tls_api: HostileServer, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    assert problem(tls_client.ask(ca_file=str(path))) == "CA file cannot be read"
    assert tls_api.connections == 0


def test_a_run_reports_a_ca_file_that_is_missing(tls_job: Job, tls_server: HostileServer) -> None:
    tls_job.set(ca_file="/nowhere/ca.pem")
    expected = REFUSED | {"error": "Failed to fetch QR for shop: CA file cannot be read"}
    assert tls_job.result("shop") == expected
    assert tls_server.connections == 0


# Everything that a TLS context loads from now on; from requests 2.32 on its import alone fills a
# context that the client does not use.
TELL_WHAT_IS_LOADED = """
import json, ssl
import requests
load = ssl.SSLContext.load_verify_locations
load_default = ssl.SSLContext.load_default_certs
def tell(*what):
    with open({told!r}, "a") as file:
        file.write(json.dumps(what) + "\\n")
def load_and_tell(self, cafile=None, capath=None, cadata=None):
    tell(cafile, capath, cadata)
    return load(self, cafile, capath, cadata)
def load_default_and_tell(self, *arguments):
    tell("default")
    return load_default(self, *arguments)
ssl.SSLContext.load_verify_locations = load_and_tell
ssl.SSLContext.load_default_certs = load_default_and_tell
"""


def test_a_private_ca_takes_the_place_of_the_systems(
    tls_api: HostileServer, ca_file: str, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    prelude = TELL_WHAT_IS_LOADED.format(told=str(told))
    names = [f"shop {number}" for number in range(5)]
    with running_client(tls_api.base_url, prelude) as client:
        assert client.ask_together(*names, ca_file=ca_file) == dict.fromkeys(names)
        assert client.ask_in_turn(*names, ca_file=ca_file) == dict.fromkeys(names)
    loaded = [json.loads(line) for line in told.read_text().splitlines()]
    assert loaded == [[ca_file, None, None]], "once, and nothing else"


def test_a_ca_file_that_has_changed_is_read_again(
    tls_client: Client, tls_api: HostileServer, ca_file: str, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other, _ = new_certificate(tmp_path / "other", "127.0.0.1")
    own = Path(ca_file).read_text()
    changing = tmp_path / "changing.pem"
    for content, expected in ((own, None), (other, UNTRUSTED), (own + other, None)):
        changing.write_text(content)
        assert problem(tls_client.ask(ca_file=str(changing))) == expected


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
    tls_client: Client, tls_api: HostileServer, ca_file: str, rest: bytes
) -> None:
    tls_api.behave("shop", answering(hostile.GOOD_BODY, rest=rest))
    tls_api.behave("tea", answering(qr_body("QR of tea")))
    tls_client.ask("shop", ca_file=ca_file)
    assert read_qr(tls_client.ask("tea", ca_file=ca_file)["qr_code"]) == "QR of tea"
    assert tls_api.connections == (2 if rest else 1)


NO_QR = b'{"count":0}'
SECOND_ANSWER = hostile.head(Content_Length=len(NO_QR)) + NO_QR


@pytest.mark.parametrize("place", [0, 8192, 16384], ids=["at once", "next read", "next record"])
@pytest.mark.parametrize("body", [hostile.GOOD_BODY, NO_QR], ids=["QR", "no QR"])
def test_what_tls_has_decrypted_unasked_is_not_taken_for_the_next_answer(
    tls_client: Client, tls_api: HostileServer, ca_file: str, body: bytes, place: int
) -> None:
    # Python reads 8,192 bytes at a time of a record of up to 16,384.
    answer = hostile.head(Content_Length=len(body)) + body
    rest = b" " * (place - len(answer)) + SECOND_ANSWER * 20
    tls_api.behave("shop", answering(body, rest=rest))
    tls_api.behave("tea", answering(qr_body("QR of tea")))
    tls_client.ask("shop", ca_file=ca_file)
    assert read_qr(tls_client.ask("tea", ca_file=ca_file)["qr_code"]) == "QR of tea"


@pytest.mark.parametrize("behaviour", [hostile.close_at_once, hostile.reset_at_once])
def test_a_request_upon_which_a_kept_tls_connection_is_closed_is_made_on_a_new_one(
    tls_client: Client, tls_api: HostileServer, ca_file: str, behaviour: Behaviour
) -> None:
    tls_api.behave("tea", behaviour, hostile.good)
    found = tls_client.ask_in_turn("shop", "tea", ca_file=ca_file)
    assert found == {"shop": None, "tea": None}
    assert asked(tls_api) == [("shop", 1), ("tea", 1), ("tea", 2)]


def test_the_certificate_of_an_ipv6_address_is_verified_without_a_port(tmp_path: Path) -> None:
    _, context = new_certificate(tmp_path, "2001:db8::1")
    ca_file = str(tmp_path / "2001:db8::1.pem")
    with (
        running_hostile_server(ssl_context=context) as api,
        running_client("https://[2001:db8::1]", address_of(api.base_url)) as client,
    ):
        assert problem(client.ask(ca_file=ca_file)) is None
        other = "https://[2001:db8::2]"
        assert problem(client.ask(ca_file=ca_file, base_url=other)) == UNTRUSTED
        assert len(api.requests) == 1
