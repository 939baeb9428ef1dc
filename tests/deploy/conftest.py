"""Fixtures: what pg_dump sees of a database, a second database, the files of a release."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from db.connection import database_name
from db.order import ROOT
from simulator.certificates import new_certificate
from tests.deploy.installation import dump_lines, make
from tools.engines import Server, start_postgres


class TlsServer(NamedTuple):
    """A server of this test's own with TLS on, and the certificate of its authority."""

    server: Server
    authority: Path


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


@pytest.fixture
def tls_server(tmp_path: Path, server: Server) -> Iterator[TlsServer]:
    """A server whose certificate is for 127.0.0.1; server and test both read the authority's."""
    if server.engine != "local":
        pytest.skip("gives the server a certificate of this machine: PG=local runs it")
    new_certificate(tmp_path, "127.0.0.1")
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        shutil.copy(tmp_path / "127.0.0.1.pem", folder / "crt")
        shutil.copy(tmp_path / "127.0.0.1.key", folder / "key")
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            for path in (folder, folder / "crt", folder / "key"):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        (folder / "key").chmod(0o600)
        settings = {"ssl": "on", "ssl_cert_file": f"{folder}/crt", "ssl_key_file": f"{folder}/key"}
        with start_postgres("local", settings=settings) as own:
            yield TlsServer(own, folder / "crt")
    finally:
        shutil.rmtree(folder)
