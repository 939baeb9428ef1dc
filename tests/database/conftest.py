"""Fixtures: servers that misbehave where the database server reaches them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engines import Server
from tests.job import Job
from tests.simulator.hostile import HostileServer, running_hostile_server


@pytest.fixture
def hostile_server(server: Server) -> Iterator[HostileServer]:
    with running_hostile_server(server.listen_host) as running:
        running.base_url = server.as_reached(running.base_url)
        yield running


@pytest.fixture
def stalled_tls_server(server: Server) -> Iterator[HostileServer]:
    """Accepts connections and never begins the TLS handshake."""
    with running_hostile_server(server.listen_host, never_handshake=True) as running:
        running.base_url = server.as_reached(running.base_url)
        yield running


@pytest.fixture
def hostile_job(job: Job, hostile_server: HostileServer) -> Job:
    """The job in this test's database, which asks the hostile server."""
    job.set(evolution_api_base_url=hostile_server.base_url)
    return job
