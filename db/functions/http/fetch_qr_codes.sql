-- qr_refresh.fetch_qr_codes(): asks Evolution API for many QR codes at once. HTTP only: no table.
create or replace function qr_refresh.fetch_qr_codes(
    instance_names text[],
    instance_tokens text[],
    base_urls text[],
    check_state boolean[],
    connect_on_close boolean[],
    request_timeout double precision,
    run_timeout double precision,
    max_concurrency integer,
    ca_file text
)
returns table (
    instance_name text,
    outcome text,
    qr_code text,
    error text,
    elapsed double precision,
    reconnected boolean
)
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import contextlib
    import json
    import os
    import select
    import subprocess
    import sys
    import time
    from typing import Any

    tick = 0.05  # seconds until a cancel is noticed
    grace = 1.0  # seconds after the end of a run, for a client that has much to tell
    most_calls = 512  # at a time, to all servers together
    run_ends = time.monotonic() + run_timeout
    # With less time left than this a call is not begun: it comes first in the next run.
    shortest = min(0.5, request_timeout / 4)

    def client() -> dict[str, Any]:
        """The client of this session; where there is none of today's program, a new one."""
        program = plpy.execute("select qr_refresh.evolution_client() as text")[0]["text"]
        kept: dict[str, Any] | None = SD.get("client")
        if kept and kept["program"] == program and kept["process"].poll() is None:
            return kept
        end_client()
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
        started = {"process": process, "program": program, "late": 0, "works": False}
        SD["client"] = started
        return started

    def end_client() -> None:
        """Ends it at once, whatever it is asking; leaves no zombie."""
        if "client" in SD:
            process = SD.pop("client")["process"]
            process.kill()
            process.stdin.close()
            process.stdout.close()
            process.wait()

    results: list[tuple[str, str, str | None, str | None, float, bool | None]] = []
    todo: dict[str, list[int]] = {}  # of each server, the last one first
    if "plan" not in SD:
        SD["plan"] = plpy.prepare(
            "select qr_refresh.instance_problem(i.name, i.token) as problem"
            " from unnest($1, $2) as i (name, token)",
            ["text[]", "text[]"],
        )
    for i, row in enumerate(plpy.execute(SD["plan"], [instance_names, instance_tokens])):
        problem = row["problem"] or (None if base_urls[i] else "Evolution server is unknown")
        outcome = "failed" if problem else "not_attempted"
        results.append((instance_names[i], outcome, None, problem, 0.0, False))
        if not problem:
            todo.setdefault(base_urls[i], []).append(i)

    for positions in todo.values():
        positions.reverse()
    # All servers together get so many places at most, and each of them one at least.
    wanted = sum(min(max_concurrency, len(positions)) for positions in todo.values())
    share = min(1, most_calls / max(wanted, 1))
    places = {url: max(1, int(min(max_concurrency, len(ps)) * share)) for url, ps in todo.items()}
    under_way: dict[int, str] = {}  # the server of each position

    def next_calls() -> bytes:
        """What there is a place for, a line each."""
        lines = b""
        now = time.monotonic()
        for url, positions in todo.items():
            while positions and places[url] and now + shortest < run_ends:
                i = positions.pop()
                places[url] -= 1
                under_way[i] = url
                call = {"id": i, "base_url": url, "ca_file": ca_file}
                call |= {"instance_name": instance_names[i], "instance_token": instance_tokens[i]}
                call |= {"check_state": check_state[i], "connect_on_close": connect_on_close[i]}
                call |= {"timeout": min(request_timeout, run_ends - now)}
                lines += json.dumps(call).encode() + b"\n"
        return lines

    def keep(answer: dict[str, Any]) -> None:
        i = answer["id"]
        places[under_way.pop(i)] += 1
        fields = ("outcome", "qr_code", "error", "elapsed", "reconnected")
        results[i] = (instance_names[i], *(answer[field] for field in fields))

    def converse(kept: dict[str, Any]) -> bool:
        """Hands over calls and takes answers until all is done; False: the client has ended."""
        to_client, from_client = kept["process"].stdin.fileno(), kept["process"].stdout.fileno()
        outgoing = incoming = b""
        while time.monotonic() < run_ends + grace:
            outgoing += next_calls()
            if not under_way:
                break
            readable, writable, _ = select.select(
                [from_client], [to_client] if outgoing else [], [], tick
            )
            # Here Postgres acts on a cancel, a time-out or a shutdown: blocked in Python it cannot.
            plpy.execute("select 1")
            if writable:
                # Of one that has ended, what it has answered can still be read.
                with contextlib.suppress(BrokenPipeError):
                    outgoing = outgoing[os.write(to_client, outgoing[:65536]) :]
            if readable:
                data = os.read(from_client, 1 << 20)
                if not data:
                    return False
                *lines, incoming = (incoming + data).split(b"\n")
                for line in lines:
                    answer = json.loads(line)
                    kept |= {"late": answer["late"], "works": True}
                    keep(answer)
        return True

    try:
        while any(todo.values()) and time.monotonic() + shortest < run_ends:
            kept = client()
            has_ended = not converse(kept)
            if not under_way:
                break
            end_client()
            # A negative status is a signal: somebody has killed it while it started or worked.
            if has_ended and not kept["works"] and kept["process"].returncode >= 0:
                plpy.error(
                    "the HTTP client does not start",
                    detail="Most often the Python library requests is missing or broken.",
                    hint="As the system user of PostgreSQL: python3 -I -c 'import requests'",
                    sqlstate="QR011",
                )
            for i in [*under_way]:
                outcome = "failed" if has_ended else "timeout"
                error = "HTTP client has ended" if has_ended else None
                nothing = {"qr_code": None, "elapsed": 0.0, "reconnected": None}
                keep({"id": i, "outcome": outcome, "error": error} | nothing)
    finally:
        # After a cancel or an error calls are under way. A thread that was left behind may hold a
        # connection for as long as its server drips.
        if under_way or SD.get("client", {}).get("late"):
            end_client()
    return results
$python$;

comment on function qr_refresh.fetch_qr_codes(
    text[], text[], text[], boolean[], boolean[], double precision, double precision, integer, text
) is
'Calls GET {base_url}/instance/connect/{name} with the header apikey, for each instance, several at a time, all servers side by side.
instance_names, instance_tokens, base_urls, check_state, connect_on_close: arrays of one length. base_urls: http(s) URL of the '
'instance''s server without trailing slash; NULL: failed. check_state: asks GET {base_url}/instance/connectionState/{name} first; on state '
'open connect is not called, on close, where connect opens a WhatsApp socket, only with connect_on_close. '
'request_timeout: seconds for one instance in all. run_timeout: seconds for the whole. max_concurrency: most calls at a time to one '
'server; where all servers together would get more than 512, fewer in proportion. '
'ca_file: PEM file of the CAs to trust, NULL for the system''s.
Returns one row for each instance, in order: instance_name; outcome (qr_code, no_qr_code, connected and closed: the server says so, '
'failed, timeout, not_attempted: run_timeout was reached first); qr_code (data:image/png;base64,...); error (a short reason for outcome '
'failed, without host, token and body); elapsed (seconds, with those for resolving the server''s name); reconnected (connect was called on '
'state close; NULL: it was called without asking for the state).
Errors: QR010 the HTTP client cannot be started; QR011 it does not start. Nothing for what a server does. A cancel takes effect within 0.1 s.
Private.';
