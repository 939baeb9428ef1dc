"""`make doctor`: what it prints and how it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import psycopg
import pytest

from tests.deploy.installation import RELEASES as RELEASE_FILES
from tests.deploy.installation import make, run_sql_file
from tests.terminal import open_terminal
from tools.job import Job


@pytest.fixture
def healthy(job: Job) -> Job:
    job.add("shop")
    job.run()
    return job


def test_all_is_well_gives_status_0_and_a_line_for_each_check(healthy: Job, database: str) -> None:
    result = make("doctor", database)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "\nok     Evolution API answers" in result.stdout
    assert " checks, 0 wrong\n" in result.stdout
    assert "WRONG" not in result.stdout and "\x1b" not in result.stdout


def test_what_is_wrong_gives_status_1_and_says_how_to_put_it_right(
    healthy: Job, database: str
) -> None:
    healthy.connection.execute("update evolution_instances set instance_token = null")
    result = make("doctor", database)
    assert result.returncode != 0
    assert "WRONG  tokens of connecting instances  " in result.stdout
    assert "shop: instance token is missing\n" in result.stdout
    assert "UPDATE evolution_instances SET instance_token" in result.stdout
    direct = subprocess.run(
        [sys.executable, "-m", "db.doctor"],
        env={**os.environ, "DATABASE_URL": database},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    assert direct.returncode == 1


def on_a_terminal(database: str, **environment: str) -> str:
    ours, theirs = open_terminal()
    with subprocess.Popen(
        [sys.executable, "-m", "db.doctor"],
        env={**os.environ, "DATABASE_URL": database, **environment},
        stdout=theirs,
    ) as process:
        os.close(theirs)
        output = b""
        try:
            while part := os.read(ours, 65536):
                output += part
        except OSError:  # how Linux says that the other end is closed
            pass
        os.close(ours)
    assert process.returncode == 0
    return output.decode()


def test_colours_are_only_for_a_terminal(healthy: Job, database: str) -> None:
    assert "\x1b[32mok   \x1b[0m" in on_a_terminal(database)
    assert "\x1b" not in on_a_terminal(database, NO_COLOR="1")


def test_a_name_cannot_command_the_terminal(healthy: Job, database: str) -> None:
    healthy.add_row("\x1b[2Jevil", token=None)
    assert "\x1b" not in make("doctor", database).stdout


def test_the_hint_of_a_trigger_cannot_command_the_terminal(healthy: Job, database: str) -> None:
    healthy.connection.execute(
        "create function of_app() returns trigger language plpgsql as $$ begin"
        " raise exception using errcode = '23514', message = 'no', hint = e'\\x1b[2Jevil'; end $$;"
        "create trigger of_app before update on evolution_instances"
        " for each row execute function of_app()"
    )
    healthy.run()
    output = make("doctor", database).stdout
    assert "?[2Jevil" in output and "\x1b" not in output


@pytest.mark.parametrize("release", sorted(path.stem for path in RELEASE_FILES.glob("*.sql")))
def test_an_earlier_release_is_named(empty_database: str, release: str) -> None:
    run_sql_file(empty_database, RELEASE_FILES / f"{release}.sql")
    result = make("doctor", empty_database)
    told = rf"^(look   release +|error: the release in this database is ){release}; this folder is"
    assert re.search(told, result.stdout + result.stderr, re.MULTILINE), result


def test_without_the_job_the_message_says_to_install_it(empty_database: str) -> None:
    result = make("doctor", empty_database)
    assert result.returncode != 0
    assert "make migrate DATABASE_URL=" in result.stderr


def test_without_a_url_the_message_shows_one() -> None:
    assert "make doctor DATABASE_URL=postgresql://" in make("doctor", None).stderr


def test_without_superuser_the_message_says_so(healthy: Job, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("create role a_monitor login password 'x' in role pg_monitor")
    try:
        user = healthy.connection.info.user
        url = database.replace(f"//{user}:{healthy.connection.info.password}", "//a_monitor:x")
        result = make("doctor", url)
        assert "doctor() needs a superuser" in result.stderr
    finally:
        healthy.connection.execute("drop role a_monitor")
