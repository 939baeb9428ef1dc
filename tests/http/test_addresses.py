"""Where a request goes: several addresses of a name, IPv6, and any name in the path."""

from __future__ import annotations

import pytest

from simulator import hostile
from simulator.hostile import Exchange, HostileServer, head
from tests.http.client import Client, address_of, problems, running_client
from tests.http.misbehaviour import errors
from tools.backend import full_backlog
from tools.job import Job

# Real names with several addresses need a name server; what is simulated is only its answer.
TWO_ADDRESSES = """
import socket
resolve = socket.getaddrinfo
def both(host, port, *rest, **more):
    silent = resolve("127.0.0.1", {port}, *rest, **more)
    return silent + resolve(host, port, *rest, **more)
socket.getaddrinfo = both
"""


async def good_then_close(exchange: Exchange) -> None:
    fields = head(Content_Length=len(hostile.GOOD_BODY), Connection="close")
    await exchange.send(fields + hostile.GOOD_BODY)


def test_an_address_that_swallows_packets_leaves_time_for_the_next(api: HostileServer) -> None:
    for name in "abcd":
        api.behave(name, good_then_close)
    with (
        full_backlog("127.0.0.1") as port,
        running_client(api.base_url, TWO_ADDRESSES.format(port=port)) as client,
    ):
        client.begin(*"abcd", timeout=3.0)
        answers = client.take(4)
    assert problems(answers) == dict.fromkeys("abcd")
    # A third of the time for the first address.
    assert all(1 <= answer["elapsed"] < 2 for answer in answers)


@pytest.mark.parametrize("host", ["[2001:db8::1]", "[2001:db8::beef]", "[::ffff:192.0.2.1]"])
def test_an_ipv6_address_needs_no_port(api: HostileServer, host: str) -> None:
    with running_client(f"http://{host}", address_of(api.base_url)) as client:
        assert client.ask()["outcome"] == "qr_code"
    assert [request.headers["host"] for request in api.requests] == [host]


@pytest.mark.parametrize("host", ["[1]", "[:::]", "a..b", "not-a-host.invalid"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_address_that_is_none_is_a_host_that_is_not_found(scheme: str, host: str) -> None:
    with running_client(f"{scheme}://{host}") as client:
        answer = client.ask()
    assert (answer["outcome"], answer["error"]) == ("failed", "host not found")


NAMES = ["a/b", "a%2Fb", "a?b", "a#b", "a;b&c=d+e", "..%2f", "a\\b", "é日本", "x\r\nHost: y"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_one_segment_behind_the_path_of_the_base_url(
    client: Client, api: HostileServer, name: str
) -> None:
    assert client.ask(name, base_url=f"{api.base_url}/pre%20fix/v2")["outcome"] == "qr_code"
    (request,) = api.requests
    assert request.instance_name == name
    assert request.path.rpartition("/")[0] == "/pre%20fix/v2/instance/connect"


def test_a_run_asks_for_any_name_behind_the_path_of_the_base_url(
    hostile_job: Job, hostile_server: HostileServer
) -> None:
    hostile_job.set(evolution_api_base_url=f"{hostile_server.base_url}/pre%20fix/v2/")
    for name in NAMES:
        hostile_job.add_row(name)
    assert errors(hostile_job) == dict.fromkeys(NAMES)
    assert sorted(request.instance_name for request in hostile_server.requests) == sorted(NAMES)
    folders = {request.path.rpartition("/")[0] for request in hostile_server.requests}
    assert folders == {"/pre%20fix/v2/instance/connect"}
