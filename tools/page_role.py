"""The live page's role in a database, for tests and demos."""

from __future__ import annotations

import secrets
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

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
    parts = conninfo_to_dict(url)
    name = quote(str(parts["dbname"]), safe="")
    return f"postgresql://qr_page:{password}@{parts['host']}:{parts['port']}/{name}"
