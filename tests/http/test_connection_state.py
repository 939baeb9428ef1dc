"""qr_refresh.ask(): the state before the QR code, and several Evolution servers in one run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytest
from psycopg.rows import class_row

from simulator import Simulator, Trouble, error_answer, json_answer
from simulator.hostile import HostileServer
from simulator.instance import Reaction, StateName
from tests.http.misbehaviour import LATE, errors, start_client
from tools.backend import change_client, clients
from tools.job import PNG_URL, Connection, Job, read_qr


@dataclass(frozen=True)
class Fetched:
    """An attempt that was answered."""

    instance_name: str
    outcome: str
    qr_code: str | None
    error: str | None
    elapsed: float
    reconnected: bool | None


@dataclass(frozen=True)
class Wanted:
    """What is asked about one instance."""

    name: str
    base_url: str
    token: str = "token"
    may_connect: bool = True
    connect_on_close: bool = False


def fetch(connection: Connection, *wanted: Wanted, **settings: Any) -> dict[str, Fetched]:
    """Ask, with these settings, until all have answered; return that by instance name."""
    limits = {"request_timeout": 8.0, "run_timeout": 60.0, "max_concurrency": 16, "ca_file": None}
    connection.execute(
        "update qr_refresh.settings"
        " set request_timeout = make_interval(secs => %(request_timeout)s),"
        " run_timeout = make_interval(secs => %(run_timeout)s),"
        " max_concurrency = %(max_concurrency)s, ca_file = %(ca_file)s",
        limits | settings,
    )
    cursor = connection.cursor(row_factory=class_row(Fetched))
    found: dict[str, Fetched] = {}
    to_ask = wanted
    while len(found) < len(wanted):
        rows = cursor.execute(
            "select a.instance_name, a.outcome, a.qr_code, a.error, a.reconnected,"
            " extract(epoch from a.answered_at - a.asked_at)::float8 as elapsed"
            " from qr_refresh.ask(array(select (convert_to(name, 'UTF8'), name, null, token, url,"
            " may, on_close, clock_timestamp(), null, null, null, null, null, null, null,"
            " null)::qr_refresh.attempt"
            " from unnest(%s::text[], %s::text[], %s::text[], %s::boolean[],"
            " %s::boolean[]) as w (name, token, url, may, on_close)), %s, 1) as a",
            (
                [w.name for w in to_ask],
                [w.token for w in to_ask],
                [w.base_url for w in to_ask],
                [w.may_connect for w in to_ask],
                [w.connect_on_close for w in to_ask],
                (limits | settings)["run_timeout"],
            ),
        ).fetchall()
        found |= {row.instance_name: row for row in rows}
        to_ask = ()
    return found


# --- the state ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "connect_on_close", "asked", "outcome", "reconnected"),
    [
        ("connecting", False, ["connectionState", "connect"], "qr_code", False),
        ("connecting", True, ["connectionState", "connect"], "qr_code", False),
        ("open", False, ["connectionState"], "connected", False),
        ("open", True, ["connectionState"], "connected", False),
        ("close", False, ["connectionState"], "closed", False),
        ("close", True, ["connectionState", "connect"], "qr_code", True),
        ("not_in_memory", False, ["connectionState", "connect"], "failed", False),
    ],
)
def test_the_state_decides_whether_connect_is_called(
    job: Job,
    state: StateName,
    connect_on_close: bool,
    asked: list[str],
    outcome: str,
    reconnected: bool,
) -> None:
    job.simulator.add_instance("a shop/1", "token", state=state)
    wanted = Wanted("a shop/1", job.simulator.base_url, connect_on_close=connect_on_close)
    row = fetch(job.connection, wanted)["a shop/1"]
    assert job.simulator.routes_of("a shop/1") == asked
    assert (row.outcome, row.reconnected) == (outcome, reconnected)
    assert job.simulator.sockets_opened("a shop/1") == int(reconnected)
    if outcome == "qr_code":
        assert read_qr(row.qr_code) == job.simulator.current_code("a shop/1")
    else:
        assert row.qr_code is None
    is_failure = outcome == "failed"
    assert row.error == ("Evolution API reports an error" if is_failure else None)
    assert {request.headers["apikey"] for request in job.simulator.requests} == {"token"}


@pytest.mark.parametrize(
    ("state", "outcome"), [("connecting", "pairing"), ("close", "closed"), ("open", "connected")]
)
def test_what_may_not_connect_is_asked_for_its_state_alone(
    job: Job, state: StateName, outcome: str
) -> None:
    job.simulator.add_instance("shop", "token", state=state)
    wanted = Wanted("shop", job.simulator.base_url, may_connect=False)
    assert fetch(job.connection, wanted)["shop"].outcome == outcome
    assert job.simulator.routes_of("shop") == ["connectionState"]


@pytest.mark.parametrize(
    ("answer", "outcome", "error"),
    [
        (error_answer(500, "Internal Server Error", "x"), "failed", "500 Internal Server Error"),
        (json_answer({"error": True}), "failed", "Evolution API reports an error"),
        (json_answer("open"), "failed", "answer is not a JSON object"),
        (json_answer([{"state": "open"}]), "failed", "answer is not a JSON object"),
        (Trouble.RESET, "failed", "connection closed"),
        (Trouble.HANG, "timeout", None),
    ],
    ids=["500", "error", "string", "list", "reset", "hang"],
)
def test_without_an_answer_about_the_state_connect_is_not_called(
    job: Job, answer: Reaction, outcome: str, error: str | None
) -> None:
    job.simulator.add_instance("shop", "token").answer_state_with = answer
    wanted = Wanted("shop", job.simulator.base_url, connect_on_close=True)
    timeout = 0.7 if answer is Trouble.HANG else 8.0
    row = fetch(job.connection, wanted, request_timeout=timeout)["shop"]
    assert (row.outcome, row.error, row.qr_code) == (outcome, error, None)
    assert row.reconnected is False
    assert set(job.simulator.routes_of("shop")) == {"connectionState"}


def test_a_state_that_nobody_knows_goes_on_with_connect(job: Job) -> None:
    instance = job.simulator.add_instance("shop", "token")
    instance.answer_state_with = json_answer({"instance": {"state": "refused"}})
    row = fetch(job.connection, Wanted("shop", job.simulator.base_url))["shop"]
    assert (row.outcome, row.reconnected) == ("qr_code", False)


def test_both_calls_together_end_at_the_timeout(job: Job) -> None:
    job.simulator.add_instance("shop", "token")
    job.simulator.latency = 1.0
    start_client(job)
    begun_at = time.monotonic()
    wanted = Wanted("shop", job.simulator.base_url)
    row = fetch(job.connection, wanted, request_timeout=1.7)["shop"]
    seconds = time.monotonic() - begun_at
    assert row.outcome == "timeout"
    assert job.simulator.routes_of("shop") == ["connectionState", "connect"]
    assert 1.7 <= row.elapsed <= seconds < 1.7 + LATE


def test_a_reconnect_that_takes_too_long_is_said_to_have_been_one(job: Job) -> None:
    # The simulator sleeps 2 s, as Evolution does; the WhatsApp socket is open by then.
    job.simulator.add_instance("shop", "token", state="close")
    wanted = Wanted("shop", job.simulator.base_url, connect_on_close=True)
    row = fetch(job.connection, wanted, request_timeout=1.0)["shop"]
    assert (row.outcome, row.reconnected) == ("timeout", True)
    assert job.simulator.sockets_opened("shop") == 1


# --- several servers ------------------------------------------------------------------------------


def test_each_instance_is_asked_at_its_own_server(job: Job, second_simulator: Simulator) -> None:
    for simulator in (job.simulator, second_simulator):
        simulator.add_instance("here", "token")
        simulator.add_instance("there", "token")
    rows = fetch(
        job.connection,
        Wanted("here", job.simulator.base_url),
        Wanted("there", second_simulator.base_url),
    )
    assert [request.instance_name for request in job.simulator.requests] == ["here"] * 2
    assert [request.instance_name for request in second_simulator.requests] == ["there"] * 2
    assert read_qr(rows["there"].qr_code) == second_simulator.current_code("there")


def test_an_instance_without_a_server_fails_and_the_others_do_not(job: Job) -> None:
    job.add("good")
    job.add_row("lost")
    job.connection.execute(
        "update evolution_instances set evolution_server = 'x' where instance_name = 'lost'"
    )
    assert errors(job) == {
        "good": None,
        "lost": "Failed to fetch QR for lost: Evolution server is unknown",
    }


def test_a_server_that_hangs_takes_no_time_from_the_others(
    job: Job, stalled_tls_server: HostileServer
) -> None:
    start_client(job)
    good = [Wanted(f"good {n}", job.simulator.base_url) for n in range(8)]
    for wanted in good:
        job.simulator.add_instance(wanted.name, wanted.token)
    stalled = [Wanted(f"hangs {n}", stalled_tls_server.base_url) for n in range(8)]
    begun_at = job.simulator.clock.now()
    rows = fetch(job.connection, *stalled, *good, request_timeout=2.0, max_concurrency=8)
    assert all(rows[wanted.name].outcome == "qr_code" for wanted in good)
    assert all(rows[wanted.name].outcome == "timeout" for wanted in stalled)
    answered = [request.time for request in job.simulator.requests]
    assert len(answered) == 16
    assert max(answered) - begun_at < 1.9, "none waits until a hanging one has timed out"
    assert stalled_tls_server.connections == 8


def test_the_most_calls_at_a_time_counts_for_each_server(
    job: Job, second_simulator: Simulator
) -> None:
    wanted = []
    for simulator in (job.simulator, second_simulator):
        simulator.latency = 0.1
        for number in range(9):
            name = f"{number} at {simulator.base_url}"
            simulator.add_instance(name, "token")
            wanted.append(Wanted(name, simulator.base_url))
    rows = fetch(job.connection, *wanted, max_concurrency=3)
    assert {row.outcome for row in rows.values()} == {"qr_code"}
    assert [s.peak_concurrency for s in (job.simulator, second_simulator)] == [3, 3]


# A resolver that waits for one name only; tools/backend.py says what that simulates.
NEVER_RESOLVES_ONE_NAME = """
    resolve = socket.getaddrinfo
    def resolve_others(host, *arguments, **options):
        if host == 'slow.invalid':
            threading.Event().wait()
        return resolve(host, *arguments, **options)
    socket.getaddrinfo = resolve_others
"""


def test_a_server_whose_name_is_not_found_or_that_cannot_be_trusted_costs_only_its_own(
    job: Job,
) -> None:
    job.simulator.add_instance("good", "token")
    rows = fetch(
        job.connection,
        Wanted("nowhere", "http://nowhere.invalid"),
        Wanted("no address", "http://[1]"),
        Wanted("TLS", job.simulator.base_url.replace("http:", "https:")),
        Wanted("good", job.simulator.base_url),
        # A name server that is far away, or not there, takes its time to say so.
        request_timeout=30.0,
        run_timeout=60.0,
        ca_file="/nowhere.pem",
    )
    assert {name: row.error for name, row in rows.items()} == {
        "nowhere": "host not found",
        "no address": "host not found",
        "TLS": "CA file cannot be read",
        "good": None,
    }
    assert rows["good"].qr_code is not None
    assert rows["good"].qr_code.startswith(PNG_URL)


def test_a_server_whose_name_never_resolves_costs_only_its_own_and_leaves_no_client(
    job: Job,
) -> None:
    change_client(job.connection, NEVER_RESOLVES_ONE_NAME)
    job.simulator.latency = 0.2
    wanted = [Wanted(f"good {n}", job.simulator.base_url) for n in range(5)]
    for instance in wanted:
        job.simulator.add_instance(instance.name, instance.token)
    slow = [Wanted(f"slow {n}", "http://slow.invalid") for n in range(2)]
    # Longer than the time-out of a request, so that the run goes on after the name is given up.
    rows = fetch(job.connection, *slow, *wanted, request_timeout=0.9, max_concurrency=1)
    assert {rows[instance.name].outcome for instance in slow} == {"timeout"}
    # One after the other.
    assert all(0.9 <= rows[instance.name].elapsed < 6 for instance in slow)
    assert {rows[instance.name].outcome for instance in wanted} == {"qr_code"}
    assert job.simulator.total_requests == 10
    assert clients(job.connection, job.connection.info.backend_pid) == []
    (row,) = fetch(job.connection, wanted[0]).values()
    assert row.outcome == "qr_code"
