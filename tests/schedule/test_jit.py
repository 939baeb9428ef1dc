"""pg_cron's tables are read without compiling a query: to compile takes longer than to read."""

from __future__ import annotations

import psycopg

from tools.backend import compile_what_reads_a_table, has_compiled
from tools.job import Job


def test_to_look_for_the_jobs_compiles_nothing(cron: Job, cron_url: str) -> None:
    cron.connection.execute("select qr_refresh.schedule()")
    with psycopg.connect(cron_url, autocommit=True) as session:
        compile_what_reads_a_table(session)
        found = session.execute("select jobname from qr_refresh.cron_jobs()").fetchall()
        assert len(found) == 2
        assert not has_compiled(session)
