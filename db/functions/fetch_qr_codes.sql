-- qr_refresh.fetch_qr_codes(): asks Evolution API for many QR codes at once. HTTP only: no table.
create or replace function qr_refresh.fetch_qr_codes(
    instance_names text[],
    instance_tokens text[],
    base_url text,
    request_timeout double precision,
    run_timeout double precision,
    max_concurrency integer,
    ca_file text
)
returns table (instance_name text, outcome text, qr_code text, error text, elapsed double precision)
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import ctypes
    import queue
    import signal
    import socket
    import threading
    import time
    from typing import Any
    from urllib.parse import quote, urlsplit

    tick = 0.05  # seconds until a cancel or a deadline is noticed
    run_ends = time.monotonic() + run_timeout

    problems = plpy.execute(
        plpy.prepare(
            "select qr_refresh.instance_problem(i.name, i.token) as problem"
            " from unnest($1, $2) as i (name, token)",
            ["text[]", "text[]"],
        ),
        [instance_names, instance_tokens],
    )
    Row = tuple[str, str, str | None, str | None, float]  # as returned
    results: list[Row] = [
        (name, "failed" if row["problem"] else "not_attempted", None, row["problem"], 0.0)
        for name, row in zip(instance_names, problems, strict=True)
    ]
    wanted = [i for i, result in enumerate(results) if result[1] == "not_attempted"]
    if not wanted:
        return results

    # Imports requests, so only where there is something to ask. Each run defines anew, so that a
    # deploy reaches sessions that are open.
    plpy.execute("select qr_refresh.define_http_client(), qr_refresh.define_answer_reader()")
    HttpClient, read_answer = GD["qr_refresh.HttpClient"], GD["qr_refresh.read_answer"]

    def end_all(outcome: str, error: str | None) -> list[Row]:
        for i in wanted:
            results[i] = (instance_names[i], outcome, None, error, 0.0)
        return results

    addresses: list[Any] = []
    # Postgres's own flags. A session that ends while threads are inside OpenSSL can crash the whole
    # server, so the threads end first.
    postgres = ctypes.CDLL(None)
    interrupt_pending = ctypes.c_int.in_dll(postgres, "InterruptPending")
    ends_pending = [
        ctypes.c_int.in_dll(postgres, name)
        for name in ("QueryCancelPending", "ProcDiePending", "TransactionTimeoutPending")
        if hasattr(postgres, name)  # the last one since PostgreSQL 17
    ]
    todo = iter(wanted)
    done: queue.SimpleQueue[tuple[int, int, bytes, str | None, float]] = queue.SimpleQueue()
    stopping = threading.Event()
    trust = None
    if base_url.startswith("https:"):
        from requests.utils import DEFAULT_CA_BUNDLE_PATH
        from urllib3.util.ssl_ import create_urllib3_context

        # One context for all connections, from a file that no environment variable names.
        trust = create_urllib3_context()
        try:
            trust.load_verify_locations(ca_file or DEFAULT_CA_BUNDLE_PATH)
        except OSError:  # of which an SSLError is one
            return end_all("failed", "CA file cannot be read")

    def resolve() -> None:
        try:
            url = urlsplit(base_url)
            port = url.port or (443 if trust else 80)
            addresses.extend(socket.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError, OverflowError):
            pass

    def work(client: Any) -> None:
        """One worker: a request after the other. Workers never touch plpy."""
        for i in todo:
            begun_at = time.monotonic()
            if stopping.is_set() or begun_at >= run_ends:
                break
            address = f"{base_url}/instance/connect/{quote(instance_names[i], safe='')}"
            deadline = min(begun_at + request_timeout, run_ends)
            answer = client.get(address, instance_tokens[i], deadline)
            done.put((i, *answer, time.monotonic() - begun_at))
        client.close()

    def start(target: Any, *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        # A signal handled in a thread of ours would run Postgres's handlers beside Postgres.
        former = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)
        return thread

    # Nothing can interrupt getaddrinfo(). A run that cannot wait for it leaves this one thread
    # behind, which the resolver's own time-outs end (resolv.conf: 5 s, two attempts, each server).
    resolver = start(resolve)
    resolve_ends = min(time.monotonic() + request_timeout, run_ends)
    while resolver.is_alive() and time.monotonic() < resolve_ends:
        resolver.join(tick)
        plpy.execute("select 1")
    if not addresses:
        if resolver.is_alive():
            return end_all("timeout", None)
        return end_all("failed", "host not found")

    clients = [HttpClient(base_url, addresses, trust) for _ in wanted[:max_concurrency]]
    workers: list[threading.Thread] = []
    try:
        workers.extend(start(work, client) for client in clients)
        next_tick = 0.0
        remaining = len(wanted)
        while remaining:
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + tick
                for client in clients:
                    client.expire(now)
                if any(flag.value for flag in ends_pending):
                    break
                if interrupt_pending.value:
                    # Other sessions may wait for an answer, such as one that drops a database.
                    plpy.execute("select 1")
                # In this order: a worker's last answer is there before the worker has ended.
                if not any(worker.is_alive() for worker in workers) and done.empty():
                    break
            try:
                i, status, body, error, elapsed = done.get(timeout=tick)
            except queue.Empty:
                continue
            remaining -= 1
            outcome, picture = "timeout" if error == "Request timeout" else "failed", None
            if error is None:
                outcome, picture, error = read_answer(status, body)
            results[i] = (instance_names[i], outcome, picture, error, elapsed)
    finally:
        stopping.set()
        for worker in workers:
            while worker.is_alive():
                # Again and again: shutting down a socket just before it connects has no effect.
                for client in clients:
                    client.stop()
                worker.join(tick)
    # Here Postgres acts on a cancel, a time-out or a shutdown: blocked in Python it cannot.
    plpy.execute("select 1")
    return results
$python$;

alter function qr_refresh.fetch_qr_codes(
    text[], text[], text, double precision, double precision, integer, text
) owner to qr_refresh_owner;
revoke all on function qr_refresh.fetch_qr_codes(
    text[], text[], text, double precision, double precision, integer, text
) from public;

comment on function qr_refresh.fetch_qr_codes(
    text[], text[], text, double precision, double precision, integer, text
) is
'Calls GET {base_url}/instance/connect/{name} with the header apikey, for each instance, several at a time.
instance_names, instance_tokens: arrays of one length. base_url: http(s) URL without trailing slash. '
'request_timeout: seconds for one call in all. run_timeout: seconds for the whole. max_concurrency: most calls at a time. '
'ca_file: PEM file of the CAs to trust, NULL for the system''s.
Returns one row for each instance, in order: instance_name; outcome (qr_code, no_qr_code, connected: the server says so, failed, '
'timeout, not_attempted: run_timeout was reached first); qr_code (data:image/png;base64,...); error (a short reason for outcome failed, '
'without host, token and body); elapsed (seconds).
Raises nothing for what a server does. A cancel takes effect within 0.1 s.
Privileges: EXECUTE for nobody but the owner and superusers.';
