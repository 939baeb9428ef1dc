"""The live page's role in a database, for tests and demos."""

from __future__ import annotations

import secrets
from pathlib import Path

import psycopg
from psycopg import sql

from db.connection import changed

CREATE_ROLE = Path(__file__).resolve().parent.parent / "examples/live_page/create_role.sql"


def create_page_role(url: str) -> str:
    """Make the page's role in a database, with a new password.

    Args:
        url: a postgresql:// URL of a superuser.

    Returns:
        The URL with which the page connects.
    """
    password = secrets.token_hex(16)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(CREATE_ROLE.read_bytes())
        connection.execute(sql.SQL("alter role qr_page password {}").format(password))
    return changed(url, user="qr_page", password=password)
