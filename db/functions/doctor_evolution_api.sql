-- qr_refresh.doctor_evolution_api(): the part of qr_refresh.doctor() about Evolution API.
create or replace function qr_refresh.doctor_evolution_api()
returns table ("check" text, ok boolean, detail text, fix text)
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import ctypes
    import http.client
    import signal
    import socket
    import threading
    import time
    from typing import Any
    from urllib.parse import quote, urlsplit

    set_url = "UPDATE qr_refresh.settings SET evolution_api_base_url = 'https://...';"
    url = plpy.execute("select * from qr_refresh.evolution_api_base_url()")[0]
    settings = plpy.execute(
        "select extract(epoch from request_timeout)::float8 as request_timeout, ca_file"
        " from qr_refresh.settings"
    )[0]
    if url["error"]:
        yield "base URL", False, f"{url['error']} (from: {url['source']})", set_url
    else:
        is_default = url["source"] == "default"
        in_force = f"{url['base_url']} (from: {url['source']})"
        fix = f"Built in, and instance tokens are sent there. If it is not yours: {set_url}"
        yield "base URL", None if is_default else True, in_force, fix

    # One instance of each server, rather one that failed; without any, the server's first page.
    servers = plpy.execute(
        "select v.name, v.base_url, i.instance_name, i.token"
        " from (select null as name, base_url from qr_refresh.evolution_api_base_url()"
        " union all select name, base_url from qr_refresh.evolution_servers) as v"
        " left join lateral (select e.instance_name::text, e.instance_token::text as token"
        " from public.evolution_instances as e"
        " left join qr_refresh.instance_state as s on e.instance_name::text = s.instance_name"
        " where e.instance_status = 'connecting' and e.evolution_server is not distinct from v.name"
        " and qr_refresh.instance_problem(e.instance_name::text, e.instance_token::text) is null"
        " order by s.outcome is distinct from 'failed', e.instance_name limit 1) as i on true"
        " where v.base_url is not null order by v.name nulls first"
    )
    if servers:
        plpy.execute("select qr_refresh.define_http_client()")  # imports requests
        from requests.utils import DEFAULT_CA_BUNDLE_PATH
        from urllib3.util.ssl_ import create_urllib3_context

    # Postgres's own flag: the thread ends before a session that is cancelled or ended does.
    interrupt_pending = ctypes.c_int.in_dll(ctypes.CDLL(None), "InterruptPending")

    def ask(base_url: str, path: str, token: str) -> tuple[int, str | None]:
        """Returns the status, and why there is none. One thread does HTTP, this one watches."""
        trust = None
        if base_url.startswith("https:"):
            trust = create_urllib3_context()
            try:
                trust.load_verify_locations(settings["ca_file"] or DEFAULT_CA_BUNDLE_PATH)
            except OSError:
                return 0, "CA file cannot be read"
        deadline = time.monotonic() + settings["request_timeout"]
        answers: list[tuple[int, bytes, str | None]] = []
        clients: list[Any] = []
        stopping = threading.Event()

        def work() -> None:
            try:
                parts = urlsplit(base_url)
                port = parts.port or (443 if trust else 80)
                found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
            except (OSError, ValueError, OverflowError):
                answers.append((0, b"", "host not found"))
                return
            client = GD["qr_refresh.HttpClient"](base_url, found, trust)
            clients.append(client)
            if not stopping.is_set():
                answers.append(client.get(base_url + path, token, deadline))
            client.close()

        thread = threading.Thread(target=work, daemon=True)
        # A signal handled in a thread of ours would run Postgres's handlers beside Postgres.
        former = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)
        while thread.is_alive() and not interrupt_pending.value:
            thread.join(0.05)
            now = time.monotonic()
            for client in clients:
                client.expire(now)
            if now > deadline and not clients:
                break  # nothing can end getaddrinfo(), which waits for a name server
        stopping.set()
        while thread.is_alive() and clients:
            clients[0].stop()
            thread.join(0.05)
        plpy.execute("select 1")
        status, _, failure = answers[0] if answers else (0, b"", "Request timeout")
        return status, failure

    for server in servers:
        of_server = f" {server['name']}" if server["name"] else ""
        name, token = server["instance_name"], server["token"] or ""
        path = f"/instance/connectionState/{quote(name, safe='')}" if name else "/"
        begun_at = time.monotonic()
        status, failure = ask(server["base_url"], path, token)
        took = f"{(time.monotonic() - begun_at) * 1000:.0f} ms"
        phrase = f"{status} {http.client.responses.get(status, '')}".rstrip()
        yield (
            f"Evolution API{of_server} answers",
            failure is None and status < 500,
            f"{failure or phrase} after {took}",
            "From the database server: curl -i URL; look at URL, firewall, DNS, TLS, ca_file",
        )
        if name and failure is None and status < 500:
            yield (
                f"Evolution API{of_server} knows the instance and its token",
                status == 200,
                f"{phrase} for {name}",
                "401: correct instance_token. 404: it is not on this server; delete the row or"
                " create the instance",
            )
$python$;

alter function qr_refresh.doctor_evolution_api() owner to qr_refresh_owner;
revoke all on function qr_refresh.doctor_evolution_api() from public;

comment on function qr_refresh.doctor_evolution_api() is
'Part of qr_refresh.doctor(), which describes the columns: the URL in force, and one call to each Evolution server.
Raises nothing of its own. Privileges: EXECUTE for nobody but the owner and superusers.';
