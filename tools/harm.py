"""`make harm`: how many scans and how many sockets a poll of live mode hits, and what that leaves.

`connect` opens a second WhatsApp socket where it meets an instance in the moment in which
Evolution API closes one socket and opens the next, and breaks a pairing where it meets the moment
after a scan. The job asks for the state just before. What remains is the time between the two,
which is the round trip to the server: this is measured for several of them, one after the other,
in real time. Every instance is scanned once, at random. Half of them close for 0.3 s, as in
Evolution API 2.3, the others for 3 s, as in 2.4.

Environment: HARM_INSTANCES (1000), HARM_SECONDS (300), HARM_ROUND_TRIPS (1 5 50 200; milliseconds).
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from contextlib import ExitStack

from simulator import Simulator
from simulator.instance import ROTATION
from tools.engines import Server, engine_errors_in_words, start_postgres
from tools.freshness import Mode, job_running, prepare
from tools.job import wait_until

WINDOWS = (0.3, 3.0)  # seconds
SAMPLE_EVERY = 5.0  # seconds


def scan_at_random(simulator: Simulator, scans: dict[str, float], elapsed: float) -> None:
    """Scan the instances whose moment has come."""
    for name in [name for name, moment in scans.items() if elapsed >= moment]:
        with contextlib.suppress(ValueError):  # closed at the moment: a little later
            simulator.scan(name)
            del scans[name]


def line(mode: Mode, round_trip: float, instance_seconds: float) -> str:
    """Return what came of it in one line; the instances have waited so long for their scans."""
    instances = mode.simulator.instances
    broken = [sum(i.is_broken for i in instances[n :: len(WINDOWS)]) for n in range(len(WINDOWS))]
    codes = instance_seconds / ROTATION
    return (
        f"{round_trip:7.0f} ms {len(instances):7}  {broken[0]:7} {broken[1]:5}"
        f"  {sum(i.second_sockets for i in instances):9}"
        f"  {sum(i.careless_connects for i in instances):9}"
        f"  {mode.share(0):>8}"
        f"  {sum(i.connect_calls for i in instances) / codes:9.1f}"
    )


def measure(server: Server, instances: int, seconds: float, round_trip: float) -> str:
    """Let live mode go on for so many seconds while all are scanned; return a line."""
    with ExitStack() as stack:
        mode = prepare(server, stack, "live", instances, 0)
        mode.simulator.latency = round_trip / 1000
        for number, instance in enumerate(mode.simulator.instances):
            instance.close_window = instance.pairing_window = WINDOWS[number % len(WINDOWS)]
        stack.enter_context(job_running(server, mode, 1))
        wait_until(lambda: mode.simulator.total_requests, "calls of live mode", 70)
        begun_at = time.monotonic()
        # Not before each has had its first QR code.
        scans = {i.name: random.uniform(20, seconds) for i in mode.simulator.instances}
        instance_seconds = sum(scans.values())
        next_sample = begun_at + SAMPLE_EVERY
        while scans:
            time.sleep(0.02)
            elapsed = time.monotonic() - begun_at
            scan_at_random(mode.simulator, scans, elapsed)
            if time.monotonic() > next_sample and elapsed > 20:
                next_sample = time.monotonic() + SAMPLE_EVERY
                mode.sample(0)
        # The last of them may be hit still.
        time.sleep(WINDOWS[-1])
        mode.connection.execute("truncate evolution_instances")
        return line(mode, round_trip, instance_seconds)


def main() -> None:
    """Print one table."""
    instances = int(os.environ.get("HARM_INSTANCES", "1000"))
    seconds = float(os.environ.get("HARM_SECONDS", "300"))
    round_trips = [float(r) for r in os.environ.get("HARM_ROUND_TRIPS", "1 5 50 200").split()]
    print("\n                    pairings broken     second    without   current   connects")
    print("round trip   scans      2.3   2.4    sockets     a look   QR code     / 45 s")
    for round_trip in round_trips:
        with start_postgres(own=True) as server:
            print(measure(server, instances, seconds, round_trip), flush=True)


if __name__ == "__main__":
    with engine_errors_in_words():
        main()
