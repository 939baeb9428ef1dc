"""Fixtures: the job in the one database of the server in which pg_cron lives."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from simulator import Simulator
from tools.engines import Server
from tools.job import Job, install, wait_until


@pytest.fixture(scope="module")
def cron_url(server: Server, pg_cron: None) -> str:
    """The one database of the server in which pg_cron lives, with the job installed."""
    url = server.dsn("postgres")
    with psycopg.connect(url) as connection:
        connection.execute("create extension if not exists pg_cron")
    install(url)
    return url


@pytest.fixture
def cron(cron_url: str, simulator: Simulator) -> Iterator[Job]:
    """The job where pg_cron can run it; afterwards no schedule, row or run is left."""
    with psycopg.connect(cron_url, autocommit=True) as connection:
        job = Job(connection, simulator)
        job.set(evolution_api_base_url=simulator.base_url)
        yield job
        connection.execute("reset role")
        connection.execute("select qr_refresh.unschedule()")
        # A live mode that is at work goes on until its minute is over.
        ours = "select pg_cancel_backend(pid) from pg_stat_activity where query like 'CALL qr_%'"
        wait_until(lambda: not connection.execute(ours).fetchall(), "live mode has ended")
        connection.execute("select cron.unschedule(jobid) from cron.job")
        for table in ("cron.job_run_details", "qr_refresh.runs", "qr_refresh.instance_state"):
            connection.execute(f"delete from {table}".encode())
        connection.execute("update qr_refresh.settings set history_retention = default")
        connection.execute("delete from evolution_instances")
