"""What db/order.py, the documents and the Makefile say of one another."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from db.order import (
    APPLICATION_TABLE,
    CHECK_CLIENT,
    CHECK_PYTHON,
    CHECK_TABLE,
    CLAIM_SCHEMA,
    DB,
    DROP_OLD,
    FIRST,
    FUNCTIONS,
    MIGRATIONS,
    OUTCOMES,
    PRIVILEGES,
    REPORT_TABLE,
    ROOMS,
    ROOT,
    UNINSTALL,
    VIEW_NAMES,
    VIEWS,
)
from tools.job import install

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
# Not CHANGELOG.md: what it says of a release stays, also when a target goes.
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "examples/**/*.md", "monitoring/*.md", ".github/**/*.yml")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)


def test_every_folder_of_functions_is_a_room_and_every_room_is_a_folder() -> None:
    folders = {path.name for path in (DB / "functions").iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} == set(ROOMS)
    assert len(set(ROOMS)) == len(ROOMS)


def test_every_sql_file_is_deployed_and_once() -> None:
    deployed = [*MIGRATIONS, *FUNCTIONS, *VIEWS]
    deployed += [
        CHECK_PYTHON,
        CLAIM_SCHEMA,
        CHECK_TABLE,
        APPLICATION_TABLE,
        OUTCOMES,
        DROP_OLD,
        PRIVILEGES,
    ]
    deployed += [REPORT_TABLE, CHECK_CLIENT, UNINSTALL]
    assert sorted(deployed) == sorted(DB.rglob("*.sql"))


def test_every_view_is_in_the_order() -> None:
    assert {path.stem for path in (DB / "views").glob("*.sql")} == set(VIEW_NAMES)


def test_a_function_is_found_by_the_name_of_its_file() -> None:
    names = [path.stem for path in FUNCTIONS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("how", ["shuffled", "backwards"])
def test_within_a_room_the_order_does_not_matter(
    how: str, empty_database: str, database: str, schema_of: Callable[[str], str]
) -> None:
    # pytest shows it when this fails.
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    functions: list[Path] = []
    for room in ROOMS:
        files = [path for path in FUNCTIONS if path.parent.name == room]
        functions += chance.sample(files, len(files)) if how == "shuffled" else reversed(files)
    assert sorted(functions) == sorted(FUNCTIONS)
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("show check_function_bodies").fetchone() == ("on",)
    install(empty_database, (*FIRST, *MIGRATIONS, OUTCOMES, *functions, *VIEWS, PRIVILEGES))
    assert schema_of(empty_database) == schema_of(database)


def test_contributing_names_every_room() -> None:
    assert set(re.findall(r"^\| `(\w+)/` \|", CONTRIBUTING, re.MULTILINE)) == set(ROOMS)


def test_contributing_names_every_mark_of_a_test() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    marks = settings["tool"]["pytest"]["ini_options"].get("markers", [])
    named = set(re.findall(r"`(\w+)`", CONTRIBUTING))
    assert {re.split(r"[(:]", mark)[0].strip() for mark in marks} <= named


def targets_named_in(text: str) -> set[str]:
    """What follows `make` where it is code; in a sentence it is only a word."""
    code = re.findall(r"^ *```sh\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    code += re.findall(r"`([^`\n]+)`", text)
    found = re.findall(r"(?:^ *|[;&|(] *)make((?: +[a-z][a-z-]*)+)", "\n".join(code), re.MULTILINE)
    return {target for targets in found for target in targets.split()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_make_target_that_a_document_names_exists(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    assert targets_named_in(document.read_text(encoding="utf-8")) <= targets


def test_the_documents_name_targets() -> None:
    named = {
        target
        for document in DOCUMENTS
        for target in targets_named_in(document.read_text(encoding="utf-8"))
    }
    assert {"demo", "test", "migrate", "doctor", "watch", "uninstall", "freshness"} <= named
