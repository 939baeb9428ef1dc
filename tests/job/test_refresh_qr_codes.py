"""The body of refresh_qr_codes() where the database fails: what it may catch, and what not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from tools.derive_python_bodies import load
from tools.plpy_types import Plpy, spiexceptions


def run(error: Exception) -> tuple[object, list[str]]:
    """Run the body in a database in which choosing fails; return the results and the log."""
    logged: list[str] = []
    ended: list[object] = []

    def answer(query: str, arguments: Sequence[Any]) -> Iterable[Mapping[str, Any]]:
        if "begin_run" in query:
            return [{"report": None, "run_timeout": 30.0}]
        if "choose" in query:
            raise error
        if "translate_messages" in query:
            return []
        if "log(" in query:
            logged.append(arguments[0])
            return []
        if "end_run" in query:
            ended.append(arguments[3])
            return [{"end_run": "{}"}]
        raise AssertionError(query)

    load("refresh_qr_codes", Plpy(answer))(None, False)
    return ended, logged


def test_a_database_error_becomes_the_edge_functions_error() -> None:
    ended, logged = run(spiexceptions.UndefinedTable("token-in-the-message"))
    # From which end_run() makes it.
    assert ended == [None]
    assert logged == ["Error fetching instances (SQLSTATE 42P01)"]


def test_a_cancel_is_never_caught() -> None:
    with pytest.raises(spiexceptions.QueryCanceled):
        run(spiexceptions.QueryCanceled("canceling statement due to user request"))
