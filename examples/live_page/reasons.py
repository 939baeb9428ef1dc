"""Why a card has no live QR code, out of what qr_refresh.status says."""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "not_asked",
    "job_late",
    "next_comes",
    "no_code_yet",
    "closed",
    "pairing",
    "connected",
    "given_up",
    "changed",
    "not_written",
    "no_answer",
    "no_trust",
    "token_refused",
    "token_unusable",
    "name_unknown",
    "name_unusable",
    "server_unknown",
    "server_error",
    "client_ended",
]

# Seconds without an attempt, and after the next one was due, in which the job seems not to run. A
# job that runs each minute is never so late.
LONG_AGO = 120.0
OVERDUE = 60.0

BY_OUTCOME: dict[str, Reason] = {
    "stored": "next_comes",
    "unchanged": "next_comes",
    "expired": "next_comes",
    "not_attempted": "not_asked",
    "no_qr_code": "no_code_yet",
    "closed": "closed",
    "pairing": "pairing",
    "connected": "connected",
    "given_up": "given_up",
    "changed": "changed",
    "update_failed": "not_written",
    "timeout": "no_answer",
}

# The first words of last_error where the outcome is `failed`. The others are an answer that is not
# as it should be.
BY_ERROR: dict[str, Reason] = {
    "401 ": "token_refused",
    "403 ": "token_refused",
    "404 Not Found by ": "no_answer",  # before the next line: it begins like this one
    "404 ": "name_unknown",
    "502 ": "no_answer",
    "503 ": "no_answer",
    "504 ": "no_answer",
    "connection refused": "no_answer",
    "connection closed": "no_answer",
    "host not found": "no_answer",
    "TLS ": "no_trust",
    "CA file ": "no_trust",
    "instance token ": "token_unusable",
    "instance name ": "name_unusable",
    "Evolution server is unknown": "server_unknown",
    "Missing required environment variables": "server_unknown",
    "HTTP client has ended": "client_ended",
}


def reason_of(
    outcome: str | None, error: str | None, asked_before: float | None, overdue: float | None
) -> Reason | None:
    """Choose the sentence for an instance; the page has its words in ./texts.json.

    Args:
        outcome: of the last attempt; None before the first.
        error: the short reason that goes with it.
        asked_before: seconds since the last attempt.
        overdue: seconds since the next one was due; negative before.

    Returns:
        None for an outcome that this page does not know.
    """
    if outcome is None:
        return "not_asked"
    if (asked_before or 0.0) > LONG_AGO and (overdue or 0.0) > OVERDUE:
        return "job_late"
    if outcome == "failed":
        found = (reason for words, reason in BY_ERROR.items() if (error or "").startswith(words))
        return next(found, "server_error")
    return BY_OUTCOME.get(outcome)
