"""Fixtures: what pg_dump sees of a database, a second database, the files of a release."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from db.connection import database_name
from db.order import ROOT
from tests.deploy.installation import dump_lines, make
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


@pytest.fixture(scope="session")
def version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert isinstance(project["version"], str)
    return project["version"]


@pytest.fixture(scope="session")
def for_psql(version: str) -> Path:
    result = make("release")
    assert result.returncode == 0, result.stdout + result.stderr
    return ROOT / "dist" / f"qr_refresh-{version}.sql"


@pytest.fixture(scope="session")
def for_tools(for_psql: Path) -> Path:
    return for_psql.with_name(f"{for_psql.stem}-migration.sql")
