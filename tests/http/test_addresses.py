"""Where a request goes: several addresses of a name, IPv6, and any name in the path."""

from __future__ import annotations

import pytest

from simulator import hostile
from simulator.hostile import Exchange, HostileServer, head
from tests.http.misbehaviour import errors, timed
from tools.backend import ADDRESS_OF, full_backlog, run_python
from tools.engines import Server
from tools.job import Job

# Real names with several addresses need a name server; what is simulated is only its answer.
TWO_ADDRESSES = """
    import socket
    resolve = socket.getaddrinfo
    def both(host, port, **options):
        return resolve({silent!r}, {port}, **options) + resolve(host, port, **options)
    socket.getaddrinfo = both
"""


async def good_then_close(exchange: Exchange) -> None:
    fields = head(Content_Length=len(hostile.GOOD_BODY), Connection="close")
    await exchange.send(fields + hostile.GOOD_BODY)


def test_an_address_that_swallows_packets_leaves_time_for_the_next(
    hostile_job: Job, hostile_server: HostileServer, server: Server
) -> None:
    for name in "abcd":
        hostile_server.behave(name, good_then_close)
        hostile_job.add_row(name)
    hostile_job.set(request_timeout="4 s", max_concurrency=2)
    with full_backlog(server.listen_host) as port:
        patch = TWO_ADDRESSES.format(silent=server.reachable_host, port=port)
        run_python(hostile_job.connection, patch)
        found, seconds = timed(hostile_job)
    assert found == dict.fromkeys("abcd")
    assert 2 <= seconds < 4, "half of the time for the first address, and that only once"


@pytest.mark.parametrize("host", ["[2001:db8::1]", "[2001:db8::beef]", "[::ffff:192.0.2.1]"])
def test_an_ipv6_address_needs_no_port(
    hostile_job: Job, hostile_server: HostileServer, host: str
) -> None:
    reached, port = hostile_server.base_url.removeprefix("http://").split(":")
    run_python(hostile_job.connection, ADDRESS_OF.format(host=reached, port=port))
    hostile_job.set(evolution_api_base_url=f"http://{host}")
    hostile_job.add_row("shop")
    assert errors(hostile_job) == {"shop": None}
    assert [request.headers["host"] for request in hostile_server.requests] == [host]


@pytest.mark.parametrize(
    "name", ["a/b", "a%2Fb", "a?b", "a#b", "a;b&c=d+e", "..%2f", "a\\b", "é日本", "x\r\nHost: y"]
)
def test_any_name_is_one_segment_behind_the_path_of_the_base_url(
    hostile_job: Job, hostile_server: HostileServer, name: str
) -> None:
    hostile_job.set(evolution_api_base_url=f"{hostile_server.base_url}/pre%20fix/v2/")
    hostile_job.add_row(name)
    assert errors(hostile_job) == {name: None}
    (request,) = hostile_server.requests
    assert request.instance_name == name
    assert request.path.rpartition("/")[0] == "/pre%20fix/v2/instance/connect"
