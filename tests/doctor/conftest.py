"""Fixtures: a database in which all is well, for a test to break."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from simulator import Simulator
from tests.databases import new_databases
from tests.evolution_api import simulator_for
from tools.engines import Server
from tools.job import Job


@pytest.fixture(scope="module")
def well_url(template: str, server: Server) -> Iterator[tuple[str, Simulator]]:
    """A database in which all is well but for pg_cron elsewhere, and the Evolution API it asks."""
    with new_databases(server) as create, simulator_for(server) as simulator:
        url = server.dsn(create(f"template {template}"))
        with psycopg.connect(url, autocommit=True) as connection:
            for role in ("anon", "authenticated"):
                connection.execute(
                    f"do $$ begin create role {role};"
                    " exception when duplicate_object then null; end $$".encode()
                )
            job = Job(connection, simulator)
            job.set(evolution_api_base_url=simulator.base_url)
            job.add("shop")
            job.run()
        yield url, simulator


@pytest.fixture
def patient(well_url: tuple[str, Simulator]) -> Iterator[Job]:
    """A session of the test's own on it, in a transaction that is rolled back."""
    url, simulator = well_url
    with psycopg.connect(url) as connection:
        # As if it had just run, however long the tests before have taken.
        connection.execute(
            "update qr_refresh.runs set started_at = clock_timestamp(),"
            " finished_at = clock_timestamp()"
        )
        yield Job(connection, simulator)
        connection.rollback()
