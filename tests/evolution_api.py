"""A simulated and a hostile Evolution API, at the address where a database server reaches them."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator

from simulator import Simulator, running_simulator
from simulator.hostile import HostileServer, running_hostile_server
from tools.engines import Server


@contextlib.contextmanager
def simulator_for(server: Server) -> Iterator[Simulator]:
    with running_simulator(server.listen_host) as running:
        running.base_url = server.as_reached(running.base_url)
        yield running


@contextlib.contextmanager
def hostile_server_for(
    server: Server, *, never_handshake: bool = False, ssl_context: ssl.SSLContext | None = None
) -> Iterator[HostileServer]:
    with running_hostile_server(
        server.listen_host, never_handshake=never_handshake, ssl_context=ssl_context
    ) as running:
        running.base_url = server.as_reached(running.base_url)
        yield running
