"""Two lanes: everything, or what answers in minutes. The marks say why a test is slow."""

from __future__ import annotations

import pytest

# A mark of pyproject.toml whose description begins like this keeps a test out of the fast lane.
SLOW = "slow: "


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --fast, which `make test` gives."""
    parser.addoption("--fast", action="store_true", help="leave out the tests marked as slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark by what a test uses, and leave out the slow ones where that is asked for."""
    for item in items:
        used = getattr(item, "fixturenames", ())
        if "server" in used:
            item.add_marker("server")
        if "browser" in used:
            item.add_marker("browser")
    if not config.getoption("fast"):
        return
    marks = [mark.split(": ", 1) for mark in config.getini("markers")]
    slow = {name for name, description in marks if description.startswith(SLOW)}
    left_out = [item for item in items if slow.intersection(m.name for m in item.iter_markers())]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
