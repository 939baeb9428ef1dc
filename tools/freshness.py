"""`make freshness`: how much of the time the stored QR code is the one that works.

The same simulated instances are served in real time by live mode, by the job once a minute and by a
run every five seconds, each with a database and a simulated server of its own, side by side. Every
half second each stored QR code is compared with the one that the server then serves. In the mode
`events` the server posts its events, which are passed on to receive_evolution_event(), and live
mode is the safety net.

Environment: FRESHNESS_SECONDS (300), FRESHNESS_INSTANCES (50), FRESHNESS_HANGING (0,
instances beside those that never answer), FRESHNESS_WORKERS (1, for live mode), FRESHNESS_MODES
(live minute 5s; also events).
"""

from __future__ import annotations

import bisect
import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg

from simulator import Simulator, Trouble, running_simulator
from simulator.instance import ROTATION
from simulator.picture import data_url
from simulator.webhook import Webhook
from tools.engines import Server, engine_errors_in_words, start_postgres
from tools.job import install, wait_until

SAMPLE_EVERY = 0.5  # seconds
FIRST = 120.0  # seconds, in which most people scan
SAMPLED = 50  # instances; more would load the machine with looking
MODES = {
    "live": "live mode",
    "minute": "once a minute",
    "5s": "every 5 seconds",
    "events": "events",
}

COMMANDS = {"minute": "SELECT refresh_qr_codes()", "events": "CALL qr_refresh.live()"}


@dataclass
class Mode:
    """One way to run the job, with what was seen of it."""

    name: str
    dbname: str
    simulator: Simulator
    connection: psycopg.Connection[tuple[object, ...]]
    first: float = FIRST  # seconds
    # In the first seconds, and after them.
    good: list[int] = field(default_factory=lambda: [0, 0])
    samples: list[int] = field(default_factory=lambda: [0, 0])
    cpu_ticks: dict[int, int] = field(default_factory=dict)
    peak_memory: int = 0  # bytes, of one session, with what it has used of the shared memory

    def sample(self, elapsed: float) -> None:
        """Compare what is stored with what is served."""
        part = int(elapsed >= self.first)
        answering = [i for i in self.simulator.instances if i.answer_with is None]
        served = {
            instance.name: self.simulator.current_code(instance.name)
            for instance in answering[:: max(1, len(answering) // SAMPLED)]
        }
        rows = self.connection.execute(
            "select instance_name, qr_code from evolution_instances where instance_name = any(%s)",
            (list(served),),
        ).fetchall()
        # Read again: one that changed in between is no sample.
        for name, stored in rows:
            code = served[str(name)]
            if code is not None and code == self.simulator.current_code(str(name)):
                self.samples[part] += 1
                self.good[part] += stored == data_url(code)

    def sample_sessions(self) -> None:
        """Read the CPU time and the memory of the job's sessions."""
        for pid, ticks, memory in self.connection.execute("select * from pg_temp.job_sessions()"):
            self.cpu_ticks[int(str(pid))] = int(str(ticks))
            self.peak_memory = max(self.peak_memory, int(str(memory)))

    def share(self, part: int) -> str:
        """Return how much of the time the stored QR code was the current one."""
        return f"{self.good[part] / self.samples[part]:.1%}" if self.samples[part] else "-"

    def first_connects(self) -> int:
        """Return the most connect calls for one instance in its first 45 seconds."""
        times = defaultdict(list)
        for request in self.simulator.requests:
            if "/connect/" in request.path:
                times[request.instance_name].append(request.time)
        return max(sum(time < t[0] + ROTATION for time in t) for t in times.values())

    def calls(self, route: str) -> tuple[float, int]:
        """Return the calls for an instance in 45 seconds: the mean, the most after the first 45."""
        times = defaultdict(list)
        for request in self.simulator.requests:
            if f"/{route}/" in request.path:
                times[request.instance_name].append(request.time)
        elapsed = self.simulator.clock.now() - min(t[0] for t in times.values())
        mean = statistics.mean(len(t) for t in times.values()) * ROTATION / elapsed
        most = max(
            (
                position - bisect.bisect_right(t, now - ROTATION) + 1
                for t in times.values()
                for position, now in enumerate(t)
                if now > t[0] + 2 * ROTATION
            ),
            default=0,
        )
        return mean, most


@contextmanager
def event_receiver(dsn: str) -> Iterator[str]:
    """Pass on what is posted to the function, as PostgREST does; yields the URL."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set role service_role")

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                connection.execute("select receive_evolution_event(%s::json)", (body,))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
            threading.Thread(target=http_server.serve_forever).start()
            try:
                yield f"http://127.0.0.1:{http_server.server_port}"
            finally:
                http_server.shutdown()


def prepare(server: Server, stack: ExitStack, name: str, instances: int, hanging: int) -> Mode:
    """Make the database and the simulated server of one mode, and start its job."""
    dbname = "postgres" if name == "live" else f"coverage_{name}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        if name == "live":
            admin.execute("create extension if not exists pg_cron")
        else:
            admin.execute(f"create database {dbname}".encode())
    install(server.dsn(dbname))
    simulator = stack.enter_context(running_simulator(server.listen_host))
    if instances > SAMPLED:
        simulator.add_instances(instances, spread=True)
    else:
        for number in range(instances):
            simulator.add_instance(
                f"instance-{number}",
                f"token-instance-{number}",
                qr_age=ROTATION * number / instances,
            )
    for number in range(hanging):
        instance = simulator.add_instance(f"hangs-{number}", f"token-hangs-{number}")
        instance.answer_with = instance.answer_state_with = Trouble.HANG
    connection = stack.enter_context(psycopg.connect(server.dsn(dbname), autocommit=True))
    connection.execute(
        "update qr_refresh.settings set evolution_api_base_url = %s, log_detail = 'off',"
        " max_concurrency = 32",
        (server.as_reached(simulator.base_url),),
    )
    connection.cursor().executemany(
        "insert into evolution_instances (instance_name, instance_token, instance_status)"
        " values (%s, %s, 'connecting')",
        [(instance.name, instance.token) for instance in simulator.instances],
    )
    connection.execute("vacuum analyze evolution_instances")
    # In the server, because a container has process numbers of its own.
    connection.execute(
        """
        create function pg_temp.job_sessions()
        returns table (pid integer, ticks bigint, memory bigint)
        language plpython3u as $$
            import contextlib
            for row in plpy.execute(
                "select pid from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
                " and (query like '%qr_refresh.live(%' or query like '%refresh_qr_codes(%')"
            ):
                with contextlib.suppress(OSError):
                    fields = open(f"/proc/{row['pid']}/stat").read().rpartition(")")[2].split()
                    status = open(f"/proc/{row['pid']}/status").read()
                    memory = int(status.partition("VmHWM:")[2].split()[0]) * 1024
                    yield row["pid"], int(fields[11]) + int(fields[12]), memory
        $$
        """
    )
    if name == "events":
        url = stack.enter_context(event_receiver(server.dsn(dbname)))
        simulator.webhook = Webhook(url)
    return Mode(name, dbname, simulator, connection)


@contextmanager
def job_running(server: Server, mode: Mode, workers: int) -> Iterator[None]:
    """Let the job run in this mode while the block lasts."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        if mode.name == "live":
            admin.execute("select qr_refresh.schedule('live', %s)", (workers,))
        elif mode.name in COMMANDS:
            admin.execute(
                "select cron.schedule_in_database(%s, '* * * * *', %s, %s)",
                (mode.name, COMMANDS[mode.name], mode.dbname),
            )
        stop = threading.Event()

        def run_every_five_seconds() -> None:
            with psycopg.connect(server.dsn(mode.dbname), autocommit=True) as connection:
                while not stop.is_set():
                    begun_at = time.monotonic()
                    connection.execute("select refresh_qr_codes()")
                    stop.wait(5 - (time.monotonic() - begun_at))

        thread = threading.Thread(target=run_every_five_seconds)
        if mode.name == "5s":
            thread.start()
        try:
            yield
        finally:
            stop.set()
            if mode.name == "5s":
                thread.join()
            elif mode.name == "live":
                admin.execute("select qr_refresh.unschedule()")
            else:
                admin.execute("select cron.unschedule(%s)", (mode.name,))


def main() -> None:
    """Print one table."""
    seconds = float(os.environ.get("FRESHNESS_SECONDS", "300"))
    instances = int(os.environ.get("FRESHNESS_INSTANCES", "50"))
    hanging = int(os.environ.get("FRESHNESS_HANGING", "0"))
    workers = int(os.environ.get("FRESHNESS_WORKERS", "1"))
    names = os.environ.get("FRESHNESS_MODES", "live minute 5s").split()
    with start_postgres(own=True) as server, ExitStack() as stack:
        print(
            f"PostgreSQL {server.version}, engine {server.engine}: {instances} instances in every"
            f" phase of a QR code, {hanging} more that hang, {seconds:.0f} s",
            flush=True,
        )
        modes = [prepare(server, stack, name, instances, hanging) for name in names]
        for mode in modes:
            stack.enter_context(job_running(server, mode, workers))
        # From the first run on: before it nothing is stored. pg_cron begins with a minute.
        wait_until(
            lambda: all(mode.simulator.total_requests for mode in modes), "calls by every mode", 70
        )
        begun_at = time.monotonic()
        next_sample = begun_at + SAMPLE_EVERY
        while next_sample < begun_at + seconds:
            time.sleep(max(0.0, next_sample - time.monotonic()))
            next_sample += SAMPLE_EVERY
            for mode in modes:
                mode.sample(time.monotonic() - begun_at)
                mode.sample_sessions()

        print("\n                 current QR: first 2 min   then   connects in the first 45 s")
        print("                 connects / 45 s, mean (most)   states / 45 s   CPU of its sessions")
        for mode in modes:
            connects, most = mode.calls("connect")
            states, _ = mode.calls("connectionState")
            cpu = sum(mode.cpu_ticks.values()) / os.sysconf("SC_CLK_TCK") / seconds
            print(
                f"{MODES[mode.name]:15}  {mode.share(0):>23}  {mode.share(1):>5}"
                f"   {mode.first_connects():26}\n{'':15}  {connects:21.1f} ({most:4})"
                f"   {states:13.1f}   {cpu:19.1%}"
            )


if __name__ == "__main__":
    with engine_errors_in_words():
        main()
