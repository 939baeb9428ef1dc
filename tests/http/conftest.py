"""A client and a hostile server that need no PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from simulator.hostile import HostileServer, running_hostile_server
from tests.http.client import Client, running_client


@pytest.fixture
def api() -> Iterator[HostileServer]:
    """A hostile server that this machine reaches."""
    with running_hostile_server() as running:
        yield running


@pytest.fixture
def client(api: HostileServer) -> Iterator[Client]:
    """A client that asks `api`."""
    with running_client(api.base_url) as running:
        yield running
