"""What PL/Python gives a function body: `plpy` and `SD`; ours use neither `GD` nor `TD`.

It has two uses. The Python files derived from db/functions import these names, so that mypy and
ruff know them; and unit tests call a body with a `Plpy` of their own, which behaves like the real
module where it matters: `error` raises.
"""
# ruff: noqa: N818 - the names are PL/Python's

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeAlias, overload

__all__ = ["SD", "Iterable", "Plan", "Plpy", "Result", "Row", "plpy", "spiexceptions"]

Row: TypeAlias = dict[str, Any]

# Answers a query in a unit test: (query text, arguments) -> rows.
Answer: TypeAlias = Callable[[str, Sequence[Any]], Iterable[Mapping[str, Any]]]


class Error(Exception):
    """plpy.Error: what plpy.error() raises; it becomes an ERROR of the SQL statement."""

    sqlstate: str
    detail: str | None = None
    hint: str | None = None


class Fatal(Error):
    """plpy.Fatal: what plpy.fatal() raises; it ends the session."""


class SPIError(Exception):
    """plpy.SPIError: an error of a statement that the body has executed."""

    sqlstate = "XX000"


class spiexceptions:  # noqa: N801 - the real one is a module
    """plpy.spiexceptions: one class for each error condition; those that matter here."""

    class CheckViolation(SPIError):  # noqa: D106
        sqlstate = "23514"

    class InsufficientPrivilege(SPIError):  # noqa: D106
        sqlstate = "42501"

    class LockNotAvailable(SPIError):  # noqa: D106
        sqlstate = "55P03"

    class QueryCanceled(SPIError):  # noqa: D106
        sqlstate = "57014"

    class UndefinedTable(SPIError):  # noqa: D106
        sqlstate = "42P01"


class Result(Sequence[Row]):
    """The rows of one executed statement."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = (), status: int = 5) -> None:
        """Keep the rows; status is an SPI code, 5 being SPI_OK_SELECT."""
        self._rows = [dict(row) for row in rows]
        self._status = status

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """Return one row, or a list of them."""
        return self._rows[index]

    def __len__(self) -> int:
        """Return the number of rows held."""
        return len(self._rows)

    def nrows(self) -> int:
        """Return the number of rows that the statement processed."""
        return len(self._rows)

    def status(self) -> int:
        """Return the SPI status code."""
        return self._status

    def colnames(self) -> list[str]:
        """Return the names of the columns."""
        return list(self._rows[0]) if self._rows else []


class Plan:
    """A prepared statement."""

    def __init__(self, plpy: Plpy, query: str, types: Sequence[str]) -> None:
        """Bind the query text to the Plpy that will execute it."""
        self._plpy = plpy
        self.query = query
        self.types = list(types)

    def execute(self, arguments: Sequence[Any] | None = None, limit: int = 0) -> Result:
        """Execute the statement with these arguments; limit 0 is no limit."""
        return self._plpy.execute(self, arguments, limit)


def _no_database(query: str, _: Sequence[Any]) -> NoReturn:
    raise AssertionError(f"this body was expected to run no query, but ran: {query}")


class _Names:
    """The classes in the module plpy; apart, because in Plpy they would hide the global ones."""

    Error = Error
    Fatal = Fatal
    SPIError = SPIError
    spiexceptions = spiexceptions


class Plpy(_Names):
    """Stands for the module plpy.

    Attributes:
        messages: (level, text) of every log, info, notice and warning, in order.
        queries: (text, arguments) of every executed statement, in order.
    """

    def __init__(self, answer: Answer = _no_database) -> None:
        """Let `answer` give the rows for every query; without it a query fails the test."""
        self._answer = answer
        self.messages: list[tuple[str, str]] = []
        self.queries: list[tuple[str, tuple[Any, ...]]] = []

    def execute(
        self,
        query: str | Plan,
        arguments: Sequence[Any] | int | None = None,
        limit: int = 0,
    ) -> Result:
        """Execute a plan with its arguments, or a text, whose second argument is a row limit."""
        if isinstance(query, Plan):
            values = () if arguments is None or isinstance(arguments, int) else tuple(arguments)
            if len(values) != len(query.types):
                raise TypeError(f"expected {len(query.types)} arguments, got {len(values)}")
            text = query.query
        else:
            if arguments is not None and not isinstance(arguments, int):
                raise Error("plpy.execute expected a query or a plan")
            text, values, limit = query, (), arguments or limit
        self.queries.append((text, values))
        rows = list(self._answer(text, values))
        return Result(rows[:limit] if limit else rows)

    def prepare(self, query: str, types: Sequence[str] = ()) -> Plan:
        """Prepare a query with parameters of these SQL types."""
        return Plan(self, query, types)

    def cursor(self, query: str | Plan, arguments: Sequence[Any] | None = None) -> Iterator[Row]:
        """Iterate over the rows of a query."""
        return iter(self.execute(query, arguments))

    @contextmanager
    def subtransaction(self) -> Iterator[None]:
        """Run the statements inside in a subtransaction."""
        yield

    def commit(self) -> None:
        """Commit; only in a procedure that was called outside a transaction."""

    def rollback(self) -> None:
        """Roll back; only in a procedure that was called outside a transaction."""

    def debug(self, message: object, **_: str) -> None:
        """Send a DEBUG2 message."""
        self.messages.append(("debug", str(message)))

    def log(self, message: object, **_: str) -> None:
        """Send a message to the server's log."""
        self.messages.append(("log", str(message)))

    def info(self, message: object, **_: str) -> None:
        """Send a message to the client."""
        self.messages.append(("info", str(message)))

    def notice(self, message: object, **_: str) -> None:
        """Send a NOTICE."""
        self.messages.append(("notice", str(message)))

    def warning(self, message: object, **_: str) -> None:
        """Send a WARNING."""
        self.messages.append(("warning", str(message)))

    def error(
        self,
        message: object,
        *,
        detail: str | None = None,
        hint: str | None = None,
        sqlstate: str = "XX000",
        **_: str,
    ) -> NoReturn:
        """Raise Error, as the real one does."""
        raise self._exception(Error, message, detail, hint, sqlstate)

    def fatal(
        self,
        message: object,
        *,
        detail: str | None = None,
        hint: str | None = None,
        sqlstate: str = "XX000",
        **_: str,
    ) -> NoReturn:
        """Raise Fatal, as the real one does."""
        raise self._exception(Fatal, message, detail, hint, sqlstate)

    def quote_literal(self, text: str) -> str:
        """Return the text as an SQL string constant."""
        quoted = "'" + text.replace("'", "''").replace("\\", "\\\\") + "'"
        return f"E{quoted}" if "\\" in text else quoted

    def quote_nullable(self, text: str | None) -> str:
        """Return the text as an SQL string constant, None as NULL."""
        return "NULL" if text is None else self.quote_literal(text)

    def quote_ident(self, name: str) -> str:
        """Return the name as an SQL identifier; the real one quotes only where it must."""
        return '"' + name.replace('"', '""') + '"'

    @staticmethod
    def _exception(
        kind: type[Error], message: object, detail: str | None, hint: str | None, sqlstate: str
    ) -> Error:
        error = kind(str(message))
        error.sqlstate, error.detail, error.hint = sqlstate, detail, hint
        return error


# What a body sees. A unit test puts objects of its own in their place; see
# derive_python_bodies.load().
plpy = Plpy()
SD: dict[str, Any] = {}
