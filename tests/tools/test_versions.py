"""Which PostgreSQL PG_VERSION chooses, and what is said where it cannot be had."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tools.engines import (
    ROOT,
    EngineError,
    Server,
    known_releases,
    local_version,
    major_version,
    start_postgres,
    wanted_release,
)

KNOWN = [release.version for release in known_releases()]
IN_WORDS = ", ".join(KNOWN)


def run_script(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "tools" / name],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("version", "major"),
    [
        ("15.14", 15),
        ("17.6 (Debian 17.6-0+deb13u1)", 17),
        ("18.1 (Debian 18.1-2)", 18),
        ("19devel", 19),
        ("19beta2", 19),
        ("19rc1 (Debian 19~rc1-1)", 19),
    ],
)
def test_the_major_version_is_read_from_each_form_of_a_version(version: str, major: int) -> None:
    assert major_version(version) == major


def test_what_is_no_version_has_no_major_version() -> None:
    with pytest.raises(ValueError, match="no version of PostgreSQL: ''"):
        major_version("")


def test_a_servers_major_version_is_the_one_that_it_tells(server: Server, database: str) -> None:
    asked = server.run_client(["psql", "-XAtc", "show server_version_num"])
    assert server.major == int(asked.output) // 10000
    wanted = os.environ.get("PG_VERSION")
    assert wanted in (None, "", str(server.major))


def test_the_default_is_the_one_of_the_dockerfile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PG_VERSION", raising=False)
    (default,) = [release for release in known_releases() if release.is_default]
    assert wanted_release() == default
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert f"ARG BASE_IMAGE={default.base_image}" in lines
    assert f"ARG POSTGRES_VERSION={default.version}" in lines


def test_the_guide_has_a_line_for_each_version() -> None:
    guide = (ROOT / "docs" / "setup.md").read_text()
    for release in known_releases():
        (line,) = re.findall(rf"^\| {release.version}\.[0-9]+ \|.*$", guide, re.MULTILINE)
        assert "`make test-matrix`" in line


def test_each_version_has_an_image_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    images = set()
    for version in KNOWN:
        monkeypatch.setenv("PG_VERSION", version)
        release = wanted_release()
        assert release.image.endswith(f":{version}")
        images.add((release.image, release.base_image))
    assert len(images) == len(KNOWN) == 3


@pytest.mark.parametrize("engine", ["docker", "local", "url"])
@pytest.mark.parametrize("version", ["18.1", "eighteen", "-1"])
def test_what_is_no_major_version_is_refused(
    server: Server, engine: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "docker" != server.engine:
        pytest.skip("needs a Docker engine: PG=docker runs it")
    monkeypatch.setenv("PG_VERSION", version)
    monkeypatch.setenv("DATABASE_URL", server.dsn())
    with (
        pytest.raises(EngineError, match=f"PG_VERSION={version} is no major .* {IN_WORDS}"),
        start_postgres(engine),
    ):
        pass


def test_a_version_without_an_image_is_refused_with_those_that_have_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PG_VERSION", "12")
    with pytest.raises(EngineError, match=f"no image for PG_VERSION=12: .* {IN_WORDS}"):
        wanted_release()
    refused = run_script("make_base_image.sh", PG_VERSION="12")
    assert refused.returncode != 0
    assert f"no image for PG_VERSION=12: set it to one of {IN_WORDS}" in refused.stderr


def test_a_version_that_is_not_installed_is_refused_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "15" / "bin" / "postgres"
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setattr("tools.engines.POSTGRES_BIN", tmp_path)
    monkeypatch.setattr("tools.engines.PG_VIRTUALENV", installed)
    monkeypatch.setenv("PG_VERSION", "18")
    with pytest.raises(EngineError, match="PostgreSQL 18 .*not installed here; installed: 15"):
        local_version()


def test_only_a_version_that_is_asked_for_may_lack_pg_cron(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (
        "bin/17/bin/postgres",
        "bin/19/bin/postgres",
        "share/17/extension/plpython3u.control",
        "share/17/extension/pg_cron.control",
        "share/19/extension/plpython3u.control",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    monkeypatch.setattr("tools.engines.PG_VIRTUALENV", tmp_path)
    monkeypatch.setattr("tools.engines.SYSTEM_REQUESTS", tmp_path)
    monkeypatch.setattr("tools.engines.POSTGRES_BIN", tmp_path / "bin")
    monkeypatch.setattr("tools.engines.POSTGRES_SHARE", tmp_path / "share")
    monkeypatch.delenv("PG_VERSION", raising=False)
    assert local_version() == "17"
    monkeypatch.setenv("PG_VERSION", "19")
    assert local_version() == "19"


def test_a_server_that_runs_already_has_to_be_of_the_version_that_is_asked_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", server.dsn())
    monkeypatch.setenv("PG_VERSION", str(server.major))
    with start_postgres("url") as borrowed:
        assert borrowed.major == server.major
    monkeypatch.setenv("PG_VERSION", "12")
    with (
        pytest.raises(EngineError, match=f"is PostgreSQL {server.version}, and not the 12 of"),
        start_postgres("url"),
    ):
        pass


# Stands in for make: the tests of PostgreSQL 17 fail, all others pass.
MAKE = """#!/bin/sh
echo "make $*"
case "$*" in
    "test-all PG=docker PG_VERSION=17") echo "= 1 failed, 2 passed in 61.20s (0:01:01) ="; exit 2 ;;
    test-all*) echo "===== 3 passed, 1 skipped in 4.00s =====" ;;
esac
"""


def test_the_matrix_runs_each_version_and_fails_if_one_fails(tmp_path: Path) -> None:
    make = tmp_path / "make"
    make.write_text(MAKE)
    make.chmod(0o755)
    matrix = run_script("test_matrix.sh", MAKE=str(make))
    assert matrix.returncode == 1
    assert matrix.stdout.split("=== results\n")[1].splitlines() == [
        "PostgreSQL 15: 3 passed, 1 skipped in 4.00s",
        "PostgreSQL 17: FAILED: 1 failed, 2 passed in 61.20s (0:01:01)",
        "PostgreSQL 18: 3 passed, 1 skipped in 4.00s",
    ]
    asked = [line for line in matrix.stdout.splitlines() if line.startswith("make ")]
    assert asked == [
        f"make {target} PG_VERSION={version}"
        for version in KNOWN
        for target in ("base-image", "test-all PG=docker")
    ]
    make.write_text(MAKE.replace("exit 2", "exit 0"))
    assert run_script("test_matrix.sh", MAKE=str(make)).returncode == 0
