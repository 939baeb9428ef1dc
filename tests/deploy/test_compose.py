"""compose.yaml as a person starts it: with `docker compose up`."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests

from db.connection import changed, database_name
from simulator import Simulator
from tools.engines import ROOT, Server, free_port, wanted_release
from tools.job import Connection, read_qr, value_of, wait_until

TOOL_IMAGE = "refresh-qr-codes-compose"
SOCKET = Path("/var/run/docker.sock")
# Debian 12 has only the first generation of docker-compose; the second is taken from Debian 13.
TOOL = b"""\
FROM debian:trixie-slim
RUN apt-get update && apt-get install --yes --no-install-recommends docker-cli docker-compose \
    && rm -rf /var/lib/apt/lists/*
"""


pytestmark = pytest.mark.engines


def is_compose_installed() -> bool:
    result = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return result.returncode == 0


@pytest.fixture(scope="module")
def command(server: Server) -> list[str]:
    """How `docker compose` is run on this machine."""
    if server.engine != "docker":
        pytest.skip("starts containers: PG=docker runs it")
    if not wanted_release().is_default:
        pytest.skip(
            "compose.yaml has one version of PostgreSQL: PG=docker without PG_VERSION runs it"
        )
    if shutil.which("docker") is None:
        pytest.skip("needs Docker's command line: the package docker.io or docker-cli")
    if is_compose_installed():
        return ["docker", "compose"]
    if "DOCKER_HOST" in os.environ or not SOCKET.exists():
        pytest.skip("needs `docker compose`, or a Docker engine of this machine to run it in")
    subprocess.run(
        ["docker", "build", "--quiet", "--tag", TOOL_IMAGE, "-"],
        input=TOOL,
        check=True,
        capture_output=True,
        # The builder of the tests' engine, whose steps are then not run again.
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
    )
    names = ["COMPOSE_PROJECT_NAME", "POSTGRES_PASSWORD", "POSTGRES_PORT", "LIVE_PAGE_PORT"]
    names += ["LIVE_PAGE_TOKEN", "EVOLUTION_API_BASE_URL", "APPLICATION_DATABASE_URL"]
    names += ["EVOLUTION_TABLE", "EVOLUTION_COLUMNS", "EVOLUTION_CONNECTING"]
    return [
        *("docker", "run", "--rm", "--volume", f"{SOCKET}:{SOCKET}"),
        *("--volume", f"{ROOT}:{ROOT}:ro", "--workdir", str(ROOT), "--env", "DOCKER_BUILDKIT=0"),
        # Values are taken from the environment: everybody can see the arguments of a process.
        *(part for name in names for part in ("--env", name)),
        *(TOOL_IMAGE, "docker", "compose"),
    ]


class Project:
    """One start of compose.yaml, beside others."""

    def __init__(self, command: list[str], variables: dict[str, str]) -> None:
        self.command = command
        self.variables = variables

    @property
    def environment(self) -> dict[str, str]:
        ours = ("POSTGRES_", "LIVE_PAGE_", "EVOLUTION_", "COMPOSE_", "APPLICATION_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        return {**kept, **self.variables}

    def try_compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )

    def compose(self, *arguments: str) -> str:
        result = self.try_compose(*arguments)
        output = result.stdout + result.stderr
        assert result.returncode == 0, output[-3000:]
        return output

    def up(self, *options: str) -> None:
        result = self.try_compose(*options, "up", "--build", "--detach", "--wait")
        if result.returncode != 0:
            pytest.fail(result.stderr[-1500:] + self.compose(*options, "logs")[-3000:])

    def containers(self) -> dict[str, dict[str, Any]]:
        """What Docker knows of each service's container."""
        label = f"label=com.docker.compose.project={self.variables['COMPOSE_PROJECT_NAME']}"
        listed = subprocess.run(
            ["docker", "ps", "--all", "--quiet", "--filter", label],
            capture_output=True,
            text=True,
            check=True,
        )
        inspected = subprocess.run(
            ["docker", "inspect", *listed.stdout.split()],
            capture_output=True,
            text=True,
            check=True,
        )
        return {
            container["Config"]["Labels"]["com.docker.compose.service"]: container
            for container in json.loads(inspected.stdout)
        }

    @contextlib.contextmanager
    def connect(self) -> Iterator[Connection]:
        url = f"postgresql://postgres@127.0.0.1:{self.variables['POSTGRES_PORT']}/postgres"
        password = self.variables["POSTGRES_PASSWORD"]
        with psycopg.connect(url, password=password, autocommit=True) as connection:
            yield connection

    def answers(self) -> bool:
        """Tell whether the server takes connections."""
        try:
            with self.connect():
                return True
        except psycopg.OperationalError:
            return False

    def next_health_check(self) -> int:
        """Wait for a health check of the server that begins from now on; return its exit status."""
        now = datetime.now(UTC)

        def finished() -> list[int]:
            checks = self.containers()["postgres"]["State"]["Health"]["Log"]
            return [
                check["ExitCode"]
                for check in checks
                if datetime.fromisoformat(check["Start"]) > now
            ]

        wait_until(finished, "the health check has run", timeout=60)
        return finished()[0]


@pytest.fixture
def project(command: list[str]) -> Iterator[Project]:
    """A project of this test's own, whose containers and volumes are gone afterwards."""
    project = Project(
        command,
        {
            "COMPOSE_PROJECT_NAME": f"refresh-qr-codes-test-{secrets.token_hex(4)}",
            "POSTGRES_PASSWORD": secrets.token_urlsafe(16),
            "POSTGRES_PORT": str(free_port()),
            "LIVE_PAGE_PORT": str(free_port()),
        },
    )
    # It also ends when this process is killed: that closes the standard input of the shell.
    down = [*command, "--profile", "demo", "down", "--volumes", "--timeout", "5"]
    with subprocess.Popen(
        ["sh", "-c", 'cat > /dev/null; exec "$@"', "sh", *down],
        cwd=ROOT,
        env=project.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ):
        yield project


def test_one_command_gives_a_server_with_the_job_scheduled_that_outlives_a_restart(
    project: Project,
) -> None:
    project.variables["EVOLUTION_API_BASE_URL"] = "http://127.0.0.1:1"
    project.up()
    with project.connect() as connection:
        jobs = connection.execute("select jobname, active from cron.job order by 1").fetchall()
        assert jobs == [
            ("refresh-qr-codes", True),
            ("refresh-qr-codes-prune", True),
        ]
        url = connection.execute(
            "select base_url, source from qr_refresh.evolution_api_base_url()"
        ).fetchall()
        assert url == [("http://127.0.0.1:1", "environment")]
        query = "select count(*) from cron.job_run_details where status = 'running'"
        wait_until(lambda: value_of(connection, query) == 1, "pg_cron runs the job", timeout=90)
        connection.execute(
            "insert into evolution_instances (instance_name, qr_code) values ('shop', 'a code')"
        )
        # What an operator has chosen, and what an older release lacks.
        connection.execute("select qr_refresh.schedule('7 7 * * *')")
        connection.execute("drop function qr_refresh.unschedule()")
    before = project.containers()["postgres"]
    assert before["Config"]["User"] == "postgres"
    assert before["State"]["Health"]["Status"] == "healthy"

    project.compose("down")
    project.up()
    assert project.containers()["postgres"]["Id"] != before["Id"]
    with project.connect() as connection:
        assert value_of(connection, "select qr_code from evolution_instances") == "a code"
        schedule = "select schedule from cron.job where jobname = 'refresh-qr-codes'"
        assert value_of(connection, schedule) == "7 7 * * *"
        assert value_of(connection, "select to_regprocedure('qr_refresh.unschedule()') is not null")


def test_the_demo_shows_codes_of_the_simulator_to_who_has_the_token(project: Project) -> None:
    project.variables["LIVE_PAGE_TOKEN"] = token = secrets.token_urlsafe(16)
    project.up("--profile", "demo")
    page = f"http://127.0.0.1:{project.variables['LIVE_PAGE_PORT']}/"
    assert requests.get(page, timeout=10).status_code == 401
    codes: dict[str, str] = {}
    with requests.Session() as session:
        assert session.get(page, params={"token": token}, timeout=10).status_code == 200
        with session.get(f"{page}events", stream=True, timeout=90) as response:
            for line in response.iter_lines(decode_unicode=True):
                for card in json.loads(line.removeprefix("data: "))["cards"] if line else []:
                    if card["picture"]:
                        codes[card["name"]] = read_qr(card["picture"])
                if len(codes) == 6:
                    break
    assert set(codes) == {f"instance-{number}" for number in range(1, 7)}
    # The demo has scheduled it: no URL was set when the server started.
    with project.connect() as connection:
        assert value_of(connection, "select count(*) from cron.job where active") == 2
    assert all(code.startswith("2@") for code in codes.values())

    containers = project.containers()
    assert set(containers) == {"postgres", "simulator", "demo-data", "page"}
    assert {container["Config"]["User"] for container in containers.values()} <= {
        "postgres",
        "demo",
    }
    password = project.variables["POSTGRES_PASSWORD"]
    logs = project.compose("--profile", "demo", "logs")
    assert password not in logs
    assert token not in logs
    assert password not in json.dumps(containers["page"]["Config"])
    # Only this machine reaches what is published.
    ports = [port for c in containers.values() for port in c["NetworkSettings"]["Ports"].values()]
    published = [each["HostIp"] for port in ports for each in port or []]
    assert published == ["127.0.0.1"] * 2


def test_without_a_url_nothing_is_scheduled_and_it_says_what_to_set(project: Project) -> None:
    project.up()
    with project.connect() as connection:
        assert value_of(connection, "select to_regclass('cron.job')") is None
    assert "EVOLUTION_API_BASE_URL is not set" in project.compose("logs", "postgres")

    project.variables["EVOLUTION_API_BASE_URL"] = "http://127.0.0.1:1"
    project.up()
    with project.connect() as connection:
        assert value_of(connection, "select count(*) from cron.job where active") == 2


def test_where_the_job_cannot_be_installed_the_server_runs_and_is_not_healthy(
    project: Project,
) -> None:
    project.up()
    with project.connect() as connection:
        connection.execute("alter table evolution_instances rename instance_name to name")
    project.compose("restart", "--timeout", "30", "postgres")

    wait_until(project.answers, "the server runs", timeout=60)
    assert project.next_health_check() != 0
    logs = project.compose("logs", "postgres")
    assert "public.evolution_instances has no column instance_name" in logs
    assert "ERROR: the job refresh-qr-codes is not installed, or not upgraded" in logs

    with project.connect() as connection:
        connection.execute("alter table evolution_instances rename name to instance_name")
    project.compose("restart", "--timeout", "30", "postgres")
    wait_until(project.answers, "the server runs", timeout=60)
    assert project.next_health_check() == 0


def test_without_a_password_it_says_which_variable_to_set(project: Project) -> None:
    del project.variables["POSTGRES_PASSWORD"]
    result = project.try_compose("up", "--detach")
    assert result.returncode != 0
    assert "set POSTGRES_PASSWORD to the password of the superuser postgres" in result.stderr


def test_options_of_the_operators_leave_the_job_scheduled(project: Project) -> None:
    project.variables["EVOLUTION_API_BASE_URL"] = "http://127.0.0.1:1"
    project.up()
    run = ["docker", "run", "--detach", "--rm"]
    run += ["--env", "POSTGRES_PASSWORD", "--env", "EVOLUTION_API_BASE_URL"]
    started = subprocess.run(
        # As docker-entrypoint.sh says.
        [*run, "refresh-qr-codes", "-c", "max_connections=50"],
        env=project.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    container = started.stdout.strip()
    query = "select current_setting('max_connections'), count(*) from cron.job where active"
    ask = ["docker", "exec", container, "psql", "-XAt", "--host=127.0.0.1", "-c", query]
    ask[2:2] = ["--env", "PGPASSWORD", "--env", "PGUSER=postgres"]
    environment = {**project.environment, "PGPASSWORD": project.variables["POSTGRES_PASSWORD"]}

    def answer() -> str:
        return subprocess.run(
            ask, env=environment, capture_output=True, text=True, check=False
        ).stdout

    try:
        wait_until(answer, "the server has the job", timeout=60)
        assert answer() == "50|2\n"
    finally:
        subprocess.run(["docker", "kill", container], capture_output=True, check=True)


# --- beside a managed database --------------------------------------------------------------------


def docker(*arguments: str, environment: dict[str, str] | None = None) -> str:
    result = subprocess.run(
        ["docker", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout.strip()


def health(container: str) -> tuple[str, str]:
    """What Docker says of it, and the last words of its health check."""
    state = json.loads(docker("inspect", "--format", "{{json .State.Health}}", container))
    return state["Status"], (state["Log"] or [{"Output": ""}])[-1]["Output"]


def test_beside_a_managed_database_it_waits_for_what_is_lacking_and_then_runs(
    project: Project,
    server: Server,
    create_database: Callable[[str], str],
    simulator: Simulator,
) -> None:
    project.compose("build", "postgres")
    url = create_database("template template0")
    role, password = f"app_of_{database_name(url)}", secrets.token_urlsafe(16)
    simulator.add_instance("shop", "token-of-shop")
    with contextlib.ExitStack() as stack:
        owner = stack.enter_context(psycopg.connect(url, autocommit=True))
        owner.execute(
            f"create role {role} login password '{password}';"
            "create table wa_accounts (name text, api_key text, status text, qr text);"
            "insert into wa_accounts values ('shop', 'token-of-shop', 'pending');"
            f"grant select (name, api_key, status, qr) on wa_accounts to {role}".encode()
        )
        stack.callback(owner.execute, f"drop owned by {role}; drop role {role}".encode())
        variables = {
            "POSTGRES_PASSWORD": project.variables["POSTGRES_PASSWORD"],
            # Both containers are in Docker's own network.
            "APPLICATION_DATABASE_URL": changed(
                url,
                host=value_of(owner, "select host(inet_server_addr())"),
                port="5432",
                user=role,
                password=password,
            ),
            "EVOLUTION_API_BASE_URL": simulator.base_url,
            "EVOLUTION_TABLE": "public.wa_accounts",
            "EVOLUTION_COLUMNS": "last_qr_update=qr_at",
            "EVOLUTION_CONNECTING": "qr,pending",
        }
        names = [part for name in variables for part in ("--env", name)]
        container = docker(
            *("run", "--detach", *names, "refresh-qr-codes"),
            environment={**project.environment, **variables},
        ).splitlines()[-1]
        stack.callback(docker, "rm", "--force", "--volumes", container)

        alter = 'ALTER TABLE "public"."wa_accounts" ADD COLUMN "qr_at" timestamptz;'
        wait_until(lambda: alter in health(container)[1], "it says what is lacking", timeout=90)
        said = [line.strip() for line in health(container)[1].splitlines() if line.endswith(";")]
        assert len(said) == 3 and "Waiting for it." in docker("logs", container)
        owner.execute("".join(said).encode())
        wait_until(lambda: health(container)[0] == "healthy", "it is healthy", timeout=120)
        wait_until(
            lambda: value_of(owner, "select qr from wa_accounts") is not None,
            "pg_cron has started live mode",
            timeout=120,
        )
        assert read_qr(value_of(owner, "select qr from wa_accounts")).startswith("2@")
        assert value_of(owner, "select status from wa_accounts") == "pending"

        # Whoever gets into the server finds the password nowhere but in the user mapping.
        for command in ("cat /proc/1/environ", "ps -ef || true", "cat /tmp/* || true"):
            assert password not in docker("exec", container, "sh", "-c", command)
        assert password not in docker("logs", container)
