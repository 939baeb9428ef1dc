"""tools/install_packages.sh: what it installs, and that it restarts no PostgreSQL of somebody's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tools.engines import ROOT

SCRIPT = ROOT / "tools" / "install_packages.sh"
PROGRAMS = ("awk", "bash", "cat", "env", "find", "grep", "head", "sed", "sort", "tail")
UPGRADE = "Inst postgresql-15 [15.13-0+deb12u1] (15.20-0+deb12u1 Debian:12 [amd64])"
FRESH = "Inst postgresql-15 (15.20-0+deb12u1 Debian:12 [amd64])\nInst libpq5 [15.13] (15.20)"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The programs of a machine that lacks shellcheck; its apt-get writes down what it is told."""
    for name in PROGRAMS:
        path = shutil.which(name)
        assert path is not None
        (tmp_path / name).symlink_to(path)
    program(tmp_path, "id", "echo 0")
    program(tmp_path, "apt-get", f'echo "$*" >> {tmp_path}/called\n[ "$2" = --simulate ] || exit 0')
    return tmp_path


def program(folder: Path, name: str, body: str) -> None:
    path = folder / name
    with path.open("a", encoding="utf-8") as file:
        file.write(
            body + "\n" if path.exists() and path.stat().st_size else f"#!/bin/bash\n{body}\n"
        )
    path.chmod(0o755)


def install(
    machine: Path, what: str = "lint", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", str(SCRIPT), what],
        env={"PATH": str(machine), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def calls(machine: Path) -> list[str]:
    return (machine / "called").read_text(encoding="utf-8").splitlines()


def test_a_package_that_upgrades_a_server_that_runs_is_not_installed(machine: Path) -> None:
    program(machine, "apt-get", f'echo "{UPGRADE}"')
    program(machine, "pg_lsclusters", "echo '15 main 5432 online postgres /data /log'")
    result = install(machine)
    assert result.returncode == 1
    assert result.stderr.count("error:") == 1
    assert "would upgrade postgresql-15" in result.stderr
    assert "(15/main); nothing was installed" in result.stderr
    assert all("--simulate" in call or call.startswith("update") for call in calls(machine))


@pytest.mark.parametrize(
    ("plan", "status"),
    [(UPGRADE, "15 main 5432 down"), (UPGRADE, "17 main 5432 online"), (FRESH, "17 main 1 online")],
)
def test_what_restarts_no_server_is_installed(machine: Path, plan: str, status: str) -> None:
    program(machine, "apt-get", f'echo "{plan}"')
    program(machine, "pg_lsclusters", f"echo '{status} postgres /data /log'")
    result = install(machine)
    assert result.returncode == 0, result.stderr
    assert calls(machine)[-1] == "install --yes --no-install-recommends --no-upgrade shellcheck"


def test_what_apt_prints_is_seen(machine: Path) -> None:
    program(machine, "apt-get", "true")
    text = (machine / "apt-get").read_text(encoding="utf-8")
    (machine / "apt-get").write_text(text.replace("|| exit 0", "|| { echo Get:1; exit 0; }"))
    assert install(machine).stdout.count("Get:1") == 2


def test_without_root_and_sudo_one_sentence_says_what_root_has_to_run(machine: Path) -> None:
    (machine / "id").write_text("#!/bin/bash\necho 1000\n")
    result = install(machine)
    assert result.returncode == 1
    assert result.stderr == (
        "error: shellcheck is missing. Without sudo, root has to run: apt-get install shellcheck\n"
    )
    assert not (machine / "called").exists()
