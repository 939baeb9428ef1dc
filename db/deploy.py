"""Installs what this folder holds; `make migrate`, `dist` and `uninstall` run this.

    python -m db.deploy migrate      into the database of the environment variable DATABASE_URL
    python -m db.deploy dist         into one file, dist/qr_refresh.sql, for psql or an SQL editor
    python -m db.deploy uninstall    removes the job from the database of DATABASE_URL

The URL is read from the environment, because everybody on a machine can see the arguments of its
processes. psql would take it, with the password in it, only as an argument; psycopg needs no psql.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from db.connection import DeployError, connect, dbmate_environment, dbmate_url, in_words
from db.dist import write_dist
from db.ending import ctrl_c_in_words
from db.order import (
    APPLICATION_TABLE,
    CHECK_CLIENT,
    CHECK_PYTHON,
    CHECKS,
    FUNCTIONS,
    LOCK,
    MIGRATION_LOCK_TIMEOUT,
    MIGRATIONS,
    MIGRATIONS_TABLE,
    REPEATED,
    ROOT,
    SEARCH_PATH,
    UNINSTALL,
    VIEWS,
    function,
    text_of,
)

LOCK_TIMEOUT = "5min"

PYTHON_ENDED = """\
PL/Python has ended the session: Python does not start inside PostgreSQL.
Most often PYTHONHOME or PYTHONPATH is in the environment of the server and leads elsewhere.
On Debian look into /etc/postgresql/N/main/environment, else into the unit or script that starts the
server; take it out and restart PostgreSQL. The server log has what Python said."""

# The commands that qr_refresh.schedule() gives to pg_cron.
OUR_COMMANDS = "^(select|call) (public[.])?(refresh_qr_codes|qr_refresh[.][a-z_]+)[(]"


def migrate(url: str) -> None:
    """Install everything into this database, or bring it up to date.

    Args:
        url: a postgresql:// URL of a superuser.

    Raises:
        DeployError: nothing of the failed step is left in the database.
    """
    with connect(url, "migrate") as connection:
        refuse_pooler(connection)
        prepare_session(connection)
        with event_triggers_named(connection):
            install(connection)
        print(f"Installed {len(FUNCTIONS)} functions and {len(VIEWS)} views.")
        report_base_url(connection)


def install(connection: psycopg.Connection) -> None:
    """Run every step of the installation in its order.

    Raises:
        DeployError: nothing of the failed step is left in the database.
    """
    # dbmate creates its own table before the first migration can refuse, so that one is tried
    # before it, and so is the last step: a database that cannot take the job is left as it was.
    with connection.transaction(force_rollback=True):
        for path in CHECKS:
            run_file(connection, path)
        run_file(connection, function("check_client"))
        run_file(connection, CHECK_CLIENT)
    with connection.transaction():
        connection.execute(f"set local lock_timeout = '{MIGRATION_LOCK_TIMEOUT}'")
        run_file(connection, APPLICATION_TABLE)
    run_dbmate(connection)
    with connection.transaction():
        for path in REPEATED:
            run_file(connection, path)


def refuse_pooler(connection: psycopg.Connection) -> None:
    """Stop before anything is set that a pooler would keep for its next client.

    Raises:
        DeployError: the session is not that of the server itself.
    """
    row = connection.execute("select pg_backend_pid()").fetchone()
    # A pooler makes up the number that it gives to its clients.
    if row != (connection.info.backend_pid,):
        raise DeployError(
            "DATABASE_URL leads to a pooler, such as PgBouncer, which would keep the settings and"
            " the lock of this deployment for its next client. Nothing was changed. Connect"
            " directly to PostgreSQL: its own host, and its own port, most often 5432."
        )


def prepare_session(connection: psycopg.Connection) -> None:
    """Set what the scripts rely on, and wait for another deployment to end."""
    connection.execute(f"set search_path = {SEARCH_PATH}")
    connection.execute("set client_min_messages = warning")
    # Off, a backslash of a regular expression in quotes would be lost.
    connection.execute("set standard_conforming_strings = on")
    connection.add_notice_handler(
        lambda notice: print(f"{notice.severity}: {in_words(notice, str(notice.message_primary))}")
    )
    connection.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
    row = connection.execute("select pg_try_advisory_lock(%s)", [LOCK]).fetchone()
    if row != (True,):
        print(
            "Another deployment is under way in this database: waiting for it to end.", flush=True
        )
        try:
            connection.execute("select pg_advisory_lock(%s)", [LOCK])
        except psycopg.errors.LockNotAvailable as error:
            raise DeployError(
                f"the other deployment has not ended for {LOCK_TIMEOUT}. It is a session in"
                " pg_stat_activity with application_name refresh-qr-codes or dbmate."
            ) from error


def run_file(connection: psycopg.Connection, path: Path) -> None:
    """Run the statements of one file."""
    text = text_of(path)
    try:
        connection.execute(text.encode())
    except psycopg.Error as error:
        if path == CHECK_PYTHON and connection.closed:
            raise DeployError(PYTHON_ENDED) from error
        diagnosis = error.diag
        place = str(path.relative_to(ROOT))
        if diagnosis.statement_position:
            place += f":{text[: int(diagnosis.statement_position) - 1].count(chr(10)) + 1}"
        message = in_words(diagnosis, f"{place}: {diagnosis.message_primary or error}")
        raise DeployError(message) from error


@contextlib.contextmanager
def event_triggers_named(connection: psycopg.Connection) -> Iterator[None]:
    """Say of an error which event trigger may have raised it; the application's see all DDL."""
    triggers = connection.execute(
        "select evtname, evtfoid::regproc::text from pg_event_trigger"
        " where evtenabled in ('O', 'A')"
    ).fetchall()
    try:
        yield
    except DeployError as error:
        cause = error.__cause__
        message = str(error)
        for name, function_name in triggers:
            said = "may have stopped it"  # dbmate does not say where an error was raised
            if isinstance(cause, psycopg.Error):
                if f" {function_name}(" not in (cause.diag.context or ""):
                    continue
                said = "has stopped it"
            message += (
                f"\nEvent trigger {name}, function {function_name}, {said}."
                " Correct the function, or:"
                f'\n  ALTER EVENT TRIGGER "{name}" DISABLE; and after the installation ENABLE'
            )
        raise DeployError(message) from error


def run_dbmate(connection: psycopg.Connection) -> None:
    """Run the migrations that this database has not had yet."""
    settings = {"search_path": SEARCH_PATH.replace(" ", "")}
    settings |= {"lock_timeout": MIGRATION_LOCK_TIMEOUT, "standard_conforming_strings": "on"}
    environment = dbmate_environment(dbmate_url(connection, settings))
    with TemporaryDirectory() as folder:
        for path in MIGRATIONS:
            (Path(folder) / path.name).write_text(text_of(path), encoding="utf-8")
        command = [str(Path(sys.executable).with_name("dbmate")), "--no-dump-schema"]
        command += ["--migrations-dir", folder]
        command += ["--migrations-table", MIGRATIONS_TABLE, "migrate"]
        result = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    if result.returncode != 0:
        raise DeployError("a migration failed; dbmate's message is above")


def report_base_url(connection: psycopg.Connection) -> None:
    """Say where instance tokens are sent."""
    row = connection.execute(
        "select base_url, source, error from qr_refresh.evolution_api_base_url()"
    ).fetchone()
    assert row is not None
    base_url, source, error = row
    if error:
        print(
            f"WARNING: no usable Evolution API base URL (from: {source}): {error}. Nobody is asked."
            " Set yours:\n"
            "  update qr_refresh.settings set evolution_api_base_url = 'https://evolution.example.com';"
        )
    else:
        print(f"Evolution API base URL in force: {base_url} (from: {source})")


def uninstall(url: str) -> None:
    """Remove everything of the job from this database, and nothing of the application's.

    Args:
        url: a postgresql:// URL of a superuser.

    Raises:
        DeployError: nothing was removed, or only the jobs of pg_cron.
    """
    with connect(url, "uninstall") as connection:
        refuse_pooler(connection)
        prepare_session(connection)
        # Tried first: where something depends on the job, its schedule stays as well.
        with connection.transaction(force_rollback=True):
            run_file(connection, UNINSTALL)
        print(f"Removed {remove_cron_jobs(connection, url)} jobs of pg_cron.")
        connection.execute("set client_min_messages = notice")
        with connection.transaction():
            run_file(connection, UNINSTALL)
        print(
            "Nothing else of the job is in this database now. The table evolution_instances stays,"
            " as do the extensions plpython3u and pg_cron."
        )


def remove_cron_jobs(connection: psycopg.Connection, url: str) -> int:
    """Remove the jobs that run in this database, and their history; pg_cron may live in another."""
    database = connection.info.dbname
    row = connection.execute(
        "select coalesce(current_setting('cron.database_name', true), current_database())"
    ).fetchone()
    assert row is not None
    with connect(url, "uninstall", row[0]) as home:
        home.execute(f"set search_path = {SEARCH_PATH}")
        if home.execute("select to_regclass('cron.job')").fetchone() == (None,):
            return 0
        with home.transaction():
            removed = home.execute(
                "select cron.unschedule(jobid) from cron.job where database = %s"
                " and jobname like 'refresh-qr-codes%%' and command ~* %s",
                [database, OUR_COMMANDS],
            ).rowcount
            home.execute(
                "delete from cron.job_run_details where database = %s and command ~* %s",
                [database, OUR_COMMANDS],
            )
    return removed


def main() -> None:
    """Run the command that is named on the command line."""
    url = os.environ.get("DATABASE_URL", "")
    commands: dict[str, Callable[[], None]] = {
        "migrate": lambda: migrate(url),
        "dist": write_dist,
        "uninstall": lambda: uninstall(url),
    }
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        raise SystemExit(f"usage: python -m db.deploy {'|'.join(commands)}")
    try:
        with ctrl_c_in_words("Ended by Ctrl-C: run it again to complete it."):
            commands[sys.argv[1]]()
    except DeployError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
