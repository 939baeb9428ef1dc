"""doctor(): each thing that it checks is broken here, and its row turns."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from simulator import Simulator
from tests.doctor.breaks import BREAKS, PYTHON, REFUSALS
from tests.doctor.findings import break_and_look, findings
from tools.job import Job, install


def test_nothing_is_wrong_where_all_is_well(patient: Job) -> None:
    found = findings(patient.connection)
    assert [row for row in found.values() if row["ok"] is False] == []
    assert found["Evolution API answers"]["detail"].startswith("yes after ")
    assert found["Evolution API knows the instance and its token"]["detail"] == "shop: qr_code"


@pytest.mark.parametrize(
    ("check", "how", "ok", "detail"), BREAKS, ids=[f"{b[0]}: {b[1][:40]}" for b in BREAKS]
)
def test_a_check_turns_when_what_it_checks_is_broken(
    patient: Job, check: str, how: str, ok: bool | None, detail: str
) -> None:
    found = break_and_look(patient, check, how)
    assert found["ok"] is ok
    assert detail in found["detail"]


def test_looking_at_a_refusal_changes_nothing(patient: Job) -> None:
    patient.connection.execute("update qr_refresh.instance_state set outcome = 'update_failed'")
    before = patient.row("shop")
    assert findings(patient.connection)[REFUSALS]["ok"] is None
    assert patient.row("shop") == before
    assert patient.value("select current_user") == patient.value("select session_user")


def test_the_fix_for_callers_takes_every_function_and_procedure_from_them(patient: Job) -> None:
    check = "callers of the functions"
    how = "grant execute on all routines in schema qr_refresh to public, anon"
    found = break_and_look(patient, check, how)
    assert found["ok"] is False
    assert break_and_look(patient, check, found["fix"])["ok"] is True


def test_a_malformed_environment_variable_is_named_as_the_source(patient: Job) -> None:
    patient.set(evolution_api_base_url=None)
    # It ends with this test's session.
    how = PYTHON.format("import os; os.environ['EVOLUTION_API_BASE_URL'] = 'not a URL'")
    found = break_and_look(patient, "base URL", how)
    assert found["ok"] is False
    assert "EVOLUTION_API_BASE_URL is not an http(s) URL (from: environment)" in found["detail"]


def test_a_run_that_holds_its_lock_for_too_long_is_named(
    patient: Job, well_url: tuple[str, Simulator]
) -> None:
    patient.set(request_timeout="100 ms", run_timeout="100 ms")
    with psycopg.connect(well_url[0]) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('qr_refresh', 0))")
        patient.connection.execute("select pg_sleep(0.25)")
        found = findings(patient.connection)["no run hangs"]
        assert found["ok"] is False
        assert str(other.info.backend_pid) in found["detail"]
    assert findings(patient.connection)["no run hangs"]["ok"] is True


@pytest.mark.parametrize("lane", ["slow:1", "fast:1", "fast:32"])
def test_a_tick_of_live_mode_that_holds_its_lock_for_too_long_is_named(
    patient: Job, well_url: tuple[str, Simulator], lane: str
) -> None:
    patient.set(request_timeout="100 ms", run_timeout="100 ms")
    with psycopg.connect(well_url[0]) as other:
        other.execute(
            "select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"qr_refresh.live:{lane}",)
        )
        look = (
            "select ok, detail from qr_refresh.doctor_schedule() where fix ~ '^SELECT pg_terminate'"
        )
        patient.connection.execute("select pg_sleep(1)")
        # It waits for so long before it asks.
        assert patient.connection.execute(look.encode()).fetchone() == (True, "yes")
        patient.connection.execute("select pg_sleep(1.3)")
        ok, detail = patient.connection.execute(look.encode()).fetchone() or (None, "")
        assert ok is False and str(other.info.backend_pid) in detail


def test_another_encoding_is_worth_a_look(create_database: Callable[[str], str]) -> None:
    url = create_database("template template0 encoding 'LATIN1' locale 'C'")
    install(url)
    with psycopg.connect(url, autocommit=True, client_encoding="utf8") as connection:
        found = findings(connection)["server encoding"]
    assert (found["ok"], found["detail"]) == (None, "LATIN1")


def test_from_another_database_pg_cron_cannot_be_judged(patient: Job, pg_cron: None) -> None:
    found = findings(patient.connection)["pg_cron sees this database"]
    assert found["ok"] is None
    assert found["detail"].startswith("pg_cron lives in database postgres")
