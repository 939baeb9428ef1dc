"""What keeps pg_cron from running jobs is seen, and what is said to do about it helps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
import pytest

from simulator import Simulator
from tests.doctor.findings import Finding, findings
from tests.evolution_api import simulator_for
from tools.engines import Server, start_postgres
from tools.job import Connection, Job, install, refusal, wait_until

pytestmark = pytest.mark.engines

LAST_EXECUTION = "pg_cron's last execution"


class Patient:
    """A server of the test's own in which pg_cron runs the job."""

    def __init__(self, server: Server, simulator: Simulator) -> None:
        """Hold the server, on which the job is installed, and the Evolution API that it asks."""
        self.server = server
        self.simulator = simulator
        self.connection: Connection
        self.connect()

    def connect(self) -> None:
        self.connection = psycopg.connect(self.server.dsn(), autocommit=True)

    @property
    def job(self) -> Job:
        return Job(self.connection, self.simulator)

    def restart(self) -> None:
        self.connection.close()
        self.server.restart()
        self.connect()

    def finding(self, check: str) -> Finding:
        return findings(self.connection)[check]

    def blocked(self) -> list[str]:
        """What the alerts show to a monitor."""
        query = "select array_agg(detail) from qr_refresh.alerts where alert = 'job_blocked'"
        self.connection.execute("set role pg_monitor")
        details: list[str] = self.job.value(query) or []
        self.connection.execute("reset role")
        return details

    def do(self, fix: str) -> None:
        """Do what a fix or a hint says: its statements, its lines, and the restart."""
        lines = re.findall(r"line of (pg_hba|pg_ident)[.]conf: (.*?);", fix)
        for statement in re.findall(r"(?:ALTER SYSTEM|SELECT) [^;]*;?", fix.partition(" The ")[0]):
            self.connection.execute(statement.encode())
        for file, line in lines:
            self.put_first(file.removeprefix("pg_"), line)
        if "estart Postgres" in fix:
            self.restart()
        after = re.search(r"Then (SELECT .*;)$", fix)
        if after:
            self.connection.execute(after[1].encode())

    def put_first(self, file: str, line: str) -> None:
        path = self.job.value(f"select current_setting('{file}_file')")
        self.connection.execute(
            "do language plpython3u $$\n"
            f"text = open('{path}').read()\n"
            f"open('{path}', 'w').write('{line}\\n' + text)\n"
            "$$".encode()
        )

    def pg_cron(self) -> list[int]:
        version = self.job.value("select extversion from pg_extension where extname = 'pg_cron'")
        return [int(part) for part in re.findall(r"\d+", version)][:2]


@contextmanager
def patient(settings: Mapping[str, str]) -> Iterator[Patient]:
    with start_postgres(settings=settings) as server, simulator_for(server) as simulator:
        install(server.dsn())
        found = Patient(server, simulator)
        found.connection.execute("create extension pg_cron")
        found.job.set(evolution_api_base_url=simulator.base_url)
        try:
            yield found
        finally:
            found.connection.close()


@pytest.mark.cron_minute
def test_an_old_pg_cron_with_background_workers_refuses_live_mode_until_the_hint_is_followed(
    pg_cron: None,
) -> None:
    check = "jobs do not wait for each other"
    with patient({"cron.use_background_workers": "on"}) as server:
        if server.pg_cron() >= [1, 5]:
            pytest.skip("this pg_cron has not the fault: PG=docker PG_VERSION=15 has one")
        job = server.job
        error = refusal(server.connection, "select qr_refresh.schedule('live')")
        assert error.sqlstate == "QR004"
        server.connection.execute("select qr_refresh.schedule()")
        assert server.finding(check)["ok"] is True
        assert server.blocked() == []
        # An upgrade finds it scheduled.
        live = "select cron.schedule('refresh-qr-codes', '* * * * *', 'CALL qr_refresh.live()')"
        server.connection.execute("select qr_refresh.unschedule()")
        server.connection.execute(live.encode())
        found = server.finding(check)
        assert found["ok"] is False
        assert len(server.blocked()) == 1
        assert error.diag.message_hint == found["fix"]
        server.do(found["fix"])
        assert server.finding(check)["ok"] is True
        wait_until(lambda: server.blocked() == [], "the scheduler is back")
        job = server.job
        assert job.value("select array_agg(distinct username) from cron.job") == ["qr_refresher"]
        long = "select cron.schedule('long', '* * * * *', 'select pg_sleep(99)')"
        server.connection.execute(long.encode())
        job.add("shop")
        wait_until(lambda: job.row("shop").qr_code, "pg_cron runs live mode", timeout=90)
        running = "select count(*) from cron.job_run_details where status = 'running'"
        wait_until(lambda: job.value(running) == 2, "both are at work")
        assert server.finding("way of pg_cron to connect")["ok"] is True
        assert server.finding("job's role has no other power")["ok"] is True


def test_a_scheduler_that_was_ended_is_seen_and_a_restart_brings_it_back(pg_cron: None) -> None:
    check = "pg_cron's scheduler runs"
    with patient({}) as server:
        server.connection.execute("select qr_refresh.schedule()")
        launcher = "select pid from pg_stat_activity where backend_type = 'pg_cron launcher'"
        wait_until(lambda: server.finding(check)["ok"], "it has started")
        if server.pg_cron() >= [1, 5]:
            pytest.skip("this one comes back by itself: PG=docker PG_VERSION=15 does not")
        server.connection.execute(f"select pg_terminate_backend(({launcher}))".encode())
        wait_until(lambda: server.finding(check)["ok"] is False, "it has ended")
        assert len(server.blocked()) == 1
        server.do(server.finding(check)["fix"])
        wait_until(lambda: server.finding(check)["ok"], "it has started again")
        assert server.blocked() == []


def test_a_job_whose_role_was_dropped_ends_the_scheduler_and_is_named(pg_cron: None) -> None:
    check = "every job has its role"
    with patient({}) as server:
        server.connection.execute("select qr_refresh.schedule()")
        server.connection.execute(
            "create role gone login;"
            "select cron.schedule_in_database('app', '* * * * *', 'select 1', 'postgres', 'gone');"
            "drop role gone"
        )
        found = server.finding(check)
        assert found["ok"] is False and "(app, role gone)" in found["detail"]
        assert any("role gone" in detail for detail in server.blocked())
        launcher = "select from pg_stat_activity where backend_type = 'pg_cron launcher'"
        wait_until(
            lambda: not server.connection.execute(launcher.encode()).rowcount, "it has ended"
        )
        server.do(found["fix"])
        assert server.finding(check)["ok"] is True
        wait_until(lambda: server.blocked() == [], "the scheduler is back")
        assert server.finding("pg_cron's scheduler runs")["ok"] is True


def test_superuser_jobs_that_pg_cron_skips_get_another_role(pg_cron: None) -> None:
    check = "pg_cron begins jobs of superusers"
    with patient({"cron.enable_superuser_jobs": "off"}) as server:
        if server.pg_cron() >= [1, 6]:
            pytest.skip("1.6.5 to 1.6.7 crash the server on such a job")
        server.connection.execute("select qr_refresh.schedule()")
        assert server.finding(check)["ok"] is True
        server.connection.execute("update cron.job set username = 'postgres'")
        found = server.finding(check)
        assert found["ok"] is False
        assert len(server.blocked()) == 1
        server.do(found["fix"])
        assert server.finding(check)["ok"] is True
        assert server.blocked() == []


def test_jobs_that_pg_cron_does_not_launch_are_seen(pg_cron: None) -> None:
    check = "pg_cron begins active jobs"
    with patient({}) as server:
        if server.pg_cron() < [1, 6]:
            pytest.skip("this pg_cron has no such setting: PG=docker PG_VERSION=17 has it")
        server.connection.execute("alter system set cron.launch_active_jobs = off")
        server.connection.execute("select pg_reload_conf()")
        wait_until(lambda: server.finding(check)["ok"] is False, "it is off")
        told: list[str] = []
        server.connection.add_notice_handler(lambda n: told.append(n.message_hint or ""))
        server.connection.execute("select qr_refresh.schedule()")
        assert told == [server.finding(check)["fix"]]
        assert len(server.blocked()) == 1
        server.do(told[0])
        wait_until(lambda: server.finding(check)["ok"], "it is on")
        assert server.blocked() == []


@pytest.mark.cron_minute
def test_connections_that_fail_unrecorded_are_not_taken_for_good(pg_cron: None) -> None:
    settings = {
        "cron.log_run": "off",
        "cron.use_background_workers": "off",
        "cron.host": "localhost",
    }
    with patient(settings) as server:
        if server.server.engine == "docker":
            pytest.skip("its settings are arguments, which ALTER SYSTEM cannot change: PG=local")
        job = server.job
        job.add("shop")
        server.connection.execute("select qr_refresh.schedule()")
        wait_until(lambda: "connection failed" in server.server.log_text(), "it fails", timeout=90)
        found = server.finding(LAST_EXECUTION)
        assert found["ok"] is None and "cron.log_run is off" in found["detail"]
        server.do(found["fix"])
        wait_until(lambda: server.finding(LAST_EXECUTION)["ok"] is False, "it is seen", timeout=90)
        fix = server.finding(LAST_EXECUTION)["fix"]
        server.do(fix)
        server.connection.execute("select qr_refresh.schedule()")
        wait_until(lambda: server.finding(LAST_EXECUTION)["ok"] is True, "it works", timeout=90)
        assert server.job.row("shop").qr_code is not None
