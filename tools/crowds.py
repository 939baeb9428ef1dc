"""`make crowds`: what other instances notice of a crowd of rows that nobody can serve.

Live mode serves 50 instances. After a minute a crowd comes into the same table, and it stays: names
of 150 kB, names that change every 4 seconds, 50,000 rows at once, 3,000 that fail. All of them are
unknown to Evolution API. Each crowd has a server of its own, one after the other.

Environment: CROWD_SECONDS (100, with the crowd), CROWDS (none long renamed rush failing).
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack

from simulator.instance import ROTATION
from tools.engines import engine_errors_in_words, start_postgres
from tools.freshness import SAMPLE_EVERY, Mode, job_running, prepare
from tools.job import wait_until

HONEST = 50
ALONE = 60.0  # seconds, before the crowd
NEWCOMER_EVERY = 20.0  # seconds
RENAME_EVERY = 4.0  # seconds

ADD = (
    "insert into evolution_instances (instance_name, instance_token, instance_status)"
    " select {} || n, 'a-token', 'connecting' from generate_series(1, {}) as n"
)
CROWDS = {
    "none": "",
    "long": ADD.format("repeat('a', 150000)", 950),
    "renamed": ADD.format("'crowd-'", 400),
    "rush": ADD.format("'crowd-'", 50000),
    "failing": ADD.format("'crowd-'", 3000),
}
RENAME = (
    "update evolution_instances set instance_name = 'crowd-' || gen_random_uuid()"
    " where instance_name like 'crowd-%'"
)


def add_newcomer(mode: Mode, number: int) -> str:
    """Let one more honest instance begin to connect; return its name."""
    instance = mode.simulator.add_instance(f"newcomer-{number}", f"token-newcomer-{number}")
    mode.connection.execute(
        "insert into evolution_instances (instance_name, instance_token, instance_status)"
        " values (%s, %s, 'connecting')",
        (instance.name, instance.token),
    )
    return instance.name


def measure(crowd: str, seconds: float) -> str:
    """Return a line: freshness of the others, the slowest first code, the job's memory."""
    with ExitStack() as stack:
        server = stack.enter_context(start_postgres(own=True))
        mode = prepare(server, stack, "live", HONEST, 0)
        mode.connection.execute(
            "alter table evolution_instances drop constraint evolution_instances_instance_name_key"
        )
        mode.connection.execute("create index on evolution_instances (left(instance_name, 100))")
        mode.first = ALONE
        stack.enter_context(job_running(server, mode, 1))
        wait_until(lambda: mode.simulator.total_requests, "calls of live mode", 70)
        begun_at = next_sample = time.monotonic()
        crowd_came = False
        next_newcomer, next_rename = ALONE + 5, ALONE + RENAME_EVERY
        waiting: dict[str, float] = {}
        waits: list[float] = []
        while (elapsed := time.monotonic() - begun_at) < ALONE + seconds:
            if not crowd_came and elapsed > ALONE:
                crowd_came = True
                if CROWDS[crowd]:
                    mode.connection.execute(CROWDS[crowd].encode())
            if crowd == "renamed" and elapsed > next_rename:
                next_rename += RENAME_EVERY
                mode.connection.execute(RENAME)
            if elapsed > next_newcomer and elapsed < ALONE + seconds - 15:
                next_newcomer += NEWCOMER_EVERY
                waiting[add_newcomer(mode, len(waits) + len(waiting))] = time.monotonic()
            served = mode.connection.execute(
                "select instance_name from evolution_instances"
                " where left(instance_name, 100) = any(%s) and qr_code is not null",
                (list(waiting),),
            ).fetchall()
            for (name,) in served:
                waits.append(time.monotonic() - waiting.pop(str(name)))
            if time.monotonic() > next_sample:
                next_sample += SAMPLE_EVERY
                mode.sample(elapsed)
                mode.sample_sessions()
            time.sleep(0.05)
        connects = sum(i.connect_calls for i in mode.simulator.instances[:HONEST])
        worst = f"{max(waits):6.1f} s" if waits and not waiting else "   never"
        calls = connects / HONEST / (ALONE + seconds) * ROTATION
        return (
            f"{crowd:8}  {mode.share(0):>11}  {mode.share(1):>11}  {worst:>16}"
            f"  {calls:9.1f}  {mode.peak_memory / 1e6:9.0f} MB"
        )


def main() -> None:
    """Print one table."""
    seconds = float(os.environ.get("CROWD_SECONDS", "100"))
    crowds = os.environ.get("CROWDS", " ".join(CROWDS)).split()
    print("          current QR   current QR    first code of     connects    peak memory")
    print("crowd      before it       beside     a newcomer        / 45 s    of a session")
    for crowd in crowds:
        print(measure(crowd, seconds), flush=True)


if __name__ == "__main__":
    with engine_errors_in_words():
        main()
