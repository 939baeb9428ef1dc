"""The stand-in for plpy behaves like the real one: the same body gives the same in both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from tools.plpy_types import Plan, Plpy

BODY = """
    import json

    seen = []

    def attempt(name, action):
        try:
            seen.append([name, action()])
        except (plpy.Error, plpy.SPIError, TypeError) as e:
            detail = [e.__class__.__name__, getattr(e, "sqlstate", None)]
            seen.append([name, *detail, str(e) if isinstance(e, plpy.Error) else None])

    rows = plpy.execute("select n from generate_series(1, 3) as g (n)")
    seen.append([len(rows), rows.nrows(), rows[0]["n"], rows.colnames()])
    seen.append([dict(row) for row in rows[1:]])
    seen.append(len(plpy.execute("select n from generate_series(1, 3) as g (n)", 2)))
    plan = plpy.prepare("select $1 + 1 as n", ["integer"])
    seen.append(plpy.execute(plan, [41])[0]["n"])
    seen.append(plan.execute([41])[0]["n"])
    with plpy.subtransaction():
        seen.append(bool(plpy.execute("select where false")))
    attempt("plain", lambda: plpy.error("message"))
    attempt("full", lambda: plpy.error("text", detail="d", hint="h", sqlstate="QR001"))
    attempt("arguments", lambda: plpy.execute(plan, [1, 2]))
    attempt("not a plan", lambda: plpy.execute("select 1", [1]))
    seen.append(plpy.spiexceptions.QueryCanceled.__mro__[1] is plpy.SPIError)
    seen.append(issubclass(plpy.SPIError, plpy.Error))
    seen.append([plpy.quote_literal("it's"), plpy.quote_nullable(None), plpy.quote_ident('A"b')])
    return json.dumps(seen)
"""


def answer(query: str, arguments: Sequence[Any]) -> list[Mapping[str, Any]]:
    if "$1" in query:
        return [{"n": arguments[0] + 1}]
    if "generate_series" in query:
        return [{"n": 1}, {"n": 2}, {"n": 3}]
    return []


def test_the_stand_in_for_plpy_behaves_like_the_real_one(database: str) -> None:
    namespace: dict[str, Any] = {"plpy": Plpy(answer), "Plan": Plan}
    exec(f"def body():{BODY}", namespace)
    expected = json.loads(namespace["body"]())
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "create function body() returns text"
            f" language plpython3u as $python${BODY}$python$".encode()
        )
        row = connection.execute("select body()").fetchone()
    assert row is not None
    assert json.loads(row[0]) == expected
