"""Prints what qr_refresh.doctor() finds in the database of DATABASE_URL; `make doctor` runs this.

The exit status is 1 when something is wrong. The URL is read from the environment, because
everybody on a machine can see the arguments of its processes.
"""

from __future__ import annotations

import os
import sys
import textwrap

import psycopg

from db.connection import DeployError, connect
from db.ending import ctrl_c_in_words
from db.order import MIGRATIONS, MIGRATIONS_TABLE, RELEASES
from db.url import EXAMPLE

# ok: what stands before a check, and its colour on a terminal.
MARKS = {True: ("ok", "32"), False: ("WRONG", "31;1"), None: ("look", "33")}


Finding = tuple[str, bool | None, str, str | None]


def earlier_release(connection: psycopg.Connection) -> list[Finding]:
    """Return a row where the database has an earlier release than this folder."""
    try:
        rows = connection.execute(f"select version from {MIGRATIONS_TABLE}".encode()).fetchall()
    except psycopg.errors.UndefinedTable:  # another tool keeps its own
        return []
    done = {str(version) for (version,) in rows}
    if {path.name.split("_")[0] for path in MIGRATIONS} <= done:
        return []
    found = RELEASES.get(max(done, default=""), "an earlier release")
    return [("release", None, f"{found}; this folder is of a later one", "make migrate")]


def findings(url: str) -> list[Finding]:
    """Return the rows of qr_refresh.doctor(), and one before them about an earlier release.

    Raises:
        SystemExit: they cannot be had; the message says what to do.
    """
    try:
        with connect(url, "doctor") as connection:
            earlier = earlier_release(connection)
            try:
                return earlier + connection.execute("select * from qr_refresh.doctor()").fetchall()
            except psycopg.errors.UndefinedFunction as error:
                if not earlier:
                    raise
                _, _, detail, fix = earlier[0]
                raise SystemExit(
                    f"error: the release in this database is {detail}. It has no doctor(): {fix}"
                ) from error
    except DeployError as error:
        raise SystemExit(f"error: {error}") from error
    except (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedFunction) as error:
        raise SystemExit(
            "error: refresh-qr-codes is not installed in this database. Install it:\n"
            f"  make migrate {EXAMPLE}"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise SystemExit("error: doctor() needs a superuser, for example postgres") from error
    except psycopg.Error as error:
        raise SystemExit(f"error: the database of DATABASE_URL: {error}") from error


def printable(text: str) -> str:
    """Return a text that cannot command the terminal: names and hints are of others."""
    return "".join(c if c.isprintable() else "?" for c in text)


def main() -> None:
    """Print a line for each check, and below what is not right how to put it right."""
    with ctrl_c_in_words():
        rows = findings(os.environ.get("DATABASE_URL", ""))
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    width = max(len(check) for check, *_ in rows)
    for check, ok, detail, fix in rows:
        mark, colour = MARKS[ok]
        mark = f"\x1b[{colour}m{mark:5}\x1b[0m" if colours else f"{mark:5}"
        print(f"{mark}  {check:{width}}  {printable(detail)}")
        if fix:
            indent = " " * (7 + width + 2)
            for line in textwrap.wrap(fix, 100, break_long_words=False, break_on_hyphens=False):
                print(f"{indent}{printable(line)}")
    wrong = sum(ok is False for _, ok, *_ in rows)
    print(f"{len(rows)} checks, {wrong} wrong")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
