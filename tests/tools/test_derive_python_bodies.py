"""The Python view of the SQL files: what lint and unit tests see is what the server runs."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from db import order
from tools.derive_python_bodies import derive, load, main
from tools.plpy_types import Plpy

DEPLOYED = [
    path for path in (order.DB / "functions").rglob("*.*") if path.suffix in (".py", ".sql")
]
SQL = """\
-- example.double(): twice as much.
create or replace function example.double(
    amount integer, names text [] default null, loud boolean default false
)
returns {returns}
language plpython3u
as $python$
    doubled = amount * 2
    plpy.log(f"doubled to {{doubled}}")
    return doubled
$python$;

alter function example.double(integer, text [], boolean) owner to somebody;
"""


def test_every_line_of_the_body_keeps_its_number() -> None:
    sql = SQL.format(returns="integer")
    derived = derive(sql)
    assert derived is not None
    before, after = sql.splitlines(), derived.splitlines()
    assert after[7:10] == before[7:10]
    assert after[9] == "    return doubled"
    assert len(after) == 10


def test_the_header_becomes_a_typed_def_on_its_last_line() -> None:
    derived = derive(SQL.format(returns="integer"))
    assert derived is not None
    assert derived.splitlines()[1:6] == [""] * 5
    assert derived.splitlines()[6].startswith(
        "def double(amount: int, names: list[str] | None = None, loud: bool = False) -> int | None:"
    )


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ("void", "None"),
        ("jsonb", "str | None"),
        ("double precision", "float | None"),
        ("setof bigint", "Iterable[int | None]"),
        ("table (id bigint, picture bytea)", "Iterable[tuple[int | None, bytes | None]]"),
    ],
)
def test_a_return_type_becomes_the_python_type(returns: str, expected: str) -> None:
    derived = derive(SQL.format(returns=returns))
    assert derived is not None
    assert f" -> {expected}:" in derived.splitlines()[6]


def test_a_function_in_another_language_has_no_python_view() -> None:
    assert (
        derive("-- x\ncreate function f() returns integer language sql as $$ select 1 $$;") is None
    )


def test_a_type_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="SQL type inet"):
        derive(SQL.format(returns="inet"))


def test_a_body_that_assigns_to_an_argument_is_refused_with_its_line() -> None:
    sql = SQL.format(returns="integer").replace("doubled = amount * 2", "amount = amount * 2")
    with pytest.raises(ValueError, match="line 8 assigns to the argument amount"):
        derive(sql)


def test_a_header_without_room_for_the_imports_is_refused() -> None:
    with pytest.raises(ValueError, match="line 1 must be a comment"):
        derive("create function f() returns void language plpython3u as $$\n    pass\n$$;")


def test_a_loaded_body_runs_with_the_given_plpy_and_fails_at_lines_of_the_sql_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "double.sql"
    path.write_text(SQL.format(returns="integer"))
    monkeypatch.setattr(order, "FUNCTIONS", [path])
    plpy = Plpy()
    double = load("double", plpy)
    assert double(21) == 42
    assert plpy.messages == [("log", "doubled to 42")]
    with pytest.raises(TypeError) as failure:
        double(None)
    frame = traceback.extract_tb(failure.value.__traceback__)[-1]
    assert (frame.filename, frame.lineno) == (str(path), 8)


def test_the_folder_gets_one_file_for_each_body_and_loses_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = tmp_path / "functions"
    functions.mkdir()
    (functions / "double.sql").write_text(SQL.format(returns="integer"))
    (functions / "view.sql").write_text("-- a view\ncreate view v as select 1 as one;\n")
    monkeypatch.setattr(order, "FUNCTIONS", sorted(functions.glob("*.sql")))
    build = tmp_path / "build"
    build.mkdir()
    (build / "gone.py").touch()
    main(build)
    assert [path.name for path in build.iterdir()] == ["double.py"]


@pytest.mark.parametrize("word", ["GD[", "pthread_sigmask", "InterruptPending"])
def test_no_function_shares_python_with_others_or_reaches_into_postgres(word: str) -> None:
    assert [path for path in DEPLOYED if word in path.read_text(encoding="utf-8")] == []


def test_the_python_that_a_function_includes_is_among_those_files() -> None:
    assert {path.name for path in DEPLOYED} >= {"evolution_client.py", "evolution_client.sql"}
