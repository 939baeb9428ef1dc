"""What a week of live mode leaves in the database: `make growth` prints it, day by day.

A session does the writes that live mode does: a new QR code for each instance each 45 seconds,
what is known of an instance after each of three attempts, a row a minute in qr_refresh.runs, and
the rows that pg_cron keeps of two jobs, and of one that is not ours. A week of history is there at
the start, so what grows is not just filling up.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg

from simulator.picture import data_url, qr_text
from tools.engines import engine_errors_in_words, start_postgres
from tools.job import Connection, install

QR_SECONDS = 45
ATTEMPTS_PER_QR = 3
DAY = 86400
KEPT = 7 * DAY  # seconds, the default of settings.history_retention
COMMANDS = ("CALL qr_refresh.live()", "CALL qr_refresh.live(2, 2)", "select 1")

SIZES = """
    select
        c.oid::regclass::text as name,
        pg_relation_size(c.oid) as heap,
        coalesce(pg_relation_size(c.reltoastrelid), 0) as toast,
        pg_indexes_size(c.oid) as indexes,
        s.n_live_tup + coalesce(t.n_live_tup, 0) as live,
        s.n_dead_tup + coalesce(t.n_dead_tup, 0) as dead,
        s.autovacuum_count + coalesce(t.autovacuum_count, 0) as vacuums
    from pg_class as c
    inner join pg_stat_all_tables as s on c.oid = s.relid
    left join pg_stat_all_tables as t on c.reltoastrelid = t.relid
    where
        c.oid = any(array[
            'public.evolution_instances', 'qr_refresh.instance_state', 'qr_refresh.runs',
            'cron.job_run_details'
        ]::regclass[])
    order by c.oid
"""


@dataclass(frozen=True)
class Table:
    """A table with its TOAST; sizes in bytes, counts of tuples."""

    name: str
    heap: int
    toast: int
    indexes: int
    live: int
    dead: int
    vacuums: int

    @property
    def size(self) -> int:
        """All of it, in bytes."""
        return self.heap + self.toast + self.indexes


def tables(connection: Connection) -> dict[str, Table]:
    """Return the tables that the job writes, by name."""
    rows = connection.execute(SIZES.encode()).fetchall()
    return {row[0]: Table(*row) for row in rows}


class Week:
    """A database that live mode writes into, faster than in reality.

    The end of the simulated time is now; what happens before it is written with times in the past.
    """

    def __init__(self, connection: Connection, instances: int, days: float) -> None:
        """Add the instances, and the history of the days before.

        Args:
            connection: a superuser's session on a database with the job and pg_cron, in autocommit.
            instances: how many are connecting, all the time.
            days: how long `pass_time` will last.
        """
        self.connection = connection
        self.seconds = round(days * DAY)
        self.names = [f"instance {number}" for number in range(instances)]
        self.tokens = [f"token {number}" for number in range(instances)]
        self.pictures = [data_url(qr_text(f"growth/{number}")) for number in range(instances + 16)]
        results = [{"instance_name": n, "success": True, "qr_updated": True} for n in self.names]
        counts = {"total_instances": instances, "refreshed": instances, "failed": 0}
        self.report = json.dumps({"success": True, **counts, "results": results})
        connection.execute(
            "insert into evolution_instances (instance_name, instance_token, instance_status)"
            " select n, t, 'connecting' from unnest(%s::text[], %s::text[]) as i (n, t)",
            (self.names, self.tokens),
        )
        minutes = "generate_series(%s::integer, 0, -60) as s"
        connection.execute(
            "insert into qr_refresh.runs (started_at, finished_at, total_instances, refreshed,"
            " failed, report) select now() - make_interval(secs => s), now() -"
            f" make_interval(secs => s - 60), %s, %s, 0, %s from {minutes} where s >= %s".encode(),
            (instances, instances, self.report, self.seconds + KEPT, self.seconds),
        )
        connection.execute(
            "insert into cron.job_run_details (jobid, runid, job_pid, database, username, command,"
            " status, return_message, start_time, end_time)"
            " select number, nextval('cron.runid_seq'), 1, current_database(), current_user,"
            " command, 'succeeded', 'CALL', now() - make_interval(secs => s),"
            f" now() - make_interval(secs => s) from {minutes},"
            " unnest(%s::text[]) with ordinality as c (command, number) where s >= %s".encode(),
            (self.seconds + KEPT, list(COMMANDS), self.seconds),
        )
        connection.execute("select qr_refresh.notice_new(1, 1)")
        connection.execute("vacuum analyze")

    def pass_time(self, step: float) -> Iterator[float]:
        """Write until the end; yields the days that have passed, each `step` days."""
        shown = 0
        for now in range(QR_SECONDS, self.seconds + 1, QR_SECONDS):
            self._write_qr_codes(now // QR_SECONDS)
            if now // 60 > (now - QR_SECONDS) // 60:
                self._write_history(self.seconds - now)
            if now // DAY > (now - QR_SECONDS) // DAY:
                self.connection.execute("select qr_refresh.prune_history()")
            if now // (step * DAY) > shown:
                shown += 1
                yield now / DAY

    def _write_qr_codes(self, turn: int) -> None:
        size = len(self.pictures)
        pictures = [self.pictures[(turn + number) % size] for number in range(len(self.names))]
        for _ in range(ATTEMPTS_PER_QR):
            # As a tick of live mode hands them over, stores and remembers.
            self.connection.execute(
                "update qr_refresh.instance_state set attempted_at = clock_timestamp(),"
                " next_attempt_at = clock_timestamp(), under_way_until = clock_timestamp()"
            )
            self.connection.execute(
                "select count(*) from qr_refresh.remember(array("
                "select s from qr_refresh.store(array(select ("
                "qr_refresh.instance_key(null, q.name, q.token), q.name, null, q.token, null, true,"
                " true, clock_timestamp(), 'qr_code', null, q.code,"
                " sha256(convert_to(q.code, 'UTF8')), false, 0.005, clock_timestamp(), null"
                ")::qr_refresh.attempt from unnest(%s::text[], %s::text[], %s::text[])"
                " as q (name, token, code)), true, 0.1) as s), true)",
                (self.names, self.tokens, pictures),
            )

    def _write_history(self, ago: int) -> None:
        self.connection.execute(
            "update qr_refresh.settings set history_retention = make_interval(secs => %s)",
            (ago + KEPT,),
        )
        self.connection.execute(
            "select qr_refresh.record_run(%s, null, %s::jsonb)", (ago, self.report)
        )
        for number, command in enumerate(COMMANDS, 1):
            # As pg_cron does it: a row that it updates when the job has begun and ended.
            row = self.connection.execute(
                "insert into cron.job_run_details (jobid, runid, database, username, command,"
                " status) values (%s, nextval('cron.runid_seq'), current_database(), current_user,"
                " %s, 'starting') returning runid",
                (number, command),
            ).fetchone()
            assert row is not None
            for status in ("running", "succeeded"):
                self.connection.execute(
                    "update cron.job_run_details set status = %s,"
                    " start_time = now() - make_interval(secs => %s) where runid = %s",
                    (status, ago, row[0]),
                )


@contextlib.contextmanager
def week(instances: int, days: float) -> Iterator[Week]:
    """Start a server with a database as live mode leaves it after a week."""
    with (
        start_postgres(settings={"autovacuum_naptime": "1s"}) as server,
        psycopg.connect(server.dsn(), autocommit=True) as connection,
    ):
        install(server.dsn())
        connection.execute("create extension pg_cron")
        yield Week(connection, instances, days)


def main() -> None:
    """Print the sizes day by day."""
    days = float(os.environ.get("GROWTH_DAYS", "7"))
    instances = int(os.environ.get("GROWTH_INSTANCES", "10"))
    print(f"{instances} instances, a new QR code each {QR_SECONDS} s, {days:g} days; sizes in kB")
    columns = f"{'heap':>8}{'TOAST':>8}{'indexes':>9}{'live':>8}{'dead':>8}{'autovacuums':>13}"
    begun_at = time.monotonic()
    with week(instances, days) as simulated:
        for day in itertools.chain([0.0], simulated.pass_time(step=min(1.0, days / 7))):
            print(f"\nday {day:<26.2f}{columns}")
            for table in tables(simulated.connection).values():
                print(
                    f"{table.name:30}{table.heap // 1024:8}{table.toast // 1024:8}"
                    f"{table.indexes // 1024:9}{table.live:8}{table.dead:8}{table.vacuums:13}",
                    flush=True,
                )
    pace = days * DAY / (time.monotonic() - begun_at)
    print(
        f"\nThat was {pace:.0f} times as fast as reality. Autovacuum looked each second, which is"
        f" once in {pace / 60:.0f} minutes of the simulated time; a server does so each minute, and"
        " has less to clean up each time."
    )


if __name__ == "__main__":
    with engine_errors_in_words():
        main()
