"""How a server of these tests stalls or floods, and what a run then says of each instance."""

from __future__ import annotations

import time

from simulator import hostile
from simulator.answers import qr_answer
from simulator.hostile import Behaviour, Exchange, HostileServer, head
from simulator.instance import QrCode
from tools.backend import run_python
from tools.job import Job

LATE = 1.0  # seconds over its time at which a request or a run has failed its deadline
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


def qr_body(text: str) -> bytes:
    return qr_answer(QrCode(text, 1)).body


def errors(job: Job) -> dict[str, str | None]:
    """Run, and return what the report says of each instance; None where there is no error."""
    return {r["instance_name"]: r.get("error") for r in job.run()["results"]}


def timed(job: Job) -> tuple[dict[str, str | None], float]:
    """Run in a session that has imported everything; return the errors and the seconds."""
    run_python(job.connection, "import requests")
    begun_at = time.monotonic()
    found = errors(job)
    return found, time.monotonic() - begun_at


FLOODS = [
    (hostile.endless_status_line, "connection closed"),
    (hostile.continue_flood, "connection closed"),
    (hostile.endless_headers, "connection closed"),
    (hostile.long_headers, "connection closed"),
    (hostile.endless_body, "answer is over 256 kB"),
    (hostile.endless_small_chunks, "connection closed"),
    (hostile.endless_trailers, "connection closed"),
    (hostile.oversized_body, "answer is over 256 kB"),
]


def asked(server: HostileServer) -> list[tuple[str, int]]:
    return [(request.instance_name, request.connection) for request in server.requests]
