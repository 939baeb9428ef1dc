-- qr_refresh.ask(): hands attempts over to the HTTP client, and takes the answers that have come.
create or replace function qr_refresh.ask(
    attempts qr_refresh.attempt[], ends_in double precision, patience double precision
)
returns setof qr_refresh.attempt
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import contextlib
    import datetime
    import hashlib
    import json
    import os
    import select
    import subprocess
    import sys
    import time
    from typing import Any

    tick = 0.05  # seconds until a cancel is noticed
    gathering = 0.01  # seconds in which more answers are taken, once the first has come
    longest_gathering = 0.05  # a pipe holds five pictures, and the client fills it again
    most_answers = 100  # at a time: PL/Python holds several copies of what it hands over
    grace = 2.0  # seconds for a client to tell that it is time
    most_late = 16  # threads that a client has left behind before another takes its place

    # New calls go to the last one; the others are left until their calls are done.
    clients: list[dict[str, Any]] = SD.setdefault("clients", [])
    answered: list[dict[str, Any]] = []

    def start_client(program: str) -> None:
        python = f"{sys.exec_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        try:
            process: Any = subprocess.Popen(
                # -I: no environment variable and no folder of others decides what is imported.
                [python, "-I", "-c", program],
                bufsize=0,
                cwd="/",
                env={"PATH": "/usr/bin:/bin"},
                start_new_session=True,  # a signal for our process group is not for the client
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as e:
            plpy.error(
                "the HTTP client cannot be started",
                detail=f"Starting Python failed: {e.strerror}.",
                hint=f"The system user of PostgreSQL must be able to run {python}",
                sqlstate="QR010",
            )
        # It reads as fast as it can, but not before it has started.
        os.set_blocking(process.stdin.fileno(), False)
        client = {"process": process, "program": program, "late": 0, "works": False}
        clients.append(client | {"under_way": {}, "outgoing": b"", "incoming": b""})

    def end_client(client: dict[str, Any]) -> None:
        """Ends it at once, whatever it is asking; leaves no zombie."""
        clients.remove(client)
        client["process"].kill()
        client["process"].stdin.close()
        client["process"].stdout.close()
        client["process"].wait()

    def hand_over() -> None:
        """Gives the attempts to a client of today's program that is not worn out."""
        answered.extend(attempt for attempt in attempts if attempt["outcome"])
        to_ask = [attempt for attempt in attempts if not attempt["outcome"]]
        if not to_ask:
            return
        if "settings" not in SD:
            SD["settings"] = plpy.prepare(
                "select qr_refresh.evolution_client() as program, qr_refresh.places() as places,"
                " extract(epoch from s.request_timeout)::float8 as timeout, s.ca_file"
                " from qr_refresh.settings as s"
            )
        settings = dict(plpy.execute(SD["settings"])[0])
        program = settings.pop("program")
        last = clients[-1] if clients else None
        if last and not last["under_way"] and last["process"].poll() is not None:
            end_client(last)  # somebody has killed it
            last = None
        if not last or last["program"] != program or last["late"] > most_late:
            start_client(program)
        common = settings | {"ends_in": ends_in}
        told = ("base_url", "instance_name", "instance_token", "may_connect", "connect_on_close")
        clients[-1]["ends_at"] = time.monotonic() + ends_in + grace
        for attempt in to_ask:
            SD["id"] = SD.get("id", 0) + 1
            clients[-1]["under_way"][SD["id"]] = attempt
            call = common | {"id": SD["id"]} | {name: attempt[name] for name in told}
            clients[-1]["outgoing"] += json.dumps(call).encode() + b"\n"

    def keep(client: dict[str, Any], answer: dict[str, Any]) -> None:
        """Adds an answer to the attempt that it is for."""
        client |= {"late": answer.pop("late"), "works": True}
        picture = answer["qr_code"]
        answer["qr_digest"] = hashlib.sha256(picture.encode()).digest() if picture else None
        moment = datetime.datetime.fromtimestamp(answer["answered_at"], datetime.UTC)
        answer["answered_at"] = moment.isoformat()
        answered.append(client["under_way"].pop(answer.pop("id")) | answer)

    def give_up(client: dict[str, Any], said: dict[str, Any]) -> None:
        """Ends a client, and answers in its place."""
        end_client(client)
        nothing: dict[str, Any] = {"qr_code": None, "qr_count": None, "reconnected": False}
        nothing |= {"round_trip": None, "late": 0}
        for number in [*client["under_way"]]:
            keep(client, nothing | said | {"id": number, "answered_at": time.time()})

    def read(client: dict[str, Any]) -> None:
        """Takes what has come; where the client has ended, its calls have failed."""
        data = os.read(client["process"].stdout.fileno(), 1 << 20)
        *lines, client["incoming"] = (client["incoming"] + data).split(b"\n")
        for line in lines:
            keep(client, json.loads(line))
        if data:
            return
        # A negative status is a signal: somebody has killed it while it started or worked.
        if client["process"].wait() >= 0 and not client["works"]:
            end_client(client)
            plpy.error(
                "the HTTP client does not start",
                detail="Most often the Python library requests is missing or broken.",
                hint="As the system user of PostgreSQL: python3 -I -c 'import requests'",
                sqlstate="QR011",
            )
        give_up(client, {"outcome": "failed", "error": "HTTP client has ended"})

    def converse(until: float) -> None:
        """Hands over and takes, until answers have come or it is time."""
        while busy := [c for c in clients if c["under_way"]]:
            ends_at = until
            if answered:
                ends_at = min(until + longest_gathering, time.monotonic() + gathering)
            outputs = {c["process"].stdout.fileno(): c for c in busy}
            inputs = {c["process"].stdin.fileno(): c for c in busy if c["outgoing"]}
            wait = max(0.0, min(tick, ends_at - time.monotonic()))
            readable, writable, _ = select.select([*outputs], [*inputs], [], wait)
            # Here Postgres acts on a cancel, a time-out or a shutdown: blocked in Python it cannot.
            plpy.execute("select 1")
            for number in writable:
                # Of one that has ended, what it has answered can still be read.
                with contextlib.suppress(BrokenPipeError):
                    sent = os.write(number, inputs[number]["outgoing"][:65536])
                    inputs[number]["outgoing"] = inputs[number]["outgoing"][sent:]
            for number in readable:
                read(outputs[number])
            for client in [c for c in clients if c["under_way"]]:
                if time.monotonic() > client["ends_at"]:
                    give_up(client, {"outcome": "timeout", "error": None})
            is_quiet = bool(answered) and not readable
            is_time = time.monotonic() >= until + (longest_gathering if answered else 0)
            if is_quiet or len(answered) >= most_answers or is_time:
                break

    is_whole = False
    try:
        if attempts:
            hand_over()
        converse(time.monotonic() + patience)
        is_whole = attempts is not None
    finally:
        for client in [*clients]:
            # What a thread that was left behind has open would stay as long as its server drips.
            is_fresh = client is clients[-1] and not client["late"]
            if not (is_whole and (is_fresh or client["under_way"])):
                end_client(client)
    return answered
$python$;

comment on function qr_refresh.ask(qr_refresh.attempt[], double precision, double precision) is
'Hands attempts over to the HTTP client, a child process of the session that goes on until the session ends, and takes the answers that have come. One that has its outcome already is returned as it is.
attempts: as the functions of db/functions/choosing return them; empty: none; NULL: whatever is under way is given up, and the client ends. ends_in: seconds after which these have ended, '
'one way or the other. patience: for how many seconds to wait for the first answer.
Returns answered attempts, also of earlier calls: about 100 at most, each once. outcome: qr_code, no_qr_code, connected, closed, pairing, failed, timeout, or not_attempted where no place became free in time.
Errors: QR010 the interpreter cannot be started; QR011 the client does not start. Each with a hint. Private.';
