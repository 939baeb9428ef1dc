"""Live mode writes for a while: what it leaves behind stays within bounds."""

from __future__ import annotations

import os

import pytest

from tools.growth import COMMANDS, KEPT, QR_SECONDS, tables, week
from tools.job import Job, wait_until

INSTANCES = 10
DAYS = 0.05
LIVE_QR_CODES = INSTANCES * 16 * 1024  # bytes; one takes seven pages of 2 kB


@pytest.mark.growth
def test_history_keeps_its_length_and_autovacuum_keeps_up_with_the_qr_codes(
    pg_cron: None,
) -> None:
    if os.environ.get("PG") == "url":
        pytest.skip("needs a server of its own: PG=docker or PG=local runs it")
    with week(INSTANCES, DAYS) as simulated:
        before = tables(simulated.connection)
        largest = 0
        for _ in simulated.pass_time(step=DAYS / 10):
            largest = max(largest, tables(simulated.connection)["evolution_instances"].toast)
        value = simulated.connection.execute
        (runs,) = value("select count(*) from qr_refresh.runs").fetchone() or (0,)
        assert abs(runs - KEPT / 60) < 3, "a week of minutes, before and after"

        value("select qr_refresh.prune_history()")
        counts = value("select command, count(*) from cron.job_run_details group by command")
        kept = {str(row[0]): int(row[1]) for row in counts.fetchall()}
        minutes = DAYS * 24 * 60
        assert all(abs(kept[command] - KEPT / 60) < 3 for command in COMMANDS[:-1])
        assert abs(kept[COMMANDS[-1]] - KEPT / 60 - minutes) < 3, "not ours, so all of it"

        # Each QR code that was ever written would still be there without a vacuum.
        written = DAYS * 24 * 60 * 60 / QR_SECONDS * LIVE_QR_CODES
        assert largest < written / 2
        after = tables(simulated.connection)
        assert after["qr_refresh.runs"].size < before["qr_refresh.runs"].size * 1.2

        def is_clean() -> bool:
            table = tables(simulated.connection)["evolution_instances"]
            return table.vacuums > 0 and table.dead < 200

        wait_until(is_clean, "autovacuum has cleaned up", timeout=60)


def test_pictures_are_compressed_with_lz4_and_what_the_application_writes_as_it_says(
    job: Job,
) -> None:
    known = job.value("select enumvals from pg_settings where name = 'default_toast_compression'")
    if "lz4" not in known:
        pytest.skip("this PostgreSQL was built without lz4")
    job.add("shop")
    # Because of this one, what comes with it is stored row by row.
    job.add("refused")
    job.connection.execute(
        "alter table evolution_instances add check (instance_name <> 'refused' or qr_code is null)"
    )
    # The default of PostgreSQL 19 is lz4.
    job.connection.execute("set default_toast_compression = 'pglz'")
    compression = "select pg_column_compression(qr_code) from evolution_instances where {}"
    shop = compression.format("instance_name = 'shop'")
    for refused in (True, False):
        with job.connection.transaction():
            assert job.run()["failed"] == refused
            assert job.value(shop) == "lz4"
            job.connection.execute(
                "update evolution_instances set qr_code = repeat(qr_code, 2)"
                " where instance_name = 'shop'"
            )
            assert job.value(shop) == "pglz"
        job.connection.execute("delete from evolution_instances where instance_name = 'refused'")
