"""Two lanes: everything, or what answers in minutes. The marks say why a test is slow."""

from __future__ import annotations

import collections

import pytest

# A mark of pyproject.toml whose description begins like this keeps a test out of the fast lane.
SLOW = "slow: "


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --fast, which `make test` gives."""
    parser.addoption("--fast", action="store_true", help="leave out the tests marked as slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark by what a test uses, and begin with the slow ones, or leave them out as asked for."""
    for item in items:
        used = getattr(item, "fixturenames", ())
        if "server" in used:
            item.add_marker("server")
        if "browser" in used:
            item.add_marker("browser")
    marks = [mark.split(": ", 1) for mark in config.getini("markers")]
    names = {name for name, description in marks if description.startswith(SLOW)}
    slow = [item for item in items if names.intersection(m.name for m in item.iter_markers())]
    if config.getoption("fast"):
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    else:
        # A file is one worker's: a long one that began last would let the others wait.
        in_file = collections.Counter(item.path for item in slow)
        items.sort(key=lambda item: -in_file[item.path])
