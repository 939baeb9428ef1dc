"""A Python view of the PL/Python functions in db/functions, for lint, types and unit tests.

    python -m tools.derive_python_bodies build/

writes build/NAME.py for each. The SQL in front of a body becomes blank lines and a `def`, so every
line of the body keeps its number: what ruff or mypy says about build/NAME.py:40 is line 40 of
db/functions/NAME.sql.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pglast
from pglast import ast as sql
from pglast.enums import FunctionParameterMode as Mode

from db import order
from tools.plpy_types import Plpy

IMPORTS = "from tools.plpy_types import SD, Iterable, Row, plpy  # noqa: F401"

# PL/Python hands every other type over as its text.
PYTHON_TYPES = {
    "attempt": "Row",
    "bool": "bool",
    "bytea": "bytes",
    "float4": "float",
    "float8": "float",
    "int2": "int",
    "int4": "int",
    "int8": "int",
    "interval": "str",
    "json": "str",
    "jsonb": "str",
    "text": "str",
    "timestamptz": "str",
    "uuid": "str",
    "void": "None",
}


def derive(text: str) -> str | None:
    """Return the Python view of one SQL file, or None when its function is not in PL/Python.

    Args:
        text: the file; line 1 a comment, the body indented below a line that ends in `as $python$`.

    Raises:
        ValueError: the file has another form, or the body would behave differently in Python.
    """
    statements: Iterable[Any] = pglast.parse_sql(text)
    for statement in statements:
        function = statement.stmt
        if not isinstance(function, sql.CreateFunctionStmt):
            continue
        options = {option.defname: option.arg for option in function.options}
        if options["language"].sval != "plpython3u":
            continue
        body = str(options["as"][0].sval)
        header_lines = text[: text.index(body)].count("\n")
        if header_lines == 0 or not body.startswith("\n"):
            raise ValueError(
                "line 1 must be a comment, and the body must start on a line of its own"
            )
        derived = f"{IMPORTS}{chr(10) * header_lines}{_signature(function)}  # noqa: E501{body}"
        _refuse_assigned_arguments(derived)
        return derived
    return None


def load(name: str, plpy: Plpy) -> Callable[..., Any]:
    """Return the function of NAME.sql as one of Python that sees this plpy and an empty SD.

    A traceback shows the lines of the .sql file.
    """
    path = order.function(name)
    derived = derive(path.read_text(encoding="utf-8"))
    if derived is None:
        raise ValueError(f"{path} is not written in plpython3u")
    namespace: dict[str, Any] = {}
    exec(compile(derived, path, "exec"), namespace)
    namespace |= {"plpy": plpy, "SD": {}}
    function: Callable[..., Any] = namespace[name]
    return function


def _signature(function: sql.CreateFunctionStmt) -> str:
    parameters = function.parameters or ()
    columns = [_type(p.argType) for p in parameters if p.mode == Mode.FUNC_PARAM_TABLE]
    arguments = []
    for parameter in parameters:
        if parameter.mode == Mode.FUNC_PARAM_TABLE:
            continue
        kind = _type(parameter.argType)
        default = _default(parameter.defexpr)
        arguments.append(f"{parameter.name}: {kind}{default}")
    if columns:
        result = f"Iterable[tuple[{', '.join(f'{column} | None' for column in columns)}]]"
    elif function.returnType is None or function.returnType.names[-1].sval == "void":
        result = "None"
    else:
        result = f"{_type(function.returnType)} | None"
        if function.returnType.setof:
            result = f"Iterable[{result}]"
    return f"def {function.funcname[-1].sval}({', '.join(arguments)}) -> {result}:"


def _default(expression: Any) -> str:
    """Return what a default adds to an argument: only NULL and constants are known."""
    if expression is None:
        return ""
    if isinstance(expression, sql.TypeCast):
        expression = expression.arg
    if isinstance(expression, sql.A_Const):
        if expression.isnull:
            return " | None = None"
        # pglast keeps each kind of constant in an attribute of another name.
        for attribute in ("sval", "ival", "boolval"):
            if hasattr(expression.val, attribute):
                return f" = {getattr(expression.val, attribute)!r}"
    raise ValueError("the default of an argument must be NULL or a constant")


def _type(type_name: sql.TypeName) -> str:
    name = type_name.names[-1].sval
    if name not in PYTHON_TYPES:
        raise ValueError(f"SQL type {name} is not in PYTHON_TYPES of {__name__}")
    kind = PYTHON_TYPES[name]
    return f"list[{kind}]" if type_name.arrayBounds else kind


def _refuse_assigned_arguments(derived: str) -> None:
    """PL/Python's arguments are globals: one that is assigned to becomes a local without value."""
    function = ast.parse(derived).body[-1]
    assert isinstance(function, ast.FunctionDef)
    arguments = {argument.arg for argument in function.args.args}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in arguments:
            raise ValueError(
                f"line {node.lineno} assigns to the argument {node.id}: use another name"
            )


def main(target: Path) -> None:
    """Write the view of every PL/Python function into this folder, and nothing else."""
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.py"):
        old.unlink()
    for path in order.FUNCTIONS:
        try:
            derived = derive(path.read_text(encoding="utf-8"))
        except (ValueError, pglast.parser.ParseError) as error:
            raise SystemExit(f"{path}: {error}") from error
        if derived is not None:
            (target / f"{path.stem}.py").write_text(derived, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m tools.derive_python_bodies FOLDER")
    main(Path(sys.argv[1]))
