"""What a run writes into the server log, with the sentences of the Edge Function."""

from __future__ import annotations

from simulator import Trouble, error_answer
from tests.job.log import log_lines
from tools.engines import Server
from tools.job import Job


def add_one_of_each(job: Job) -> None:
    job.set(request_timeout="1500 ms", max_concurrency=3)
    job.add("bad").answer_with = error_answer(500, "Internal Server Error", "boom")
    job.add("good")
    job.add("slow").answer_with = Trouble.HANG


def test_a_run_logs_the_lines_of_the_edge_function(job: Job, server: Server) -> None:
    add_one_of_each(job)
    job.run()
    lines = log_lines(server, job)
    # These come as the answers do.
    lines[8:-1] = sorted(lines[8:-1])
    assert lines == [
        "Starting QR code refresh cycle...",
        "Found 3 connecting instance(s)",
        "Processing bad...",
        "Fetching QR for bad",
        "Processing good...",
        "Fetching QR for good",
        "Processing slow...",
        "Fetching QR for slow",
        "Error processing slow: Request timeout",
        "Failed to fetch QR for bad: 500 Internal Server Error",
        "Successfully fetched QR for good",
        "✓ Successfully refreshed QR for good",
        "Refresh cycle complete: 1 success, 2 failures",
    ]


def test_log_detail_cycle_leaves_the_instances_out(job: Job, server: Server) -> None:
    add_one_of_each(job)
    job.set(log_detail="cycle")
    job.run()
    assert log_lines(server, job) == [
        "Starting QR code refresh cycle...",
        "Found 3 connecting instance(s)",
        "Refresh cycle complete: 1 success, 2 failures",
    ]


def test_log_detail_off_logs_nothing(job: Job, server: Server) -> None:
    add_one_of_each(job)
    job.set(log_detail="off")
    job.run()
    assert log_lines(server, job) == []


def test_a_line_break_in_a_name_begins_no_line_of_its_own(job: Job, server: Server) -> None:
    job.add_row("a\nLOG:  forged")
    job.run()
    assert "Processing a?LOG:  forged..." in log_lines(server, job)


def test_a_refused_update_is_logged_by_its_sqlstate_only(job: Job, server: Server) -> None:
    job.connection.execute(
        "alter table evolution_instances add constraint no_qr check (qr_code is null)"
    )
    job.add("shop")
    job.run()
    lines = log_lines(server, job)
    assert "Database update failed for shop (SQLSTATE 23514)" in lines
    assert "Error processing shop: Database update failed" in lines
    # The DETAIL of a CHECK violation quotes the whole row. Other tests use the server as well.
    mark = f"@{job.connection.info.dbname} "
    here = [line for line in server.log_text().splitlines() if mark in line]
    assert here and not [line for line in here if "token-of-0" in line]


def test_a_status_that_is_refused_is_no_fetched_qr_code(job: Job, server: Server) -> None:
    job.set(connected_status="no such status")
    job.connection.execute(
        "grant update (instance_status) on evolution_instances to qr_refresh_owner"
    )
    job.add("shop")
    job.simulator.scan("shop")
    job.run()
    lines = log_lines(server, job)
    assert "Database update failed for shop (SQLSTATE 23514)" in lines
    assert not [line for line in lines if line.startswith("Successfully")]
