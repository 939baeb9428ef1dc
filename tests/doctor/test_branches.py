"""Each thing that a check of doctor() tells apart, on both sides of the line."""

from __future__ import annotations

import pytest

from simulator import error_answer, json_answer
from tests.doctor.breaks import REFUSALS, TRIGGER
from tests.doctor.findings import break_and_look, findings
from tools.job import Job

CLOCK = "clock"
INDEX = "index on instance_status"
LIMITS = "timeouts of the job's role"
TOKENS = "instance_token is private"
LATE = "a run within the last 00:05:00"

NO_INDEX = "drop index evolution_instances_instance_status_idx;"
ROWS = "update pg_class set reltuples = {} where relname = 'evolution_instances';"


def database_has(setting: str) -> str:
    return (
        f"do $$ begin execute format('alter database %I set {setting}', current_database());"
        " end $$;"
    )


def role_has(setting: str) -> str:
    return (
        "do $$ begin execute format("
        f"'alter role %I in database %I set {setting}', session_user, current_database()); end $$;"
    )


def policy(options: str) -> str:
    return f"create policy own on evolution_instances {options} using (true);"


# check: (how it is with it, ok, a part of the detail)
BRANCHES: list[tuple[str, str, bool | None, str]] = [
    (CLOCK, "update qr_refresh.runs set finished_at = now() + interval '1 hour'", False, ": 1"),
    # Two servers may differ a little.
    (
        CLOCK,
        "update qr_refresh.instance_state set attempted_at = now() + interval '4 seconds'",
        True,
        ": 0",
    ),
    # A run may take 30 seconds; without a unit it is milliseconds, and 0 is no limit.
    (LIMITS, database_has("statement_timeout = 30000"), False, "statement_timeout = 30000"),
    (LIMITS, database_has("statement_timeout = ''30001''"), True, "a run has its time"),
    (LIMITS, database_has("statement_timeout = ''45s''"), True, "a run has its time"),
    (LIMITS, database_has("statement_timeout = 0"), True, "a run has its time"),
    (LIMITS, role_has("statement_timeout = ''29s''"), False, "statement_timeout = 29s"),
    (
        LIMITS,
        database_has("statement_timeout = ''29s''") + role_has("statement_timeout = 0"),
        True,
        "a run has its time",
    ),
    (
        LIMITS,
        "update qr_refresh.settings set run_timeout = '28 s';"
        + database_has("statement_timeout = ''29s''"),
        True,
        "a run has its time",
    ),
    ("connecting instances", "select 1", True, "1"),
    (INDEX, NO_INDEX + ROWS.format(9999), True, "none, about 9999 rows"),
    (INDEX, NO_INDEX + ROWS.format(10000), False, "none, about 10000 rows"),
    (INDEX, NO_INDEX + ROWS.format(-1), True, "none, about 0 rows"),
    (INDEX, ROWS.format(20000), True, "there, about 20000 rows"),
    (
        INDEX,
        NO_INDEX + "create index on evolution_instances (instance_name)"
        " where instance_status = 'connecting';" + ROWS.format(20000),
        True,
        "there, about 20000 rows",
    ),
    (
        INDEX,
        NO_INDEX
        + "create index on evolution_instances (instance_name, instance_status);"
        + ROWS.format(20000),
        False,
        "none, about 20000 rows",
    ),
    (
        INDEX,
        "update pg_index set indisvalid = false"
        " where indexrelid = 'evolution_instances_instance_status_idx'::regclass;"
        + ROWS.format(20000),
        False,
        "none, about 20000 rows",
    ),
    # What the database says is shown where it names objects, and its details where they do, too.
    (
        REFUSALS,
        TRIGGER.format("raise exception 'too long' using errcode = '22001'"),
        False,
        "shop: too long (SQLSTATE 22001)",
    ),
    (
        REFUSALS,
        TRIGGER.format("raise exception 'busy' using errcode = '55006', detail = 'by x'"),
        False,
        "shop: busy: by x (SQLSTATE 55006)",
    ),
    (
        REFUSALS,
        TRIGGER.format("raise exception 'no' using errcode = '23514', detail = 'a row'"),
        False,
        "shop: no (SQLSTATE 23514)",
    ),
    (
        "callers of the functions",
        "grant execute on function refresh_qr_codes to authenticated",
        False,
        "authenticated may execute",
    ),
    # Without a policy they see no row, whatever is granted.
    (TOKENS, "grant select on evolution_instances to anon", True, "cannot read it"),
    (
        TOKENS,
        "grant select on evolution_instances to anon;" + policy("for update to anon"),
        True,
        "cannot read it",
    ),
    (
        TOKENS,
        "grant select on evolution_instances to anon;" + policy("for select to authenticated"),
        True,
        "cannot read it",
    ),
    (
        TOKENS,
        "grant select on evolution_instances to anon;" + policy("for all"),
        None,
        "anon may read it, of rows that a policy shows",
    ),
    (
        TOKENS,
        "grant select (instance_token) on evolution_instances to public;"
        "alter table evolution_instances disable row level security",
        False,
        "public, anon, authenticated may read it of every row",
    ),
    (
        TOKENS,
        "grant select (instance_name, qr_code) on evolution_instances to anon;"
        "alter table evolution_instances disable row level security",
        True,
        "cannot read it",
    ),
    (
        "table is published for Realtime",
        "create publication of_app for table evolution_instances",
        True,
        "of_app",
    ),
    (
        "state of the job is not published",
        "create publication of_app for table evolution_instances",
        True,
        "yes",
    ),
    (
        LATE,
        "update qr_refresh.runs set finished_at = clock_timestamp() - interval '285 s'",
        True,
        "last run ended",
    ),
    # Asking for one instance is no run of the job.
    (
        LATE,
        "update qr_refresh.runs set finished_at = now() - interval '301 s';"
        "select refresh_qr_codes('shop')",
        False,
        "last run ended",
    ),
    ("last run", "select 1", True, "1 of 1 attempts succeeded"),
    (
        "last run",
        "update evolution_instances set instance_token = null; select refresh_qr_codes()",
        True,
        "0 of 1 attempts succeeded",
    ),
]


@pytest.mark.parametrize(
    ("check", "how", "ok", "detail"), BRANCHES, ids=[f"{b[0]}: {b[1][:60]}" for b in BRANCHES]
)
def test_a_check_tells_apart_what_is_wrong_and_what_is_not(
    patient: Job, check: str, how: str, ok: bool | None, detail: str
) -> None:
    found = break_and_look(patient, check, how)
    assert (found["ok"], detail in found["detail"]) == (ok, True), found


@pytest.mark.parametrize(
    ("raised", "fix"),
    [
        ("raise exception 'no' using errcode = '42501'", "GRANT it to qr_refresh_owner"),
        ("perform helper_of_app()", "SET search_path = public"),
        ("perform from table_of_app", "SET search_path = public"),
        ("raise exception 'no' using errcode = '23514', hint = 'Do this'", "Do this"),
        ("raise exception 'no' using errcode = '23514'", "Look at triggers"),
        # Its hint may quote a row, as its text may.
        ("raise exception 'no' using errcode = 'P0001', hint = 'Do this'", "Look at triggers"),
    ],
)
def test_a_refusal_has_the_fix_that_fits(patient: Job, raised: str, fix: str) -> None:
    found = break_and_look(patient, REFUSALS, TRIGGER.format(f"{raised}; return new"))
    assert fix in found["fix"]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, None),
        (404, None),
        (499, None),
        (500, "500 Internal Server Error"),
        (599, "599"),
    ],
)
def test_a_server_that_answers_with_an_error_of_its_own_does_not_work(
    patient: Job, status: int, reason: str | None
) -> None:
    # It is asked about an instance that it does not know.
    probe = patient.simulator.add_instance("refresh-qr-codes-doctor", "none")
    probe.answer_state_with = error_answer(status, "Some Reason", "it says")
    try:
        found = findings(patient.connection)["Evolution API answers"]
    finally:
        patient.simulator.remove_instance("refresh-qr-codes-doctor")
    assert found["ok"] is (reason is None)
    assert found["detail"].startswith(f"{reason or 'yes'} after ")


def test_of_two_instances_the_one_that_failed_is_asked_about(patient: Job) -> None:
    check = "Evolution API knows the instance and its token"
    patient.add("a")
    patient.connection.execute(
        "update evolution_instances set instance_token = 'wrong' where instance_name = 'shop'"
    )
    assert findings(patient.connection)[check]["detail"].startswith("a: ")
    patient.look()
    patient.connection.execute(
        "update qr_refresh.instance_state set outcome = 'failed' where instance_name = 'shop'"
    )
    assert findings(patient.connection)[check]["detail"] == "shop: 401 Unauthorized"
    patient.simulator.remove_instance("a")


def test_where_nobody_connects_the_server_is_asked_and_no_instance(patient: Job) -> None:
    patient.connection.execute("update evolution_instances set instance_status = 'connected'")
    found = findings(patient.connection)
    assert found["Evolution API answers"]["ok"] is True
    assert "Evolution API knows the instance and its token" not in found


@pytest.mark.parametrize(("state", "outcome"), [("open", "connected"), ("close", "closed")])
def test_an_instance_in_any_state_is_known_to_its_server(
    patient: Job, state: str, outcome: str
) -> None:
    shop = patient.simulator.instance("shop")
    shop.answer_state_with = json_answer({"instance": {"instanceName": "shop", "state": state}})
    try:
        found = findings(patient.connection)["Evolution API knows the instance and its token"]
    finally:
        shop.answer_state_with = None
    assert (found["ok"], found["detail"]) == (True, f"shop: {outcome}")
