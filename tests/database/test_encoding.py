"""Databases in another encoding than UTF-8."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.engines import Server
from tests.job import Job, install, read_qr
from tests.simulator import Simulator


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_the_job_works_in_a_database_without_a_check_mark(
    create_database: Callable[[str], str], simulator: Simulator, server: Server, encoding: str
) -> None:
    url = create_database(f"template template0 encoding '{encoding}' locale 'C'")
    install(url)
    with psycopg.connect(url, autocommit=True, client_encoding="utf8") as connection:
        job = Job(connection, simulator)
        job.set(evolution_api_base_url=simulator.base_url)
        job.add("café")
        assert job.run()["refreshed"] == 1
        assert read_qr(job.row("café").qr_code) == simulator.current_code("café")
        lines = [
            line for line in server.log_text().splitlines() if f"@{connection.info.dbname} " in line
        ]
    assert any("] Successfully refreshed QR for caf" in line for line in lines)
