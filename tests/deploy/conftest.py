"""Fixtures: what pg_dump sees of a database, and a second database."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from db.connection import database_name
from tests.deploy.installation import dump_lines
from tools.engines import Server


@pytest.fixture(scope="session")
def schema_of(server: Server) -> Callable[[str], str]:
    """A database as pg_dump sees it, data included, without what differs from dump to dump."""

    def dump(url: str) -> str:
        code, output = server.run_client(["pg_dump"], dbname=database_name(url))
        assert code == 0, output[-500:]
        return "\n".join(dump_lines(output))

    return dump


@pytest.fixture
def second_database(create_database: Callable[[str], str]) -> str:
    return create_database("template template0")
