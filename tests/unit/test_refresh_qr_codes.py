"""refresh_qr_codes() where the database fails: what it may catch, and what it must not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from tests.derive_python_bodies import load
from tests.plpy_types import Plpy, spiexceptions

SETTINGS = {
    "log_detail": "off",
    "error": None,
    "has_check_mark": True,
}


def run(error: Exception) -> Any:
    """Run the body in a database in which reading the instances fails."""

    def answer(query: str, arguments: Sequence[Any]) -> Iterable[Mapping[str, Any]]:
        if "pg_try_advisory_xact_lock" in query:
            return [{"ours": True}]
        if "from qr_refresh.settings" in query:
            return [SETTINGS]
        if "public.evolution_instances" in query:
            raise error
        assert "record_run" in query, query
        return []

    return load("refresh_qr_codes", Plpy(answer))()


def test_a_database_error_becomes_the_seeds_error() -> None:
    report = json.loads(run(spiexceptions.UndefinedTable("token-in-the-message")))
    assert report == {"success": False, "error": "Error fetching instances"}


def test_a_cancel_is_never_caught() -> None:
    with pytest.raises(spiexceptions.QueryCanceled):
        run(spiexceptions.QueryCanceled("canceling statement due to user request"))
