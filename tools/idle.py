"""`make idle`: what live mode costs while nothing is due, from one minute of it.

It runs as pg_cron starts it, with 50 instances that are connected and none that connects.
"""

from __future__ import annotations

import os
import time

import psycopg

from tools.engines import engine_errors_in_words, start_postgres
from tools.job import install, wait_until

TICKS = 1000  # of one session, for the time of a tick


def main() -> None:
    """Print the figures of the minute, and of an hour at that rate."""
    with start_postgres(own=True) as server:
        install(server.dsn())
        with psycopg.connect(server.dsn(), autocommit=True) as connection:

            def value(query: str) -> float:
                row = connection.execute(query.encode()).fetchone()
                assert row is not None
                return float(row[0])

            connection.execute("create extension pg_cron")
            connection.execute(
                "insert into evolution_instances (instance_name, instance_status)"
                " select 'instance-' || n, 'connected' from generate_series(1, 50) as n"
            )
            connection.execute("vacuum analyze evolution_instances")
            begun_at = time.monotonic()
            connection.execute(
                f"do $$ begin for i in 1..{TICKS} loop"
                " perform qr_refresh.refresh_due(1, 1); commit; end loop; end $$"
            )
            tick = (time.monotonic() - begun_at) / TICKS

            # The CPU time of a session is read at its end, which is when it has used all of it.
            connection.execute(
                """
                create function pg_temp.cpu_ticks() returns bigint language plpython3u as $$
                    import contextlib
                    for row in plpy.execute(
                        "select pid from pg_stat_activity"
                        " where query like 'CALL qr_refresh.live(%' and pid <> pg_backend_pid()"
                    ):
                        with contextlib.suppress(OSError):
                            stat = open(f"/proc/{row['pid']}/stat").read().rpartition(")")[2]
                            fields = stat.split()
                            GD[row["pid"]] = int(fields[11]) + int(fields[12])
                    return sum(GD.values())
                $$
                """
            )
            value("select qr_refresh.schedule('live')")
            running = "select count(*) from cron.job_run_details where status = 'running'"
            wait_until(lambda: value(running) == 1, "live mode runs", 65)
            position = connection.execute("select pg_current_wal_insert_lsn()").fetchone()
            cpu = 0.0
            while value("select count(*) from qr_refresh.runs") < 1:
                cpu = value("select pg_temp.cpu_ticks()") / os.sysconf("SC_CLK_TCK")
                time.sleep(0.1)
            row = connection.execute(
                "select pg_current_wal_insert_lsn() - %s::pg_lsn", position
            ).fetchone()
            assert row is not None
            wal = int(row[0])
            ticks = value("select sum((report ->> 'ticks')::integer) from qr_refresh.runs")

        print(f"PostgreSQL {server.version}, engine {server.engine}")
        print(f"A tick with nothing due: {tick * 1000:.2f} ms (mean of {TICKS} in one session)")
        print(f"A minute of live mode: {ticks:.0f} ticks, {cpu:.2f} s of CPU, {wal:,} bytes of WAL")
        print(f"An hour at that rate: {cpu * 60:.0f} s of CPU, {wal * 60:,} bytes of WAL")


if __name__ == "__main__":
    with engine_errors_in_words():
        main()
