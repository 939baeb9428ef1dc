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
    import ctypes
    import os
    import queue
    import time
    from pathlib import Path
    from typing import Any

    tick = 0.05  # seconds until a cancel or a deadline is noticed
    run_ends = time.monotonic() + run_timeout

    if "plan" not in SD:
        SD["plan"] = plpy.prepare(
            "select qr_refresh.instance_problem(i.name, i.token) as problem"
            " from unnest($1, $2) as i (name, token)",
            ["text[]", "text[]"],
        )
    Row = tuple[str, str, str | None, str | None, float, bool | None]  # as returned
    results: list[Row] = []
    remaining = 0
    for i, row in enumerate(plpy.execute(SD["plan"], [instance_names, instance_tokens])):
        problem = row["problem"] or (None if base_urls[i] else "Evolution server is unknown")
        outcome = "failed" if problem else "not_attempted"
        remaining += not problem
        results.append((instance_names[i], outcome, None, problem, 0.0, False))
    if not remaining:
        return results

    # Imports requests, so only where there is something to ask. Each run defines anew, so that a
    # deploy reaches sessions that are open.
    plpy.execute(
        "select qr_refresh.define_answer_reader(), qr_refresh.define_evolution_call(),"
        " qr_refresh.define_evolution_server(), qr_refresh.define_http_adapter(),"
        " qr_refresh.define_http_client(), qr_refresh.define_tls_trust()"
    )
    # Not a SimpleQueue: a signal just when the time-out ends makes its get() wait for ever.
    done: queue.Queue[tuple[Any, ...]] = queue.Queue()
    servers: dict[str, Any] = {}
    for i, result in enumerate(results):
        if result[1] == "not_attempted":
            if base_urls[i] not in servers:
                servers[base_urls[i]] = GD["qr_refresh.EvolutionServer"](
                    base_urls[i], request_timeout, run_ends, done
                )
            servers[base_urls[i]].calls.append(
                (i, instance_names[i], instance_tokens[i], check_state[i], connect_on_close[i])
            )

    # All servers together: so many more threads make every deadline late. A connection takes two
    # descriptors; some are left to Postgres.
    descriptors = os.sysconf("SC_OPEN_MAX") - len([*Path("/proc/self/fd").iterdir()]) - 64
    most_workers = max(1, min(512, descriptors // 2))
    workers = {server: min(max_concurrency, len(server.calls)) for server in servers.values()}
    share = min(1, most_workers / sum(workers.values()))

    # Postgres's own flags. A session that ends while threads are inside OpenSSL can crash the whole
    # server, so the threads end first.
    postgres = ctypes.CDLL(None)
    interrupt_pending = ctypes.c_int.in_dll(postgres, "InterruptPending")
    ends_pending = [
        ctypes.c_int.in_dll(postgres, name)
        for name in ("QueryCancelPending", "ProcDiePending", "TransactionTimeoutPending")
        if hasattr(postgres, name)  # the last one since PostgreSQL 17
    ]
    client_check = ctypes.c_int.in_dll(postgres, "CheckClientConnectionPending")
    postponed = 0
    try:
        for server, wanted in workers.items():
            server.start(max(1, int(wanted * share)), ca_file)
        next_tick = 0.0
        while remaining:
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + tick
                for server in servers.values():
                    server.expire(now)
                if any(flag.value for flag in ends_pending):
                    break
                if interrupt_pending.value:
                    # client_connection_check_interval would end the session right here.
                    postponed |= client_check.value
                    client_check.value = 0
                    # Other sessions may wait for an answer, such as one that drops a database.
                    plpy.execute("select 1")
                # In this order: a worker's last answer is there before the worker has ended.
                if not any(server.is_at_work() for server in servers.values()) and done.empty():
                    break
            try:
                i, *answer = done.get(timeout=tick)
            except queue.Empty:
                continue
            remaining -= 1
            results[i] = (instance_names[i], *answer)
    finally:
        for server in servers.values():
            server.stop()
        for server in servers.values():
            server.join(tick)
    if postponed:
        client_check.value = interrupt_pending.value = 1
    # Here Postgres acts on a cancel, a time-out or a shutdown: blocked in Python it cannot.
    plpy.execute("select 1")
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
'server; where all servers together would get more than 512, or than the process may open files for, fewer in proportion. '
'ca_file: PEM file of the CAs to trust, NULL for the system''s.
Returns one row for each instance, in order: instance_name; outcome (qr_code, no_qr_code, connected and closed: the server says so, '
'failed, timeout, not_attempted: run_timeout was reached first); qr_code (data:image/png;base64,...); error (a short reason for outcome '
'failed, without host, token and body); elapsed (seconds, with those for resolving the server''s name); reconnected (connect was called on '
'state close; NULL: it was called without asking for the state).
Raises nothing for what a server does. A cancel takes effect within 0.1 s.
Private.';
