"""run_cycle() where the database fails: what it may catch, and what it must not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from tools.derive_python_bodies import load
from tools.plpy_types import Plpy, spiexceptions

SETTINGS = {"log_detail": "off", "base_url_error": None, "base_url": "http://127.0.0.1"}


def run(error: Exception) -> Any:
    """Run the body in a database in which reading the instances fails."""

    def answer(query: str, arguments: Sequence[Any]) -> Iterable[Mapping[str, Any]]:
        if "run_settings" in query:
            return [SETTINGS]
        if "instances_to_ask" in query:
            raise error
        raise AssertionError(query)

    return load("run_cycle", Plpy(answer))(None, False, None, 1, 1)


def test_a_database_error_becomes_the_edge_functions_error() -> None:
    report = json.loads(run(spiexceptions.UndefinedTable("token-in-the-message")))
    assert report == {"success": False, "error": "Error fetching instances"}


def test_a_cancel_is_never_caught() -> None:
    with pytest.raises(spiexceptions.QueryCanceled):
        run(spiexceptions.QueryCanceled("canceling statement due to user request"))
