"""The hostile server: each behaviour, seen through a raw socket or through requests."""

import json
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
import requests

from simulator import hostile
from simulator.hostile import GOOD_BODY, Behaviour, HostileServer, running_hostile_server
from tools.job import wait_until

TIMEOUT = 10
BLINK = 0.3  # seconds in which a byte of a drip arrives and an answer that never comes does not


@pytest.fixture(scope="module")
def shared_server() -> Iterator[HostileServer]:
    with running_hostile_server() as server:
        yield server


@pytest.fixture
def server(shared_server: HostileServer) -> HostileServer:
    shared_server.requests.clear()
    return shared_server


@pytest.fixture
def ask(server: HostileServer) -> Callable[..., requests.Response]:
    """Return a function that asks for an instance that behaves as told."""

    def ask(behaviour: Behaviour, **options: object) -> requests.Response:
        server.behave("one", behaviour)
        url = f"{server.base_url}/instance/connect/one"
        return requests.get(url, timeout=TIMEOUT, **options)  # type: ignore[arg-type]

    return ask


@pytest.fixture
def connection(server: HostileServer) -> Iterator[socket.socket]:
    address = urlsplit(server.base_url)
    with socket.create_connection((address.hostname, address.port), timeout=TIMEOUT) as opened:
        yield opened


def send_request(connection: socket.socket, name: str = "one") -> None:
    connection.sendall(f"GET /instance/connect/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def received(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


def received_within(connection: socket.socket, seconds: float) -> bytes:
    """Return what arrives within `seconds`; the other side must still be connected then."""
    data = b""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            more = connection.recv(65536)
        except TimeoutError:
            break
        assert more, f"closed after {data[-200:]!r}"
        data += more
    return data


def test_a_good_answer_is_a_qr(server: HostileServer) -> None:
    with requests.Session() as session:
        url = f"{server.base_url}/instance/connect/some%20name"
        answers = [session.get(url, headers={"apikey": "k"}, timeout=TIMEOUT) for _ in range(2)]
    assert [answer.content for answer in answers] == [GOOD_BODY] * 2
    first, second = server.requests
    assert first.connection == second.connection
    assert (first.method, first.path) == ("GET", "/instance/connect/some%20name")
    assert (first.instance_name, first.headers["apikey"]) == ("some name", "k")


def test_behaviours_can_follow_each_other_on_one_connection(
    server: HostileServer, connection: socket.socket
) -> None:
    server.behave("one", hostile.good, hostile.never_answer)
    send_request(connection)
    good = hostile.head(Content_Length=len(GOOD_BODY)) + GOOD_BODY
    assert received(connection, len(good)) == good
    send_request(connection)
    assert received_within(connection, BLINK) == b""
    wait_until(lambda: len(server.requests) == 2, "the second request")
    assert len({request.connection for request in server.requests}) == 1


def test_a_name_needs_a_behaviour(server: HostileServer) -> None:
    with pytest.raises(ValueError, match="at least one"):
        server.behave("one")


def test_it_can_never_answer(server: HostileServer, connection: socket.socket) -> None:
    server.behave("one", hostile.never_answer)
    send_request(connection)
    assert received_within(connection, BLINK) == b""


@pytest.mark.parametrize("behaviour", [hostile.drip_headers, hostile.drip_body])
def test_it_can_drip(
    server: HostileServer, connection: socket.socket, behaviour: Behaviour
) -> None:
    server.behave("one", behaviour)
    began = time.monotonic()
    send_request(connection)
    head = hostile.head(Content_Length=len(GOOD_BODY))
    if behaviour is hostile.drip_body:
        assert received(connection, len(head)) == head
    dripped = received(connection, 1) + received_within(connection, BLINK)
    assert 1 <= len(dripped) <= (time.monotonic() - began) / hostile.DRIP_INTERVAL + 1
    assert (head + GOOD_BODY).startswith(dripped) or GOOD_BODY.startswith(dripped)


def test_it_can_stall_in_the_body(server: HostileServer, connection: socket.socket) -> None:
    server.behave("one", hostile.half_body_then_stall)
    send_request(connection)
    half = hostile.head(Content_Length=len(GOOD_BODY)) + GOOD_BODY[: len(GOOD_BODY) // 2]
    assert received(connection, len(half)) == half
    assert received_within(connection, BLINK) == b""


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (hostile.half_body_then_close, "IncompleteRead"),
        (hostile.content_length_too_large, "IncompleteRead"),
        (hostile.chunked_cut_short, "Response ended prematurely|InvalidChunkLength"),
        (hostile.reset_at_once, "reset by peer"),
        (hostile.reset_in_body, "reset by peer"),
        (hostile.not_http, "BadStatusLine"),
        (hostile.endless_headers, "got more than 100 headers"),
    ],
)
def test_what_requests_calls_an_error(
    ask: Callable[..., requests.Response], behaviour: Behaviour, error: str
) -> None:
    with pytest.raises(requests.RequestException, match=error):
        ask(behaviour)


def test_a_content_length_can_be_too_small(
    server: HostileServer, connection: socket.socket
) -> None:
    server.behave("one", hostile.content_length_too_small)
    send_request(connection)
    answer = hostile.head(Content_Length=len(GOOD_BODY) // 2) + GOOD_BODY
    assert received(connection, len(answer)) == answer
    assert received_within(connection, BLINK) == b""


def test_the_gzip_bomb_is_small_and_unpacks_to_a_huge_json_object(
    ask: Callable[..., requests.Response],
) -> None:
    with ask(hostile.gzip_bomb, stream=True) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        bomb = response.raw.read(decode_content=False)
    assert len(bomb) < 256 * 1024
    unpack = zlib.decompressobj(31)
    first = unpack.decompress(bomb, 100)
    size, last = len(first), b""
    while not unpack.eof:
        piece = unpack.decompress(unpack.unconsumed_tail, 2**20)
        size += len(piece)
        last = (last + piece)[-2 * 2**20 :]
    assert size == hostile.BOMB_SIZE > 200 * 10**6
    assert first.startswith(b'{"count":1,"base64":"data:image/png;base64,AAAA')
    assert re.search(rb'A"} *\Z', last)


def test_a_body_can_be_too_large(ask: Callable[..., requests.Response]) -> None:
    response = ask(hostile.oversized_body)
    assert len(response.content) > 256 * 1024
    assert json.loads(response.content)["base64"].startswith("data:image/png;base64,iVBORw0KGgo")


def test_a_body_can_be_endless(ask: Callable[..., requests.Response]) -> None:
    with ask(hostile.endless_body, stream=True) as response:
        pieces = response.iter_content(2**16)
        assert sum(len(next(pieces)) for _ in range(200)) > 10 * 2**20


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_it_can_redirect(ask: Callable[..., requests.Response], status: int) -> None:
    behaviour = hostile.redirect(status, "http://elsewhere.invalid/x")
    response = ask(behaviour, allow_redirects=False)
    assert response.status_code == status
    assert response.headers["Location"] == "http://elsewhere.invalid/x"


def test_it_can_answer_304(ask: Callable[..., requests.Response]) -> None:
    response = ask(hostile.not_modified)
    assert (response.status_code, response.content) == (304, b"")


def test_it_can_flood_with_100_continue(server: HostileServer, connection: socket.socket) -> None:
    server.behave("one", hostile.continue_flood)
    send_request(connection)
    one = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert received(connection, len(one) * 10_000) == one * 10_000


def test_it_can_stall_before_the_tls_handshake() -> None:
    with running_hostile_server(never_handshake=True) as server:
        address = urlsplit(server.base_url)
        assert address.scheme == "https"
        context = ssl.create_default_context()
        opened = socket.create_connection((address.hostname, address.port), timeout=BLINK)
        with opened, pytest.raises(TimeoutError):
            context.wrap_socket(opened, server_hostname="localhost")
        wait_until(lambda: server.connections == 1, "the connection")


def test_it_can_misbehave_inside_tls(certificate: tuple[str, ssl.SSLContext]) -> None:
    ca_file, context = certificate
    with running_hostile_server(ssl_context=context) as server:
        url = f"{server.base_url}/instance/connect/one"
        assert requests.get(url, verify=ca_file, timeout=TIMEOUT).content == GOOD_BODY
        server.behave("one", hostile.half_body_then_close)
        with pytest.raises(requests.RequestException, match="IncompleteRead"):
            requests.get(url, verify=ca_file, timeout=TIMEOUT)
        server.behave("one", hostile.half_body_then_stall)
        with pytest.raises(requests.ConnectionError, match="Read timed out"):
            # Its head must have come.
            requests.get(url, verify=ca_file, timeout=(TIMEOUT, 1))


@pytest.mark.parametrize(
    "behaviour", [hostile.never_answer, hostile.drip_body, hostile.continue_flood, hostile.good]
)
def test_it_stops_at_once_with_connections_open(behaviour: Behaviour) -> None:
    threads = threading.active_count()
    with running_hostile_server() as server:
        server.behave("one", behaviour)
        address = urlsplit(server.base_url)
        connection = socket.create_connection((address.hostname, address.port), timeout=TIMEOUT)
        send_request(connection)
        wait_until(lambda: server.requests, "the request")
        assert server.open_connections == 1
        began = time.monotonic()
    assert time.monotonic() - began < 1
    assert server.open_connections == 0
    assert threading.active_count() == threads
    connection.close()


def test_a_client_that_leaves_ends_its_connection(server: HostileServer) -> None:
    server.behave("one", hostile.never_answer)
    before = server.open_connections
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{server.base_url}/instance/connect/one", timeout=BLINK)
    wait_until(lambda: server.open_connections <= before, "the connection is closed")
