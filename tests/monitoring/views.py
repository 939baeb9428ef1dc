"""The views as tests read them, and what makes their contents older."""

from __future__ import annotations

from typing import Any

from psycopg.rows import dict_row

from tools.job import Job

VIEWS = ("status", "alerts", "health", "metrics")


def rows(job: Job, view: str) -> list[dict[str, Any]]:
    cursor = job.connection.cursor(row_factory=dict_row)
    return cursor.execute(f"select * from qr_refresh.{view}".encode()).fetchall()


def row(job: Job, view: str) -> dict[str, Any]:
    (only,) = rows(job, view)
    return only


def alerts(job: Job, instance: str | None = None) -> set[str]:
    return {r["alert"] for r in rows(job, "alerts") if r["instance_name"] == instance}


def age_state(job: Job, by: str) -> None:
    """Let what the job knows of its instances be older."""
    job.connection.execute(
        "update qr_refresh.instance_state set attempted_at = attempted_at - %(by)s::interval,"
        " qr_first_seen_at = qr_first_seen_at - %(by)s::interval,"
        " known_since = known_since - %(by)s::interval",
        {"by": by},
    )
    job.connection.execute(
        "update evolution_instances set last_qr_update = last_qr_update - %s::interval", (by,)
    )


def age_runs(job: Job, by: str) -> None:
    job.connection.execute(
        "update qr_refresh.runs set started_at = started_at - %(by)s::interval,"
        " finished_at = finished_at - %(by)s::interval",
        {"by": by},
    )
