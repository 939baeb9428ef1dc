"""qr_refresh.outcomes: what each outcome means, written down once."""

from __future__ import annotations

import re

import psycopg
import pytest

from db.order import FUNCTIONS, ROOT
from tools.job import Job, refusal

DIAGRAM = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def test_the_diagram_of_the_architecture_is_that_of_the_table(job: Job) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (`[`\w, ]+`) \|$", DIAGRAM, re.MULTILINE)
    drawn = {queue: re.findall(r"`(\w+)`", outcomes) for queue, outcomes in rows}
    known = job.connection.execute(
        "select queue, array_agg(outcome order by outcome) from qr_refresh.outcomes group by queue"
    ).fetchall()
    assert drawn == dict(known)
    picture = DIAGRAM.split("## How an instance moves")[1].split("```")[1]
    assert {queue for queue in [*drawn, "new"] if queue not in picture} == set()


def test_the_state_of_an_instance_is_one_of_the_outcomes(job: Job) -> None:
    job.add_row("shop")
    job.look()
    update = "update qr_refresh.instance_state set outcome = %s"
    for outcome in job.value("select array_agg(outcome) from qr_refresh.outcomes"):
        job.connection.execute(update.encode(), (outcome,))
    error = refusal(job.connection, update, "no such outcome")
    assert isinstance(error, psycopg.errors.CheckViolation)


def test_every_outcome_that_a_step_names_is_in_the_table(job: Job) -> None:
    known = set(job.value("select array_agg(outcome) from qr_refresh.outcomes"))
    named = set()
    for path in FUNCTIONS:
        if path.parent.name in ("choosing", "storing", "pacing", "job", "live"):
            text = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
            named |= set(re.findall(r"outcome (?:=|<>|:=|is distinct from) '(\w+)'", text))
            named |= set(re.findall(r"came_to\(\s*\w+, '(\w+)'", text))
    # Of the HTTP client, and between two steps of storing.
    assert named - {"qr_code", "postponed"} <= known
    assert len(named) > 5


@pytest.mark.parametrize("queue", ["rotating", "waiting", "failing"])
def test_each_queue_is_one_that_live_mode_looks_at(job: Job, queue: str) -> None:
    job.add("shop")
    job.look()
    job.connection.execute("update qr_refresh.instance_state set queue = %s", (queue,))
    assert job.tick() == ["shop"]
