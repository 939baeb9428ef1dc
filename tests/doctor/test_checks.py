"""doctor(): each thing that it checks is broken here, and its row turns."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable

import psycopg
import pytest

from db.order import FIRST, MIGRATIONS, REPEATED, text_of
from simulator import Simulator
from tests.broken_python import python_without_libraries
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


# What the operator has to fill in.
PLACEHOLDERS = {
    "'https://...'": "'{base_url}'",
    "'...' WHERE instance_name = '...'": "'token-of-0' WHERE instance_name IS NOT NULL",
    "('name', ": "('nowhere', ",
    "PUBLICATION ...": "PUBLICATION everything",
    "qr_code, last_qr_update) ON public.evolution_instances TO ...": (
        "qr_code, last_qr_update) ON public.evolution_instances TO authenticated"
    ),
    " CONCURRENTLY": "",  # not within a transaction
}
# What cannot be a statement here: the application's own objects, another program, a restart.
TOLD_IN_WORDS = {
    "HTTP client starts",
    "rows take their QR codes",
    "live mode skips no minute",
    "wal_level",
    "view can be written",
    "last run",
}
CAN_BE_MENDED = [
    (check, how)
    for check, how, ok, detail in BREAKS
    # pg_cron is in another database here; and which name is right only its owner knows.
    if ok is False and "worker 2 of 2" not in detail and "NULL: instance name" not in detail
]


def do_as_told(job: Job, fix: str) -> bool:
    """Do what a fix says, in this transaction; return whether it says what to run."""
    for placeholder, value in PLACEHOLDERS.items():
        fix = fix.replace(placeholder, value.format(base_url=job.simulator.base_url))
    statements = re.findall(
        r"\b(?:ALTER|CREATE|DELETE|DROP|GRANT|INSERT|REVOKE|SELECT|UPDATE) [^;]*;", fix
    )
    for statement in statements:
        job.connection.execute(statement.encode())
    if not statements and "make migrate" in fix:
        for path in (*FIRST, *MIGRATIONS, *REPEATED):
            job.connection.execute(text_of(path).encode())
        statements = ["make migrate"]
    return bool(statements)


@pytest.mark.parametrize(
    ("check", "how"),
    CAN_BE_MENDED,
    ids=[f"{check}: {how[:40]}" for check, how in CAN_BE_MENDED],
)
def test_who_does_what_the_fix_says_has_mended_it(patient: Job, check: str, how: str) -> None:
    fix = break_and_look(patient, check, how)["fix"]
    if check in TOLD_IN_WORDS:
        return
    assert do_as_told(patient, fix), fix
    # A row about a part that cannot be looked at goes.
    assert findings(patient.connection).get(check, {"ok": True})["ok"] is True, fix


def test_the_libraries_of_the_http_client_are_named_with_their_versions(patient: Job) -> None:
    detail = findings(patient.connection)["HTTP client starts"]["detail"]
    assert re.fullmatch(r"Python 3[.\d]+\S*, requests 2[.\d]+, urllib3 [.\d]+", detail)


def test_an_http_client_without_its_libraries_is_told_which_one_to_install(patient: Job) -> None:
    with python_without_libraries(patient.connection):
        found = findings(patient.connection)
    client, api = found["HTTP client starts"], found["evolution_api"]
    assert client["ok"] is False
    assert client["detail"].endswith(": ModuleNotFoundError: No module named 'requests'.")
    assert client["fix"].endswith("apt install python3-requests")
    # Nobody can be asked, and that is not because something of ours is missing.
    assert api["detail"] == "cannot be checked (SQLSTATE QR011)"
    assert "requests" in api["fix"]


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


def test_ticks_of_live_mode_that_hold_their_locks_for_too_long_are_named(
    patient: Job, well_url: tuple[str, Simulator]
) -> None:
    patient.set(request_timeout="100 ms", run_timeout="100 ms")
    with contextlib.ExitStack() as stack:
        holders = [stack.enter_context(psycopg.connect(well_url[0])) for _ in range(3)]
        for holder, worker in zip(holders, (1, 2, 32), strict=True):
            lock = "select pg_advisory_xact_lock(hashtextextended(%s, 0))"
            holder.execute(lock, (f"qr_refresh.live:{worker}",))
        pids = [holder.info.backend_pid for holder in holders]

        def looked() -> tuple[float, float, bool, str]:
            """How long they hold them, at least and at most, and what doctor() says of it."""
            ages = (
                "select extract(epoch from clock_timestamp() - {}(xact_start))::float8"
                " from pg_stat_activity where pid = any(%s)"
            )
            least = patient.value(ages.format("max"), pids)
            ok, detail = patient.connection.execute(
                "select ok, detail from qr_refresh.doctor_schedule()"
                " where fix ~ '^SELECT pg_terminate'"
            ).fetchone() or (None, "")
            return least, patient.value(ages.format("min"), pids), ok, detail

        # A tick waits for a second before it asks, so this much is not too long: 2 seconds, and
        # twice what a run may take.
        limit = 2.2
        while True:
            least, most, ok, detail = looked()
            assert ok is False or least <= limit
            assert ok is True or most >= limit
            if least > limit:
                break
            time.sleep(0.05)
        assert all(str(pid) in detail for pid in pids)


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
