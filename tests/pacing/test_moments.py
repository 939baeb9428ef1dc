"""The moments that the job remembers, and what it makes of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from simulator.answers import qr_answer
from tests.monitoring.views import row
from tools.job import Connection, Job

NOW = "select clock_timestamp()"


def test_an_attempt_is_dated_when_it_began_and_not_when_it_was_answered(job: Job) -> None:
    job.add("shop")
    job.simulator.latency = 0.5
    begun_at = job.value(NOW)
    job.run()
    ended_at = job.value(NOW)
    attempted_at = row(job, "status")["last_attempt_at"]
    assert begun_at <= attempted_at <= ended_at - timedelta(seconds=0.5)


def test_the_bound_of_the_age_is_never_below_the_age_itself(job: Job) -> None:
    instance = job.add("shop")
    job.run()
    # It is served for longer than a QR code lives.
    instance.answer_with = qr_answer(instance.qr)
    for _ in range(3):
        job.let_time_pass(25)
        job.run()
        status = row(job, "status")
        assert status["qr_age_at_most"] >= status["qr_age"]
    assert status["qr_age"] > timedelta(seconds=70)


def test_an_instance_whose_reconnect_is_overdue_is_left_alone_for_a_second(
    job: Job, connect: Callable[[], Connection]
) -> None:
    job.simulator.start_outage()
    job.add("shop", state="close")
    job.run()
    job.let_time_pass(3600)
    holder = connect()
    with holder.transaction():
        # Another session may be about to connect it: this one must not.
        holder.execute(
            "select pg_advisory_xact_lock(hashtext('qr_refresh.connect'), hashtext('shop') & 1023)"
        )
        begun_at = job.value(NOW)
        job.run()
    status = row(job, "status")
    assert status["last_outcome"] == "closed"
    assert status["next_attempt_at"] >= begun_at + timedelta(seconds=1)


def test_a_qr_that_is_cleared_each_time_is_not_asked_for_because_another_instance_is_due(
    job: Job,
) -> None:
    job.connection.execute(
        "create function clear() returns trigger language plpgsql as"
        " $$ begin new.qr_code := null; return new; end $$;"
        "create trigger clear before update on evolution_instances for each row"
        " when (new.instance_name = 'cleared') execute function clear()"
    )
    job.add("cleared")
    job.add("due")
    assert sorted(job.tick()) == ["cleared", "due"]
    # However long that took.
    job.connection.execute(
        "update qr_refresh.instance_state set attempted_at = clock_timestamp(),"
        " next_attempt_at = clock_timestamp()"
        " + case instance_name when 'due' then interval '0' else interval '1 hour' end"
    )
    assert job.tick() == ["due"]
    job.let_time_pass(1)
    assert "cleared" in job.tick()
