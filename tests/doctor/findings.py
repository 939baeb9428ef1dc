"""What doctor() finds, also after something was broken."""

from __future__ import annotations

from typing import Any

from psycopg.rows import dict_row

from tools.job import Connection, Job

Finding = dict[str, Any]


def findings(connection: Connection) -> dict[str, Finding]:
    cursor = connection.cursor(row_factory=dict_row)
    rows = cursor.execute("select * from qr_refresh.doctor()").fetchall()
    assert len({row["check"] for row in rows}) == len(rows), "a check has two rows"
    for row in rows:
        assert (row["fix"] is None) is (row["ok"] is True), row
        assert row["detail"], row
    return {row["check"]: row for row in rows}


def break_and_look(job: Job, check: str, how: str) -> Finding:
    """Break something, and return what doctor() then says of it. The fixture rolls back."""
    job.connection.execute(how.encode())
    return findings(job.connection)[check]
