"""SECURITY.md: each threat names the tests that show what stops it, and these tests exist."""

from __future__ import annotations

import ast
import re

from db.order import ROOT

TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
THREATS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    # The chapter before it says who may do what.
    for line in TEXT.partition("## Who, what, and what stops them")[2].splitlines()
    if line.startswith("|") and not line.startswith(("| who | what they try", "|---"))
]


def existing_tests() -> set[str]:
    return {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def test_every_threat_says_what_stops_it_and_which_test_shows_that() -> None:
    assert len(THREATS) > 15
    for threat in THREATS:
        assert len(threat) == 4, threat
        _, attempt, obstacle, shown_by = threat
        assert attempt and obstacle, threat
        assert re.search(r"`test_\w+`", shown_by) or "`make audit`" in obstacle, threat


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) > 15
    assert named - existing_tests() == set()
