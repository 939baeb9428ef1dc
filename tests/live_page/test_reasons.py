"""Why a card waits: the sentence that goes with what the job says of the last attempt."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from playwright.sync_api import Page, expect

from db.functions.http import evolution_client
from examples.live_page.reasons import BY_OUTCOME, Reason, reason_of
from simulator import Answer, error_answer
from tests.live_page.screen import ENGLISH, EXPIRED, WAITING, age, card, state
from tools.backend import refusing_port
from tools.engines import Server
from tools.job import Job


def say(page: Page, name: str, reason: Reason, error: str = "") -> None:
    """Wait until the card gives this reason."""
    sentence = ENGLISH[f"reason_{reason}"].replace("{error}", error)
    expect(card(page, name).locator(".reason")).to_have_text(sentence)


def test_a_card_says_why_it_waits(job: Job, page: Page) -> None:
    job.add_row("not asked yet")
    say(page, "not asked yet", "not_asked")
    job.add("refused").answer_state_with = error_answer(401, "Unauthorized", "Unauthorized")
    job.add("broken").answer_state_with = error_answer(500, "Internal Server Error", "boom")
    job.add("gateway").answer_state_with = Answer(502, b"<html></html>")
    job.add("slow", qr_delay=3600.0)
    job.add_row("nobody")
    job.add_row("without a token", token=None)
    job.add_row("..")
    job.add_row("elsewhere")
    job.connection.execute(
        "update evolution_instances set evolution_server = 'unheard of'"
        " where instance_name = 'elsewhere'"
    )
    job.run()
    say(page, "refused", "token_refused")
    say(page, "broken", "server_error", "500 Internal Server Error")
    say(page, "gateway", "no_answer")
    say(page, "slow", "no_code_yet")
    say(page, "nobody", "name_unknown")
    say(page, "without a token", "token_unusable")
    say(page, "..", "name_unusable")
    say(page, "elsewhere", "server_unknown")


def test_a_card_says_that_the_server_does_not_answer_while_its_old_code_stands(
    job: Job, server: Server, page: Page
) -> None:
    job.add("bakery")
    job.run()
    with refusing_port(server.listen_host) as port:
        job.set(evolution_api_base_url=f"http://{server.reachable_host}:{port}")
        job.run()
    reason = card(page, "bakery").locator(".reason")
    # The code still lives: there is nothing to say.
    expect(reason).to_have_text("")
    age(job, "bakery", timedelta(minutes=2))
    expect(state(page, "bakery")).to_have_text(EXPIRED)
    say(page, "bakery", "no_answer")


def test_a_job_that_no_longer_runs_is_told_from_a_server_without_a_code(
    job: Job, page: Page
) -> None:
    job.add("bakery", qr_delay=36_000.0)
    job.run()
    say(page, "bakery", "no_code_yet")
    job.let_time_pass(3600.0)
    expect(state(page, "bakery")).to_have_text(WAITING)
    say(page, "bakery", "job_late")


def test_every_outcome_that_the_job_knows_has_its_reason(job: Job) -> None:
    outcomes = {row[0] for row in job.connection.execute("select outcome from qr_refresh.outcomes")}
    assert outcomes == {*BY_OUTCOME, "failed"}


def test_what_the_client_says_of_a_connection_is_no_error_of_the_server() -> None:
    # What came, and was not whole, is one; a timeout is an outcome of its own.
    others = set(evolution_client.REASONS.values()) - {"answer was cut short", "Request timeout"}
    for error in others | {"connection closed"}:
        assert reason_of("failed", error, 0.0, None) in ("no_answer", "no_trust"), error


@pytest.mark.parametrize(
    ("outcome", "error", "asked_before", "overdue", "reason"),
    [
        (None, None, None, None, "not_asked"),
        ("failed", "403 Forbidden", 1.0, -1.0, "token_refused"),
        ("failed", "4040", 1.0, -1.0, "server_error"),
        ("failed", "404 Not Found", 1.0, -1.0, "name_unknown"),
        ("failed", "404 Not Found by something", 1.0, -1.0, "no_answer"),
        ("failed", None, 1.0, -1.0, "server_error"),
        ("failed", "HTTP client has ended", 1.0, -1.0, "client_ended"),
        ("given_up", None, 500.0, -100.0, "given_up"),
        ("given_up", None, 500.0, 100.0, "job_late"),
        # One that runs every five minutes, and one that has just begun to be late.
        ("no_qr_code", None, 290.0, 10.0, "no_code_yet"),
        ("no_qr_code", None, 90.0, 80.0, "no_code_yet"),
        ("of a later release", None, 1.0, -1.0, None),
    ],
)
def test_a_reason_follows_from_the_outcome_its_error_and_the_clock(
    outcome: str | None,
    error: str | None,
    asked_before: float | None,
    overdue: float | None,
    reason: Reason | None,
) -> None:
    assert reason_of(outcome, error, asked_before, overdue) == reason


def test_between_two_codes_there_is_nothing_to_explain(job: Job, page: Page) -> None:
    job.add("bakery")
    job.run()
    age(job, "bakery", timedelta(seconds=46))
    expect(state(page, "bakery")).to_have_text(EXPIRED)
    expect(card(page, "bakery").locator(".reason")).to_have_text("")
    # The next one should have been there by now.
    expect(card(page, "bakery").locator(".reason")).to_have_text(
        re.compile("^The job stores the next code")
    )
