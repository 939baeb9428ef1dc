"""The pace at which an instance is asked, as it follows from what its answers were."""

from __future__ import annotations

from simulator import Simulator, error_answer
from tools.job import Job


def test_a_failure_makes_no_new_qr_of_the_old_one(job: Job) -> None:
    instance = job.add("shop")
    job.run()
    instance.answer_with = error_answer(502, "Bad Gateway", "no upstream")
    job.let_time_pass(12)
    job.run()
    instance.answer_with = None
    job.let_time_pass(12)
    job.run()
    assert job.value("select outcome from qr_refresh.instance_state") == "stored"
    age = "select extract(epoch from clock_timestamp() - qr_first_seen_at)::float8"
    assert job.value(f"{age} from qr_refresh.instance_state") >= 24


def test_what_failed_together_does_not_come_back_together(job: Job) -> None:
    for number in range(10):
        job.add_row(f"shop {number}")
    job.look()
    # All in the same moment: how far apart answers come is not the job's.
    job.connection.execute(
        "select from qr_refresh.remember(array(select (s.instance, s.instance_name, null,"
        " 'a-token', '', true, false, t.now, 'failed', '502 Bad Gateway', null, null, false, null,"
        " t.now, null)::qr_refresh.attempt"
        " from qr_refresh.instance_state as s, clock_timestamp() as t (now)), true)"
    )
    wait = "extract(epoch from next_attempt_at - attempted_at)::float8"
    spread = f"select max({wait}) - min({wait}) from qr_refresh.instance_state where failures = 1"
    assert job.value("select count(*) from qr_refresh.instance_state where failures = 1") == 10
    assert 0.02 < job.value(spread) <= 0.2


WAIT = "select extract(epoch from next_attempt_at - answered_at)::float8"


def test_a_first_answer_that_is_slow_does_not_make_the_second_attempt_late(
    job: Job, simulator: Simulator
) -> None:
    simulator.latency = 0.3  # as of many that begin together; 0.1 / 0.3 is once in 68 seconds
    job.add("shop")
    job.tick()
    assert 4 <= job.value(f"{WAIT} from qr_refresh.instance_state") <= 5


def test_a_server_that_is_known_to_be_far_away_is_asked_less_often_from_the_first_attempt_on(
    job: Job, simulator: Simulator
) -> None:
    simulator.latency = 0.03
    job.add("shop")
    job.tick()
    job.let_time_pass(5)
    job.tick()
    assert 0.03 <= job.value("select round_trip from qr_refresh.server_state") < 0.1
    job.add("branch")
    assert job.tick() == ["branch"]
    wait = f"{WAIT} from qr_refresh.instance_state where instance_name = 'branch'"
    assert 13.5 <= job.value(wait) < 45 * 1.2


def test_one_slow_answer_of_a_server_changes_little(job: Job, simulator: Simulator) -> None:
    job.add("shop")
    for latency in (0, 0, 0.3):
        simulator.latency = latency
        job.tick()
        job.let_time_pass(12)
    assert job.value("select round_trip from qr_refresh.server_state") < 0.1


def test_after_a_few_qr_codes_a_new_one_is_stored_soon_after_it_comes_with_few_calls(
    job: Job, simulator: Simulator
) -> None:
    job.add("shop", qr_age=17)
    begun_at = simulator.clock.now() - 17
    state = "select extract(epoch from {})::float8 from qr_refresh.instance_state"
    stored, calls = None, 0
    found = []
    while True:
        assert job.tick() == ["shop"]
        calls += 1
        if stored != job.row("shop").qr_code:
            stored = job.row("shop").qr_code
            late = (simulator.clock.now() - begun_at) % 45
            found.append((calls, late, job.value(state.format("poll_interval"))))
            calls = 0
        if len(found) == 6:
            break
        # The job's own clock goes on as well.
        job.let_time_pass(
            max(0, job.value(state.format("next_attempt_at - clock_timestamp()"))) + 0.001
        )
    # Until one is seen to come, nobody knows when that will be.
    assert found[1][0] <= 12, found
    assert max(calls for calls, _, _ in found[2:]) <= 4, found
    # A third each time: 4.5, 1.6, 0.6, 0.3 seconds, and a little for what the calls take.
    assert all(late < 1 and interval < 0.6 for _, late, interval in found[3:]), found
    # Who asks in between does not change when the next one is expected.
    job.let_time_pass(10)
    job.run("shop")
    assert 30 < job.value(state.format("next_attempt_at - clock_timestamp()")) < 35
