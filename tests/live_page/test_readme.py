"""The commands of examples/live_page/README.md."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement

from db.connection import changed
from examples.live_page.server import FOLDER
from tests.live_page.test_server import events, page_process
from tools.engines import ROOT, Server
from tools.job import Job
from tools.page_role import CREATE_ROLE

URL = "postgresql://postgres@127.0.0.1:5432/postgres"


def commands(program: str) -> list[list[str]]:
    """The words of each command that begins with this program."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)).split("\n")
    return [shlex.split(line) for line in lines if line.startswith(f"{program} ")]


def test_apt_could_install_what_it_says() -> None:
    apt = shutil.which("apt-get")
    if apt is None or not any(Path("/var/lib/apt/lists").glob("*Packages*")):
        pytest.skip("this machine has no apt, or apt knows no packages: apt-get update")
    ((*_, first, second),) = commands("apt")
    result = subprocess.run(
        [apt, "install", "--simulate", first, second], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_its_virtual_environment_gets_the_libraries_that_these_tests_use(tmp_path: Path) -> None:
    (make_environment,) = commands("python3")
    (install_libraries,) = commands("~/live-page/bin/pip")
    # Without pip, which would take longer: that there is one is what python3-venv is for.
    made = [*make_environment[1:-1], "--without-pip", str(tmp_path / "live-page")]
    subprocess.run([sys.executable, *made], check=True)
    assert make_environment[-1] == "~/live-page"
    assert install_libraries[1:3] == ["install", "-r"]
    lines = (ROOT / install_libraries[3]).read_text(encoding="utf-8").splitlines()
    needed = [Requirement(line) for line in lines]
    assert {requirement.name for requirement in needed} == {"aiohttp", "psycopg"}
    for requirement in needed:
        assert requirement.specifier.contains(version(requirement.name)), requirement


def test_its_role_and_its_command_give_the_page(job: Job, server: Server, database: str) -> None:
    make_role, give_password = commands("psql")
    assert make_role[-1] == give_password[-1] == URL
    assert ROOT / make_role[make_role.index("-f") + 1] == CREATE_ROLE
    arguments = make_role[:-1]
    arguments[arguments.index("-f") + 1] = "-"
    text = CREATE_ROLE.read_text(encoding="utf-8")
    code, output = server.run_client(arguments, text, dbname=urlsplit(database).path[1:])
    assert code == 0, output
    # What \password asks for on the terminal.
    assert give_password[1:3] == ["-c", r"\password qr_page"]
    job.connection.execute("alter role qr_page password 'secret'")

    (start,) = commands("DATABASE_URL=postgresql://qr_page:secret@127.0.0.1:5432/postgres")
    assert start[1:] == ["~/live-page/bin/python", "-m", "examples.live_page"]
    job.add_row("bakery")
    url = changed(database, user="qr_page", password="secret")
    with page_process(url, "--port", "0") as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            assert found is not None
            event = next(event for event in events(found[0]) if event["cards"])
            assert event["cards"][0]["reason"] == "not_asked"
        finally:
            process.terminate()
