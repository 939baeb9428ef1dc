"""The commands of the READMEs, docs/setup.md and docs/operations.md, run in order."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import psycopg
import pytest

from db.order import ROOT
from simulator import Simulator
from tests.deploy.installation import OURS, make, value
from tests.evolution_api import simulator_for
from tools.engines import OLD_PG_CRON, Server, local_version, start_postgres
from tools.job import Job, install

READMES = ("README.md", "README.pt-BR.md", "README.fr.md")
DOCUMENTS = (*READMES, "docs/setup.md", "docs/operations.md")
# sh and sql are run, ini configures the server; the other kinds are only to be read.
KINDS = {"sh", "sql", "ini", "text", "dockerfile", ""}
LINKING = (
    *DOCUMENTS,
    "docs/scaling.md",
    "docs/faq.md",
    "docs/architecture.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "examples/live_page/README.md",
)
URL = "postgresql://postgres:secret@127.0.0.1:5432/postgres"


def blocks(document: str) -> list[tuple[str, str]]:
    """The code blocks of a document in order: (kind, text)."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    return [(kind, dedent(body)) for _, kind, body in found]


def configuration(document: str) -> dict[str, str]:
    """What the document says to write into postgresql.conf."""
    lines = "\n".join(body for kind, body in blocks(document) if kind == "ini")
    if local_version() == OLD_PG_CRON:
        lines = re.sub(
            r"^.*# (?:not on|pas sous|não no) Debian 12.*$", "", lines, flags=re.MULTILINE
        )
    pairs = re.findall(r"^([\w.]+) = '?([^'#\n]*?)'? *(?:#.*)?$", lines, re.MULTILINE)
    return dict(pairs)


def shell_lines(document: str) -> list[str]:
    return [line for kind, body in blocks(document) if kind == "sh" for line in body.splitlines()]


def run_command(line: str, server: Server) -> None:
    """Run a line of a sh block."""
    url = server.dsn()
    if line.startswith("make "):
        _, target, *rest = line.split()
        assert rest in ([], [f"DATABASE_URL={URL}"]), line
        result = make(target, url if rest else None)
        assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
    elif line.startswith("psql "):
        path = line.split("--file ")[1].split()[0]
        arguments = line.replace(f"--file {path}", "--file -").replace(URL, "").split()
        text = (ROOT / "dist" / Path(path).name).read_text(encoding="utf-8")
        code, output = server.run_client(arguments, text)
        assert code == 0, output
    elif line.startswith("sha256sum "):
        make("release")  # what a person downloads here
        subprocess.run(line.split(), cwd=ROOT / "dist", check=True, capture_output=True)
    else:
        # test_apt_could_install_what_the_document_says tries these.
        assert line.startswith("apt install "), f"do not know how to run: {line}"


@pytest.mark.parametrize("document", [*READMES, "docs/setup.md"])
def test_apt_could_install_what_the_document_says(document: str) -> None:
    apt = shutil.which("apt-get")
    majors = sorted(Path("/usr/lib/postgresql").glob("[0-9]*"))
    if apt is None or not majors:
        pytest.skip("this machine has no apt, or no PostgreSQL of Debian's")
    if not any(p.stat().st_size for p in Path("/var/lib/apt/lists").glob("*Packages*")):
        pytest.skip("apt knows no packages here: apt-get update")
    commands = [line for line in shell_lines(document) if line.startswith("apt install ")]
    # A line for each release of Debian, or one for all with N in place of the version.
    newest = majors[-1].name
    commands = [line for line in commands if "-N" in line or f"postgresql-{newest}-cron" in line]
    assert commands
    for command in commands:
        packages = command.partition("  #")[0].removeprefix("apt install ")
        packages = packages.replace("-N", f"-{newest}")
        result = subprocess.run(
            [apt, "install", "--simulate", *packages.split()],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr


def test_every_block_is_of_a_known_kind() -> None:
    for document in DOCUMENTS:
        assert {kind for kind, _ in blocks(document)} <= KINDS, document


@pytest.mark.engines
# The translations have the commands of README.md.
@pytest.mark.parametrize("document", ["README.md", "docs/setup.md"])
def test_what_the_document_says_can_be_run_from_top_to_bottom(document: str) -> None:
    with start_postgres(settings=configuration(document)) as fresh:
        ran = 0
        last: list[str] = []
        with simulator_for(fresh) as simulator:
            simulator.add_instance("user_abc123", "the token of this instance")
            for kind, body in blocks(document):
                if kind == "sh":
                    for line in body.splitlines():
                        # These make a PostgreSQL of their own; test_make_demo_runs runs the first.
                        if line.split("  #")[0].strip() in ("make demo", "make test"):
                            continue
                        if line.startswith("make uninstall "):
                            last.append(line)
                            continue
                        run_command(line, fresh)
                        ran += 1
                elif kind == "sql":
                    text = body.replace("https://evolution.example.com", simulator.base_url)
                    if "show_qr('NAME')" in text:
                        give_a_qr(fresh, simulator)
                    with psycopg.connect(fresh.dsn(), autocommit=True) as connection:
                        connection.execute(text.encode())
                    ran += 1
        assert ran >= 5
        with psycopg.connect(fresh.dsn()) as connection:
            row = connection.execute(
                "select (select count(*) from cron.job where jobname = 'refresh-qr-codes'),"
                " (select count(*) from qr_refresh.runs)"
            ).fetchone()
        assert row is not None and row[0] == 1 and row[1] >= 1
        for line in last:
            run_command(line, fresh)
        assert (value(fresh.dsn(), OURS) == 1) is bool(last), "only evolution_instances stays"
        assert bool(last) is (document == "README.md")


@pytest.mark.parametrize("document", READMES[1:])
def test_the_translations_have_the_commands_and_the_chapters_of_the_readme(document: str) -> None:
    def parts(name: str) -> tuple[list[tuple[str, str]], list[str], list[str]]:
        # What follows a # or -- is said in the language of the document.
        code = [(kind, re.sub(r" +(#|--) .*", "", body)) for kind, body in blocks(name)]
        text = (ROOT / name).read_text(encoding="utf-8")
        return (
            code,
            re.findall(r"^(#+) ", text, re.MULTILINE),
            # The one to the other two languages, and the one to the chapter of live mode, differ.
            [link for link in re.findall(r"\]\(([^)]+)\)", text) if not re.match("README|#", link)],
        )

    assert parts(document) == parts("README.md")


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def give_a_qr(server: Server, simulator: Simulator) -> None:
    """Let there be an instance that is called as in the documents."""
    simulator.add_instance("NAME", "a-token")
    with psycopg.connect(server.dsn()) as connection:
        connection.execute(
            "insert into evolution_instances (instance_name, instance_token, instance_status)"
            " values ('NAME', 'a-token', 'connecting')"
        )
        connection.execute("select refresh_qr_codes()")


@pytest.mark.engines
def test_the_queries_of_operations_run(pg_cron: None) -> None:
    with start_postgres(own=True) as fresh:
        with psycopg.connect(fresh.dsn(), autocommit=True) as connection:
            connection.execute("create extension pg_cron")
        install(fresh.dsn())
        queries = [body for kind, body in blocks("docs/operations.md") if kind == "sql"]
        assert len(queries) >= 3
        for query in queries:
            with psycopg.connect(fresh.dsn(), autocommit=True) as connection:
                connection.execute(query.encode())


@pytest.mark.engines
def test_make_demo_runs(server: Server) -> None:
    result = make("demo", server.dsn() if server.engine == "url" else None)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    assert "The server's current code is the same." in result.stdout


@pytest.mark.engines
def test_make_demo_leaves_nothing_on_a_server_that_runs_already(
    server: Server, schema_of: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    databases = "select array_agg(datname order by datname) from pg_database"
    before = value(server.dsn(), databases), schema_of(server.dsn())
    monkeypatch.setenv("PG", "url")
    result = make("demo", server.dsn())
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    assert "The server's current code is the same." in result.stdout
    assert (value(server.dsn(), databases), schema_of(server.dsn())) == before


def test_links_lead_somewhere() -> None:
    for document in LINKING:
        path = ROOT / document
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if target.startswith("https://"):
                continue
            name, _, anchor = target.partition("#")
            linked = path.parent / name if name else path
            assert linked.exists(), f"{document}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.M)
                slugs = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
                assert anchor in slugs, f"{document}: {target}"


def test_the_table_of_settings_has_every_setting_with_its_default(job: Job) -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = text.split("\n## Settings\n")[1].split("\n#")[0]
    documented = re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", section, re.MULTILINE)
    job.set(evolution_api_base_url=None)
    units = {"8 s": "00:00:08", "30 s": "00:00:30", "60 s": "00:01:00", "5 minutes": "00:05:00"}
    for name, default in documented:
        actual = job.value(f"select coalesce({name}::text, 'NULL') from qr_refresh.settings")
        assert (name, actual) == (name, units.get(default, default))
    columns = job.value(
        "select array_agg(column_name::text) from information_schema.columns"
        " where table_schema = 'qr_refresh' and table_name = 'settings'"
    )
    assert {name for name, _ in documented} == set(columns) - {"singleton"}
