"""The view status: is the QR code of each connecting instance live, and why not."""

from __future__ import annotations

import pytest

from tests.monitoring.views import age_state, row
from tools.job import Job


def test_status_shows_a_fresh_qr_as_live_and_only_connecting_instances(job: Job) -> None:
    job.add("shop")
    job.add_row("done", status="connected")
    job.run()
    shop = row(job, "status")
    assert (shop["instance_name"], shop["is_live"]) == ("shop", True)
    assert (shop["last_outcome"], shop["no_live_qr_since"]) == ("stored", None)
    assert 0 <= shop["qr_age"].total_seconds() < 30
    assert shop["last_qr_update"] == job.row("shop").last_qr_update


@pytest.mark.parametrize(("age", "is_live"), [("35 s", True), ("46 s", False)])
def test_a_qr_is_dead_45_seconds_after_it_was_first_seen(job: Job, age: str, is_live: bool) -> None:
    job.add("shop")
    job.run()
    age_state(job, age)
    assert row(job, "status")["is_live"] is is_live


def test_stamping_a_dead_qr_again_does_not_make_it_live(job: Job) -> None:
    job.add("shop")
    job.run()
    age_state(job, "50 s")
    assert job.result("shop") == {"success": True, "qr_updated": True}
    assert row(job, "status")["is_live"] is False


def test_a_live_qr_that_is_seen_again_after_the_state_was_lost_is_live(job: Job) -> None:
    job.add("shop")
    job.run()
    job.connection.execute(
        "update evolution_instances set last_qr_update = last_qr_update - interval '30 s';"
        "delete from qr_refresh.instance_state"
    )
    assert row(job, "status")["is_live"] is False
    job.tick()
    status = row(job, "status")
    assert (status["last_outcome"], status["is_live"]) == ("unchanged", True)


def test_a_timestamp_that_is_read_in_another_time_zone_does_not_matter(job: Job) -> None:
    job.connection.execute("alter table evolution_instances alter last_qr_update type timestamp")
    job.add("shop")
    for writer, reader in (("UTC", "Asia/Tokyo"), ("UTC", "America/Lima")):
        job.connection.execute(f"set timezone = '{writer}'".encode())
        assert job.run()["refreshed"] == 1
        job.connection.execute(f"set timezone = '{reader}'".encode())
        assert row(job, "status")["is_live"] is True


def test_a_qr_that_the_application_has_cleared_is_not_live(job: Job) -> None:
    job.add("shop")
    job.run()
    job.connection.execute("update evolution_instances set qr_code = null")
    assert row(job, "status")["is_live"] is False


def test_a_qr_that_could_not_be_stored_is_not_live(job: Job) -> None:
    job.connection.execute("alter table evolution_instances add check (qr_code is null)")
    job.add("shop")
    assert job.run()["failed"] == 1
    shop = row(job, "status")
    assert (shop["is_live"], shop["last_error"]) == (False, "SQLSTATE 23514")


def test_status_shows_what_live_mode_knows(job: Job) -> None:
    job.add_row("shop")
    job.connection.execute(
        "insert into qr_refresh.instance_state (instance, instance_name, attempted_at, outcome,"
        " error, failures, next_attempt_at, queue) values ("
        "qr_refresh.instance_key(null, 'shop', 'a-token'), 'shop', now(), 'failed',"
        " '404 Not Found', 7, now() + interval '1 minute', 'failing')"
    )
    shop = row(job, "status")
    assert (shop["last_error"], shop["failures"], shop["is_slow"]) == ("404 Not Found", 7, True)
    assert shop["next_attempt_at"] > shop["last_attempt_at"]


def test_the_bound_of_the_age_comes_from_the_last_answer_without_the_qr(job: Job) -> None:
    job.add("shop")
    job.run()
    job.connection.execute(
        "update qr_refresh.instance_state set qr_changed_after = qr_first_seen_at - interval '7 s'"
    )
    shop = row(job, "status")
    assert 7 <= (shop["qr_age_at_most"] - shop["qr_age"]).total_seconds() < 8
