"""Throw-away PostgreSQL servers for the tests, the demo and the benchmark.

`start_postgres()` gives a running server and takes it away again. There are three engines:

- ``docker``: a container of the image that ./Dockerfile describes,
- ``local``: a cluster of Debian's own PostgreSQL packages, made by pg_virtualenv,
- ``url``: a server that already runs, named by DATABASE_URL. It is only used, never changed.

The environment variable PG forces one of them. Without it the first one that works is taken, in
this order. PG_VERSION chooses the major version of PostgreSQL. A server of the first two engines
ends with this process, however this process ends: a child process that holds the server notices
when its standard input is closed, which also a SIGKILL does.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict

from db.connection import DeployError, connect, url_of
from db.ending import ctrl_c_in_words

if TYPE_CHECKING:
    from docker.models.containers import Container
    from testcontainers.core.docker_client import DockerClient

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "refresh-qr-codes-postgres"
VERSIONS_FILE = ROOT / "tools" / "postgres_versions"
ENGINES = ("docker", "local", "url")

# A server that is not ready, or not gone, after this many seconds has failed.
START_DEADLINE = 60.0
STOP_DEADLINE = 30.0

# A busy machine takes longer to remove the files of some hundred databases.
REMOVE_DEADLINE = 180.0

# Seconds after which what a container has written is in its log.
LOG_DEADLINE = 3.0

# Another program can take a free port between our look and the server's start.
START_ATTEMPTS = 3

SETTINGS: Mapping[str, str] = {
    "shared_preload_libraries": "pg_cron",
    "cron.database_name": "postgres",
    # pg_cron's default is a connection to localhost, which would need a password file.
    "cron.use_background_workers": "on",
    # Its default with background workers.
    "cron.max_running_jobs": "5",
    "max_worker_processes": "16",
    "max_connections": "100",
    # Nothing in a throw-away cluster has to survive a power cut.
    "fsync": "off",
    "full_page_writes": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_timezone": "UTC",
}

# The version of PostgreSQL whose pg_cron, 1.4, begins no job while another one is at work in a
# background worker. Through the socket Debian lets the server's own user in without a password.
OLD_PG_CRON = "15"
AS_A_CLIENT = {"cron.use_background_workers": "off", "cron.host": "/var/run/postgresql"}

# Debian's packages live here, one folder for each major version.
POSTGRES_BIN = Path("/usr/lib/postgresql")
POSTGRES_SHARE = Path("/usr/share/postgresql")
PG_VIRTUALENV = Path("/usr/bin/pg_virtualenv")
SYSTEM_REQUESTS = Path("/usr/lib/python3/dist-packages/requests")


class EngineError(RuntimeError):
    """No server can be had, or an engine cannot do what was asked; the message says what to do."""


class Release(NamedTuple):
    """A version of PostgreSQL for which there is an image, and what that is built from."""

    version: str
    base_image: str
    is_default: bool

    @property
    def image(self) -> str:
        """The name of the image, of its own for each version."""
        return f"{IMAGE}:{self.version}"


def known_releases() -> list[Release]:
    """Return the versions of tools/postgres_versions, the oldest first."""
    lines = [line.split() for line in VERSIONS_FILE.read_text().splitlines()]
    return [
        Release(version, f"debian:{debian}-slim", mark == ["default"])
        for version, debian, *mark in (line for line in lines if line and line[0] != "#")
    ]


def wanted_version() -> str | None:
    """Return the major version that PG_VERSION asks for, such as ``18``; None without one.

    Raises:
        EngineError: it is no major version.
    """
    wanted = os.environ.get("PG_VERSION", "")
    if wanted and not re.fullmatch("[1-9][0-9]*", wanted):
        raise EngineError(
            f"PG_VERSION={wanted} is no major version of PostgreSQL: set it to one of"
            f" {_known_versions()}, or leave it out"
        )
    return wanted or None


def wanted_release() -> Release:
    """Return the release of PG_VERSION, else the default.

    Raises:
        EngineError: there is no image for this version; the message has those that there are.
    """
    wanted = wanted_version()
    for release in known_releases():
        if release.version == wanted or (wanted is None and release.is_default):
            return release
    raise EngineError(
        f"there is no image for PG_VERSION={wanted}: set it to one of {_known_versions()}"
    )


def _known_versions() -> str:
    return ", ".join(release.version for release in known_releases())


def major_version(version: str) -> int:
    """Return 19 for ``19rc1``, and 18 for ``18.1 (Debian 18.1-2)``."""
    found = re.match("[0-9]+", version)
    if found is None:
        raise ValueError(f"no version of PostgreSQL: {version!r}")
    return int(found[0])


class BorrowedServerError(EngineError):
    """Not to be done to a server that runs already; the message says which engine does it."""


class CommandResult(NamedTuple):
    """What a command inside the server's container did; `output` is stdout and stderr together."""

    returncode: int
    output: str


class Server(ABC):
    """A running PostgreSQL server.

    Attributes:
        engine: ``docker``, ``local`` or ``url``.
        host: where this process reaches the server.
        port: TCP port of the server on `host`; the same one after a restart.
        user: name of a role, a superuser unless the engine is ``url``.
        password: its password.
        listen_host: the address at which a service of this process must listen so that the
            server reaches it.
        reachable_host: the host name or address under which the server then reaches it.
        version: such as ``17.6`` or ``19rc1``.
    """

    engine: str
    host: str
    port: int
    user: str
    password: str
    listen_host: str
    reachable_host: str
    version: str = ""

    @property
    def major(self) -> int:
        """The major version, such as 17."""
        return major_version(self.version)

    def dsn(self, dbname: str = "postgres") -> str:
        """Return the postgresql:// URL of a database on this server."""
        return url_of({**self._parts(), "dbname": dbname})

    def as_reached(self, url: str) -> str:
        """Return the URL of a service on `listen_host` as this server has to call it."""
        return url.replace(self.listen_host, self.reachable_host)

    @abstractmethod
    def log_text(self) -> str:
        """Return the server's whole log so far."""

    @abstractmethod
    def stop(self, mode: str = "fast") -> None:
        """Stop the server and wait until it has ended.

        Args:
            mode: ``smart``, ``fast`` or ``immediate``, as in pg_ctl.
        """

    @abstractmethod
    def start(self) -> None:
        """Start the server after `stop` and wait until it accepts connections."""

    def restart(self) -> None:
        """Stop the server (fast) and start it again."""
        self.stop()
        self.start()

    def run_as_root(self, argv: Sequence[str]) -> CommandResult:
        """Run a command as root where the server runs; only a container can be changed like this.

        Raises:
            EngineError: the engine is not docker.
        """
        raise EngineError(
            f"run_as_root needs the engine docker, this one is {self.engine}: use PG=docker"
        )

    def run_client(
        self, argv: Sequence[str], stdin: str = "", dbname: str = "postgres"
    ) -> CommandResult:
        """Run psql, pg_dump or another client program of PostgreSQL, of the server's own version.

        Args:
            argv: the program and its options, without the connection's.
            stdin: what the program reads from standard input.
            dbname: the database to connect to.

        Returns:
            The exit status, and stdout and stderr together.
        """
        environment = {**os.environ, "PATH": f"{self._client_folder()}:{os.environ['PATH']}"}
        variables = {
            option.keyword.decode(): option.envvar.decode()
            for option in psycopg.pq.Conninfo.get_defaults()
            if option.envvar
        }
        parts = {**self._parts(), "dbname": dbname}
        environment |= {
            variables[name]: value for name, value in parts.items() if name in variables
        }
        result = subprocess.run(
            list(argv),
            input=stdin,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return CommandResult(result.returncode, result.stdout)

    def _client_folder(self) -> str:
        return f"{POSTGRES_BIN}/{self.major}/bin"

    @abstractmethod
    def _ended(self) -> bool:
        """Tell whether the server's process is gone."""

    def _parts(self) -> dict[str, str]:
        """Return what leads to the server, under the names of libpq's options."""
        parts = {"host": self.host, "port": str(self.port)}
        return {**parts, "user": self.user, "password": self.password}

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_DEADLINE
        while True:
            try:
                with psycopg.connect(self.dsn(), connect_timeout=5) as connection:
                    parameter = connection.info.parameter_status("server_version") or ""
                    self.version = parameter.split(" ")[0]
                    return
            except psycopg.OperationalError as error:
                if self._ended():
                    raise EngineError(
                        f"PostgreSQL ended while starting:\n{_tail(self.log_text())}"
                    ) from error
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"PostgreSQL did not accept connections for {START_DEADLINE:.0f} s:"
                        f" {error}\n{_tail(self.log_text())}"
                    ) from error
            time.sleep(0.05)


@contextlib.contextmanager
def start_postgres(
    engine: str | None = None,
    *,
    settings: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    own: bool = False,
) -> Iterator[Server]:
    """Start a throw-away PostgreSQL server; it is removed, with its data, when the context ends.

    Args:
        engine: ``docker``, ``local`` or ``url``; None takes the environment variable PG, else the
            first that works.
        settings: postgresql.conf settings that replace those of `SETTINGS` or join them.
        environment: environment variables of the server process.
        own: whether it must be one that nobody else uses.

    Raises:
        EngineError: no server can be had; the message says what to install or to set.
        BorrowedServerError: the engine is ``url``, and the server must be an own one, or have
            other settings or another environment.
    """
    wanted = engine or os.environ.get("PG") or None
    if wanted is not None and wanted not in ENGINES:
        raise EngineError(
            f"unknown engine {wanted!r}: set PG to one of {', '.join(ENGINES)}, or leave it out"
        )

    def merged(version: str) -> Mapping[str, str]:
        way = AS_A_CLIENT if version == OLD_PG_CRON else {}
        return {**SETTINGS, **way, **(settings or {})}

    starters: dict[str, Callable[[], contextlib.AbstractContextManager[Server]]] = {
        "docker": lambda: _docker_server(
            _docker_client(), merged(wanted_release().version), environment or {}
        ),
        "local": lambda: _local_server(merged(local_version()), environment or {}),
        "url": lambda: _url_server(own=own or bool(settings or environment)),
    }
    with starters[wanted or choose_engine()]() as server:
        yield server


def choose_engine() -> str:
    """Return the first engine that works here, in the order docker, local, url.

    Raises:
        EngineError: none does; the message has the reason for each.
    """
    reasons = []
    checks: dict[str, Callable[[], object]] = {
        "docker": _try_docker,
        "local": local_version,
        "url": _database_url,
    }
    for name, check in checks.items():
        try:
            check()
        except EngineError as error:
            reasons.append(f"- {name}: {error}")
        else:
            return name
    raise EngineError(
        "No PostgreSQL can be started here:\n"
        + "\n".join(reasons)
        + "\nOn Debian and Ubuntu `make packages` installs what is missing."
    )


@contextlib.contextmanager
def engine_errors_in_words() -> Iterator[None]:
    """For programs: end with a message after an EngineError or Ctrl-C, and without a traceback."""
    try:
        with ctrl_c_in_words("Ended by Ctrl-C: nothing of it stays."):
            yield
    except (EngineError, DeployError) as error:
        raise SystemExit(f"error: {error}") from error


# --- docker ---------------------------------------------------------------------------------------


def _docker_client() -> DockerClient:
    # Ryuk is testcontainers' cleaner, a container of its own whose image comes from a registry. Our
    # watcher below does the same work without one, so the tests also run where no registry can be
    # reached.
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
    from docker.errors import DockerException  # only where Docker is wanted: it takes 0.3 s
    from testcontainers.core.docker_client import DockerClient, get_docker_host

    try:
        address = get_docker_host() or "unix:///var/run/docker.sock"
        if address.startswith("unix://"):
            # Docker's client leaves its socket open when this fails, which Python warns of later.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(address.removeprefix("unix://"))
        client = DockerClient()
        client.client.ping()
    except (DockerException, OSError) as error:
        raise EngineError(
            "no Docker engine answers. Start Docker, or put this user into the group docker."
            f" ({error})"
        ) from error
    return client


def _try_docker() -> None:
    client = _docker_client()
    try:
        build_image(client)
    finally:
        client.client.close()


def build_image(client: DockerClient) -> str:
    """Build the image from ./Dockerfile; takes less than a second when nothing has changed.

    Returns:
        The name of the image, which has the PostgreSQL of PG_VERSION.

    Raises:
        EngineError: the build failed; the message has its last lines.
    """
    release = wanted_release()
    from docker.errors import BuildError, DockerException

    def announce() -> None:
        print(
            f"Building the Docker image {release.image} (about a minute, once) ...",
            file=sys.stderr,
            flush=True,
        )

    timer = threading.Timer(3.0, announce)
    timer.start()
    try:
        client.build(
            path=str(ROOT),
            target="server",
            tag=release.image,
            buildargs={"POSTGRES_VERSION": release.version, "BASE_IMAGE": release.base_image},
            forcerm=True,
            timeout=900,
        )
    except BuildError as error:
        lines = "".join(
            str(part.get("stream", "")) for part in error.build_log if isinstance(part, dict)
        )
        raise EngineError(
            f"the image cannot be built from ./Dockerfile: {error}\n{_tail(lines, 15)}"
        ) from error
    except DockerException as error:
        raise EngineError(
            f"the image cannot be built from ./Dockerfile: {error}\n"
            "Where no registry can be reached, `make base-image"
            f" PG_VERSION={release.version}` makes the base image without one."
        ) from error
    finally:
        timer.cancel()
    return release.image


# Removes one container when its standard input is closed: at the end of the context manager, and
# just as well when the process that holds the other end is killed. A session of its own keeps
# Ctrl-C and `timeout` away from it.
WATCHER = """
import sys
import docker
client = docker.from_env()
print("ready", flush=True)
sys.stdin.buffer.read()
try:
    client.api.remove_container(sys.argv[1], force=True, v=True)
except docker.errors.NotFound:
    pass
"""


class _DockerServer(Server):
    engine = "docker"
    user = "postgres"

    def __init__(
        self, container: Container, port: int, password: str, host: str, reach: tuple[str, str]
    ) -> None:
        self._container = container
        self.host, self.port, self.password = host, port, password
        self.listen_host, self.reachable_host = reach

    def log_text(self) -> str:
        # What the server has written comes to Docker's log a moment later; so up to a mark.
        mark = f"the log is read up to here: {secrets.token_hex(8)}"
        try:
            with psycopg.connect(self.dsn(), autocommit=True, connect_timeout=5) as connection:
                connection.execute(f"do $$ begin raise log '{mark}'; end $$".encode())
        except psycopg.OperationalError:
            mark = ""  # it does not run
        deadline = time.monotonic() + LOG_DEADLINE  # it may also write elsewhere
        # The whole log can be so long that reading it takes seconds.
        while mark.encode() not in self._container.logs(tail=1000) and time.monotonic() < deadline:
            time.sleep(0.01)
        return self._container.logs().decode(errors="replace")

    def stop(self, mode: str = "fast") -> None:
        signals = {"smart": "SIGTERM", "fast": "SIGINT", "immediate": "SIGQUIT"}
        self._container.kill(signals[mode])
        self._container.wait(timeout=STOP_DEADLINE)

    def start(self) -> None:
        self._container.start()
        self._wait_until_ready()

    def run_as_root(self, argv: Sequence[str]) -> CommandResult:
        code, output = self._container.exec_run(list(argv), user="root", stream=False)
        assert code is not None
        assert isinstance(output, bytes)
        return CommandResult(code, output.decode(errors="replace"))

    def run_client(
        self, argv: Sequence[str], stdin: str = "", dbname: str = "postgres"
    ) -> CommandResult:
        """Run it inside the container, where the programs are the server's own."""
        text = stdin.encode()
        header = tarfile.TarInfo(f"stdin-{secrets.token_hex(6)}")
        header.size, header.mode = len(text), 0o444
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.addfile(header, io.BytesIO(text))
        self._container.put_archive("/tmp", archive.getvalue())
        code, output = self._container.exec_run(
            ["sh", "-c", 'file=$1; shift; exec "$@" < "$file"', "sh", f"/tmp/{header.name}", *argv],
            environment={
                "PGHOST": "127.0.0.1",
                "PGDATABASE": dbname,
                "PGUSER": self.user,
                "PGPASSWORD": self.password,
            },
            stream=False,
        )
        assert code is not None
        assert isinstance(output, bytes)
        return CommandResult(code, output.decode(errors="replace"))

    def _ended(self) -> bool:
        self._container.reload()
        return str(self._container.status) in ("exited", "dead")


@contextlib.contextmanager
def _docker_server(
    client: DockerClient, settings: Mapping[str, str], environment: Mapping[str, str]
) -> Iterator[Server]:
    from docker.errors import APIError
    from testcontainers.core.container import DockerContainer

    image = build_image(client)
    password = secrets.token_urlsafe(16)
    command = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    for attempt in range(1, START_ATTEMPTS + 1):
        name = f"{IMAGE}-{secrets.token_hex(6)}"
        port = free_port()
        container = DockerContainer(
            image, name=name, extra_hosts={"host.docker.internal": "host-gateway"}
        )
        container.with_command(command)
        container.with_envs(
            POSTGRES_PASSWORD=password, POSTGRES_INITDB_ARGS="--no-sync", **environment
        )
        host = container.get_docker_client().host()
        # Only this machine may reach the server; when the engine is on another one, it has to be
        # published there. testcontainers' type knows plain port numbers only, Docker's client takes
        # the pair.
        published = ("127.0.0.1", port) if host == "localhost" else port
        container.ports["5432/tcp"] = published  # type: ignore[assignment]
        with _watcher(name):
            try:
                container.start()
            except APIError as error:
                container.get_docker_client().client.close()
                taken = re.search("port is already allocated|address already in use", str(error))
                if taken and attempt < START_ATTEMPTS:
                    continue
                raise EngineError(f"the container does not start: {error}") from error
            try:
                wrapped = container.get_wrapped_container()
                address = "127.0.0.1" if host == "localhost" else host
                server = _DockerServer(
                    wrapped, port, password, address, _reach_from_container(wrapped)
                )
                server._wait_until_ready()
                yield server
                return
            finally:
                container.stop()
                client.client.close()


@contextlib.contextmanager
def _watcher(name: str) -> Iterator[None]:
    # testcontainers has put a Docker host other than the default into DOCKER_HOST, which the child
    # inherits.
    with subprocess.Popen(
        [sys.executable, "-c", WATCHER, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        # A container must not exist before somebody watches it.
        if process.stdout.readline() != b"ready\n":
            raise EngineError("the process that removes the container at the end does not start")
        yield


def _reach_from_container(container: Container) -> tuple[str, str]:
    """Return (listen_host, reachable_host) for a service of ours that the container calls."""
    container.reload()
    networks: dict[str, dict[str, str]] = container.attrs["NetworkSettings"]["Networks"]
    for gateway in filter(None, (network.get("Gateway") for network in networks.values())):
        # Where the engine runs in a virtual machine (Docker Desktop), its gateway is no address of
        # ours.
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((gateway, 0))
            return gateway, gateway
    return "127.0.0.1", "host.docker.internal"


# --- local ----------------------------------------------------------------------------------------


def local_version() -> str:
    """Return the version of PG_VERSION, else the newest one with PL/Python and pg_cron.

    Raises:
        EngineError: something is missing; the message names the packages.
    """
    wanted = wanted_version()
    if not PG_VIRTUALENV.exists():
        raise EngineError(
            "Debian's PostgreSQL is not installed (packages postgresql, postgresql-plpython3-N,"
            " postgresql-N-cron and python3-requests, where N is its major version)"
        )
    versions = sorted(
        (int(p.parent.parent.name) for p in POSTGRES_BIN.glob("[0-9]*/bin/postgres")), reverse=True
    )
    if wanted is not None and int(wanted) not in versions:
        installed = ", ".join(str(version) for version in versions) or "none"
        raise EngineError(
            f"PostgreSQL {wanted} (PG_VERSION) is not installed here; installed: {installed}."
            f" PG=docker has {_known_versions()}"
        )
    # A version that is asked for may lack pg_cron: what needs it is then left out.
    needed = ["plpython3u"] if wanted else ["plpython3u", "pg_cron"]
    candidates = [int(wanted)] if wanted else versions
    complete = [
        version for version in candidates if all(_has_extension(version, name) for name in needed)
    ]
    if not complete:
        number = str(candidates[0]) if candidates else "N"
        raise EngineError(
            f"PostgreSQL {number} lacks packages: apt-get install postgresql-{number}"
            f" postgresql-plpython3-{number} postgresql-{number}-cron python3-requests"
        )
    if not SYSTEM_REQUESTS.exists():
        raise EngineError("the server's Python lacks requests: apt-get install python3-requests")
    return str(complete[0])


def _has_extension(version: int | str, name: str) -> bool:
    return (POSTGRES_SHARE / str(version) / "extension" / f"{name}.control").exists()


class _LocalServer(Server):
    engine = "local"
    user = "postgres"
    host = listen_host = reachable_host = "127.0.0.1"

    def __init__(self, version: str, port: int, password: str, conf_root: Path) -> None:
        self._major = version
        self.port, self.password = port, password
        self._conf_root = conf_root

    def log_text(self) -> str:
        log = self._conf_root.parent / "log" / f"postgresql-{self._major}-regress.log"
        return log.read_text(errors="replace")

    def stop(self, mode: str = "fast") -> None:
        self._ctl("--mode", mode, self._major, "regress", "stop")

    def start(self) -> None:
        # Under systemd pg_ctlcluster hands a start over to systemctl, which knows nothing of this
        # cluster.
        self._ctl("--skip-systemctl-redirect", self._major, "regress", "start")
        self._wait_until_ready()

    def _ctl(self, *arguments: str) -> None:
        result = subprocess.run(
            ["sh", "-c", MORE_FILES, "sh", "/usr/bin/pg_ctlcluster", *arguments],
            env={**os.environ, "PG_CLUSTER_CONF_ROOT": str(self._conf_root)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_DEADLINE,
            check=False,
        )
        if result.returncode != 0:
            raise EngineError(
                f"pg_ctlcluster {' '.join(arguments)} failed: {result.stdout}{result.stderr}"
            )

    def _ended(self) -> bool:
        # pg_virtualenv and pg_ctlcluster return only when the server is up, so it has been running.
        return False


# A process may have few files open where nobody has raised it: 1024 are too few for 512 calls.
MORE_FILES = """
ulimit -Sn 4096 2> /dev/null || ulimit -Sn "$(ulimit -Hn)"
exec "$@"
"""

# pg_virtualenv runs this inside its environment and drops the cluster when it ends.
HOLD = """
python3=$1
"$python3" -c 'import json, os; print("READY " + json.dumps(dict(os.environ)), flush=True)'
exec cat > /dev/null
"""


@contextlib.contextmanager
def _local_server(settings: Mapping[str, str], environment: Mapping[str, str]) -> Iterator[Server]:
    version = local_version()
    if settings["shared_preload_libraries"] == "pg_cron" and not _has_extension(version, "pg_cron"):
        settings = {**settings, "shared_preload_libraries": ""}
    for attempt in range(1, START_ATTEMPTS + 1):
        # Unnamed files: a killed parent leaves none of them behind. Not a pipe for the output: the
        # clean-up after a killed parent still has somewhere to write to.
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile("w") as variables:
            variables.writelines(
                _environment_line(name, value) for name, value in environment.items()
            )
            variables.flush()
            process = _pg_virtualenv(version, free_port(), settings, variables, output)
            try:
                ready = _wait_for_ready_line(process, output)
                if ready is None:
                    text = _read_all(output)
                    if attempt < START_ATTEMPTS and re.search(
                        r"[Pp]ort conflict|Address already in use", text
                    ):
                        continue
                    raise EngineError(
                        f"pg_virtualenv could not start PostgreSQL {version}:\n{_tail(text, 30)}"
                    )
                server = _LocalServer(
                    version,
                    int(ready["PGPORT"]),
                    ready["PGPASSWORD"],
                    Path(ready["PG_CLUSTER_CONF_ROOT"]),
                )
                server._wait_until_ready()
                yield server
                return
            finally:
                _end(process)


def _pg_virtualenv(
    version: str, port: int, settings: Mapping[str, str], variables: IO[str], output: IO[bytes]
) -> subprocess.Popen[bytes]:
    # -t: a temporary directory also for root, who otherwise gets the one fixed cluster name of the
    # machine.
    command = ["sh", "-c", MORE_FILES, "sh", "pg_virtualenv", "-t", "-v", version]
    environment_file = f"/dev/fd/{variables.fileno()}"
    command += ["-c", f"--locale C.UTF-8 --encoding UTF8 --environment {environment_file}"]
    for name, value in settings.items():
        # pg_createcluster takes a lower-case ssl for an option of its own.
        command += ["-o", f"{'SSL' if name == 'ssl' else name}={value}"]
    command += ["sh", "-c", HOLD, "sh", sys.executable]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    # pg_virtualenv names the superuser after USER. /tmp because root's TMPDIR may be closed to the
    # user postgres.
    kept |= {"PGPORT": str(port), "USER": "postgres"}
    if os.geteuid() == 0:
        kept["TMPDIR"] = "/tmp"
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        env=kept,
        pass_fds=[variables.fileno()],
        start_new_session=True,
    )


def _wait_for_ready_line(
    process: subprocess.Popen[bytes], output: IO[bytes]
) -> dict[str, str] | None:
    deadline = time.monotonic() + START_DEADLINE
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        found = re.search(r"^READY (.*)\n", _read_all(output), re.MULTILINE)
        if found:
            ready: dict[str, str] = json.loads(found[1])
            return ready
        if ended:
            return None
        time.sleep(0.02)
    raise EngineError(
        f"pg_virtualenv was not ready after {START_DEADLINE:.0f} s:\n{_tail(_read_all(output), 30)}"
    )


def _read_all(output: IO[bytes]) -> str:
    # pread leaves the file position alone, which the child process shares.
    return os.pread(output.fileno(), os.fstat(output.fileno()).st_size, 0).decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(REMOVE_DEADLINE)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait(STOP_DEADLINE)


def _environment_line(name: str, value: str) -> str:
    # pg_createcluster replaces %v and %c in this file, and takes %% for a percent sign.
    return f"{name} = '{value.replace('%', '%%').replace(chr(39), chr(39) * 2)}'\n"


# --- url ------------------------------------------------------------------------------------------


def _database_url() -> str:
    url = os.environ.get("DATABASE_URL", "")
    if not url:
        raise EngineError(
            "DATABASE_URL is not set. Example: DATABASE_URL=postgresql://postgres:secret@127.0.0.1:5432/postgres"
        )
    return url


class _UrlServer(Server):
    engine = "url"

    def __init__(self, url: str) -> None:
        try:
            connection = connect(url, "test PG=url")
        except DeployError as error:
            raise EngineError(str(error)) from error
        with connection:
            info = connection.info
            # As libpq has settled it: the URL may leave out what has a default.
            self.host, self.port, self.user = info.host, info.port, info.user
            self.password = info.password
            self.version = (info.parameter_status("server_version") or "").split(" ")[0]
        self._options = {
            name: str(value)
            for name, value in conninfo_to_dict(url).items()
            if name not in ("host", "hostaddr", "port", "user", "password", "dbname")
        }
        self.listen_host = self.reachable_host = _own_address_towards(self.host, self.port)

    def _parts(self) -> dict[str, str]:
        return {**super()._parts(), **self._options}

    def log_text(self) -> str:
        raise BorrowedServerError(
            "the log of the server of DATABASE_URL cannot be read: use PG=docker or PG=local"
        )

    def stop(self, mode: str = "fast") -> None:
        raise BorrowedServerError(
            "the server of DATABASE_URL is not ours to stop: use PG=docker or PG=local"
        )

    def start(self) -> None:
        raise BorrowedServerError(
            "the server of DATABASE_URL is not ours to start: use PG=docker or PG=local"
        )

    def _ended(self) -> bool:
        return False


@contextlib.contextmanager
def _url_server(*, own: bool) -> Iterator[Server]:
    url = _database_url()
    if own:
        raise BorrowedServerError(
            "this needs a server of its own, and the one of DATABASE_URL is used as it is:"
            " PG=docker or PG=local starts one"
        )
    server = _UrlServer(url)
    wanted = wanted_version()
    if wanted is not None and int(wanted) != server.major:
        raise EngineError(
            f"the server of DATABASE_URL is PostgreSQL {server.version}, and not the {wanted} of"
            " PG_VERSION"
        )
    yield server


# --- shared ---------------------------------------------------------------------------------------


def _own_address_towards(host: str, port: int) -> str:
    """Return the address of this machine that a server at `host` sees; no packet is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))
            return str(probe.getsockname()[0])
    except OSError:
        # A Unix socket's directory, or a name that IPv4 does not know: taken as this machine.
        return "127.0.0.1"


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port on which nothing listens at this moment."""
    with socket.create_server((host, 0)) as probe:
        return int(probe.getsockname()[1])


def _tail(text: str, lines: int = 20) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
