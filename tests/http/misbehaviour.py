"""How a server of these tests stalls or floods, and what a run then says of each instance."""

from __future__ import annotations

import time

from simulator import hostile
from simulator.answers import qr_answer
from simulator.hostile import Behaviour, Exchange, HostileServer, head
from simulator.instance import QrCode
from tools.job import Job

CALL_LATE = 0.25  # seconds over its time at which a call has failed its deadline
LATE = 0.5  # the same of a run, which also chooses and stores
TIMEOUT = "Request timeout"
NOT_ATTEMPTED = "Not attempted: run timeout reached"
HANGING: dict[str, Behaviour] = {
    "never answers": hostile.never_answer,
    "drips header bytes": hostile.drip_headers,
    "drips body bytes": hostile.drip_body,
    "half a body, then nothing": hostile.half_body_then_stall,
}


def answering(body: bytes, status: str = "200 OK", rest: bytes = b"") -> Behaviour:
    """Answer with this body, correctly framed; `rest` follows where nothing should."""

    async def answer(exchange: Exchange) -> None:
        await exchange.send(head(status, Content_Length=len(body)) + body + rest)
        exchange.keep_open = True

    return answer


async def drip_a_while(exchange: Exchange) -> None:
    """Drip for a second, then send the rest."""
    await exchange.send(head(Content_Length=len(hostile.GOOD_BODY)))
    await exchange.drip(hostile.GOOD_BODY[:10])
    await exchange.send(hostile.GOOD_BODY[10:])


def qr_body(text: str) -> bytes:
    return qr_answer(QrCode(text, 1)).body


def errors(job: Job) -> dict[str, str | None]:
    """Run, and return what the report says of each instance; None where there is no error."""
    return {r["instance_name"]: r.get("error") for r in job.run()["results"]}


def start_client(job: Job) -> None:
    """Start the client of the job's session, which takes a while."""
    # Nobody listens on port 1.
    row = job.connection.execute(
        "select outcome, error from qr_refresh.ask(array[(null, 'x', null, 'x',"
        " 'http://127.0.0.1:1', true, false, now(), null, null, null, null, null, null, null,"
        " null)::qr_refresh.attempt], 8, 8)"
    ).fetchone()
    assert row == ("failed", "connection refused")


def timed(job: Job) -> tuple[dict[str, str | None], float]:
    """Run in a session whose client has started; return the errors and the seconds."""
    start_client(job)
    begun_at = time.monotonic()
    found = errors(job)
    return found, time.monotonic() - begun_at


# What ends by itself, and why.
FLOODS = [
    (hostile.endless_status_line, "connection closed"),
    (hostile.endless_headers, "connection closed"),
    (hostile.long_headers, "connection closed"),
    (hostile.endless_body, "answer is over 256 kB"),
    (hostile.endless_redirect, "answer is over 256 kB"),
    (hostile.endless_small_chunks, "answer is over 256 kB"),
    (hostile.oversized_body, "answer is over 256 kB"),
    (hostile.gzip_bomb, "answer is over 256 kB"),
]
# What the time-out has to end: the http.client of Python 3.11 to 3.13 reads on and on.
ENDLESS: list[Behaviour] = [hostile.continue_flood, hostile.endless_trailers]


def asked(server: HostileServer) -> list[tuple[str, int]]:
    return [(request.instance_name, request.connection) for request in server.requests]
