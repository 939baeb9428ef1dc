-- refresh-qr-codes 1.0.0: Keeps WhatsApp QR codes fresh from inside PostgreSQL: a PL/Python function, run by pg_cron
--
-- Installs into one database, as a superuser:
--     psql --set ON_ERROR_STOP=1 --file qr_refresh.sql postgresql://postgres@host/database
-- It can be run again, also to upgrade; if a statement fails, nothing is installed.
-- Made by `make dist` from db/migrations and db/functions.

begin;
set local client_min_messages = warning;
set local search_path = pg_catalog, pg_temp;
-- Two installations at once would get into each other's way: the second waits.
do $$ begin perform pg_catalog.pg_advisory_xact_lock(7160624931); end $$;

-- db/migrations/20261124000000_check_requirements.sql

-- Stops before anything is installed where the job could not work later. `make migrate` runs this
-- file once more, and rolls it back, before it lets dbmate begin.
do $$
declare
    major constant text := current_setting('server_version_num')::integer / 10000;
begin
    if not (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
        raise exception using
            errcode = 'insufficient_privilege',
            message = 'installing refresh-qr-codes needs a superuser',
            detail = 'Only a superuser can create functions in an untrusted language such as plpython3u.',
            hint = 'Connect as a superuser, for example postgres. Managed Postgres gives no superuser '
                'and has no plpython3u: this job needs a server of your own.';
    end if;
    if not exists (select from pg_catalog.pg_available_extensions where name = 'plpython3u') then
        raise exception using
            errcode = 'feature_not_supported',
            message = 'PL/Python (extension plpython3u) is missing on the database server',
            hint = format('On the server, Debian or Ubuntu: apt install postgresql-plpython3-%s', major);
    end if;
end
$$;

create extension if not exists plpython3u with schema pg_catalog;

do language plpython3u $$
try:
    import requests
except ImportError:
    plpy.error(
        "the Python library requests is missing on the database server",
        detail="PL/Python uses the system's own Python, not a virtual environment.",
        hint="On the server, Debian or Ubuntu: apt install python3-requests",
        sqlstate="0A000",
    )
$$;

-- db/migrations/20261124000100_create_roles.sql

-- qr_refresh_owner owns the functions. It cannot log in, and it reads and writes only the columns
-- that the job needs. BYPASSRLS: the job serves every tenant's rows, as the service key did before.
-- service_role is Supabase's name for the back end's own role; elsewhere it is made so that grants
-- and documentation are the same everywhere.
do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'qr_refresh_owner') then
        create role qr_refresh_owner nologin bypassrls;
    end if;
    if not exists (select from pg_catalog.pg_roles where rolname = 'service_role') then
        create role service_role nologin;
    end if;
end
$$;

comment on role qr_refresh_owner is
'Owns the functions of refresh-qr-codes. Cannot log in; column privileges only on what the job uses.';

-- db/migrations/20261124000200_create_schema_qr_refresh.sql

create schema if not exists qr_refresh;

-- Somebody else may have made it first; whoever owns it could drop what is in it.
alter schema qr_refresh owner to current_user;

comment on schema qr_refresh is
'refresh-qr-codes: settings, state and functions of the job that keeps WhatsApp QR codes fresh.';

revoke all on schema qr_refresh from public;
grant usage on schema qr_refresh to qr_refresh_owner, service_role;

-- db/migrations/20261124000300_create_evolution_instances.sql

-- The application's own table. One that exists keeps everything it has and only gets the columns it
-- lacks; one that is created here starts with row level security on, because it holds tokens.
do $$
declare
    is_new constant boolean := to_regclass('public.evolution_instances') is null;
begin
    if is_new then
        create table public.evolution_instances (
            id uuid primary key default gen_random_uuid(),
            instance_name text not null unique,
            instance_token text,
            instance_status text not null default 'creating' check (
                instance_status in ('creating', 'disconnected', 'connecting', 'connected', 'error')
            ),
            qr_code text,
            last_qr_update timestamptz,
            created_at timestamptz not null default now(),
            updated_at timestamptz not null default now()
        );
        alter table public.evolution_instances enable row level security;
        create index evolution_instances_instance_status_idx
        on public.evolution_instances (instance_status);

        comment on table public.evolution_instances is
        'WhatsApp instances of Evolution API, one row each. Belongs to the application.';
        comment on column public.evolution_instances.instance_name is 'Name of the instance in Evolution API.';
        comment on column public.evolution_instances.instance_token is
        'Secret: API key of the instance, sent as the header apikey.';
        comment on column public.evolution_instances.instance_status is
        'State as the application sees it. The job serves rows that are connecting.';
    else
        if not exists (
            select from pg_catalog.pg_attribute
            where attrelid = 'public.evolution_instances'::regclass and attname = 'instance_name'
        ) then
            raise exception using
                errcode = 'undefined_column',
                message = 'table public.evolution_instances has no column instance_name',
                hint = 'The job needs the table that lists the instances of Evolution API. '
                    'Rename the other table, or add the column and fill it.';
        end if;
        alter table public.evolution_instances
        add column if not exists id uuid default gen_random_uuid(),
        add column if not exists instance_token text,
        add column if not exists instance_status text not null default 'creating',
        add column if not exists qr_code text,
        add column if not exists last_qr_update timestamptz,
        add column if not exists created_at timestamptz not null default now(),
        add column if not exists updated_at timestamptz not null default now();
    end if;
end
$$;

comment on column public.evolution_instances.qr_code is
'QR code to scan, as data:image/png;base64,... Written by refresh_qr_codes().';
comment on column public.evolution_instances.last_qr_update is
'When refresh_qr_codes() last wrote qr_code.';

grant usage on schema public to qr_refresh_owner;
grant select (instance_name, instance_token, instance_status), update (qr_code, last_qr_update)
on public.evolution_instances to qr_refresh_owner;

-- db/migrations/20261124000400_create_settings.sql

create table if not exists qr_refresh.settings (
    singleton boolean primary key default true,
    evolution_api_base_url text,
    request_timeout interval not null default '8 seconds',
    run_timeout interval not null default '30 seconds',
    max_concurrency integer not null default 16,
    qr_lifetime interval not null default '60 seconds',
    history_retention interval not null default '7 days',
    log_detail text not null default 'instance',
    ca_file text,
    constraint settings_is_one_row check (singleton),
    constraint evolution_api_base_url_is_http_url check (
        evolution_api_base_url
        ~ '^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[^[:space:]?#]*)?$'
    ),
    constraint request_timeout_between_100_ms_and_run_timeout check (
        request_timeout between interval '100 milliseconds' and run_timeout
    ),
    constraint run_timeout_up_to_10_minutes check (run_timeout <= interval '10 minutes'),
    constraint max_concurrency_between_1_and_256 check (max_concurrency between 1 and 256),
    constraint qr_lifetime_between_1_second_and_1_hour check (
        qr_lifetime between interval '1 second' and interval '1 hour'
    ),
    constraint history_retention_between_1_hour_and_10_years check (
        history_retention between interval '1 hour' and interval '10 years'
    ),
    constraint log_detail_is_known check (log_detail in ('instance', 'cycle', 'off')),
    constraint ca_file_is_absolute_path check (ca_file ~ '^/[^[:cntrl:]]+$')
);

comment on table qr_refresh.settings is
'Settings of the job, one row. Change with UPDATE; the next run uses them.';
comment on column qr_refresh.settings.singleton is 'Keeps the table at one row.';
comment on column qr_refresh.settings.evolution_api_base_url is
'http(s) URL of Evolution API. NULL: the environment variable EVOLUTION_API_BASE_URL of the Postgres server, '
'else the built-in default. Instance tokens are sent there.';
comment on column qr_refresh.settings.request_timeout is 'Longest time for one HTTP call, name resolution included.';
comment on column qr_refresh.settings.run_timeout is
'Longest time for all HTTP calls of one run. What is not reached comes first in the next run.';
comment on column qr_refresh.settings.max_concurrency is
'Most HTTP calls at a time (1 to 256). 1 is one after the other.';
comment on column qr_refresh.settings.qr_lifetime is
'A picture seen unchanged for longer than this is dead and is not stamped as fresh again.';
comment on column qr_refresh.settings.history_retention is 'Rows of qr_refresh.runs older than this are deleted.';
comment on column qr_refresh.settings.log_detail is
'Lines in the server log: instance (each instance), cycle (start and end of a run), off.';
comment on column qr_refresh.settings.ca_file is
'Path on the server of a PEM file with the CA certificates to trust instead of the system''s. NULL: the system''s.';

insert into qr_refresh.settings default values on conflict do nothing;

revoke all on qr_refresh.settings from public;
grant select on qr_refresh.settings to qr_refresh_owner;

-- db/migrations/20261124000500_create_instance_state.sql

create table if not exists qr_refresh.instance_state (
    instance_name text primary key,
    attempted_at timestamptz not null,
    outcome text not null,
    qr_digest bytea,
    qr_first_seen_at timestamptz
);

comment on table qr_refresh.instance_state is
'What the job knows of each instance that is connecting now. Private: not for publication or the application.';
comment on column qr_refresh.instance_state.instance_name is 'Name of the instance in Evolution API.';
comment on column qr_refresh.instance_state.attempted_at is 'When the instance was last asked. Oldest first in a run.';
comment on column qr_refresh.instance_state.outcome is 'Last outcome, as qr_refresh.fetch_qr_codes() names it.';
comment on column qr_refresh.instance_state.qr_digest is 'SHA-256 of the last QR code, to notice one that stays the same.';
comment on column qr_refresh.instance_state.qr_first_seen_at is 'When that QR code was first seen.';

revoke all on qr_refresh.instance_state from public;
grant select, insert, update, delete on qr_refresh.instance_state to qr_refresh_owner;

-- db/migrations/20261124000600_create_runs.sql

create table if not exists qr_refresh.runs (
    id bigint generated always as identity primary key,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    requested_instance text,
    total_instances integer,
    refreshed integer,
    failed integer,
    report jsonb not null
);

create index if not exists runs_started_at_idx on qr_refresh.runs (started_at);

comment on table qr_refresh.runs is
'One row a run. No QR code and no token. Rows older than settings.history_retention are deleted by the next run.';
comment on column qr_refresh.runs.id is 'Number of the run.';
comment on column qr_refresh.runs.started_at is 'When the run began.';
comment on column qr_refresh.runs.finished_at is 'When the run had written its last row.';
comment on column qr_refresh.runs.requested_instance is 'Argument of refresh_qr_codes(name); NULL for a run over all.';
comment on column qr_refresh.runs.total_instances is 'Connecting instances of the run; NULL where it did not get so far.';
comment on column qr_refresh.runs.refreshed is 'Instances with success true.';
comment on column qr_refresh.runs.failed is 'Instances with success false.';
comment on column qr_refresh.runs.report is 'What refresh_qr_codes() returned.';

revoke all on qr_refresh.runs from public;
grant select, insert, delete on qr_refresh.runs to qr_refresh_owner;

-- db/functions/check_pg_cron.sql

-- qr_refresh.check_pg_cron(): is pg_cron usable from this database? If not, what to do, and where.
create or replace function qr_refresh.check_pg_cron(command_elsewhere text)
returns void
language plpgsql stable parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    -- pg_settings: a line left in postgresql.conf does not mean that the library is loaded.
    cron_database constant text := (select s.setting from pg_settings as s where s.name = 'cron.database_name');
    major constant text := current_setting('server_version_num')::integer / 10000;
begin
    if exists (select from pg_extension where extname = 'pg_cron') then
        return;
    elsif cron_database is null then
        raise exception using
            errcode = 'QR002',
            message = 'pg_cron is not loaded on this server',
            hint = format(
                'On the server, Debian or Ubuntu: apt install postgresql-%s-cron. In postgresql.conf: '
                'shared_preload_libraries = ''pg_cron'' and cron.database_name = %L. Restart Postgres. '
                'Then in database %I: CREATE EXTENSION pg_cron;',
                major, current_database(), current_database()
            );
    elsif cron_database <> current_database() then
        raise exception using
            errcode = 'QR002',
            message = format('pg_cron lives in database %L, not in this one', cron_database),
            hint = format('Run there: %s', command_elsewhere);
    else
        raise exception using
            errcode = 'QR002',
            message = 'extension pg_cron is not created in this database',
            hint = format('As a superuser in database %I: CREATE EXTENSION pg_cron;', current_database());
    end if;
end
$$;

alter function qr_refresh.check_pg_cron(text) owner to qr_refresh_owner;
revoke all on function qr_refresh.check_pg_cron(text) from public;

comment on function qr_refresh.check_pg_cron(text) is
'Raises QR002 with a hint where the jobs of this database cannot be scheduled from here.
command_elsewhere: the SQL command to name in the hint where pg_cron lives in another database.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/define_answer_reader.sql

-- qr_refresh.define_answer_reader(): what an answer of Evolution API means, in Python.
-- Not an SQL function of its own: while threads do HTTP, fetch_qr_codes() must run no SQL.
create or replace function qr_refresh.define_answer_reader()
returns void
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import base64
    import http.client
    import json
    from typing import Any

    data_url_prefix = "data:image/png;base64,"

    def failed(reason: str) -> tuple[str, str | None, str | None]:
        return "failed", None, reason

    def read_answer(http_status: int, body: bytes) -> tuple[str, str | None, str | None]:
        """Returns outcome, QR code and error; raises nothing, whatever the bytes."""
        if http_status != 200:
            # The standard phrase: the server's own may hold anything.
            return failed(f"{http_status} {http.client.responses.get(http_status, '')}".rstrip())
        if len(body) > 262144:
            return failed("answer is over 256 kB")
        if not body.strip():
            return failed("answer is empty")
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            return failed("answer is not JSON")

        picture: Any = answer
        if isinstance(answer, str):
            pass
        elif not isinstance(answer, dict):
            return failed("answer is not a JSON object")
        elif answer.get("error"):
            return failed("Evolution API reports an error")
        else:
            wrapped = answer.get("qrcode")
            picture = answer.get("base64") or wrapped
            if isinstance(wrapped, dict) and not answer.get("base64"):
                picture = wrapped.get("base64")
            if not picture:
                instance = answer.get("instance")
                is_open = isinstance(instance, dict) and instance.get("state") == "open"
                return "connected" if is_open else "no_qr_code", None, None
            if not isinstance(picture, str):
                return failed("QR code is not a string")

        encoded = picture.removeprefix(data_url_prefix)
        try:
            png = base64.b64decode(encoded, validate=True)
        except ValueError:
            png = b""
        # Python lets an excess = and stray bits pass.
        if base64.b64encode(png).decode() != encoded:
            return failed("QR code is not base64")
        # From the signature to the last chunk: a picture that was cut short is not one.
        if not (png.startswith(b"\x89PNG\r\n\x1a\n") and png.endswith(b"IEND\xaeB`\x82")):
            return failed("QR code is not a PNG picture")
        return "qr_code", data_url_prefix + encoded, None

    GD["qr_refresh.read_answer"] = read_answer
$python$;

alter function qr_refresh.define_answer_reader() owner to qr_refresh_owner;
revoke all on function qr_refresh.define_answer_reader() from public;

comment on function qr_refresh.define_answer_reader() is
'Defines the Python function read_answer(http_status, body) for qr_refresh.fetch_qr_codes() of this session, in PL/Python''s dictionary GD. '
'It returns outcome (qr_code, no_qr_code, connected, failed), QR code (data:image/png;base64,... for outcome qr_code) and error '
'(a short reason for outcome failed; never a part of the body).
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/define_http_client.sql

-- qr_refresh.define_http_client(): an HTTP connection that another thread can end, in Python.
-- The time-out of requests counts for each single read, so a server that drips bytes can hold it
-- for ever. Here another thread calls expire() and stop(), which shut the socket down.
create or replace function qr_refresh.define_http_client()
returns void
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import contextlib
    import socket
    import ssl
    import threading
    import time
    from typing import Any

    import requests
    import urllib3
    from requests.adapters import HTTPAdapter
    from urllib3.util.ssl_match_hostname import CertificateError

    largest_body = 262144  # bytes; a real answer has 13,600
    reasons: dict[Any, str] = {
        TimeoutError: "Request timeout",
        ConnectionRefusedError: "connection refused",
        (ssl.SSLCertVerificationError, CertificateError): "TLS certificate is not trusted",
        ssl.SSLError: "TLS error",
    }

    def reason(error: BaseException | None) -> str:
        """A text of ours for an exception, whose own text may name the host or quote a header."""
        while error is not None:
            for kind, text in reasons.items():
                if isinstance(error, kind):
                    return text
            error = error.__cause__ or error.__context__
        return "connection closed"

    class Adapter(HTTPAdapter):
        """Sends over the one pool it is given, which has its certificates already."""

        pool: urllib3.HTTPConnectionPool

        def get_connection(self, *args: Any, **options: Any) -> Any:
            return self.pool
        get_connection_with_tls_context = get_connection  # its name since requests 2.32

        def cert_verify(self, *args: Any, **options: Any) -> None:
            pass

    class HttpClient:
        """One connection, for one thread, kept alive between requests."""

        def __init__(self, base_url: str, addresses: list[Any], trust: Any) -> None:
            self.addresses = addresses  # what getaddrinfo() gave
            self.lock = threading.Lock()
            self.deadline = float("inf")
            self.overrun = self.stopped = False
            self.sock: socket.socket | None = None
            self.connection: Any = None
            # ca_certs: Debian's urllib3 would otherwise add the system's CAs to the context's.
            tls = {"cert_reqs": "CERT_REQUIRED", "ca_certs": None, "ssl_context": trust}
            options = tls if trust else {}
            # Not a session: an adapter follows no redirect and reads no .netrc and no proxies.
            self.adapter = Adapter(pool_connections=1)
            self.adapter.pool = pool = urllib3.connection_from_url(base_url, **options)
            opener = {"_new_conn": lambda connection: self.connect(connection)}
            pool.ConnectionCls = type("Connection", (pool.ConnectionCls,), opener)
            # identity: a compressed answer could grow beyond all bounds.
            headers = {"Accept-Encoding": "identity", "User-Agent": "refresh-qr-codes"}
            self.request = requests.Request("GET", base_url, headers=headers).prepare()

        def get(self, url: str, apikey: str, deadline: float) -> tuple[int, bytes, str | None]:
            """Returns status, body, and why there is none. deadline: on time.monotonic()."""
            with self.lock:
                self.overrun, self.deadline = self.stopped, deadline
            try:
                status, body, failure = self.exchange(url, apikey)
            except Exception as e:
                status, body, failure = 0, b"", reason(e)
            # By the clock: after a shutdown a body may look complete.
            if self.overrun or time.monotonic() >= deadline:
                failure = "Request timeout"
            # What is not surely a whole answer may have left bytes for the next one to trip over.
            if failure or status != 200 or not body.endswith((b"}", b'"')):
                self.close()
            with self.lock:
                self.deadline = float("inf")
            return status, body, failure

        def exchange(self, url: str, apikey: str) -> tuple[int, bytes, str | None]:
            self.request.url = url
            self.request.headers["apikey"] = apikey
            rest = max(self.deadline - time.monotonic(), 0.001)
            response = self.adapter.send(self.request, stream=True, timeout=rest)
            try:
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    return 0, b"", "answer is compressed"
                body: bytes = response.raw.read(largest_body + 1, decode_content=False)
                status, size = response.status_code, len(body)
                length = response.headers.get("Content-Length", str(size))
                if status == 200 and size <= largest_body and length != str(size):
                    return 0, b"", "answer was cut short"
                return status, body, None
            finally:
                response.close()

        def connect(self, connection: Any) -> socket.socket:
            """Connects to the first address that answers; no socket blocks before it is known."""
            self.connection = connection
            failure = OSError()
            for family, kind, protocol, _, address in self.addresses:
                sock: socket.socket | None = None
                try:
                    sock = socket.socket(family, kind, protocol)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.settimeout(max(self.deadline - time.monotonic(), 0.001))
                    # A TLS handshake takes the descriptor away from `sock`; the duplicate stays.
                    self.watch(sock.dup())
                    sock.connect(address)
                    return sock
                except OSError as e:
                    failure = e
                    if sock:
                        sock.close()
            raise failure

        def watch(self, sock: socket.socket | None) -> None:
            with self.lock:
                if self.sock is not None:
                    self.sock.close()
                self.sock = sock
                if sock is not None and self.overrun:
                    raise OSError

        def expire(self, now: float) -> None:
            """Ends the request under way once its deadline has passed. For another thread."""
            with self.lock:
                if now >= self.deadline:
                    self.shut_down()

        def stop(self) -> None:
            """Ends the request under way and every later one. For another thread."""
            with self.lock:
                self.stopped = True
                self.shut_down()

        def shut_down(self) -> None:
            self.overrun = True
            with contextlib.suppress(OSError):  # not connected, or no longer
                if self.sock is not None:
                    self.sock.shutdown(socket.SHUT_RDWR)

        def close(self) -> None:
            if self.connection:
                self.connection.close()
            self.watch(None)

    GD["qr_refresh.HttpClient"] = HttpClient
$python$;

alter function qr_refresh.define_http_client() owner to qr_refresh_owner;
revoke all on function qr_refresh.define_http_client() from public;

comment on function qr_refresh.define_http_client() is
'Defines the Python class HttpClient for qr_refresh.fetch_qr_codes() of this session, in PL/Python''s dictionary GD. Imports requests, '
'which costs 120 to 300 ms the first time in a session.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/evolution_api_base_url.sql

-- qr_refresh.evolution_api_base_url(): which URL the instance tokens are sent to, and who says so.
create or replace function qr_refresh.evolution_api_base_url()
returns table (base_url text, source text, error text)
language plpython3u stable parallel restricted security definer
set search_path = pg_catalog, pg_temp
as $python$
    import os
    import re

    # The address the replaced Edge Function falls back on.
    default = "https://cst-evolution-api-kaezwnkk.usecloudstation.com"
    # The same form as the CHECK on the setting; the environment variable passes no CHECK.
    http_url = r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[^\s?#]*)?"

    base_url = plpy.execute("select evolution_api_base_url from qr_refresh.settings")[0][
        "evolution_api_base_url"
    ]
    source = "settings"
    if base_url is None:
        base_url, source = os.environ.get("EVOLUTION_API_BASE_URL"), "environment"
    if base_url is None:
        base_url, source = default, "default"

    if not base_url.strip():
        return [(None, source, "Missing required environment variables")]
    if not re.fullmatch(http_url, base_url):
        return [(None, source, "EVOLUTION_API_BASE_URL is not an http(s) URL")]
    # A trailing slash would give //instance/..., which Evolution API answers with 404.
    return [(base_url.rstrip("/"), source, None)]
$python$;

alter function qr_refresh.evolution_api_base_url() owner to qr_refresh_owner;
revoke all on function qr_refresh.evolution_api_base_url() from public;

comment on function qr_refresh.evolution_api_base_url() is
'The Evolution API base URL in force: settings.evolution_api_base_url, else the server''s environment variable '
'EVOLUTION_API_BASE_URL, else the built-in default.
Returns one row: base_url (without trailing slash; NULL when unusable), source (settings, environment or default), '
'error (NULL, or why it is unusable).
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/fetch_qr_codes.sql

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

-- db/functions/instance_problem.sql

-- qr_refresh.instance_problem(): why an instance cannot even be asked for its QR code.
create or replace function qr_refresh.instance_problem(instance_name text, instance_token text)
returns text
language sql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    select case
        -- Dot segments are eaten on the way, so the call would reach another route.
        when coalesce(instance_name, '') in ('', '.', '..') or length(instance_name) > 255
            then 'instance name cannot be part of a URL'
        when coalesce(instance_token, '') = ''
            then 'instance token is missing'
        -- CR and LF would add headers of their own; beyond ASCII the bytes are anybody's guess.
        when instance_token !~ '^[!-~]([ -~]*[!-~])?$' or length(instance_token) > 255
            then 'instance token cannot be sent as an HTTP header'
    end
$$;

alter function qr_refresh.instance_problem(text, text) owner to qr_refresh_owner;
revoke all on function qr_refresh.instance_problem(text, text) from public;

comment on function qr_refresh.instance_problem(text, text) is
'Tells why an instance cannot be asked, without quoting its token.
instance_name: becomes one segment of the URL''s path. instance_token: becomes the header apikey; 1 to 255 printable ASCII characters.
Returns the reason, NULL when there is none.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/record_outcomes.sql

-- qr_refresh.record_outcomes(): remembers what each instance answered; tells which QRs are dead.
create or replace function qr_refresh.record_outcomes(
    instance_names text[], outcomes text[], qr_codes text[]
)
returns setof boolean
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
declare
    seen_at constant timestamptz := clock_timestamp();
    live_since constant timestamptz := seen_at - (select s.qr_lifetime from qr_refresh.settings as s);
begin
    return query
    with observed as materialized (
        select
            o.instance_name,
            o.outcome,
            o.position,
            sha256(convert_to(o.qr_code, 'UTF8')) as qr_digest
        from unnest(instance_names, outcomes, qr_codes)
            with ordinality as o (instance_name, outcome, qr_code, position)
    ), known as (
        -- Locked rows are skipped: another session's open transaction must not hold a run.
        select s.instance_name
        from qr_refresh.instance_state as s
        where s.instance_name = any(instance_names)
        order by s.instance_name
        for update skip locked
    ), updated as (
        update qr_refresh.instance_state as s
        set
            attempted_at = seen_at,
            outcome = o.outcome,
            qr_digest = coalesce(o.qr_digest, s.qr_digest),
            qr_first_seen_at = case
                when o.qr_digest is null or o.qr_digest = s.qr_digest then s.qr_first_seen_at
                else seen_at
            end
        from observed as o, known as k
        where
            s.instance_name = o.instance_name
            and s.instance_name = k.instance_name
            and o.outcome <> 'not_attempted'
        returning s.instance_name, s.qr_first_seen_at
    ), inserted as (
        insert into qr_refresh.instance_state (
            instance_name, attempted_at, outcome, qr_digest, qr_first_seen_at
        )
        select distinct on (o.instance_name)
            o.instance_name,
            seen_at,
            o.outcome,
            o.qr_digest,
            case when o.qr_digest is not null then seen_at end
        from observed as o
        where
            o.outcome <> 'not_attempted'
            and not exists (
                select from qr_refresh.instance_state as s where s.instance_name = o.instance_name
            )
        on conflict do nothing
    )
    select o.qr_digest is not null and coalesce(u.qr_first_seen_at < live_since, false)
    from observed as o
    left join updated as u on o.instance_name = u.instance_name
    order by o.position;

    delete from qr_refresh.instance_state as s
    where s.instance_name in (
        select gone.instance_name
        from qr_refresh.instance_state as gone
        where not exists (
            select from public.evolution_instances as e
            where e.instance_name::text = gone.instance_name and e.instance_status = 'connecting'
        )
        for update skip locked
    );
end
$$;

alter function qr_refresh.record_outcomes(text[], text[], text[]) owner to qr_refresh_owner;
revoke all on function qr_refresh.record_outcomes(text[], text[], text[]) from public;

comment on function qr_refresh.record_outcomes(text[], text[], text[]) is
'Updates qr_refresh.instance_state, and removes the rows of instances that are no longer connecting.
instance_names, outcomes, qr_codes: arrays of one length; a NULL QR code keeps what is known of the last one.
Returns a boolean for each element, in order: true when its QR code has been the same for longer than settings.qr_lifetime.
Raises lock_not_available (55P03) when another session is adding the same instance. '
'Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/record_run.sql

-- qr_refresh.record_run(): keeps a run in qr_refresh.runs, and deletes the runs that are too old.
create or replace function qr_refresh.record_run(
    run_seconds double precision, requested_instance text, report jsonb
)
returns void
language sql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
    insert into qr_refresh.runs (
        started_at, finished_at, requested_instance, total_instances, refreshed, failed, report
    )
    values (
        clock_timestamp() - make_interval(secs => run_seconds),
        clock_timestamp(),
        requested_instance,
        (report ->> 'total_instances')::integer,
        (report ->> 'refreshed')::integer,
        (report ->> 'failed')::integer,
        report
    );
    delete from qr_refresh.runs
    where started_at < now() - (select s.history_retention from qr_refresh.settings as s);
$$;

alter function qr_refresh.record_run(double precision, text, jsonb) owner to qr_refresh_owner;
revoke all on function qr_refresh.record_run(double precision, text, jsonb) from public;

comment on function qr_refresh.record_run(double precision, text, jsonb) is
'Adds a row to qr_refresh.runs, and deletes rows older than settings.history_retention.
run_seconds: how long ago the run began. requested_instance: the one instance asked for, NULL for all. '
'report: what refresh_qr_codes() returns.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/refresh_qr_codes.sql

-- refresh_qr_codes(): the job. Selects the connecting instances, fetches, stores, reports.
create or replace function public.refresh_qr_codes(instance_name text default null)
returns jsonb
language plpython3u volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $python$
    import json
    import time
    from typing import Any

    begun_at = time.monotonic()

    def run(command: str, types: list[str], values: list[Any]) -> list[dict[str, Any]]:
        return list(plpy.execute(plpy.prepare(command, types), values))

    def attempt(failure: str, *query: Any) -> list[dict[str, Any]] | None:
        """Runs a query whose failure is reported instead of raised; a cancel is always raised."""
        try:
            return run(*query)
        except plpy.SPIError as e:
            if isinstance(e, plpy.spiexceptions.QueryCanceled):
                raise
            # The error's own text may quote a row, and so a token.
            log(f"{failure} (SQLSTATE {e.sqlstate})", "cycle")
            return None

    def log(line: str, detail: str = "instance") -> None:
        if settings["log_detail"] in ("instance", detail):
            # A name with a line break in it must not write lines of its own.
            printable = "".join(c if c.isprintable() else "?" for c in line)
            plpy.log(f"[refresh-qr-codes] {printable}")

    def finish(report: dict[str, Any]) -> str:
        """Keeps the report in qr_refresh.runs, and returns it."""
        text = json.dumps(report, ensure_ascii=False)
        run(
            "select qr_refresh.record_run($1, $2, $3)",
            ["float8", "text", "jsonb"],
            [time.monotonic() - begun_at, instance_name, text],
        )
        return text

    # One run at a time. One instance has a lock of its own: who asks for it waits for no run.
    lock = "qr_refresh" if instance_name is None else f"qr_refresh:{instance_name}"
    if not run(
        "select pg_try_advisory_xact_lock(hashtextextended($1, 0)) as ours", ["text"], [lock]
    )[0]["ours"]:
        return json.dumps({"success": False, "error": "Another refresh cycle is already running"})

    settings = plpy.execute(
        "select s.log_detail, s.max_concurrency, s.ca_file, u.base_url, u.error,"
        " extract(epoch from s.request_timeout)::float8 as request_timeout,"
        " extract(epoch from s.run_timeout)::float8 as run_timeout,"
        " current_setting('server_encoding') = 'UTF8' as has_check_mark"
        " from qr_refresh.settings as s, qr_refresh.evolution_api_base_url() as u"
    )[0]
    log("Starting QR code refresh cycle...", "cycle")
    if settings["error"]:
        log(settings["error"], "cycle")
        return finish({"success": False, "error": settings["error"]})

    instances = attempt(
        "Error fetching instances",
        "select e.instance_name::text as name, e.instance_token::text as token,"
        " e.instance_status = 'connecting' as is_connecting"
        " from public.evolution_instances as e"
        " left join qr_refresh.instance_state as s on e.instance_name::text = s.instance_name"
        " where (e.instance_status = 'connecting' or $1 is not null)"
        " and ($1 is null or e.instance_name::text = $1)"
        # What the last run did not reach comes first.
        " order by s.attempted_at nulls first, e.instance_name",
        ["text"],
        [instance_name],
    )
    if instances is None:
        return finish({"success": False, "error": "Error fetching instances"})
    if instance_name is not None and not instances:
        plpy.error(
            "there is no such instance",
            detail="No row of evolution_instances has this instance_name.",
            hint="Names are case-sensitive: SELECT instance_name FROM evolution_instances;",
            sqlstate="QR001",
        )
    instances = [row for row in instances if row["is_connecting"]]

    names = [row["name"] for row in instances]
    tokens = [row["token"] for row in instances]
    log(f"Found {len(names)} connecting instance(s)", "cycle")
    for name in names:
        log(f"Processing {name}...")
        log(f"Fetching QR for {name}")
    answers = run(
        "select outcome, qr_code, error from qr_refresh.fetch_qr_codes($1, $2, $3, $4, $5, $6, $7)",
        ["text[]", "text[]", "text", "float8", "float8", "integer", "text"],
        [names, tokens, settings["base_url"], settings["request_timeout"]]
        + [settings["run_timeout"] - (time.monotonic() - begun_at)]
        + [settings["max_concurrency"], settings["ca_file"]],
    )
    outcomes = [answer["outcome"] for answer in answers]
    pictures = [answer["qr_code"] for answer in answers]

    expired = attempt(
        "State of instances not recorded",
        "select * from qr_refresh.record_outcomes($1, $2, $3) as expired",
        ["text[]", "text[]", "text[]"],
        [names, outcomes, pictures],
    )
    for i, row in enumerate(expired or []):
        if row["expired"]:
            outcomes[i] = "expired"
    live = [i for i, outcome in enumerate(outcomes) if outcome == "qr_code"]
    stored = run(
        "select * from qr_refresh.store_qr_codes($1, $2, $3)",
        ["text[]", "text[]", "text[]"],
        [[column[i] for i in live] for column in (names, tokens, pictures)],
    )
    for i, row in zip(live, stored, strict=True):
        outcomes[i] = row["outcome"]
        if row["error_code"]:
            log(f"Database update failed for {names[i]} (SQLSTATE {row['error_code']})")

    no_qr_code = (True, "No QR code available from Evolution API")
    meanings = {  # outcome: success, error
        "stored": (True, None),
        "no_qr_code": no_qr_code,
        "connected": no_qr_code,
        "expired": (True, "QR code expired, waiting for a new one"),
        "changed": (True, "Instance changed during the run"),
        "failed": (False, None),
        "update_failed": (False, "Database update failed"),
        "timeout": (False, "Request timeout"),
        "not_attempted": (False, "Not attempted: run timeout reached"),
    }
    results = []
    for name, outcome, answer in zip(names, outcomes, answers, strict=True):
        success, error = meanings[outcome]
        if answer["qr_code"]:
            log(f"Successfully fetched QR for {name}")
        if outcome == "stored":
            log(f"{'✓ ' if settings['has_check_mark'] else ''}Successfully refreshed QR for {name}")
        elif outcome == "failed":
            error = f"Failed to fetch QR for {name}: {answer['error']}"
            log(error)
        elif not success:
            log(f"Error processing {name}: {error}")
        result = {"instance_name": name, "success": success, "qr_updated": outcome == "stored"}
        results.append(result | ({"error": error} if error else {}))

    refreshed = sum(result["success"] for result in results)
    failed = len(results) - refreshed
    log(f"Refresh cycle complete: {refreshed} success, {failed} failures", "cycle")
    return finish(
        {"success": True, "total_instances": len(results), "refreshed": refreshed}
        | {"failed": failed, "results": results}
    )
$python$;

alter function public.refresh_qr_codes(text) owner to qr_refresh_owner;
revoke all on function public.refresh_qr_codes(text) from public;
grant execute on function public.refresh_qr_codes(text) to service_role;

comment on function public.refresh_qr_codes(text) is
'Fetches a fresh QR code from Evolution API for each instance that is connecting, and stores it in evolution_instances.
instance_name: this instance only; NULL (the default) for all.
Returns the report: {"success", "total_instances", "refreshed", "failed", "results": [{"instance_name", "success", "qr_updated", "error"}]}, '
'or {"success": false, "error"} when the run as a whole could not be done. Takes at most settings.run_timeout and a little.
Errors: QR001 no row has this instance_name.
Privileges: EXECUTE for service_role and those you grant it to. Runs with the privileges of qr_refresh_owner.';

-- db/functions/schedule.sql

-- qr_refresh.schedule(): the pg_cron job that runs refresh_qr_codes().
create or replace function qr_refresh.schedule(schedule text default '* * * * *')
returns bigint
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    job_name constant text := 'refresh-qr-codes';
    command constant text := 'SELECT refresh_qr_codes()';
    job bigint;
begin
    perform qr_refresh.check_pg_cron(format(
        'SELECT cron.schedule_in_database(%L, %L, %L, %L);',
        job_name, schedule, command, current_database()
    ));

    -- A job of that name under another role would run beside this one.
    perform cron.unschedule(j.jobid)
    from cron.job as j
    where j.jobname = job_name and j.username <> current_user;

    begin
        job := cron.schedule(job_name, schedule, command);
    exception when others then
        raise exception using
            errcode = sqlstate,
            message = format('pg_cron refuses the schedule %L', schedule),
            detail = sqlerrm,
            hint = 'Five cron fields such as * * * * *; from pg_cron 1.5 on also 1 to 59 seconds, such as 30 seconds.';
    end;
    perform cron.alter_job(job, active => true);
    return job;
end
$$;

alter function qr_refresh.schedule(text) owner to qr_refresh_owner;
revoke all on function qr_refresh.schedule(text) from public;

comment on function qr_refresh.schedule(text) is
'Creates the pg_cron job refresh-qr-codes, or changes the one there is, also one that called the Edge Function. Can be repeated.
schedule: five cron fields (in cron.timezone, by default GMT), or from pg_cron 1.5 on ''N seconds''.
Returns the job''s number. The job runs as the calling role.
Errors: QR002 pg_cron is missing or lives in another database (the hint says what to run and where); '
'what pg_cron raises for a schedule that it refuses.
Privileges: EXECUTE for nobody but the owner and superusers; the caller needs USAGE on schema cron.';

-- db/functions/store_qr_codes.sql

-- qr_refresh.store_qr_codes(): writes into the application's table, never waiting long for locks.
create or replace function qr_refresh.store_qr_codes(
    instance_names text[], instance_tokens text[], qr_codes text[]
)
returns table (outcome text, error_code text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
declare
    written_at constant timestamptz := clock_timestamp();
    stored bigint [];
begin
    -- All at once. Rows that somebody else has locked are left out instead of waited for.
    begin
        with fetched as (
            select f.*
            from unnest(instance_names, instance_tokens, qr_codes)
                with ordinality as f (instance_name, instance_token, qr_code, position)
        ), free as (
            select f.position, f.qr_code, e.instance_name, e.instance_token
            from fetched as f
            inner join public.evolution_instances as e
                on
                    f.instance_name = e.instance_name::text
                    and f.instance_token = e.instance_token::text
            where e.instance_status = 'connecting'
            order by e.instance_name
            for update of e skip locked
        ), written as (
            update public.evolution_instances as e
            set qr_code = f.qr_code, last_qr_update = written_at
            from free as f
            where
                f.instance_name = e.instance_name
                and f.instance_token = e.instance_token
                and e.instance_status = 'connecting'
            returning f.position
        )
        select coalesce(array_agg(w.position), '{}') into stored from written as w;
    exception when others then
        stored := '{}';
    end;

    -- What is left, row by row: one that a trigger or a CHECK refuses costs only itself.
    for i in 1 .. coalesce(array_length(instance_names, 1), 0) loop
        outcome := 'stored';
        error_code := null;
        if not i = any(stored) then
            -- Many locked rows must not add up to a long wait.
            if clock_timestamp() > written_at + interval '2 seconds' then
                perform set_config('lock_timeout', '1ms', true);
            end if;
            begin
                update public.evolution_instances as e
                set qr_code = qr_codes[i], last_qr_update = written_at
                where
                    e.instance_name::text = instance_names[i]
                    and e.instance_token::text = instance_tokens[i]
                    and e.instance_status = 'connecting';
                if not found then
                    outcome := 'changed';
                end if;
            exception when others then
                outcome := 'update_failed';
                error_code := sqlstate;
            end;
        end if;
        return next;
    end loop;
end
$$;

alter function qr_refresh.store_qr_codes(text[], text[], text[]) owner to qr_refresh_owner;
revoke all on function qr_refresh.store_qr_codes(text[], text[], text[]) from public;

comment on function qr_refresh.store_qr_codes(text[], text[], text[]) is
'Writes qr_code and last_qr_update of rows that are still connecting and still have the token that was read before.
instance_names, instance_tokens, qr_codes: arrays of one length.
Returns one row for each element, in order: outcome (stored; changed: the row is no longer connecting, has another token or '
'is gone; update_failed), error_code (SQLSTATE for outcome update_failed). Waits at most 100 ms for a lock, 2 s for all.
Raises nothing of its own. Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/unschedule.sql

-- qr_refresh.unschedule(): removes the pg_cron job that runs refresh_qr_codes().
create or replace function qr_refresh.unschedule()
returns boolean
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    job_name constant text := 'refresh-qr-codes';
begin
    perform qr_refresh.check_pg_cron(format('SELECT cron.unschedule(%L);', job_name));
    perform cron.unschedule(j.jobid) from cron.job as j where j.jobname = job_name;
    return found;
end
$$;

alter function qr_refresh.unschedule() owner to qr_refresh_owner;
revoke all on function qr_refresh.unschedule() from public;

comment on function qr_refresh.unschedule() is
'Removes the pg_cron job refresh-qr-codes. Can be repeated.
Returns true when there was one.
Errors: QR002 pg_cron is missing or lives in another database (the hint says what to run and where).
Privileges: EXECUTE for nobody but the owner and superusers; the caller needs USAGE on schema cron.';

-- Tells a later `make migrate` (dbmate) what has been run.

create table if not exists qr_refresh.schema_migrations (version varchar primary key);
insert into qr_refresh.schema_migrations (version) values
    ('20261124000000'),
    ('20261124000100'),
    ('20261124000200'),
    ('20261124000300'),
    ('20261124000400'),
    ('20261124000500'),
    ('20261124000600')
on conflict do nothing;

commit;
