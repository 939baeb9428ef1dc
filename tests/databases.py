"""Databases that live as long as what uses them: a test, a file or a session."""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Callable, Iterator

import psycopg
from psycopg import sql

from tools.engines import Server

_numbers = itertools.count(1)
# A server of yours may have databases of the same kind of name.
_session = secrets.token_hex(4)


@contextlib.contextmanager
def new_databases(server: Server) -> Iterator[Callable[[str], str]]:
    """Gives what creates a database and returns its name; drops what it has created.

    At once and not at the end: what is gone before the system writes it to the disk costs no disk.
    """
    names: list[str] = []

    def create(options: str) -> str:
        name = f"test_{_session}_{next(_numbers)}"
        execute(
            server, sql.SQL("create database {} ").format(sql.Identifier(name)) + sql.SQL(options)
        )
        names.append(name)
        return name

    yield create
    for name in names:
        execute(
            server, sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
        )


def execute(server: Server, statement: sql.Composed) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(statement)
