"""Every error of ours says what happened, why and what to do, and docs/operations.md has it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from db import order
from db.functions.http import evolution_client
from db.order import CHECK_PYTHON, CHECK_TABLE, CLAIM_SCHEMA, FUNCTIONS, MIGRATIONS, ROOT, text_of
from tools.derive_python_bodies import derive
from tools.job import Job

# Those of release 1.0.0 are frozen; what they raise has PostgreSQL's own SQLSTATEs.
LAST_FROZEN = "20261124000600"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


# A semicolon inside a string does not end the statement.
RAISE = re.compile(r"\braise\s+exception\b((?:'(?:[^']|'')*'|[^';])*);", re.IGNORECASE)


class Error(NamedTuple):
    """A place in the source that raises: its parts, None where one is not given."""

    place: str
    message: str | None
    detail: str | None
    hint: str | None
    sqlstate: str | None


def string(node: ast.expr | None) -> str | None:
    """The constant text of an expression, {} for what is computed."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(string(part) or "{}" for part in node.values)
    return None


def python_errors(path: Path, body: str) -> Iterator[Error]:
    for node in ast.walk(ast.parse(body)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("error", "fatal")
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "plpy"
        ):
            given = {keyword.arg: string(keyword.value) for keyword in node.keywords}
            message = string(node.args[0])
            yield Error(
                f"{path.name}:{node.lineno}",
                message,
                *(given.get(name) for name in ("detail", "hint", "sqlstate")),
            )


def plpgsql_errors(path: Path, text: str) -> Iterator[Error]:
    # Comments may speak of raising, too.
    code = re.sub(r"--.*", lambda comment: " " * len(comment[0]), text)
    for found in RAISE.finditer(code):
        line = code[: found.start()].count("\n") + 1
        place = f"{path.name}:{line}"
        if not found[1].lstrip().lower().startswith("using"):
            yield Error(place, found[1], None, None, None)
            continue
        parts = dict(
            re.findall(
                r"\b(errcode|message|detail|hint)\s*=\s*(?:format\(\s*)?('(?:[^']|'')*'|\w+)",
                found[1],
            )
        )
        values = {name: value.strip("'").replace("''", "'") for name, value in parts.items()}
        yield Error(place, *(values.get(name) for name in ("message", "detail", "hint", "errcode")))


def errors_of(path: Path) -> list[Error]:
    # Of a migration only what is still run.
    text = text_of(path) if path in MIGRATIONS else path.read_text(encoding="utf-8")
    body = derive(text) if path in FUNCTIONS else None
    found = list(plpgsql_errors(path, text) if body is None else python_errors(path, body))
    for block in re.findall(r"^do language plpython3u \$\$\n(.*?)^\$\$;", text, re.DOTALL | re.M):
        found += python_errors(path, block)
    return found


SOURCES = (CHECK_PYTHON, CLAIM_SCHEMA, CHECK_TABLE, *MIGRATIONS, *FUNCTIONS)
ERRORS = [error for path in SOURCES for error in errors_of(path)]
NEW_ERRORS = [e for e in ERRORS if not e.place[:14].isdigit() or e.place[:14] > LAST_FROZEN]


def test_the_errors_are_found() -> None:
    assert {e.sqlstate for e in NEW_ERRORS} == {f"QR{n:03}" for n in range(1, 19)}
    assert {e.sqlstate for e in ERRORS} >= {"insufficient_privilege", "0A000"}


@pytest.mark.parametrize("error", NEW_ERRORS, ids=lambda e: e.place)
def test_an_error_has_a_message_a_detail_a_hint_and_a_sqlstate_of_its_own(error: Error) -> None:
    assert error.message and error.detail and error.hint
    assert re.fullmatch(r"QR\d{3}", error.sqlstate or "")


def test_one_message_has_one_sqlstate() -> None:
    meanings = {(e.sqlstate, e.message) for e in NEW_ERRORS}
    assert len({message for _, message in meanings}) == len(meanings)


# --- the documentation ----------------------------------------------------------------------------


def table(title: str) -> dict[str, list[str]]:
    """The rows of the table in a section of docs/operations.md, by their first cell."""
    section = OPERATIONS.split(f"\n### {title}\n")[1].split("\n#")[0]
    rows = [
        re.split(r"\s*\|\s*", line.strip("| ")) for line in re.findall(r"^\|.*\|$", section, re.M)
    ]
    assert len({len(row) for row in rows}) == 1, "a row has another number of cells"
    for row in rows[2:]:
        assert all(row[1:]), f"{title}: {row[0]} has no cause or no fix"
    return {row[0].replace("`", ""): row[1:] for row in rows[2:]}


def as_documented(message: str) -> str:
    """A message as the documentation writes it: ... for what is filled in."""
    return re.sub(r"%[sLI]|\{\}", "...", message)


def test_every_sql_error_is_documented_and_no_other() -> None:
    named = {"insufficient_privilege": "42501", "feature_not_supported": "0A000"}
    raised = {
        f"{named.get(e.sqlstate or '', e.sqlstate)} {as_documented(e.message or '')}"
        for e in ERRORS
    }
    assert set(table("SQL errors")) == raised


def texts(name: str) -> set[str]:
    """What a PL/Python body may say to a reader."""
    body = derive(order.function(name).read_text(encoding="utf-8"))
    assert body is not None
    return texts_of_python(body)


def texts_of_python(body: str) -> set[str]:
    """What may be said to a reader: the constants that are sentences."""
    tree = ast.parse(body)
    skipped: set[int] = set()
    for node in ast.walk(tree):
        # Docstrings, queries and lines of the log are said to others.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped |= {id(node.value)}
        if isinstance(node, ast.Call):
            function = node.func
            called = function.attr if isinstance(function, ast.Attribute) else ""
            called = function.id if isinstance(function, ast.Name) else called
            if called in ("log", "execute", "prepare", "run", "error"):
                skipped |= {id(part) for part in ast.walk(node)}
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
    constants = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in skipped]
    return {
        n.value
        for n in constants
        if isinstance(n.value, str) and re.fullmatch(r"[A-Za-z][\w()]*( [\w():,()'-]+)+", n.value)
    }


def sentences(name: str) -> set[str]:
    """The constants of a body in SQL or PL/pgSQL that are sentences, without those it raises."""
    text = order.function(name).read_text(encoding="utf-8")
    body = RAISE.sub("", re.sub(r"--.*", "", text.split("$$")[1]))
    return {t for t in re.findall(r"'([^']*)'", body) if re.search(r"[a-z] ", t)}


def test_every_error_of_a_report_is_documented(job: Job) -> None:
    said = texts("evolution_api_base_url") | sentences("begin_run") | sentences("end_run")
    # Only in the log.
    said -= {"Refresh cycle complete: %s success, %s failures"}
    assert said <= set(table("Errors of a whole run"))
    outcomes = job.value(
        "select array_agg(distinct error) from qr_refresh.outcomes where error <> ''"
    )
    documented = set(table("Errors of an instance"))
    assert {error.replace("%1$s: %2$s", "NAME: ...") for error in outcomes} == documented


def test_every_reason_of_a_failure_is_documented_and_no_other() -> None:
    client = Path(evolution_client.__file__).read_text(encoding="utf-8")
    reasons = texts_of_python(client)
    assert reasons >= {*evolution_client.REASONS.values()}
    reasons |= texts("ask") | sentences("instance_problem") | sentences("attempts_for")
    reasons -= {"Request timeout"}  # an error of its own
    documented = set(table("Reasons after `Failed to fetch QR for NAME:`"))
    assert {row for row in documented if not row[0].isdigit()} == reasons


def test_every_check_of_the_settings_is_documented() -> None:
    checks = set()
    for path in MIGRATIONS:
        text = path.read_text(encoding="utf-8")
        for table_name, statement in re.findall(
            r"(?:create table if not exists|alter table) qr_refresh\.(settings|evolution_servers)\b"
            r"(.*?;)",
            text,
            re.DOTALL,
        ):
            of_table = "" if table_name == "settings" else f" of {table_name}"
            names = re.findall(r"(?:^|add )\s*constraint (\w+) check", statement, re.M)
            checks |= {name + of_table for name in names}
    assert len(checks) >= 10
    assert set(table("Values that the settings refuse")) == checks


def test_every_alert_is_documented() -> None:
    source = order.function("active_alerts").read_text(encoding="utf-8")
    source += (order.DB / "views" / "alerts.sql").read_text(encoding="utf-8")
    kinds = set(re.findall(r"(?:select|select\n\s+)\s*'(\w+)'(?: as alert)?,", source))
    assert len(kinds) == 8
    assert set(table("Alerts")) == kinds


def test_every_check_of_the_doctor_is_documented() -> None:
    source = "".join(
        path.read_text(encoding="utf-8") for path in FUNCTIONS if path.name.startswith("doctor_")
    )
    named = set(re.findall(r"return query\s+select\s+'((?:[^']|'')+)'", source))
    for check in table("Checks of `doctor()`"):
        text = check.replace("...", "").replace("'", "''").split(" SERVER ")[0]
        assert text.strip() in source, check
    names = {name.replace("''", "'").strip() for name in named}
    assert len(names) > 20
    assert {
        n for n in names if not any(d.startswith(n) for d in table("Checks of `doctor()`"))
    } == set()
