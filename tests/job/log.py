"""The server log as the tests of the job read it."""

from __future__ import annotations

from tools.engines import Server
from tools.job import Job


def log_lines(server: Server, job: Job) -> list[str]:
    """The job's own lines in the server log that come from this test's database."""
    mark = f"@{job.connection.info.dbname} LOG:  [refresh-qr-codes] "
    return [line.split(mark)[1] for line in server.log_text().splitlines() if mark in line]
