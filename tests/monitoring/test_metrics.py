"""monitoring/: the real exporter is scraped, promtool reads the rules, the dashboard fits both."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tools.engines import free_port
from tools.job import Job, wait_until

MONITORING = Path(__file__).resolve().parents[2] / "monitoring"
PASSWORD = "a-secret"


def program(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name}: apt install {package}, or `make packages-monitoring`")
    return path


@pytest.fixture
def monitor(job: Job) -> Iterator[str]:
    """The URL of a role that is a member of pg_monitor and nothing else."""
    job.connection.execute(
        f"create role qr_monitor login password '{PASSWORD}' in role pg_monitor".encode()
    )
    info = job.connection.info
    yield f"postgresql://qr_monitor:{PASSWORD}@{info.host}:{info.port}/{info.dbname}?sslmode=disable"
    job.connection.execute("drop role qr_monitor")


@contextlib.contextmanager
def exporter(url: str) -> Iterator[str]:
    """Run Debian's exporter on a free port; yields the URL of its metrics."""
    command = [program("prometheus-postgres-exporter", "prometheus-postgres-exporter")]
    port = free_port()
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    command += [f"--extend.query-path={MONITORING / 'queries.yaml'}"]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command,
            # Without variables such as PGSYSCONFDIR, which it refuses.
            env={"PATH": os.environ["PATH"], "DATA_SOURCE_NAME": url},
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            address = f"http://127.0.0.1:{port}/metrics"
            wait_until(lambda: scrape(address), "the exporter answers")
            yield address
        finally:
            process.terminate()
            process.wait(10)
            log.seek(0)
            assert PASSWORD not in log.read()


CONFIGURATION = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: refresh-qr-codes
    static_configs: [{{targets: ['{target}']}}]
"""


@contextlib.contextmanager
def prometheus(metrics: str) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Run Debian's Prometheus on what an exporter says; yields what asks it."""
    command = [program("prometheus", "prometheus")]
    address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "prometheus.yml"
        target = metrics.removeprefix("http://").removesuffix("/metrics")
        configuration.write_text(
            CONFIGURATION.format(rules=MONITORING / "alerts.yaml", target=target)
        )
        command += [f"--config.file={configuration}", f"--storage.tsdb.path={folder}/data"]
        command += [f"--web.listen-address={address}"]

        def result_of(expression: str) -> list[dict[str, Any]]:
            asked = urllib.parse.urlencode({"query": expression})
            text = scrape(f"http://{address}/api/v1/query?{asked}")
            found: list[dict[str, Any]] = json.loads(text)["data"]["result"] if text else []
            return found

        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                yield result_of
            finally:
                process.terminate()
                process.wait(30)


def scrape(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, ConnectionError):
        return ""


def samples(text: str) -> dict[str, float]:
    """The lines of ours, without the label that names the server."""
    found = re.findall(r"^(qr_refresh\w*)\{([^}]*)\} (\S+)$", text, re.MULTILINE)
    return {
        name + "".join(f"[{v}]" for v in re.findall(r'alert="(\w+)"', labels)): float(value)
        for name, labels, value in found
    }


def test_the_real_exporter_gives_every_number_of_the_view(job: Job, monitor: str) -> None:
    job.add("shop")
    job.add("bar", qr_delay=3600)
    job.run()
    with exporter(monitor) as address:
        text = scrape(address)
        first = samples(text)
        job.connection.execute("delete from qr_refresh.runs")
        second = samples(scrape(address))
    columns = job.connection.execute(
        "select attname from pg_attribute where attrelid = 'qr_refresh.metrics'::regclass"
        " and attnum > 0"
    ).fetchall()
    assert {f"qr_refresh_{name}" for (name,) in columns} <= set(first)
    assert first["qr_refresh_connecting_instances"] == 2
    assert first["qr_refresh_coverage"] == 0.5
    assert first["qr_refresh_success_share_last_hour"] == 1
    assert 0 <= first["qr_refresh_last_run_age_seconds"] < 60
    assert first["qr_refresh_alerts_active[job_late]"] == 0
    assert second["qr_refresh_alerts_active[job_late]"] == 1
    assert "token-of" not in text and "shop" not in text and "base64" not in text


def test_each_panel_of_the_dashboard_and_each_rule_has_figures_in_a_real_prometheus(
    job: Job, monitor: str
) -> None:
    job.add("shop")
    job.add("bar", qr_delay=3600)
    job.run()
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    panels = {
        target["expr"]: panel["title"]
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
    with exporter(monitor) as metrics, prometheus(metrics) as result_of:
        wait_until(lambda: result_of("qr_refresh_coverage"), "Prometheus has scraped it", 60)
        for expression, title in panels.items():
            assert result_of(expression), (title, expression)
        (coverage,) = result_of("qr_refresh_coverage")
        assert float(coverage["value"][1]) == 0.5
        # A rule of ours fires as soon as its time is over; what it asks for is there.
        rules = re.findall(
            r"expr: (.*?) [<>=]+ \S+$", (MONITORING / "alerts.yaml").read_text(), re.M
        )
        assert len(rules) >= 5
        for expression in rules:
            assert result_of(expression), expression


def test_promtool_accepts_the_rules_and_their_tests_pass() -> None:
    promtool = program("promtool", "prometheus")
    rules = Path(__file__).with_name("alert_rules_test.yaml")
    for arguments in (
        ["check", "rules", str(MONITORING / "alerts.yaml")],
        ["test", "rules", str(rules)],
    ):
        result = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


def test_every_kind_of_alert_is_counted_and_has_a_rule(job: Job) -> None:
    queries = (MONITORING / "queries.yaml").read_text()
    rules = (MONITORING / "alerts.yaml").read_text()
    comment = job.value("select col_description('qr_refresh.alerts'::regclass, 1)")
    kinds = re.findall(
        r"\b(?:no_live_qr|\w+_(?:unreachable|missing|inactive|late|failed))\b", comment
    )
    assert len(kinds) == 6
    for kind in kinds:
        assert f"'{kind}'" in queries
        assert f'"{kind}"' in rules or (kind.startswith("job_") and "job_.*" in rules)


def test_rules_and_dashboard_ask_only_for_numbers_that_exist(job: Job) -> None:
    columns = job.connection.execute(
        "select attname from pg_attribute where attrelid = 'qr_refresh.metrics'::regclass"
        " and attnum > 0"
    ).fetchall()
    known = {f"qr_refresh_{name}" for (name,) in columns} | {"qr_refresh_alerts_active"}
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += re.findall(r"expr: (.*)", (MONITORING / "alerts.yaml").read_text())
    names = set(re.findall(r"qr_refresh_\w+", " ".join(asked)))
    assert len(names) > 8
    assert names <= known


def test_the_monitoring_role_of_the_guide_can_read_the_views_only(monitor: str) -> None:
    with psycopg.connect(monitor, autocommit=True) as connection:
        connection.execute("select * from qr_refresh.metrics")
        for forbidden in ("evolution_instances", "qr_refresh.settings"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"select * from {forbidden}".encode())
