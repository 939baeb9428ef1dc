"""An error's own text may quote a row, and so a token: the log has its SQLSTATE only."""

from __future__ import annotations

import pytest

from tests.job.log import log_lines
from tools.engines import Server
from tools.job import Job

MARK = "a-text-that-quotes-a-token"
RAISE = (
    "create function fails() returns {} language plpgsql as"
    f" $$ begin raise exception '{MARK}' using detail = '{MARK}', hint = '{MARK}'; end $$;"
)
AS_TRIGGER = RAISE.format("trigger") + (
    "create trigger fails before insert or update on {} for each row execute function fails()"
)
# Where it comes from, and the line that tells of it.
SOURCES = {
    "choosing": (
        RAISE.format("text") + "alter table evolution_instances rename to instances;"
        "create view evolution_instances as select id, instance_name, fails() as instance_token,"
        " instance_status, qr_code, last_qr_update, evolution_server from instances;"
        "grant select on evolution_instances to qr_refresh_owner",
        "Error fetching instances (SQLSTATE P0001)",
    ),
    "storing": (
        AS_TRIGGER.format("evolution_instances"),
        "Database update failed for shop (SQLSTATE P0001)",
    ),
    "noticing": (
        AS_TRIGGER.format("qr_refresh.instance_state"),
        "Error fetching instances (SQLSTATE P0001)",
    ),
    "keeping the run": (
        AS_TRIGGER.format("qr_refresh.runs"),
        "History not kept (SQLSTATE P0001)",
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_an_errors_own_text_is_not_in_the_log(job: Job, server: Server, source: str) -> None:
    how, line = SOURCES[source]
    job.add("shop")
    job.set(log_detail="instance")
    job.connection.execute(how.encode())
    report = job.run()
    assert MARK not in str(report)
    lines = log_lines(server, job)
    assert line in lines
    assert [found for found in lines if MARK in found] == []


def test_the_text_of_what_ends_a_tick_is_not_in_the_log(job: Job, server: Server) -> None:
    job.add("shop")
    job.connection.execute(
        (
            RAISE.format("trigger")
            + "create trigger fails before insert on qr_refresh.instance_state"
            " for each statement execute function fails()"
        ).encode()
    )
    progress = job.value(
        "select qr_refresh.live_tick(1, 1, jsonb_build_object('begun_at', clock_timestamp()))"
    )
    assert progress["failed_ticks"] == 1
    lines = log_lines(server, job)
    assert "Live mode: a tick failed (SQLSTATE P0001)" in lines
    assert [found for found in lines if MARK in found] == []
