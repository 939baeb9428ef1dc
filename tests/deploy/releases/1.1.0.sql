-- refresh-qr-codes 1.1.0: Keeps WhatsApp QR codes fresh from inside PostgreSQL: a PL/Python function, run by pg_cron
--
-- Installs into one database, as a superuser:
--     psql --set ON_ERROR_STOP=1 --file qr_refresh.sql postgresql://postgres@host/database
-- It can be run again, also to upgrade; if a statement fails, nothing is installed.
-- Made by `make dist` from the folder db.

begin;
set local client_min_messages = warning;
set local search_path = pg_catalog, pg_temp;
-- Two installations at once would get into each other's way: the second waits.
do $$ begin perform pg_catalog.pg_advisory_xact_lock(7160624931); end $$;
-- The application waits for whoever waits for its table.
set local lock_timeout = '1min';

-- db/check_table.sql

-- Run first by every installation: an evolution_instances that is there already must be one that
-- the job can use. Else this stops before anything is installed, and says what to change.
do $$
declare
    relation constant regclass := to_regclass('public.evolution_instances');
    tried record;
    problem text;
begin
    if relation is null then
        return;
    end if;
    if (select c.relkind from pg_catalog.pg_class as c where c.oid = relation) not in ('r', 'p') then
        raise exception using
            errcode = 'QR009',
            message = 'public.evolution_instances is not a table',
            detail = 'The job locks rows, writes them and adds columns, which a view or a foreign table does not take.',
            hint = 'Let the table that holds the rows have this name, and the view another one.';
    end if;
    for tried in
        select
            c.name,
            c.query,
            c.hint,
            pg_catalog.format_type(a.atttypid, a.atttypmod) as type,
            c.name in ('instance_name', 'instance_token')
            and t.typcategory not in ('S', 'N', 'E')
            and coalesce(nullif(t.typbasetype, 0), t.oid) <> 'uuid'::regtype as is_no_text,
            -- A picture has some 13,000 characters.
            c.name = 'qr_code' and a.atttypmod between 0 and 13000 as is_short
        from (
            values
            ('instance_name', 'select from %s order by instance_name', 'It may be text, varchar, citext, uuid or a number.'),
            ('instance_token', 'select from %s', 'It may be text, varchar, citext or uuid.'),
            (
                'instance_status',
                'select from %s where instance_status = ''connecting''',
                'It may be text, varchar, citext, or an enum with the value connecting: '
                'ALTER TYPE ... ADD VALUE ''connecting'';'
            ),
            (
                'qr_code',
                'update %s set qr_code = ''''::text',
                'It has to be text, not generated: ALTER TABLE public.evolution_instances ALTER COLUMN qr_code TYPE text;'
            ),
            (
                'last_qr_update',
                'update %s set last_qr_update = now() where last_qr_update::timestamptz is null',
                'It has to be timestamptz or timestamp, not generated.'
            )
        ) as c (name, query, hint)
        inner join pg_catalog.pg_attribute as a on a.attrelid = relation and c.name = a.attname
        inner join pg_catalog.pg_type as t on a.atttypid = t.oid
        where not a.attisdropped
    loop
        problem := case when tried.is_no_text or tried.is_short then 'Its type is ' || tried.type end;
        begin
            -- Never run: only what the columns are can make it fail.
            execute format('prepare check_table as ' || tried.query, 'public.evolution_instances');
            deallocate check_table;
        exception when others then
            problem := coalesce(problem, sqlerrm);
        end;
        if problem is not null then
            raise exception using
                errcode = 'QR009',
                message = format(
                    'the job cannot use column %s of public.evolution_instances', tried.name
                ),
                detail = problem || '.',
                hint = tried.hint;
        end if;
    end loop;
end
$$;

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

-- db/migrations/20261124100000_add_live_mode.sql

-- Unlogged: what is known of an instance changes with each attempt, several times a minute, and is
-- learned anew within a minute where it is lost (a crash, a standby that takes over).
alter table qr_refresh.instance_state set unlogged;

alter table qr_refresh.instance_state
add column if not exists error text,
add column if not exists answered_at timestamptz,
add column if not exists failures integer not null default 0,
add column if not exists next_attempt_at timestamptz not null default now(),
add column if not exists qr_changed_after timestamptz,
add column if not exists poll_interval interval,
add column if not exists reconnected_at timestamptz,
add column if not exists reconnects integer not null default 0,
add column if not exists is_slow boolean not null default false;

comment on column qr_refresh.instance_state.error is
'Short reason of the last outcome failed, without host and token; SQLSTATE of update_failed; NULL for other outcomes.';
comment on column qr_refresh.instance_state.answered_at is
'When Evolution API was last asked and told which QR code there is, or that there is none.';
comment on column qr_refresh.instance_state.failures is
'Attempts since the last live QR code was seen: without a QR code, with a dead one, or failed.';
comment on column qr_refresh.instance_state.next_attempt_at is
'When refresh_qr_codes(only_due => true) asks again.';
comment on column qr_refresh.instance_state.qr_changed_after is
'The last QR code came into being after this and before qr_first_seen_at.';
comment on column qr_refresh.instance_state.poll_interval is
'Time between attempts while the next QR code is expected.';
comment on column qr_refresh.instance_state.reconnected_at is
'When connect was last called on state close, as far as is known; that opens a WhatsApp socket.';
comment on column qr_refresh.instance_state.reconnects is
'How many such calls there were since the last live QR code was seen.';
comment on column qr_refresh.instance_state.is_slow is
'Answered slowly, not at all or with an error: asked in the slow lane, so that others need not wait.';

alter table qr_refresh.settings add column if not exists connected_status text;
comment on column qr_refresh.settings.connected_status is
'Value for instance_status once Evolution API says that an instance is connected; its used QR code is then cleared. '
'NULL (the default): the application does that itself. Needs: '
'GRANT UPDATE (instance_status) ON evolution_instances TO qr_refresh_owner;';

comment on column qr_refresh.settings.request_timeout is
'Longest time for asking one instance, name resolution included. At most 1.5 s in the fast lane of live mode.';
comment on column qr_refresh.settings.run_timeout is
'Longest time for all HTTP calls of one run; what is not reached comes first in the next. '
'At most 4 s in the fast lane of live mode.';
comment on column qr_refresh.settings.max_concurrency is
'Most HTTP calls at a time to one Evolution server, of one run (1 to 256). 1 is one after the other.';
comment on column qr_refresh.settings.history_retention is
'Rows of qr_refresh.runs older than this are deleted, and pg_cron''s of our jobs.';

-- Where one Evolution server does not carry all instances. An instance names its server, never a
-- URL: who may write a row of the application's table must not choose where tokens are sent.
create table if not exists qr_refresh.evolution_servers (
    server_name text primary key,
    base_url text not null,
    constraint base_url_is_http_url check (
        base_url
        ~ '^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[^[:space:]?#]*)?$'
    )
);
comment on table qr_refresh.evolution_servers is
'Evolution servers that an instance may name in evolution_instances.evolution_server. Empty where there is only one.';
comment on column qr_refresh.evolution_servers.server_name is 'Name, as in evolution_instances.evolution_server.';
comment on column qr_refresh.evolution_servers.base_url is 'http(s) URL of the server. Instance tokens are sent there.';
revoke all on qr_refresh.evolution_servers from public;
grant select on qr_refresh.evolution_servers to qr_refresh_owner;

alter table public.evolution_instances add column if not exists evolution_server text;
comment on column public.evolution_instances.evolution_server is
'Name of a row of qr_refresh.evolution_servers; NULL: the one of the settings.';
-- qr_code is read to leave a row alone that holds the QR code already.
grant select (evolution_server, qr_code) on public.evolution_instances to qr_refresh_owner;

-- Functions whose arguments change would stay beside the new ones. Who could call the job keeps on.
do $$
declare
    former constant regprocedure := to_regprocedure('public.refresh_qr_codes(text)');
    caller text;
begin
    if former is not null then
        create function public.refresh_qr_codes(
            instance_name text default null, only_due boolean default false
        )
        returns jsonb language sql set search_path = pg_catalog, pg_temp
        as 'select null::pg_catalog.jsonb';
        revoke all on function public.refresh_qr_codes(text, boolean) from public;
        for caller in
            select acl.grantee::regrole::text
            from pg_catalog.pg_proc as p, pg_catalog.aclexplode(p.proacl) as acl
            where p.oid = former and acl.grantee <> 0 and acl.grantee <> p.proowner
        loop
            execute format(
                'grant execute on function public.refresh_qr_codes(text, boolean) to %s', caller
            );
        end loop;
        drop function public.refresh_qr_codes(text);
    end if;
end
$$;
drop function if exists qr_refresh.schedule(text);
drop function if exists qr_refresh.record_outcomes(text[], text[], text[]);
drop function if exists qr_refresh.store_qr_codes(text[], text[], text[]);
drop function if exists qr_refresh.fetch_qr_codes(
    text[], text[], text, double precision, double precision, integer, text
);

-- db/migrations/20261124200000_publish_evolution_instances.sql

-- Supabase Realtime sends what is in the publication supabase_realtime. The table joins it here and
-- once, so that one which an operator takes out again stays out.
do $$
begin
    -- The file of `make dist` runs each migration again with each upgrade.
    if to_regclass('qr_refresh.schema_migrations') is not null then
        if exists (
            select from qr_refresh.schema_migrations where version = '20261124200000'
        ) then
            return;
        end if;
    end if;
    -- Not pg_publication_tables, which has the partitions in the place of a partitioned table.
    if not exists (
        select from pg_catalog.pg_publication as p
        where
            p.pubname = 'supabase_realtime'
            and not p.puballtables
            and not exists (
                select from pg_catalog.pg_publication_rel as r
                where r.prpubid = p.oid and r.prrelid = 'public.evolution_instances'::regclass
            )
            and not exists (
                select from pg_catalog.pg_publication_namespace as n
                where n.pnpubid = p.oid and n.pnnspid = 'public'::regnamespace
            )
    ) then
        return;
    end if;
    -- A published table without a replica identity takes no UPDATE any more, from nobody.
    if not exists (
        select from pg_catalog.pg_class as c
        where
            c.oid = 'public.evolution_instances'::regclass
            and c.relkind in ('r', 'p')
            and c.relpersistence = 'p'
            and (
                c.relreplident = 'f'
                or exists (
                    select from pg_catalog.pg_index as i
                    where
                        i.indrelid = c.oid
                        and case c.relreplident
                            when 'd' then i.indisprimary
                            when 'i' then i.indisreplident
                        end
                )
            )
    ) then
        raise warning using
            message = 'evolution_instances is not in publication supabase_realtime',
            detail = 'Only a logged table with a primary key, or another replica identity, can be published.',
            hint = 'Add a primary key, then: '
                'ALTER PUBLICATION supabase_realtime ADD TABLE public.evolution_instances;';
        return;
    end if;
    alter publication supabase_realtime add table public.evolution_instances;
end
$$;

-- db/migrations/20261124200100_add_setting_notify.sql

alter table qr_refresh.settings add column if not exists notify boolean not null default true;

comment on column qr_refresh.settings.notify is
'Whether each QR code that is stored, or cleared after a scan, is told to sessions that LISTEN to channel qr_refresh, as {"instance_name", "last_qr_update"}. '
'Any role that can connect may listen.';

-- db/migrations/20261124300000_add_monitoring.sql

alter table qr_refresh.settings
add column if not exists alert_after interval not null default '5 minutes';
alter table qr_refresh.settings drop constraint if exists alert_after_between_1_minute_and_1_day;
alter table qr_refresh.settings add constraint alert_after_between_1_minute_and_1_day check (
    alert_after between interval '1 minute' and interval '1 day'
);
comment on column qr_refresh.settings.alert_after is
'qr_refresh.alerts tells of a connecting instance without a live QR code, and of a job without a run, after this time.';

-- Filled by the default: the job adds the row, and deletes it once the instance no longer connects.
alter table qr_refresh.instance_state
add column if not exists known_since timestamptz not null default now();
comment on column qr_refresh.instance_state.known_since is
'When the job first asked for the instance since it is connecting.';

-- What the views read, and who reads the views.
grant select (last_qr_update) on public.evolution_instances to qr_refresh_owner;
grant usage on schema qr_refresh to pg_monitor;
grant select on qr_refresh.runs to pg_monitor, service_role;

-- db/functions/active_alerts.sql

-- qr_refresh.active_alerts(): what somebody should look at now.
create or replace function qr_refresh.active_alerts()
returns table (alert text, instance_name text, since timestamptz, detail text)
language plpgsql stable parallel restricted security definer
set search_path = pg_catalog, pg_temp
-- A caller could otherwise have the plans of our queries shown, and what is in them.
set debug_print_parse = off
set debug_print_rewritten = off
set debug_print_plan = off
as $$
#variable_conflict use_column
declare
    alert_after constant interval := (select s.alert_after from qr_refresh.settings as s);
    late_since constant timestamptz := clock_timestamp() - alert_after;
    sees_jobs constant boolean := exists (select from pg_extension where extname = 'pg_cron')
        and coalesce(has_schema_privilege(to_regnamespace('cron'), 'usage'), false);
    last_run qr_refresh.runs;
begin
    select r.* into last_run
    from qr_refresh.runs as r
    -- The slow lane of live mode must not hide that the fast one stands still.
    where r.requested_instance is null and r.report ->> 'lane' is distinct from 'slow'
    order by r.id desc
    limit 1;

    return query
    select 'no_live_qr', c.instance_name, c.no_live_qr_since,
        'no live QR code; last outcome: ' || c.last_outcome || coalesce(', ' || c.last_error, '')
    from qr_refresh.connecting_instances() as c
    where c.no_live_qr_since < late_since
    order by c.no_live_qr_since, c.instance_name;

    return query
    select
        'server_unreachable',
        null::text,
        -- The last run in which somebody got an answer.
        (select max(r.finished_at) from qr_refresh.runs as r where r.refreshed > 0),
        format(
            'none of %s instances got an answer%s: %s',
            count(*),
            ' of Evolution server ' || quote_ident(c.evolution_server),
            string_agg(distinct coalesce(c.last_error, 'timeout'), ', ')
        )
    from qr_refresh.connecting_instances() as c
    where
        c.last_attempt_at > late_since
        -- Or is being waited for: after failures that can be for longer.
        or c.next_attempt_at > clock_timestamp()
    group by c.evolution_server
    having bool_and(c.last_outcome = 'timeout' or qr_refresh.is_no_answer(c.last_error));

    if sees_jobs then
        return query
        select
            'job_missing', null::text, last_run.finished_at,
            'pg_cron has no job that runs refresh_qr_codes()'
        where not exists (
            select from qr_refresh.cron_jobs() as j where j.calls in ('live', 'refresh_qr_codes')
        );

        return query
        select
            'job_inactive', null::text, j.last_start_at,
            format('pg_cron job %s (%s) is not active', j.jobid, j.jobname)
        from qr_refresh.cron_jobs() as j
        where j.calls in ('live', 'refresh_qr_codes') and not j.is_active;
    end if;

    return query
    select
        'job_late', null::text, l.last_finished_at,
        format('no run of %s of live mode for over %s', l.lane, l.late_after)
    from qr_refresh.late_lanes() as l;

    if last_run.finished_at is null then
        return query select 'job_late', null::text, null::timestamptz, 'no run is on record';
    elsif last_run.finished_at < late_since then
        return query
        select 'job_late', null::text, last_run.finished_at, format('no run for over %s', alert_after);
    elsif last_run.report ->> 'success' = 'false' then
        return query
        select
            'run_failed', null::text, last_run.finished_at,
            coalesce(
                last_run.report ->> 'error',
                'no tick of live mode could be done; the server log has the SQLSTATE'
            );
    end if;
end
$$;

alter function qr_refresh.active_alerts() owner to qr_refresh_owner;
revoke all on function qr_refresh.active_alerts() from public;
grant execute on function qr_refresh.active_alerts() to pg_monitor, service_role;

comment on function qr_refresh.active_alerts() is
'The rows of the view qr_refresh.alerts, whose columns are described there. No token and no QR code.
Errors: on a standby 0A000, because qr_refresh.instance_state is not there.
Privileges: EXECUTE for pg_monitor and service_role. Runs with the privileges of qr_refresh_owner.';

-- db/functions/alerts.sql

-- qr_refresh.alerts: what somebody should look at now. Empty when all is well.
-- `create or replace` keeps the grants of others; so columns are only ever added, at the end.
create or replace view qr_refresh.alerts as
select
    a.alert,
    a.instance_name,
    a.since,
    a.detail
from qr_refresh.active_alerts() as a;

alter view qr_refresh.alerts owner to qr_refresh_owner;
revoke all on qr_refresh.alerts from public;
grant select on qr_refresh.alerts to pg_monitor, service_role;

comment on view qr_refresh.alerts is
'What somebody should look at now; empty when all is well. No token and no QR code. Not readable on a standby.';
comment on column qr_refresh.alerts.alert is
'no_live_qr (for longer than settings.alert_after), server_unreachable (nobody who was asked got an answer), job_missing, '
'job_inactive, job_late (no run for settings.alert_after, also of one lane or worker of live mode), run_failed (the last run as a whole could not be done). '
'Jobs are seen only where pg_cron lives in this database.';
comment on column qr_refresh.alerts.instance_name is 'The instance of no_live_qr; NULL for the others.';
comment on column qr_refresh.alerts.since is
'Since when, as far as it is known: the last live QR code, answer, run or start of the job.';
comment on column qr_refresh.alerts.detail is 'The same in words.';

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
            detail = 'The setting cron.database_name does not exist, so shared_preload_libraries lacks pg_cron.',
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
            detail = 'It schedules jobs for every database of the server, but only from the one of cron.database_name.',
            hint = format('Run there: %s', command_elsewhere);
    else
        raise exception using
            errcode = 'QR002',
            message = 'extension pg_cron is not created in this database',
            detail = 'The library is loaded, and this is the database of cron.database_name.',
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

-- db/functions/check_writable.sql

-- qr_refresh.check_writable(): may this transaction write? If not, why, and what to do.
create or replace function qr_refresh.check_writable()
returns void
language plpgsql stable parallel restricted security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_setting('transaction_read_only')::boolean then
        raise exception using
            errcode = 'QR003',
            message = 'refresh_qr_codes() writes, and this transaction is read-only',
            detail = 'Nothing was asked of Evolution API.',
            hint = case
                when pg_is_in_recovery() then 'This server is a standby: run it on the primary.'
                else 'Run it outside of BEGIN READ ONLY, and where default_transaction_read_only is off.'
            end;
    end if;
end
$$;

alter function qr_refresh.check_writable() owner to qr_refresh_owner;
revoke all on function qr_refresh.check_writable() from public;

comment on function qr_refresh.check_writable() is
'Raises QR003 with a hint where the transaction is read-only: on a standby, or because it was begun so.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/connecting_instances.sql

-- qr_refresh.connecting_instances(): what is known of each connecting instance, for the views.
-- A function and not a view: a view would stop the application from changing a column it uses.
create or replace function qr_refresh.connecting_instances()
returns table (
    instance_name text,
    evolution_server text,
    is_live boolean,
    qr_age interval,
    qr_age_at_most interval,
    last_qr_update timestamptz,
    last_attempt_at timestamptz,
    last_outcome text,
    last_error text,
    failures integer,
    next_attempt_at timestamptz,
    is_slow boolean,
    no_live_qr_since timestamptz
)
language plpgsql stable parallel restricted security definer
set search_path = pg_catalog, pg_temp
-- A caller could otherwise have the plans of our queries shown, and what is in them.
set debug_print_parse = off
set debug_print_rewritten = off
set debug_print_plan = off
as $$
#variable_conflict use_column
declare
    -- How long WhatsApp accepts a QR code, counted from when it came into being.
    qr_life constant interval := '45 seconds';
begin
    return query
    with known as (
        select
            e.instance_name::text as instance_name,
            e.evolution_server::text as evolution_server,
            e.last_qr_update::timestamptz as last_qr_update,
            s.qr_first_seen_at,
            s.qr_changed_after,
            s.attempted_at,
            s.outcome,
            s.error,
            s.failures,
            s.next_attempt_at,
            s.is_slow,
            s.known_since,
            -- The last QR code seen is the one that stands in the table: the last attempt said so, or
            -- it was written since. A run writes it a moment before it records that it was seen.
            e.qr_code is not null
            and coalesce(
                s.outcome in ('stored', 'unchanged')
                or e.last_qr_update::timestamptz >= s.qr_first_seen_at - interval '5 seconds',
                false
            ) as is_stored
        from public.evolution_instances as e
        left join qr_refresh.instance_state as s on e.instance_name::text = s.instance_name
        where e.instance_status = 'connecting'
    ), judged as (
        select
            k.*,
            case
                when k.is_stored then k.qr_first_seen_at + qr_life
                else k.last_qr_update + qr_life
            end as dead_since,
            k.is_stored and k.qr_first_seen_at + qr_life > clock_timestamp() as is_live
        from known as k
    )
    select
        j.instance_name,
        j.evolution_server,
        j.is_live,
        case when j.is_stored then clock_timestamp() - j.qr_first_seen_at end,
        case when j.is_stored then clock_timestamp() - j.qr_changed_after end,
        j.last_qr_update,
        j.attempted_at,
        j.outcome,
        j.error,
        j.failures,
        j.next_attempt_at,
        j.is_slow,
        -- Not asked yet: what is missing then is a run, not an answer.
        case
            when not j.is_live and j.known_since is not null
                then greatest(j.dead_since, j.known_since)
        end
    from judged as j;
end
$$;

alter function qr_refresh.connecting_instances() owner to qr_refresh_owner;
revoke all on function qr_refresh.connecting_instances() from public;
grant execute on function qr_refresh.connecting_instances() to pg_monitor, service_role;

comment on function qr_refresh.connecting_instances() is
'The rows of the view qr_refresh.status, whose columns are described there. No token and no QR code.
Errors: on a standby 0A000, because qr_refresh.instance_state is not there.
Privileges: EXECUTE for pg_monitor and service_role. Runs with the privileges of qr_refresh_owner.';

-- db/functions/cron_jobs.sql

-- qr_refresh.cron_jobs(): the pg_cron jobs that run, or should run, the job of this database.
-- Dynamic SQL, because pg_cron may be missing or come later. Not the commands: an old one, which
-- called the Edge Function, has a service key in it.
do $$
begin
    -- Row level security shows every role its own jobs; the owner passes that, but needs USAGE.
    if exists (select from pg_extension where extname = 'pg_cron') then
        grant usage on schema cron to qr_refresh_owner;
    end if;
end
$$;

create or replace function qr_refresh.cron_jobs()
returns table (
    jobid bigint,
    jobname text,
    schedule text,
    calls text,
    username text,
    is_active boolean,
    last_start_at timestamptz,
    last_status text
)
language plpgsql stable parallel restricted security definer
set search_path = pg_catalog, pg_temp
-- A caller could otherwise have the plans of our queries shown, and what is in them.
set debug_print_parse = off
set debug_print_rewritten = off
set debug_print_plan = off
as $$
begin
    if not exists (select from pg_extension where extname = 'pg_cron')
        or not has_schema_privilege('cron', 'usage') then
        return;
    end if;
    return query execute $query$
        select *
        from (
            select
                j.jobid,
                j.jobname::text,
                j.schedule,
                case
                    when j.command ~* '\mqr_refresh\.live\s*\(' then 'live'
                    when j.command ~* '\mrefresh_qr_codes\s*\(' then 'refresh_qr_codes'
                    when j.command ~* '\mqr_refresh\.prune_history\s*\(' then 'prune_history'
                    when j.command ~ 'functions/v1/refresh-qr-codes' then 'edge function'
                    when j.jobname ~ '^refresh-qr-codes(-slow|-prune|-[0-9]+)?(@|$)'
                        then 'something else'
                end as calls,
                j.username,
                j.active
            from cron.job as j
            where j.database = current_database()
        ) as j
        left join lateral (
            select d.start_time, d.status
            from cron.job_run_details as d
            where d.jobid = j.jobid
            order by d.runid desc
            limit 1
        ) as d on true
        where j.calls is not null
        order by j.jobid
    $query$;
end
$$;

alter function qr_refresh.cron_jobs() owner to qr_refresh_owner;
revoke all on function qr_refresh.cron_jobs() from public;
grant execute on function qr_refresh.cron_jobs() to pg_monitor, service_role;

comment on function qr_refresh.cron_jobs() is
'The pg_cron jobs of this database that have to do with refresh-qr-codes. No row where pg_cron lives in another database or is missing.
Returns jobid, jobname, schedule; calls (live, refresh_qr_codes, prune_history, edge function, something else); username; is_active; '
'last_start_at and last_status of its last execution, as pg_cron knows it (NULL: none yet). No command: one may hold a key.
Raises nothing of its own. Privileges: EXECUTE for pg_monitor and service_role. Runs with the privileges of qr_refresh_owner.';

-- db/functions/define_answer_reader.sql

-- qr_refresh.define_answer_reader(): what answers of Evolution API mean, in Python.
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

    def parse(http_status: int, body: bytes) -> tuple[Any, str | None]:
        """Returns a JSON object or string, and why there is none."""
        if http_status != 200:
            # The standard phrase: the server's own may hold anything.
            return {}, f"{http_status} {http.client.responses.get(http_status, '')}".rstrip()
        if len(body) > 262144:
            return {}, "answer is over 256 kB"
        if not body.strip():
            return {}, "answer is empty"
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            return {}, "answer is not JSON"
        if not isinstance(answer, dict | str):
            return {}, "answer is not a JSON object"
        if isinstance(answer, dict) and answer.get("error"):
            return {}, "Evolution API reports an error"
        return answer, None

    def state_of(answer: dict[str, Any]) -> str | None:
        instance = answer.get("instance")
        state = instance.get("state") if isinstance(instance, dict) else None
        return state if state in ("open", "connecting", "close") else None

    def read_state(http_status: int, body: bytes) -> tuple[str | None, str | None]:
        """Returns state and error; None for both where Evolution API has no state of it."""
        answer, problem = parse(http_status, body)
        if problem is None and not isinstance(answer, dict):
            problem = "answer is not a JSON object"
        return (None, problem) if problem else (state_of(answer), None)

    def failed(reason: str) -> tuple[str, str | None, str | None]:
        return "failed", None, reason

    def read_answer(http_status: int, body: bytes) -> tuple[str, str | None, str | None]:
        """Returns outcome, QR code and error; raises nothing, whatever the bytes."""
        answer, problem = parse(http_status, body)
        if problem is not None:
            return failed(problem)
        picture: Any = answer
        if isinstance(answer, dict):
            wrapped = answer.get("qrcode")
            picture = answer.get("base64") or wrapped
            if isinstance(wrapped, dict) and not answer.get("base64"):
                picture = wrapped.get("base64")
            if not picture:
                return "connected" if state_of(answer) == "open" else "no_qr_code", None, None
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

    GD["qr_refresh.read_answer"], GD["qr_refresh.read_state"] = read_answer, read_state
$python$;

alter function qr_refresh.define_answer_reader() owner to qr_refresh_owner;
revoke all on function qr_refresh.define_answer_reader() from public;

comment on function qr_refresh.define_answer_reader() is
'Defines Python functions for qr_refresh.fetch_qr_codes() of this session, in PL/Python''s dictionary GD. '
'read_answer(http_status, body) of GET /instance/connect returns outcome (qr_code, no_qr_code, connected, failed), QR code '
'(data:image/png;base64,... for outcome qr_code) and error (a short reason for outcome failed; never a part of the body). '
'read_state(http_status, body) of GET /instance/connectionState returns the state (open, connecting, close, or None where the answer names '
'none) and error.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/define_evolution_call.sql

-- qr_refresh.define_evolution_call(): what is asked about one instance, in Python.
create or replace function qr_refresh.define_evolution_call()
returns void
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    from typing import Any
    from urllib.parse import quote

    # Outcome, QR code, error, reconnected (None: not known).
    Answer = tuple[str, str | None, str | None, bool | None]

    def ask(
        client: Any,
        path: str,
        deadline: float,
        name: str,
        token: str,
        check_state: bool,
        connect_on_close: bool,
    ) -> Answer:
        """Asks for the state where that is wanted, then for the QR code. Runs in a worker."""

        def get(route: str) -> tuple[int, bytes, str | None]:
            route = f"{path}/instance/{route}/{quote(name, safe='')}"
            answer: tuple[int, bytes, str | None] = client.get(route, token, deadline)
            return answer

        def failure(error: str, reconnected: bool | None) -> Answer:
            if error == "Request timeout":
                return "timeout", None, None, reconnected
            return "failed", None, error, reconnected

        reconnected = None
        if check_state:
            status, body, error = get("connectionState")
            state = None
            if error is None:
                state, error = GD["qr_refresh.read_state"](status, body)
            if error is not None:
                return failure(error, False)
            if state == "open":
                return "connected", None, None, False
            if state == "close" and not connect_on_close:
                return "closed", None, None, False
            # On close, connect opens a WhatsApp socket.
            reconnected = state == "close"
        status, body, error = get("connect")
        if error is not None:
            return failure(error, reconnected)
        outcome, picture, error = GD["qr_refresh.read_answer"](status, body)
        return outcome, picture, error, reconnected

    GD["qr_refresh.ask"] = ask
$python$;

alter function qr_refresh.define_evolution_call() owner to qr_refresh_owner;
revoke all on function qr_refresh.define_evolution_call() from public;

comment on function qr_refresh.define_evolution_call() is
'Defines the Python function ask() for qr_refresh.fetch_qr_codes() of this session, in PL/Python''s dictionary GD. It calls '
'GET /instance/connect/{name}, where check_state is set only after GET /instance/connectionState/{name} has not answered open, '
'nor close unless connect_on_close is set.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/define_evolution_server.sql

-- qr_refresh.define_evolution_server(): one Evolution server and the calls to it, in Python.
-- Each server has threads of its own, so one that hangs costs only its own instances.
create or replace function qr_refresh.define_evolution_server()
returns void
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import contextlib
    import queue
    import signal
    import socket
    import threading
    import time
    from pathlib import Path
    from typing import Any
    from urllib.parse import urlsplit

    class EvolutionServer:
        """Resolves the server's name, then calls. Its threads never touch plpy.

        done gets for each call: position, outcome, QR code, error, elapsed, reconnected.
        """

        def __init__(
            self, base_url: str, request_timeout: float, run_ends: float, done: queue.Queue[Any]
        ) -> None:
            self.base_url, self.done = base_url, done
            self.request_timeout, self.run_ends = request_timeout, run_ends
            self.started_at = time.monotonic()
            self.trust: Any = None
            # Position, then what ask() is given: name, token, check_state, connect_on_close.
            self.calls: list[tuple[int, str, str, bool, bool]] = []
            self.addresses: list[Any] = []
            self.lock = threading.Lock()
            self.is_resolving = True
            self.resolved_in = 0.0  # seconds
            self.stopping = threading.Event()
            self.threads: list[threading.Thread] = []
            self.clients: list[Any] = []

        def start(self, most_workers: int, ca_file: str | None) -> None:
            """Starts the first thread, which starts the others. For the main thread."""
            self.todo = iter(self.calls)
            # A signal handled in a thread of ours would run Postgres's handlers beside Postgres.
            # Threads take over the mask of the one that starts them.
            former = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                if self.base_url.startswith("https:"):
                    self.trust = GD["qr_refresh.tls_trust"](ca_file)
                self.start_thread(self.resolve_and_work, most_workers)
                return
            except OSError:  # of which an SSLError is one
                error = "CA file cannot be read"
            except RuntimeError:
                error = "no thread could be started"
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, former)
            self.is_resolving = False
            self.end_all("failed", error)

        def start_thread(self, target: Any, *arguments: Any) -> None:
            thread = threading.Thread(target=target, args=arguments, daemon=True)
            thread.start()
            self.threads.append(thread)

        def resolve_and_work(self, most_workers: int) -> None:
            with contextlib.suppress(OSError, ValueError, OverflowError):
                url = urlsplit(self.base_url)
                port = url.port or (443 if self.trust else 80)
                self.addresses += socket.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM)
            self.resolved_in = time.monotonic() - self.started_at
            with self.lock:
                self.is_resolving = False
                if self.stopping.is_set():
                    return
            if not self.addresses:
                self.end_all("failed", "host not found")
                return
            # Where the system allows no more threads, those that there are do it all.
            with contextlib.suppress(RuntimeError):
                for _ in range(1, most_workers):
                    if self.stopping.is_set():
                        break
                    self.start_thread(self.work)
            self.work()

        def work(self) -> None:
            """One worker: a call after the other. Resolving counts for its first one."""
            client = GD["qr_refresh.HttpClient"](self.base_url, self.addresses, self.trust)
            # In this order: after stop() this client is in the list, or no call is made.
            self.clients.append(client)
            ask, path = GD["qr_refresh.ask"], urlsplit(self.base_url).path
            # How late this thread has started does not: hundreds of busy ones hold up each other.
            begun_at = time.monotonic() - self.resolved_in
            # With less time left than this a call is not begun: it comes first in the next run.
            shortest = min(0.5, self.request_timeout / 4)
            for position, *call in self.todo:
                if self.stopping.is_set() or time.monotonic() + shortest >= self.run_ends:
                    break
                deadline = min(begun_at + self.request_timeout, self.run_ends)
                outcome, picture, error, reconnected = ask(client, path, deadline, *call)
                now = time.monotonic()
                self.done.put((position, outcome, picture, error, now - begun_at, reconnected))
                begun_at = now
            client.close()

        def end_all(self, outcome: str, error: str | None) -> None:
            elapsed = time.monotonic() - self.started_at
            for position, *_ in self.calls:
                self.done.put((position, outcome, None, error, elapsed, False))

        def is_at_work(self) -> bool:
            return not self.stopping.is_set() and any(thread.is_alive() for thread in self.threads)

        def expire(self, now: float) -> None:
            """Ends what has passed its deadline. For the main thread."""
            with self.lock:
                ends = min(self.started_at + self.request_timeout, self.run_ends)
                if self.is_resolving and not self.stopping.is_set() and now >= ends:
                    self.stopping.set()
                    self.end_all("timeout", None)
            for client in self.clients:
                client.expire(now)

        def stop(self) -> None:
            with self.lock:
                self.stopping.set()
            for client in self.clients:
                client.stop()

        def join(self, tick: float) -> None:
            """Waits until all threads have ended, which have been stopped.

            Nothing can interrupt getaddrinfo(). What waits there is left behind, one thread for a
            server, until the resolver's own time-outs end it (resolv.conf: 5 s, two attempts, each
            name server).
            """
            if self.is_resolving:
                return
            for thread in self.threads:  # the first one may still be adding to them
                thread.join(tick)
                while thread.is_alive():
                    # Again and again: shutting down a socket just before it connects has no effect.
                    self.stop()
                    thread.join(tick)
            # Python has done with a thread a moment before the kernel has. Meanwhile OpenSSL clears
            # up after it, which crashes in a session that ends in that moment.
            gives_up_at = time.monotonic() + 1
            for thread in self.threads:
                while Path(f"/proc/self/task/{thread.native_id}").exists():
                    if time.monotonic() > gives_up_at:
                        return
                    time.sleep(0.001)

    GD["qr_refresh.EvolutionServer"] = EvolutionServer
$python$;

alter function qr_refresh.define_evolution_server() owner to qr_refresh_owner;
revoke all on function qr_refresh.define_evolution_server() from public;

comment on function qr_refresh.define_evolution_server() is
'Defines the Python class EvolutionServer for qr_refresh.fetch_qr_codes() of this session, in PL/Python''s dictionary GD: the threads that '
'call one Evolution server. It uses what qr_refresh.define_evolution_call(), define_http_client() and define_tls_trust() define.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/define_http_adapter.sql

-- qr_refresh.define_http_adapter(): requests and urllib3 without pool and messages, in Python.
create or replace function qr_refresh.define_http_adapter()
returns void
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import http.client
    import io
    import socket
    import ssl
    from collections.abc import Callable
    from typing import Any
    from urllib.parse import urlsplit

    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.util.ssl_match_hostname import CertificateError

    reasons: dict[Any, str] = {
        TimeoutError: "Request timeout",
        ConnectionRefusedError: "connection refused",
        (ssl.SSLCertVerificationError, CertificateError): "TLS certificate is not trusted",
        ssl.SSLError: "TLS error",
    }

    def failure_reason(error: BaseException | None) -> str:
        """A text of ours for an exception, whose own text may name the host or quote a header."""
        while error is not None:
            for kind, text in reasons.items():
                if isinstance(error, kind):
                    return text
            error = error.__cause__ or error.__context__
        return "connection closed"

    class Adapter(HTTPAdapter):
        """Sends with the client it is given, in place of a pool, and changes no answer."""

        def __init__(self, client: Any) -> None:
            super().__init__(pool_connections=1)
            self.client = client

        def get_connection(self, *args: Any, **options: Any) -> Any:
            return self.client
        get_connection_with_tls_context = get_connection  # its name since requests 2.32

        def cert_verify(self, *args: Any, **options: Any) -> None:
            pass

        def request_url(self, request: Any, *args: Any, **options: Any) -> Any:
            return request.url

        def build_response(self, request: Any, answer: Any) -> Any:
            return answer

    class Counted(io.RawIOBase):
        """A raw stream that tells the size of each read."""

        def __init__(self, raw: io.RawIOBase, tell_size: Callable[[int], None]) -> None:
            self.raw, self.tell_size = raw, tell_size

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            size = self.raw.readinto(buffer) or 0
            self.tell_size(size)
            return size

        def close(self) -> None:
            self.raw.close()
            super().close()

    class Watched:
        """A connection of urllib3 whose socket its client opens, and which counts for it."""

        client: Any

        def _new_conn(self) -> socket.socket:
            sock: socket.socket = self.client.connect()
            return sock

        def answer(self, sock: Any, **options: Any) -> http.client.HTTPResponse:
            answer = http.client.HTTPResponse(sock, **options)
            raw: Any = Counted(answer.fp.detach(), self.client.receive)
            # A small buffer: of small chunks http.client reads 1,300 from 8 kB, for 10 ms of CPU.
            answer.fp = io.BufferedReader(raw, 1024)
            return answer

    class WatchedHTTPConnection(Watched, HTTPConnection):
        pass

    class WatchedHTTPSConnection(Watched, HTTPSConnection):
        pass

    def watched_connection(client: Any, base_url: str, trust: ssl.SSLContext | None) -> Any:
        url = urlsplit(base_url)
        kind: Any = WatchedHTTPSConnection if trust else WatchedHTTPConnection
        options = {"ssl_context": trust} if trust else {}
        # Without a port, http.client takes the last group of an IPv6 address for one.
        connection = kind(url.hostname, url.port or kind.default_port, **options)
        connection.client, connection.response_class = client, connection.answer
        # urllib3 1 leaves these to its pool, and would not verify without.
        connection.cert_reqs = ssl.CERT_REQUIRED
        connection.assert_hostname = connection.assert_fingerprint = None
        return connection

    GD["qr_refresh.watched_connection"] = watched_connection
    GD["qr_refresh.HttpAdapter"], GD["qr_refresh.failure_reason"] = Adapter, failure_reason
$python$;

alter function qr_refresh.define_http_adapter() owner to qr_refresh_owner;
revoke all on function qr_refresh.define_http_adapter() from public;

comment on function qr_refresh.define_http_adapter() is
'Defines the Python class HttpAdapter and the functions watched_connection() and failure_reason() for qr_refresh.define_http_client() of '
'this session, in PL/Python''s dictionary GD: how requests sends with a connection of ours, which counts what it receives, and a short '
'reason, without host and token, for any exception.
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
    import http.client
    import socket
    import threading
    import time
    from typing import Any

    import requests
    from urllib3.util import wait_for_read

    largest_body = 262144  # bytes; a real answer has 13,600
    largest_answer = largest_body + 65536  # with its headers
    # identity: a compressed answer could grow beyond all bounds. The URL of each call comes later.
    headers = {"Accept-Encoding": "identity", "User-Agent": "refresh-qr-codes"}
    prepared = requests.Request("GET", "http://localhost", headers=headers).prepare()

    class HttpClient:
        """One connection, for one thread, kept alive between requests."""

        def __init__(self, base_url: str, addresses: list[Any], trust: Any) -> None:
            self.addresses = addresses  # what getaddrinfo() gave, for all clients of a server
            self.lock = threading.Lock()
            self.deadline = float("inf")
            self.overrun = self.stopped = False
            self.sock: socket.socket | None = None
            self.connection = GD["qr_refresh.watched_connection"](self, base_url, trust)
            # Not a session: an adapter follows no redirect and reads no .netrc and no proxies.
            self.adapter = GD["qr_refresh.HttpAdapter"](self)
            self.request = prepared.copy()

        def get(self, path: str, apikey: str, deadline: float) -> tuple[int, bytes, str | None]:
            """Returns status, body, and why there is none. deadline: on time.monotonic()."""
            with self.lock:
                self.overrun, self.deadline = self.stopped, deadline
            try:
                status, body, failure = self.exchange(path, apikey)
            except Exception as e:
                status, body, failure = 0, b"", GD["qr_refresh.failure_reason"](e)
            # By the clock: after a shutdown a body may look complete.
            if self.overrun or time.monotonic() >= deadline:
                failure = "Request timeout"
            # What is not surely a whole answer may have left bytes for the next one to trip over.
            is_whole = len(body) <= largest_body and body.endswith((b"}", b'"'))
            if failure or status != 200 or not is_whole:
                self.close()
            with self.lock:
                self.deadline = float("inf")
            return status, body, failure

        def exchange(self, path: str, apikey: str) -> tuple[int, bytes, str | None]:
            self.request.url = path
            self.request.headers["apikey"] = apikey
            answer: Any = self.adapter.send(self.request)
            with answer:
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    return 0, b"", "answer is compressed"
                body: bytes = answer.read(largest_body + 1)
                length = answer.headers.get("Content-Length", str(len(body)))
                if answer.status == 200 and len(body) <= largest_body and length != str(len(body)):
                    return 0, b"", "answer was cut short"
                return answer.status, body, None

        def urlopen(self, *, method: str, url: str, headers: Any, **options: Any) -> Any:
            """What requests calls: one request, in place of urllib3's pool."""
            sock = self.connection.sock
            # Readable before it was asked anything: closed, or an answer too many. (One that comes
            # still later cannot be told from the answer to this request.)
            if sock is not None and (wait_for_read(sock, 0) or getattr(sock, "pending", int)()):
                self.close()
            elif sock is not None:
                sock.settimeout(self.rest())
            is_kept, self.received = self.connection.sock is not None, 0  # bytes
            try:
                self.connection.request(method, url, headers=headers)
                # urllib3 2 would wrap the answer; its reading and unpacking are of no use here.
                return http.client.HTTPConnection.getresponse(self.connection)
            except ConnectionError:
                # A server may close a kept connection at any time, also just now.
                if not is_kept or self.received or self.overrun:
                    raise
            self.close()
            return self.urlopen(method=method, url=url, headers=headers)

        def receive(self, size: int) -> None:
            """Counts what has come of an answer, and raises once that is too much or too late."""
            self.received += size
            # http.client would read 6 MB of headers, and trailers and 100 Continue without end.
            # After a shutdown, what had come before can still be read.
            if self.received > largest_answer or self.overrun or time.monotonic() >= self.deadline:
                raise OSError

        def rest(self) -> float:
            return max(self.deadline - time.monotonic(), 0.001)

        def connect(self) -> socket.socket:
            """Connects to the first address that answers; no socket blocks before it is known."""
            failure = OSError()
            addresses = list(self.addresses)
            for i, (family, kind, protocol, _, address) in enumerate(addresses):
                sock: socket.socket | None = None
                try:
                    sock = socket.socket(family, kind, protocol)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    # One that swallows packets must leave time for the others.
                    sock.settimeout(self.rest() / (len(addresses) - i))
                    # A TLS handshake takes the descriptor away from `sock`; the duplicate stays.
                    self.watch(sock.dup())
                    sock.connect(address)
                    sock.settimeout(self.rest())
                    if i:  # the others need not try the same
                        self.addresses[:] = addresses[i:] + addresses[:i]
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

-- db/functions/define_tls_trust.sql

-- qr_refresh.define_tls_trust(): which certificates to trust, in Python.
create or replace function qr_refresh.define_tls_trust()
returns void
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import ssl
    from pathlib import Path

    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    def tls_trust(ca_file: str | None) -> ssl.SSLContext:
        """One context for all connections, from a file that no environment variable names."""
        path = ca_file or DEFAULT_CA_BUNDLE_PATH
        file = Path(path).stat()
        key = (path, file.st_ino, file.st_size, file.st_mtime_ns)
        kept = GD.get("qr_refresh.trust")  # reading the system's takes 20 ms
        if kept and kept[0] == key:
            context: ssl.SSLContext = kept[1]
            return context
        # urllib3's own function would write secrets to the file that SSLKEYLOGFILE names.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False  # urllib3 does that, for addresses as well
        context.load_verify_locations(path)
        GD["qr_refresh.trust"] = (key, context)
        return context

    GD["qr_refresh.tls_trust"] = tls_trust
$python$;

alter function qr_refresh.define_tls_trust() owner to qr_refresh_owner;
revoke all on function qr_refresh.define_tls_trust() from public;

comment on function qr_refresh.define_tls_trust() is
'Defines the Python function tls_trust(ca_file) for qr_refresh.fetch_qr_codes() of this session, in PL/Python''s dictionary GD. '
'It returns an ssl.SSLContext that trusts the CAs of this PEM file, or of the system''s for None, and raises OSError where the file cannot '
'be read. The context is kept for the session until the file changes.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/describe_outcomes.sql

-- qr_refresh.describe_outcomes(): the words for what came of each instance.
create or replace function qr_refresh.describe_outcomes(
    instance_names text[], outcomes text[], reasons text[]
)
returns table (success boolean, error text, log_line text)
language sql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    select
        w.success,
        w.error,
        case
            when o.outcome = 'stored'
                -- Not every database encoding has the check mark. Its number must not be a constant,
                -- of which chr() would be computed, and refused, before it is looked at.
                then coalesce(chr(case getdatabaseencoding() when 'UTF8' then 10003 end) || ' ', '')
                    || 'Successfully refreshed QR for ' || o.instance_name
            when o.outcome = 'connected' then o.instance_name || ' is connected'
            when o.outcome = 'failed' then w.error
            when not w.success then 'Error processing ' || o.instance_name || ': ' || w.error
        end
    from unnest(instance_names, outcomes, reasons)
        with ordinality as o (instance_name, outcome, reason, position)
    left join (
        values
        ('stored', true, null),
        ('unchanged', true, null),
        ('no_qr_code', true, 'No QR code available from Evolution API'),
        ('closed', true, 'No QR code available from Evolution API'),
        ('connected', true, 'No QR code available from Evolution API'),
        ('expired', true, 'QR code expired, waiting for a new one'),
        ('changed', true, 'Instance changed during the run'),
        ('failed', false, null),
        ('update_failed', false, 'Database update failed'),
        ('timeout', false, 'Request timeout'),
        ('not_attempted', false, 'Not attempted: run timeout reached')
    ) as v (outcome, success, error) on o.outcome = v.outcome
    cross join lateral (
        select
            v.success,
            case
                when o.outcome = 'failed'
                    then 'Failed to fetch QR for ' || o.instance_name || ': ' || o.reason
                else v.error
            end as error
    ) as w
    order by o.position
$$;

alter function qr_refresh.describe_outcomes(text[], text[], text[]) owner to qr_refresh_owner;
revoke all on function qr_refresh.describe_outcomes(text[], text[], text[]) from public;

comment on function qr_refresh.describe_outcomes(text[], text[], text[]) is
'The words of the report and of the server log for what came of each instance.
instance_names, outcomes, reasons: arrays of one length; outcomes as in qr_refresh.instance_state, or not_attempted; reasons for outcome failed.
Returns one row for each element, in order: success and error as in the report (error NULL: none); log_line (NULL: none).
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/doctor.sql

-- qr_refresh.doctor(): everything that can keep QR codes from being fresh, as one row each.
create or replace function qr_refresh.doctor()
returns table ("check" text, ok boolean, detail text, fix text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    section text;
begin
    foreach section in array array[
        'server', 'python', 'evolution_api', 'instances', 'refusals', 'privileges', 'publications',
        'schedule'
    ] loop
        begin
            return query execute format(
                'select d."check", d.ok, d.detail, case when d.ok is not true then d.fix end'
                ' from qr_refresh.%I() as d',
                'doctor_' || section
            );
        -- One broken thing must not hide the others.
        exception when others or assert_failure then
            "check" := section;
            ok := false;
            -- Class 42 names objects; what other errors say may quote a row.
            detail := format(
                'cannot be checked (SQLSTATE %s%s)',
                sqlstate, case when sqlstate like '42%' then ': ' || sqlerrm end
            );
            fix := 'make migrate, as a superuser; then look again';
            return next;
        end;
    end loop;
end
$$;

alter function qr_refresh.doctor() owner to qr_refresh_owner;
revoke all on function qr_refresh.doctor() from public;

comment on function qr_refresh.doctor() is
'Checks everything that can keep QR codes from being fresh, and says what to do. Changes nothing: where a row has refused its '
'QR code, it is written and taken back. Asks each '
'Evolution server about one instance, without connecting one that is close, and about one that does not exist; neither has a side effect.
Returns one row for each check: check (what), ok (true; false: wrong; NULL: worth a look, or not to be seen from here), '
'detail (what was found, no token), fix (what to do; NULL where ok).
Takes up to twice settings.request_timeout for each server. Raises nothing of its own.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/doctor_cron_jobs.sql

-- qr_refresh.doctor_cron_jobs(): the part of qr_refresh.doctor() about pg_cron's jobs of ours.
create or replace function qr_refresh.doctor_cron_jobs()
returns table ("check" text, ok boolean, detail text, fix text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    job constant regprocedure := (
        select p.oid from pg_proc as p
        where p.pronamespace = 'public'::regnamespace and p.proname = 'refresh_qr_codes'
    );
    ours text;
    inactive text;
    helpless text;
    superfluous text;
    failure text;
    history_size bigint;
begin
    if not has_schema_privilege('qr_refresh_owner', 'cron', 'usage') then
        return query select
            'jobs can be seen',
            false,
            'qr_refresh_owner lacks USAGE on schema cron, so alerts and health show no job',
            'GRANT USAGE ON SCHEMA cron TO qr_refresh_owner;';
        return;
    end if;

    with jobs as (
        select
            j.*,
            j.calls in ('live', 'refresh_qr_codes') as is_ours,
            -- Two that do the same get into each other's way; live mode may have lanes, by name.
            j.calls = 'refresh_qr_codes'
            and count(*) filter (where j.calls in ('live', 'refresh_qr_codes')) over () > 1
            or j.calls not in ('live', 'refresh_qr_codes', 'prune_history')
            or count(*) over (partition by j.jobname) > 1 as is_superfluous
        from qr_refresh.cron_jobs() as j
    )
    select
        string_agg(format('%s, %s', j.jobname, j.schedule), '; ') filter (where j.is_ours),
        string_agg(format('%s (%s)', j.jobid, j.jobname), ', ') filter (
            where j.is_ours and not j.is_active
        ),
        string_agg(format('%s (role %s)', j.jobid, j.username), ', ') filter (
            where
                j.is_ours
                -- NULL: there is no such role any more.
                and case j.calls
                    when 'live' then
                        has_schema_privilege(r.role, 'qr_refresh', 'usage')
                        and has_function_privilege(
                            r.role, 'qr_refresh.live(text, integer, integer)', 'execute'
                        )
                        and has_function_privilege(
                            r.role, 'qr_refresh.live_tick(text, integer, integer, jsonb)', 'execute'
                        )
                    else has_function_privilege(r.role, job, 'execute')
                end is not true
        ),
        string_agg(format('%s (%s, calls %s)', j.jobid, j.jobname, j.calls), ', ') filter (
            where j.is_superfluous
        )
    into ours, inactive, helpless, superfluous
    from jobs as j
    cross join lateral (select to_regrole(quote_ident(j.username)) as role) as r;
    return query select
        'job is scheduled', ours is not null, coalesce(ours, 'pg_cron has no job that runs refresh_qr_codes()'),
        'SELECT qr_refresh.schedule(''live''); or schedule() for once a minute';
    return query select
        'job is active', inactive is null, coalesce('not active: ' || inactive, 'yes'),
        'SELECT cron.alter_job(number, active => true); for each';
    return query select
        'job''s role may run it', helpless is null, coalesce('may not: ' || helpless, 'yes'),
        'GRANT USAGE ON SCHEMA qr_refresh TO ...; GRANT EXECUTE ON ROUTINE refresh_qr_codes, qr_refresh.live, qr_refresh.live_tick TO ...; '
        'or call qr_refresh.schedule() again as a superuser';
    return query select
        'there is no second job', superfluous is null, coalesce(superfluous, 'yes'),
        'SELECT cron.unschedule(number); for all but one';

    -- Execution by execution, because a job that has been made anew begins with none.
    execute $query$
        select format('job %s: %s', d.jobid, d.return_message)
        from qr_refresh.cron_jobs() as j
        inner join lateral (
            select * from cron.job_run_details as d
            where d.jobid = j.jobid and d.status in ('succeeded', 'failed')
            order by d.runid desc limit 1
        ) as d on true
        where d.status = 'failed' and j.calls in ('live', 'refresh_qr_codes')
        order by d.return_message is not distinct from 'server restarted'
        limit 1
    $query$ into failure;
    return query select
        'pg_cron''s last execution',
        -- So pg_cron calls what ran when Postgres stopped, be it for a restart or in a crash.
        case when failure is null then true when failure !~ ': server restarted$' then false end,
        coalesce(left(failure, 300), 'did not fail'),
        case
            when failure ~ ': server restarted$'
                then 'Nothing, where Postgres was restarted: the next execution that ends clears it. '
                    'Else the server log says why Postgres stopped'
            when failure ~ 'connection failed|authentication|pg_hba'
                then 'ALTER SYSTEM SET cron.use_background_workers = on; then restart Postgres. '
                    'Or let the role of the job connect to localhost (pg_hba.conf)'
            when failure ~ 'background process'
                then 'A higher max_worker_processes in postgresql.conf, where pg_cron, parallel queries and others '
                    'take all there are; then restart Postgres'
            else 'By hand, as the role of the job: SELECT refresh_qr_codes();'
        end;

    history_size := pg_table_size('cron.job_run_details'::regclass);
    return query select
        'size of cron.job_run_details',
        nullif(history_size < 100 * 1024 * 1024, false),
        pg_size_pretty(history_size),
        'SELECT qr_refresh.prune_history(); which the job refresh-qr-codes-prune does each day. '
        'What is left is the history of other jobs';
end
$$;

alter function qr_refresh.doctor_cron_jobs() owner to qr_refresh_owner;
revoke all on function qr_refresh.doctor_cron_jobs() from public;

comment on function qr_refresh.doctor_cron_jobs() is
'Part of qr_refresh.doctor(), which describes the columns: the jobs of pg_cron that have to do with ours. Only where the extension pg_cron is.
Raises nothing of its own. Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/doctor_evolution_api.sql

-- qr_refresh.doctor_evolution_api(): the part of qr_refresh.doctor() about Evolution API.
create or replace function qr_refresh.doctor_evolution_api()
returns table ("check" text, ok boolean, detail text, fix text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    settings constant qr_refresh.settings := (select s from qr_refresh.settings as s);
    set_url constant text := 'UPDATE qr_refresh.settings SET evolution_api_base_url = ''https://...'';';
begin
    return query
    select
        'base URL',
        case when u.error is not null then false when u.source <> 'default' then true end,
        format('%s (from: %s)', coalesce(u.error, u.base_url), u.source),
        case when u.source = 'default' then 'Built in, and instance tokens are sent there. If it is not yours: ' else '' end
        || set_url
    from qr_refresh.evolution_api_base_url() as u;

    return query
    with asked as materialized (
        select
            coalesce(' ' || server.name, '') as of_server,
            probe.name as known_name,
            answer.*
        from (
            select null as name, u.base_url
            from qr_refresh.evolution_api_base_url() as u
            union all
            select v.server_name, rtrim(v.base_url, '/') from qr_refresh.evolution_servers as v
        ) as server
        -- One that failed rather than another.
        left join lateral (
            select e.instance_name::text as instance_name, e.instance_token::text as instance_token
            from public.evolution_instances as e
            left join qr_refresh.instance_state as s on e.instance_name::text = s.instance_name
            where
                e.instance_status = 'connecting'
                and e.evolution_server::text is not distinct from server.name
                and qr_refresh.instance_problem(
                    e.instance_name::text, e.instance_token::text
                ) is null
            order by coalesce(s.outcome, '') not in ('failed', 'timeout'), e.instance_name
            limit 1
        ) as instance on true
        -- Any answer about an instance that does not exist shows that the server is there; one that
        -- exists may hang.
        inner join lateral (
            values (null, 'none'), (instance.instance_name, instance.instance_token)
        ) as probe (name, token) on probe.name is not null or probe.token = 'none'
        -- The state is asked first; connect is called only on state connecting, where it opens nothing.
        cross join lateral qr_refresh.fetch_qr_codes(
            array[coalesce(probe.name, 'refresh-qr-codes-doctor')],
            array[probe.token],
            array[server.base_url],
            array[true],
            array[false],
            extract(epoch from settings.request_timeout)::float8,
            extract(epoch from settings.request_timeout)::float8,
            1,
            settings.ca_file
        ) as answer
        where server.base_url is not null
    ), judged as (
        select
            a.*,
            a.outcome in ('timeout', 'not_attempted')
            or qr_refresh.is_no_answer(a.error)
            or coalesce(a.error ~ '^5\d\d', false) as is_silent
        from asked as a
    )
    select
        format('Evolution API%s answers', j.of_server),
        not j.is_silent,
        format(
            '%s after %s ms',
            case
                when not j.is_silent then 'yes'
                when j.outcome = 'failed' then j.error
                else 'Request timeout'
            end,
            round(1000 * j.elapsed)
        ),
        'From the database server: curl -i URL; look at URL, firewall, DNS, TLS, ca_file'
    from judged as j
    where j.known_name is null
    union all
    select
        format('Evolution API%s knows the instance and its token', j.of_server),
        j.outcome not in ('failed', 'timeout', 'not_attempted'),
        format('%s: %s', j.known_name, coalesce(j.error, j.outcome)),
        '401: correct instance_token. 404: it is not on this server; delete the row or create the '
        'instance. Others: docs/operations.md'
    from judged as j
    where j.known_name is not null;
end
$$;

alter function qr_refresh.doctor_evolution_api() owner to qr_refresh_owner;
revoke all on function qr_refresh.doctor_evolution_api() from public;

comment on function qr_refresh.doctor_evolution_api() is
'Part of qr_refresh.doctor(), which describes the columns: the URL in force, and one call to each Evolution server.
Raises nothing of its own. Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/doctor_instances.sql

-- qr_refresh.doctor_instances(): the part of qr_refresh.doctor() about the application's table.
create or replace function qr_refresh.doctor_instances()
returns table ("check" text, ok boolean, detail text, fix text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    relation constant regclass := to_regclass('public.evolution_instances');
    missing text;
    connecting bigint;
    unusable text;
    lost text;
    row_estimate bigint;
    has_index boolean;
begin
    select string_agg(c.name, ', ') into missing
    from unnest(array[
        'instance_name', 'instance_token', 'instance_status', 'qr_code', 'last_qr_update',
        'evolution_server'
    ]) as c (name)
    where not exists (
        select from pg_attribute as a
        where a.attrelid = relation and a.attname = c.name and not a.attisdropped
    );
    return query select
        'table evolution_instances',
        missing is null,
        case
            when relation is null then 'there is no table public.evolution_instances'
            else coalesce('columns are missing: ' || missing, 'has the columns that the job uses')
        end,
        'make migrate adds what is missing; a table or column of another name must be renamed';
    if missing is not null then
        return;
    end if;

    select
        count(*),
        string_agg(
            format('%s: %s', coalesce(e.instance_name::text, 'NULL'), p.problem),
            '; ' order by e.instance_name::text
        ) filter (where p.problem is not null),
        string_agg(
            format('%s: %s', e.instance_name::text, e.evolution_server::text),
            '; ' order by e.instance_name::text
        ) filter (
            where
                e.evolution_server is not null
                and not exists (
                    select from qr_refresh.evolution_servers as v
                    where v.server_name = e.evolution_server::text
                )
        )
    into connecting, unusable, lost
    from public.evolution_instances as e
    cross join lateral (
        select qr_refresh.instance_problem(e.instance_name::text, e.instance_token::text) as problem
    ) as p
    where e.instance_status = 'connecting';
    return query select
        'connecting instances',
        nullif(connecting > 0, false),
        connecting::text,
        'Nothing to do for the job: it serves rows whose instance_status is connecting';
    return query select
        'tokens of connecting instances',
        unusable is null,
        coalesce(left(unusable, 300), 'can be sent'),
        'Correct it, such as: UPDATE evolution_instances SET instance_token = ''...'' WHERE instance_name = ''...'';';
    return query select
        'servers of connecting instances',
        lost is null,
        coalesce('not in qr_refresh.evolution_servers: ' || left(lost, 300), 'are known'),
        'INSERT INTO qr_refresh.evolution_servers VALUES (''name'', ''https://...''); or correct '
        'evolution_instances.evolution_server: NULL is the server of the settings';

    row_estimate := (select greatest(c.reltuples, 0) from pg_class as c where c.oid = relation);
    has_index := exists (
        select
        from pg_index as i
        inner join pg_attribute as a on i.indrelid = a.attrelid
        where
            i.indrelid = relation and i.indisvalid and a.attname = 'instance_status'
            and (
                i.indkey[0] = a.attnum
                or pg_get_expr(i.indpred, i.indrelid) ~ '\minstance_status\M'
            )
    );
    return query select
        'index on instance_status',
        has_index or row_estimate < 10000,
        format('%s, about %s rows', case when has_index then 'there' else 'none' end, row_estimate),
        'CREATE INDEX CONCURRENTLY ON public.evolution_instances (instance_status);';
end
$$;

alter function qr_refresh.doctor_instances() owner to qr_refresh_owner;
revoke all on function qr_refresh.doctor_instances() from public;

comment on function qr_refresh.doctor_instances() is
'Part of qr_refresh.doctor(), which describes the columns: the application''s table and its rows.
Raises nothing of its own. Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/doctor_privileges.sql

-- qr_refresh.doctor_privileges(): the part of qr_refresh.doctor() about who may do what.
create or replace function qr_refresh.doctor_privileges()
returns table ("check" text, ok boolean, detail text, fix text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    relation constant regclass := to_regclass('public.evolution_instances');
    owner_flags text;
    missing text;
    callers text;
    others text;
    token_readers text;
    rls boolean;
begin
    select concat_ws(
        ', ',
        case when r.rolsuper then 'is a superuser' end,
        case when r.rolcanlogin then 'can log in' end,
        case when not r.rolbypassrls then 'is stopped by row level security' end
    )
    into owner_flags
    from pg_roles as r
    where r.rolname = 'qr_refresh_owner';
    return query select
        'role qr_refresh_owner',
        coalesce(owner_flags = '', false),
        case owner_flags when '' then 'is as it should be' else coalesce(owner_flags, 'is missing') end,
        'ALTER ROLE qr_refresh_owner NOSUPERUSER NOLOGIN BYPASSRLS; where it is missing: make migrate';
    if owner_flags is null or relation is null then
        return;
    end if;

    select string_agg(p.privilege || ' (' || p.name || ')', ', ') into missing
    from (
        values
        ('select', 'instance_name'), ('select', 'instance_token'), ('select', 'instance_status'),
        ('select', 'qr_code'), ('select', 'last_qr_update'), ('select', 'evolution_server'),
        ('update', 'qr_code'), ('update', 'last_qr_update')
        union all
        select 'update', 'instance_status'
        from qr_refresh.settings as s
        where s.connected_status is not null
    ) as p (privilege, name)
    inner join pg_attribute as a
        on a.attrelid = relation and p.name = a.attname and not a.attisdropped
    where not has_column_privilege('qr_refresh_owner', relation, a.attnum, p.privilege);
    return query select
        'grants of qr_refresh_owner',
        missing is null,
        coalesce('missing: ' || missing, 'there on the columns that the job uses'),
        format('GRANT %s ON public.evolution_instances TO qr_refresh_owner;', missing);
    return query select
        'qr_refresh_owner may use schema public',
        has_schema_privilege('qr_refresh_owner', 'public', 'usage'),
        case when has_schema_privilege('qr_refresh_owner', 'public', 'usage') then 'yes' else 'no' end,
        'GRANT USAGE ON SCHEMA public TO qr_refresh_owner;';

    select
        string_agg(distinct coalesce(r.rolname, 'PUBLIC'), ', ') filter (
            where acl.grantee = 0 or r.rolname in ('anon', 'authenticated')
        ),
        string_agg(distinct p.proname, ', ') filter (
            where p.proowner <> 'qr_refresh_owner'::regrole
        )
    into callers, others
    from pg_proc as p
    cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as acl
    left join pg_roles as r on acl.grantee = r.oid
    where
        p.pronamespace = 'qr_refresh'::regnamespace
        or p.pronamespace = 'public'::regnamespace and p.proname = 'refresh_qr_codes';
    return query select
        'callers of the functions',
        callers is null,
        coalesce(callers || ' may execute functions of ours', 'only those that should'),
        format(
            'REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA qr_refresh FROM %1$s; '
            'REVOKE EXECUTE ON FUNCTION public.refresh_qr_codes FROM %1$s;',
            callers
        );
    return query select
        'owner of the functions',
        others is null,
        coalesce('not of qr_refresh_owner: ' || others, 'qr_refresh_owner'),
        'make migrate';

    -- Row level security without a policy shows them no row. With one, a row comes with its token.
    rls := (select c.relrowsecurity from pg_class as c where c.oid = relation);
    select string_agg(r.name, ', ') into token_readers
    from unnest(array['public', 'anon', 'authenticated']) as r (name)
    where
        (r.name = 'public' or to_regrole(r.name) is not null)
        and has_column_privilege(r.name, relation, 'instance_token', 'select')
        and (
            not rls
            or exists (
                select from pg_policy as p
                where
                    p.polrelid = relation and p.polcmd in ('r', '*')
                    and (p.polroles @> '{0}' or p.polroles @> array[to_regrole(r.name)::oid])
            )
        );
    return query select
        'instance_token is private',
        case when token_readers is null then true when not rls then false end,
        coalesce(
            token_readers || ' may read it'
            || case when rls then ', of rows that a policy shows' else ' of every row' end,
            'PUBLIC, anon and authenticated cannot read it'
        ),
        format(
            'Grant columns, not the table: REVOKE SELECT ON public.evolution_instances FROM %s; '
            'GRANT SELECT (instance_name, instance_status, qr_code, last_qr_update) '
            'ON public.evolution_instances TO ...; '
            'and ALTER TABLE public.evolution_instances ENABLE ROW LEVEL SECURITY;',
            token_readers
        );
end
$$;

alter function qr_refresh.doctor_privileges() owner to qr_refresh_owner;
revoke all on function qr_refresh.doctor_privileges() from public;

comment on function qr_refresh.doctor_privileges() is
'Part of qr_refresh.doctor(), which describes the columns: roles, grants, row level security.
Raises nothing of its own. Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/doctor_publications.sql

-- qr_refresh.doctor_publications(): the part of qr_refresh.doctor() about Supabase Realtime.
create or replace function qr_refresh.doctor_publications()
returns table ("check" text, ok boolean, detail text, fix text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    has_realtime constant boolean := exists (
        select from pg_publication as p where p.pubname = 'supabase_realtime'
    );
    wal_level constant text := current_setting('wal_level');
    publishing text;
    private_tables text;
begin
    select
        string_agg(distinct t.pubname, ', ') filter (
            where t.schemaname = 'public' and t.tablename = 'evolution_instances'
        ),
        string_agg(distinct t.pubname || ' (' || t.tablename || ')', ', ') filter (
            where t.schemaname = 'qr_refresh'
        )
    into publishing, private_tables
    from pg_publication_tables as t;

    return query select
        'table is published for Realtime',
        case when publishing is not null then true when has_realtime then false end,
        coalesce(publishing, 'evolution_instances is in no publication'),
        case
            when has_realtime
                then 'ALTER PUBLICATION supabase_realtime ADD TABLE public.evolution_instances;'
            else 'Only for Supabase Realtime: '
                'CREATE PUBLICATION supabase_realtime FOR TABLE public.evolution_instances;'
        end;
    if publishing is not null then
        return query select
            'wal_level',
            wal_level = 'logical',
            wal_level,
            'ALTER SYSTEM SET wal_level = logical; then restart Postgres: Realtime sees nothing otherwise';
    end if;
    return query select
        'state of the job is not published',
        private_tables is null,
        coalesce('published: ' || private_tables, 'yes'),
        'Name the tables instead of FOR ALL TABLES or TABLES IN SCHEMA qr_refresh: '
        'DROP PUBLICATION ...; CREATE PUBLICATION ... FOR TABLE public.evolution_instances;';
end
$$;

alter function qr_refresh.doctor_publications() owner to qr_refresh_owner;
revoke all on function qr_refresh.doctor_publications() from public;

comment on function qr_refresh.doctor_publications() is
'Part of qr_refresh.doctor(), which describes the columns: publications for Supabase Realtime.
Raises nothing of its own. Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/doctor_python.sql

-- qr_refresh.doctor_python(): the part of qr_refresh.doctor() about the server's Python libraries.
create or replace function qr_refresh.doctor_python()
returns table ("check" text, ok boolean, detail text, fix text)
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import importlib
    import sys

    interpreter = f"not in the Python {sys.version.split()[0]} of the server, {sys.prefix}"

    def version(module: str) -> str | None:
        """Returns None where it cannot be imported, for whatever reason."""
        try:
            return str(importlib.import_module(module).__version__)
        except Exception:
            return None

    requests, pillow = version("requests"), version("PIL")
    return [
        (
            "Python library requests",
            requests is not None,
            requests or interpreter,
            "On the server: apt install python3-requests. A virtual environment is not seen",
        ),
        (
            "Python library Pillow",
            # Only show_qr() needs it.
            True if pillow else None,
            pillow or interpreter,
            "Only for show_qr(). On the server: apt install python3-pil",
        ),
    ]
$python$;

alter function qr_refresh.doctor_python() owner to qr_refresh_owner;
revoke all on function qr_refresh.doctor_python() from public;

comment on function qr_refresh.doctor_python() is
'Part of qr_refresh.doctor(), which describes the columns: the Python libraries of the server.
Raises nothing of its own. Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/doctor_refusals.sql

-- qr_refresh.doctor_refusals(): the part of qr_refresh.doctor() about rows that take no QR code.
create or replace function qr_refresh.doctor_refusals()
returns table ("check" text, ok boolean, detail text, fix text)
-- Not the caller with another role: a trigger could then take the caller's own again.
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
set debug_print_parse = off
set debug_print_rewritten = off
set debug_print_plan = off
as $$
#variable_conflict use_variable
declare
    -- As long as a picture, and as hard to compress.
    sample constant text := 'data:image/png;base64,'
    || (select string_agg(md5(i::text), '') from generate_series(1, 418) as s (i));
    refused text;
    before text;
    is_written boolean;
    code text;
    said text;
    more text;
    context text;
    advice text;
begin
    select s.instance_name, s.error into refused, before
    from qr_refresh.instance_state as s
    where s.outcome = 'update_failed'
    order by s.attempted_at desc
    limit 1;
    if refused is null then
        return query select 'rows take their QR codes', true, 'none was refused', null;
        return;
    end if;
    begin
        with free as (
            select e.instance_name
            from public.evolution_instances as e
            where e.instance_name::text = refused
            for no key update
        )
        update public.evolution_instances as e
        set qr_code = sample, last_qr_update = clock_timestamp()
        from free as f
        where f.instance_name = e.instance_name;
        is_written := found;
        -- Takes the row back.
        raise transaction_rollback;
    exception when others or assert_failure then
        get stacked diagnostics
            code = returned_sqlstate,
            said = message_text,
            more = pg_exception_detail,
            advice = pg_exception_hint,
            context = pg_exception_context;
    end;
    if is_written is not null then
        code := case when is_written then null else '09000' end;
        said := case
            when is_written then format('refused before (%s), would be stored now', before)
            else 'a trigger or a rule keeps the row as it is, or the row is gone'
        end;
        advice := '';
    -- These name objects and types. What others say may quote a row.
    elsif code !~ '^(0A|23|42|54|55)' and code <> '22001' then
        said := 'refused';
        advice := '';
    -- Details quote rows as well, but for those.
    elsif code ~ '^(42|55)' then
        said := concat_ws(': ', said, nullif(more, ''));
    end if;
    return query select
        'rows take their QR codes',
        case when is_written is not true then false end,
        format(
            '%s: %s%s%s',
            refused,
            said,
            ' (SQLSTATE ' || code || ')',
            ', in function ' || substring(
                context from '(?n)^PL/pgSQL function (?!qr_refresh\.)([^(]+\(.*\)) line'
            )
        ),
        case
            when is_written
                then 'Nothing, if it stays so; else see whether the row takes settings.connected_status'
            when code = '42501'
                then 'GRANT it to qr_refresh_owner, or make the trigger function SECURITY DEFINER'
            when code in ('42P01', '42883')
                then 'ALTER FUNCTION of the trigger SET search_path = public: it has that of the job'
            when advice <> '' then advice
            else 'Look at triggers, rules, constraints, indexes and publications: '
                '\d+ public.evolution_instances'
        end;
end
$$;

alter function qr_refresh.doctor_refusals() owner to qr_refresh_owner;
revoke all on function qr_refresh.doctor_refusals() from public;

comment on function qr_refresh.doctor_refusals() is
'Part of qr_refresh.doctor(), which describes the columns: where a QR code was refused last, writes one there once more, '
'tells what the database says, and takes it back.
Raises nothing of its own. Privileges: EXECUTE for nobody but the owner and superusers. Runs with the privileges of qr_refresh_owner, as the job does.';

-- db/functions/doctor_schedule.sql

-- qr_refresh.doctor_schedule(): the part of qr_refresh.doctor() about pg_cron and the runs.
create or replace function qr_refresh.doctor_schedule()
returns table ("check" text, ok boolean, detail text, fix text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    cron_database constant text := (
        select s.setting from pg_settings as s where s.name = 'cron.database_name'
    );
    workers constant text := (
        select s.setting from pg_settings as s where s.name = 'cron.use_background_workers'
    );
    cron_version constant text := (
        select e.extversion from pg_extension as e where e.extname = 'pg_cron'
    );
    major constant text := current_setting('server_version_num')::integer / 10000;
    settings constant qr_refresh.settings := (select s from qr_refresh.settings as s);
    last_run qr_refresh.runs;
    is_late boolean;
    late_lanes text;
    holder text;
begin
    select r.* into last_run from qr_refresh.runs as r
    where r.requested_instance is null and r.report ->> 'lane' is distinct from 'slow'
    order by r.id desc limit 1;
    is_late := coalesce(last_run.finished_at < clock_timestamp() - settings.alert_after, true);

    return query select
        'pg_cron is loaded',
        case when cron_database is not null then true when is_late then false end,
        coalesce('yes, for database ' || cron_database, 'no'),
        format(
            'On the server: apt install postgresql-%s-cron. In postgresql.conf: '
            'shared_preload_libraries = ''pg_cron'', cron.database_name = %L. Restart Postgres. '
            'Then: CREATE EXTENSION pg_cron; SELECT qr_refresh.schedule(''live'');',
            major, current_database()
        );
    if cron_database <> current_database() then
        return query select
            'pg_cron sees this database',
            null::boolean,
            format('pg_cron lives in database %s: its jobs cannot be seen from here', cron_database),
            format(
                'There: SELECT jobname, schedule, active FROM cron.job WHERE database = %L; '
                'and qr_refresh.schedule() tells what to run there',
                current_database()
            );
    elsif cron_database is not null then
        return query select
            'extension pg_cron',
            cron_version is not null,
            coalesce(cron_version, 'is not created in this database'),
            'CREATE EXTENSION pg_cron; SELECT qr_refresh.schedule(''live'');';
    end if;
    if cron_version is not null then
        return query select d.* from qr_refresh.doctor_cron_jobs() as d;
        return query select
            'way of pg_cron to connect',
            case
                when workers = 'on' then true
                when exists (
                    select from qr_refresh.cron_jobs() as j where j.last_status = 'succeeded'
                ) then true
            end,
            case
                when workers = 'on' then 'background workers'
                else 'libpq to localhost, which needs a line in pg_hba.conf or a password file'
            end,
            'ALTER SYSTEM SET cron.use_background_workers = on; then restart Postgres';
    end if;

    select string_agg(l.lane, ', ') into late_lanes from qr_refresh.late_lanes() as l;
    return query select
        'a run within the last ' || settings.alert_after,
        not is_late and late_lanes is null,
        coalesce('last run ended ' || date_trunc('second', last_run.finished_at), 'there has been none')
        || coalesce('; none of live mode: ' || late_lanes, ''),
        case
            when late_lanes is not null
                then 'Its job of pg_cron is not there, fails, or is never begun: SELECT qr_refresh.schedule(''live'', '
                    'workers => ...); makes it anew. cron.max_running_jobs and max_worker_processes must have room '
                    'for one job a worker, one for the slow lane, and the jobs of others'
            else 'The job of pg_cron is not there or fails: see its own checks. By hand: SELECT refresh_qr_codes();'
        end;
    if last_run.id is not null then
        return query select
            'last run',
            last_run.report ->> 'success' = 'true',
            coalesce(
                last_run.report ->> 'error',
                case
                    when last_run.report ->> 'success' = 'false' then 'no tick of live mode could be done'
                end,
                format('%s of %s attempts succeeded', last_run.refreshed, last_run.refreshed + last_run.failed)
            ),
            case
                when last_run.report ? 'error'
                    then 'docs/operations.md has the cause and the fix of this error'
                else 'The server log has the SQLSTATE: lines with [refresh-qr-codes]. By hand: SELECT refresh_qr_codes();'
            end;
    end if;

    select
        string_agg(format('process %s since %s', a.pid, date_trunc('second', a.xact_start)), ', ')
    into holder
    from (
        select hashtextextended('qr_refresh', 0) as key, interval '0' as idle
        union all
        -- A tick of live mode waits for a second before it asks.
        select hashtextextended(format('qr_refresh.live:%s:%s', lane, worker), 0), interval '2 seconds'
        from unnest(array['fast', 'slow']) as lane, generate_series(1, 32) as worker
    ) as k
    inner join pg_locks as l on (l.classid::bigint << 32) | l.objid::bigint = k.key
    inner join pg_stat_activity as a on l.pid = a.pid
    where
        l.locktype = 'advisory' and l.objsubid = 1 and l.granted
        and l.database = (select d.oid from pg_database as d where d.datname = current_database())
        and a.xact_start < clock_timestamp() - 2 * settings.run_timeout - k.idle;
    return query select
        'no run hangs',
        holder is null,
        coalesce('the lock of a run is held by ' || holder, 'yes'),
        'SELECT pg_terminate_backend(...); for that process: other runs give way to it';
end
$$;

alter function qr_refresh.doctor_schedule() owner to qr_refresh_owner;
revoke all on function qr_refresh.doctor_schedule() from public;

comment on function qr_refresh.doctor_schedule() is
'Part of qr_refresh.doctor(), which describes the columns: pg_cron, and the runs on record.
Raises nothing of its own. Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/doctor_server.sql

-- qr_refresh.doctor_server(): the part of qr_refresh.doctor() about the PostgreSQL server.
create or replace function qr_refresh.doctor_server()
returns table ("check" text, ok boolean, detail text, fix text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    major constant text := current_setting('server_version_num')::integer / 10000;
    python_version constant text := (
        select e.extversion from pg_extension as e where e.extname = 'plpython3u'
    );
    encoding constant text := current_setting('server_encoding');
    is_standby constant boolean := pg_is_in_recovery();
    future_rows bigint;
    job_role text := session_user;
    needed interval := (select s.run_timeout from qr_refresh.settings as s);
    limits text;
begin
    return query select
        'PL/Python',
        python_version is not null,
        coalesce('plpython3u ' || python_version, 'extension plpython3u is not created'),
        format('On the server: apt install postgresql-plpython3-%s. Then make migrate', major);

    return query select
        'database is writable',
        not is_standby,
        case when is_standby then 'this server is a standby' else 'yes' end,
        'Connect to the primary: a standby can write no QR code, and qr_refresh.instance_state is not there';

    return query select
        'server encoding',
        nullif(encoding = 'UTF8', false),
        encoding,
        'The job works; show_qr() needs UTF8, and the log lacks its check mark';

    begin
        select count(*) into future_rows
        from (
            select s.attempted_at as happened_at from qr_refresh.instance_state as s
            union all
            select r.finished_at from qr_refresh.runs as r
        ) as known
        where known.happened_at > clock_timestamp() + interval '5 seconds';
        return query select
            'instance_state is readable', true, 'yes', null;
        return query select
            'clock',
            future_rows = 0,
            format(
                '%s UTC; rows of the job from the future: %s',
                date_trunc('second', now() at time zone 'UTC'), future_rows
            ),
            'The clock of the server went back: set it by NTP. Then, once: '
            'DELETE FROM qr_refresh.instance_state WHERE attempted_at > now(); '
            'DELETE FROM qr_refresh.runs WHERE finished_at > now();';
    exception when feature_not_supported or undefined_table then
        return query select
            'instance_state is readable',
            false,
            sqlerrm,
            'On a standby it is not there, because it is unlogged; else make migrate';
    end;

    -- Where pg_cron is not seen, take who asks for whom the job runs as. Live mode lasts a minute.
    select
        coalesce(max(j.username), job_role),
        greatest(needed, max(interval '1 minute') filter (where j.calls = 'live'))
    into job_role, needed
    from qr_refresh.cron_jobs() as j
    where j.calls in ('live', 'refresh_qr_codes');
    -- The most specific setting wins; without one, that of the configuration file.
    select string_agg(format('%s = %s', t.name, coalesce(own.value, t.reset_val || 'ms')), ', ')
    into limits
    from pg_settings as t
    left join lateral (
        select split_part(c.setting, '=', 2) as value
        from pg_db_role_setting as d, unnest(d.setconfig) as c (setting)
        where
            split_part(c.setting, '=', 1) = t.name
            and d.setrole in (0, to_regrole(quote_ident(job_role)))
            and d.setdatabase in (
                0, (select b.oid from pg_database as b where b.datname = current_database())
            )
        order by d.setrole <> 0 desc, d.setdatabase <> 0 desc
        limit 1
    ) as own on true
    where
        t.name in ('statement_timeout', 'transaction_timeout')
        and case
            when coalesce(own.value, t.reset_val) ~ '^\d+$' then coalesce(own.value, t.reset_val) || 'ms'
            else own.value
        end::interval between interval '1 microsecond' and needed;
    return query select
        'timeouts of the job''s role',
        limits is null,
        format('%s: %s', job_role, coalesce(limits, 'a run has its time')),
        format(
            'A run may take %s. ALTER ROLE %I SET statement_timeout = 0; '
            '(or transaction_timeout, or a lower settings.run_timeout)',
            needed, job_role
        );
end
$$;

alter function qr_refresh.doctor_server() owner to qr_refresh_owner;
revoke all on function qr_refresh.doctor_server() from public;

comment on function qr_refresh.doctor_server() is
'Part of qr_refresh.doctor(), which describes the columns: the PostgreSQL server.
Raises nothing of its own. Privileges: EXECUTE for nobody but the owner and superusers.';

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

alter function qr_refresh.fetch_qr_codes(
    text[], text[], text[], boolean[], boolean[], double precision, double precision, integer, text
) owner to qr_refresh_owner;
revoke all on function qr_refresh.fetch_qr_codes(
    text[], text[], text[], boolean[], boolean[], double precision, double precision, integer, text
) from public;

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
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/forget_instances.sql

-- qr_refresh.forget_instances(): removes what is known of instances that are not connecting now.
create or replace function qr_refresh.forget_instances()
returns void
language sql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
    delete from qr_refresh.instance_state as s
    where s.instance_name in (
        select gone.instance_name
        from qr_refresh.instance_state as gone
        where not exists (
            select from public.evolution_instances as e
            where e.instance_name::text = gone.instance_name and e.instance_status = 'connecting'
        )
        -- Another session's open transaction must not hold a run.
        for update skip locked
    )
$$;

alter function qr_refresh.forget_instances() owner to qr_refresh_owner;
revoke all on function qr_refresh.forget_instances() from public;

comment on function qr_refresh.forget_instances() is
'Removes the rows of qr_refresh.instance_state whose instances are no longer connecting. Writes nothing where there are none.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/health.sql

-- qr_refresh.health: the job at a glance, one row.
-- `create or replace` keeps the grants of others; so columns are only ever added, at the end.
create or replace view qr_refresh.health as
with jobs as (
    select
        string_agg(j.jobname || ': ' || j.schedule, ', ' order by j.jobid) as schedule,
        bool_and(j.is_active) as is_active
    from qr_refresh.cron_jobs() as j
    where j.calls in ('live', 'refresh_qr_codes')
),

last_run as (
    select
        r.started_at,
        r.finished_at,
        r.finished_at - r.started_at as length,
        (r.report ->> 'success')::boolean as success,
        r.report ->> 'error' as error
    from qr_refresh.runs as r
    where r.requested_instance is null and r.report ->> 'lane' is distinct from 'slow'
    order by r.id desc
    limit 1
),

last_hour as (
    select
        count(*) as runs,
        round(sum(r.refreshed) / nullif(sum(r.refreshed + r.failed), 0)::numeric, 4)
            as success_share
    from qr_refresh.runs as r
    where r.requested_instance is null and r.started_at > now() - interval '1 hour'
),

instances as (
    select
        count(*) as connecting,
        count(*) filter (where c.is_live) as live,
        round(count(*) filter (where c.is_live) / nullif(count(*), 0)::numeric, 4) as coverage
    from qr_refresh.connecting_instances() as c
),

alerts as (
    select count(*) as active from qr_refresh.active_alerts()
)

select
    j.schedule,
    j.is_active,
    r.started_at as last_run_started_at,
    r.finished_at as last_run_finished_at,
    r.length as last_run_length,
    r.success as last_run_success,
    r.error as last_run_error,
    h.runs as runs_last_hour,
    h.success_share as success_share_last_hour,
    i.connecting as connecting_instances,
    i.live as live_instances,
    i.coverage,
    a.active as active_alerts
from jobs as j
cross join last_hour as h
cross join instances as i
cross join alerts as a
left join last_run as r on true;

alter view qr_refresh.health owner to qr_refresh_owner;
revoke all on qr_refresh.health from public;
grant select on qr_refresh.health to pg_monitor, service_role;

comment on view qr_refresh.health is
'The job at a glance, always one row. No token and no QR code. Not readable on a standby.';
comment on column qr_refresh.health.schedule is
'pg_cron''s jobs that run it and their schedules. NULL: none, or pg_cron lives in another database.';
comment on column qr_refresh.health.is_active is 'All of these jobs are active. NULL: as for schedule.';
comment on column qr_refresh.health.last_run_started_at is 'When the last run over all instances began. In live mode a run is a minute of the fast lane.';
comment on column qr_refresh.health.last_run_finished_at is 'When it ended.';
comment on column qr_refresh.health.last_run_length is 'How long it took.';
comment on column qr_refresh.health.last_run_success is 'false: the run as a whole could not be done.';
comment on column qr_refresh.health.last_run_error is 'Why not.';
comment on column qr_refresh.health.runs_last_hour is 'Runs over all instances that began within the last hour.';
comment on column qr_refresh.health.success_share_last_hour is
'Share of the attempts in these runs with success true, 0 to 1. NULL: no attempt.';
comment on column qr_refresh.health.connecting_instances is 'Instances that are connecting now.';
comment on column qr_refresh.health.live_instances is 'Those whose stored QR code is live, see qr_refresh.status.is_live.';
comment on column qr_refresh.health.coverage is 'live_instances / connecting_instances. NULL: no instance is connecting.';
comment on column qr_refresh.health.active_alerts is 'Rows of qr_refresh.alerts.';

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
        when instance_token collate "C" !~ '^[!-~]([ -~]*[!-~])?$' or length(instance_token) > 255
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

-- db/functions/instances_to_ask.sql

-- qr_refresh.instances_to_ask(): whom a run asks, in which order, and how carefully.
create or replace function qr_refresh.instances_to_ask(
    instance_name text,
    only_due boolean,
    lane text,
    worker integer,
    workers integer,
    default_base_url text
)
returns table (
    name text,
    token text,
    is_connecting boolean,
    base_url text,
    check_state boolean,
    connect_on_close boolean,
    former_outcome text,
    qr_digest bytea,
    qr_dead_at double precision
)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
-- Whoever changes the table's definition may hold it for long.
set lock_timeout = '1s'
as $$
-- The table may have columns of any name.
#variable_conflict use_variable
begin
    return query
    with wanted as materialized (
        select
            e.instance_name::text as name,
            e.instance_token::text as token,
            e.instance_status = 'connecting' as is_connecting,
            case
                when e.evolution_server is null then default_base_url
                else (
                    select rtrim(v.base_url, '/')
                    from qr_refresh.evolution_servers as v
                    where v.server_name = e.evolution_server::text
                )
            end as base_url,
            s.instance_name is null as is_new,
            -- connect has no side effect as long as there is a QR code that still changes in time.
            case
                -- It has to be connected anyway. But the fast lane has no time for a connect that
                -- opens a socket, and leaves it to the slow one.
                when s.instance_name is null then lane is not distinct from 'fast'
                -- It opened a socket a moment ago, and may be close again, with the same QR code. One
                -- that has come since then shows that the socket lives.
                when
                    s.reconnected_at > clock_timestamp() - interval '55 seconds'
                    and s.reconnected_at >= s.qr_first_seen_at
                    then true
                when s.outcome not in ('stored', 'unchanged', 'changed', 'update_failed') then true
                else only_due and s.qr_first_seen_at < clock_timestamp() - interval '47 seconds'
            end as check_state,
            -- Where it opens a WhatsApp socket: at most once a minute, less and less often while
            -- that is of no use. A job that is run each minute comes a little early now and then.
            coalesce(
                case
                    when lane = 'fast' then false
                    when not only_due
                        then s.reconnected_at <= clock_timestamp() - interval '55 seconds'
                    else clock_timestamp() >= qr_refresh.reconnect_at(
                        s.instance_name, s.reconnected_at, s.reconnects
                    )
                end,
                true
            ) as connect_on_close,
            s.outcome as former_outcome,
            s.qr_digest,
            extract(
                epoch from s.qr_first_seen_at
                + (select t.qr_lifetime from qr_refresh.settings as t)
            )::double precision as qr_dead_at,
            s.attempted_at
        from public.evolution_instances as e
        left join qr_refresh.instance_state as s on e.instance_name::text = s.instance_name
        where
            (e.instance_status = 'connecting' or instances_to_ask.instance_name is not null)
            and e.instance_name is not null
            and (
                instances_to_ask.instance_name is null
                or e.instance_name::text = instances_to_ask.instance_name
            )
            and (
                not only_due
                or coalesce(s.next_attempt_at <= clock_timestamp(), true)
                -- Somebody has cleared it; a trigger may do so each time.
                or (
                    e.qr_code is null
                    and s.outcome in ('stored', 'unchanged')
                    and s.attempted_at < clock_timestamp() - interval '1 second'
                )
            )
            and (lane is null or coalesce(s.is_slow, false) = (lane = 'slow'))
            -- Here and not in a function, which would take longer than all the rest.
            and (
                workers = 1
                or (hashtextextended(e.instance_name::text, 0) & 2147483647) % workers = worker - 1
            )
    ), guarded as materialized (
        select
            w.*,
            -- Two sessions that ask at once know nothing of each other's calls before they end. So
            -- who may open a socket does so alone, and who asks a new instance also records it
            -- alone. At most 2,048 locks, however many instances there are.
            case
                when case when w.check_state then w.connect_on_close else w.is_new end
                    then pg_try_advisory_xact_lock(
                        hashtext('qr_refresh.connect'), hashtext(w.name) & 1023
                    )
                else true
            end as connects_alone,
            case
                when w.is_new
                    then pg_try_advisory_xact_lock(
                        hashtext('qr_refresh.record'), hashtext(w.name) & 1023
                    )
                else true
            end as records_alone
        from wanted as w
    )
    select
        g.name,
        g.token,
        g.is_connecting,
        g.base_url,
        g.check_state or not g.connects_alone,
        g.connect_on_close and g.connects_alone,
        g.former_outcome,
        g.qr_digest,
        g.qr_dead_at
    from guarded as g
    where g.records_alone or not only_due
    -- What the last run did not reach comes first.
    order by g.attempted_at nulls first, g.name;
end
$$;

alter function qr_refresh.instances_to_ask(text, boolean, text, integer, integer, text)
owner to qr_refresh_owner;
revoke all on function qr_refresh.instances_to_ask(text, boolean, text, integer, integer, text)
from public;

comment on function qr_refresh.instances_to_ask(text, boolean, text, integer, integer, text) is
'The instances that a run asks, least recently attempted first.
instance_name: this instance only, whatever its status; NULL for all that are connecting. only_due: only those whose time has come. '
'lane: fast or slow leaves out the instances of the other lane, NULL takes both. worker, workers: the share of this worker, from 1. '
'default_base_url: http(s) URL for instances that name no server.
Returns one row for each: name; token (a secret); is_connecting; base_url (NULL: the instance names a server that is not in '
'qr_refresh.evolution_servers); check_state (ask for the state before connect); connect_on_close (whether connect may open a WhatsApp '
'socket); former_outcome and qr_digest (as in qr_refresh.instance_state); qr_dead_at (when a QR code with this digest is too old, in seconds since 1970).
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/is_no_answer.sql

-- qr_refresh.is_no_answer(): whether a failure means that Evolution API was not reached at all.
create or replace function qr_refresh.is_no_answer(error text)
returns boolean
language sql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        error in (
            'connection refused', 'connection closed', 'host not found', 'TLS error',
            'TLS certificate is not trusted', 'CA file cannot be read', 'no thread could be started'
        ),
        false
    )
$$;

alter function qr_refresh.is_no_answer(text) owner to qr_refresh_owner;
revoke all on function qr_refresh.is_no_answer(text) from public;

comment on function qr_refresh.is_no_answer(text) is
'Whether an attempt that failed got no answer of Evolution API.
error: as in qr_refresh.instance_state.
Returns true or false, never NULL.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/late_lanes.sql

-- qr_refresh.late_lanes(): what of live mode stands still while the rest of it goes on.
create or replace function qr_refresh.late_lanes()
returns table (lane text, late_after interval, last_finished_at timestamptz)
language sql stable parallel restricted security invoker
set search_path = pg_catalog, pg_temp
as $$
    with minutes as materialized (
        select
            r.id,
            r.started_at,
            r.finished_at,
            coalesce(r.report ->> 'lane', 'fast') as lane,
            coalesce((r.report ->> 'worker')::integer, 1) as worker,
            coalesce((r.report ->> 'workers')::integer, 1) as workers
        from qr_refresh.runs as r
        cross join qr_refresh.settings as s
        where
            r.requested_instance is null
            and r.report ->> 'mode' = 'live'
            and r.started_at > clock_timestamp() - s.alert_after - s.run_timeout - interval '3 minutes'
    ), latest as (
        -- None, where live mode as a whole stands still or has been left.
        select l.workers
        from (
            select m.workers, m.finished_at
            from minutes as m
            where m.lane = 'fast'
            order by m.id desc
            limit 1
        ) as l
        where l.finished_at > clock_timestamp() - interval '3 minutes'
    ), expected as (
        select
            e.lane,
            e.worker,
            l.workers,
            -- The last tick of a minute in the slow lane may take a whole run_timeout.
            s.alert_after
            + case e.lane when 'slow' then s.run_timeout else interval '0' end as late_after
        from latest as l
        cross join lateral (
            select 'slow' as lane, 1 as worker
            union all
            select 'fast', n from generate_series(1, l.workers) as g (n)
        ) as e
        cross join qr_refresh.settings as s
    )
    select
        case e.lane
            when 'slow' then 'the slow lane'
            else format('worker %s of %s', e.worker, e.workers)
        end,
        e.late_after,
        (
            select max(r.finished_at)
            from qr_refresh.runs as r
            where
                r.report ->> 'mode' = 'live'
                and coalesce(r.report ->> 'lane', 'fast') = e.lane
                and coalesce((r.report ->> 'worker')::integer, 1) = e.worker
        )
    from expected as e
    where
        not exists (
            select from minutes as m
            where
                m.lane = e.lane
                and m.worker = e.worker
                and m.finished_at >= clock_timestamp() - e.late_after
        )
        -- It has been live mode with as many workers for so long.
        and exists (
            select from minutes as m
            where
                m.lane = 'fast'
                and m.workers = e.workers
                and m.started_at < clock_timestamp() - e.late_after
        )
    order by e.lane desc, e.worker
$$;

alter function qr_refresh.late_lanes() owner to qr_refresh_owner;
revoke all on function qr_refresh.late_lanes() from public;

comment on function qr_refresh.late_lanes() is
'The lanes and workers of live mode of which no run has ended for settings.alert_after, while others go on: their instances are not asked.
Returns one row for each: lane (in words); late_after (how long it has been waited for at least); last_finished_at (when its last run '
'ended; NULL: none is on record).
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/live.sql

-- qr_refresh.live(): keeps QR codes current until the minute is over; pg_cron calls it each minute.
create or replace procedure qr_refresh.live(
    lane text default 'fast', worker integer default 1, workers integer default 1
)
language plpgsql security invoker
-- Without SET search_path and SECURITY DEFINER: a procedure with one of them cannot commit. So it
-- does nothing itself.
as $$
declare
    progress pg_catalog.jsonb;
begin
    loop
        -- Whatever the default: a stricter level would lose whole ticks to rows that change meanwhile,
        -- and a commit that fails would end the minute.
        commit;
        set transaction isolation level read committed;
        progress := qr_refresh.live_tick(lane, worker, workers, progress);
        exit when progress is null;
    end loop;
end
$$;

alter procedure qr_refresh.live(text, integer, integer) owner to qr_refresh_owner;
revoke all on procedure qr_refresh.live(text, integer, integer) from public;
grant execute on procedure qr_refresh.live(text, integer, integer) to service_role;

comment on procedure qr_refresh.live (text, integer, integer) is
'Live mode: asks each instance when its QR code can have changed, several times a second if need be and one transaction at a time, '
'until just before the next minute begins. Each is read committed. SELECT qr_refresh.schedule(''live'') runs it each minute. It cannot run inside a transaction block.
lane: fast, or slow for the instances that fail, answer slowly or must be connected anew, so that nobody else waits for them. '
'worker, workers: the share of this worker, from 1. A second call with the same lane and worker leaves at once.
Keeps one row a minute in qr_refresh.runs, whose counts are of attempts.
Errors: QR004 lane or worker makes no sense; invalid_transaction_termination (2D000) inside a transaction block.
Privileges: EXECUTE for service_role and those you grant it to, with qr_refresh.live_tick().';

-- db/functions/live_tick.sql

-- qr_refresh.live_tick(): waits, then does one tick; a transaction of qr_refresh.live().
create or replace function qr_refresh.live_tick(
    lane text, worker integer, workers integer, progress jsonb
)
returns jsonb
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
-- A caller could otherwise have the plans of our queries shown, and in them the tokens.
set debug_print_parse = off
set debug_print_rewritten = off
set debug_print_plan = off
as $$
declare
    shortest_wait constant double precision := 0.1;
    longest_wait constant double precision := 1;
    begun_at timestamptz := coalesce((progress ->> 'begun_at')::timestamptz, clock_timestamp());
    -- Just before the next minute begins, or the one after it when that is about to.
    ends_at constant timestamptz := date_trunc('minute', begun_at + interval '2 seconds')
    + interval '59 seconds';
    wait double precision := least(longest_wait, coalesce((progress ->> 'wait')::double precision, 0));
    ticks integer := coalesce((progress ->> 'ticks')::integer, 0);
    failed_ticks integer := coalesce((progress ->> 'failed_ticks')::integer, 0);
    qr_updated integer := coalesce((progress ->> 'qr_updated')::integer, 0);
    refreshed integer := coalesce((progress ->> 'refreshed')::integer, 0);
    failed integer := coalesce((progress ->> 'failed')::integer, 0);
    is_mine boolean;
    tick record;
begin
    perform qr_refresh.check_writable();
    if lane is null or lane not in ('fast', 'slow') then
        raise exception using
            errcode = 'QR004',
            message = 'unknown lane',
            detail = 'The lane is fast or slow.',
            hint = 'SELECT qr_refresh.schedule(''live'') schedules both.';
    elsif worker is null or workers is null or worker not between 1 and workers then
        raise exception using
            errcode = 'QR004',
            message = 'worker is not one of the workers',
            detail = 'Workers have the numbers from 1 to how many there are.',
            hint = 'SELECT qr_refresh.schedule(''live'', workers => 4) schedules all of them.';
    end if;

    -- Of the transaction, so that nothing is left of it however the session ends. It is held while
    -- waiting as well: a second one must not come in between.
    is_mine := pg_try_advisory_xact_lock(
        hashtextextended(format('qr_refresh.live:%s:%s', lane, worker), 0)
    );
    if not is_mine then
        raise log '[refresh-qr-codes] Live mode is running already: lane %, worker %', lane, worker;
    else
        perform pg_sleep(wait);
    end if;
    if not is_mine or clock_timestamp() >= ends_at then
        if ticks > 0 then
            perform qr_refresh.record_run(
                extract(epoch from clock_timestamp() - begun_at)::double precision,
                null,
                jsonb_build_object(
                    'success', failed_ticks < ticks,
                    'mode', 'live',
                    'lane', lane,
                    'worker', worker,
                    'workers', workers,
                    'ticks', ticks,
                    'failed_ticks', failed_ticks,
                    'qr_updated', qr_updated,
                    'total_instances', refreshed + failed,
                    'refreshed', refreshed,
                    'failed', failed
                )
            );
        end if;
        return null;
    end if;

    wait := shortest_wait;
    begin
        tick := qr_refresh.refresh_due(lane, worker, workers);
        if tick.report is null then
            wait := extract(epoch from tick.next_attempt_at - clock_timestamp());
            wait := least(longest_wait, greatest(shortest_wait, coalesce(wait, longest_wait)));
        elsif (tick.report ->> 'success')::boolean then
            qr_updated := qr_updated + jsonb_array_length(
                jsonb_path_query_array(tick.report, '$.results[*] ? (@.qr_updated == true)')
            );
            refreshed := refreshed + (tick.report ->> 'refreshed')::integer;
            failed := failed + (tick.report ->> 'failed')::integer;
        else
            failed_ticks := failed_ticks + 1;
            wait := longest_wait;
        end if;
    exception when others or assert_failure then
        -- Not the error's text, which may quote a row. A cancel is not among `others`.
        raise log '[refresh-qr-codes] Live mode: a tick failed (SQLSTATE %)', sqlstate;
        failed_ticks := failed_ticks + 1;
        wait := longest_wait;
    end;
    ticks := ticks + 1;
    return jsonb_build_object(
        'ticks', ticks,
        'failed_ticks', failed_ticks,
        'qr_updated', qr_updated,
        'refreshed', refreshed,
        'failed', failed,
        'begun_at', begun_at,
        'wait', wait
    );
end
$$;

alter function qr_refresh.live_tick(text, integer, integer, jsonb) owner to qr_refresh_owner;
revoke all on function qr_refresh.live_tick(text, integer, integer, jsonb) from public;
grant execute on function qr_refresh.live_tick(text, integer, integer, jsonb) to service_role;

comment on function qr_refresh.live_tick(text, integer, integer, jsonb) is
'One transaction of qr_refresh.live(): waits until something is due, at most a second, then asks who is due. A tick that fails is logged, and '
'the next one comes a second later.
lane, worker, workers: as in qr_refresh.live(). progress: what the tick before returned; NULL for the first one.
Returns what the next tick needs; NULL when the minute is over or another session does the same, after keeping a row in qr_refresh.runs.
Errors: QR004 lane or worker makes no sense.
Privileges: EXECUTE for service_role. Runs with the privileges of qr_refresh_owner.';

-- db/functions/metrics.sql

-- qr_refresh.metrics: one row of numbers for a monitoring system.
-- `create or replace` keeps the grants of others; so columns are only ever added, at the end.
create or replace view qr_refresh.metrics as
with job as (
    select
        h.*,
        h.is_active::integer as active,
        extract(epoch from now() - h.last_run_finished_at)::double precision as last_run_age,
        extract(epoch from h.last_run_length)::double precision as last_run_seconds,
        coalesce(h.last_run_success, false)::integer as succeeded
    from qr_refresh.health as h
),

instances as (
    select
        count(*) filter (where c.last_outcome in ('failed', 'timeout')) as failing,
        count(*) filter (where c.is_slow) as slow,
        extract(epoch from max(c.qr_age) filter (where c.is_live))::double precision as oldest
    from qr_refresh.connecting_instances() as c
)

select
    j.connecting_instances,
    j.live_instances,
    j.coverage,
    j.success_share_last_hour,
    j.runs_last_hour,
    j.last_run_age as last_run_age_seconds,
    j.last_run_seconds as last_run_length_seconds,
    j.succeeded as last_run_success,
    j.active as job_active,
    i.failing as failing_instances,
    i.slow as slow_instances,
    i.oldest as oldest_live_qr_seconds,
    j.active_alerts
from job as j
cross join instances as i;

alter view qr_refresh.metrics owner to qr_refresh_owner;
revoke all on qr_refresh.metrics from public;
grant select on qr_refresh.metrics to pg_monitor, service_role;

comment on view qr_refresh.metrics is
'Numbers for a monitoring system, always one row. No name, token or QR code. Not readable on a standby.';
comment on column qr_refresh.metrics.connecting_instances is 'Instances that are connecting.';
comment on column qr_refresh.metrics.live_instances is 'Connecting instances whose stored QR code is live.';
comment on column qr_refresh.metrics.coverage is 'Share of the connecting instances whose stored QR code is live; NULL without any.';
comment on column qr_refresh.metrics.success_share_last_hour is 'Share of the last hour''s attempts that succeeded; NULL without any.';
comment on column qr_refresh.metrics.runs_last_hour is 'Runs that began within the last hour.';
comment on column qr_refresh.metrics.last_run_age_seconds is 'Seconds since the last run ended; NULL without any.';
comment on column qr_refresh.metrics.last_run_length_seconds is 'Seconds that the last run took; NULL without any.';
comment on column qr_refresh.metrics.last_run_success is '1: the last run could be done as a whole; 0: not, or there was none.';
comment on column qr_refresh.metrics.job_active is '1: all pg_cron jobs of ours are active; 0: not all; NULL: none is seen from this database.';
comment on column qr_refresh.metrics.failing_instances is 'Connecting instances whose last attempt failed or timed out.';
comment on column qr_refresh.metrics.slow_instances is 'Connecting instances in the slow lane of live mode.';
comment on column qr_refresh.metrics.oldest_live_qr_seconds is 'Greatest age of a live QR code in seconds; NULL without any.';
comment on column qr_refresh.metrics.active_alerts is 'Rows of qr_refresh.alerts.';

-- db/functions/notify_stored.sql

-- qr_refresh.notify_stored(): tells who listens which rows have been written.
create or replace function qr_refresh.notify_stored(
    instance_names text[], outcomes text[], stored_at timestamptz
)
returns void
language sql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
    select
        -- Never the picture: 8,000 bytes would abort the transaction. A name that could be asked for
        -- has at most 255 characters.
        pg_notify(
            'qr_refresh',
            json_build_object('instance_name', i.name, 'last_qr_update', stored_at)::text
        )
    from unnest(instance_names, outcomes) as i (name, outcome)
    where
        i.outcome in ('stored', 'connected')
        and (select s.notify from qr_refresh.settings as s)
$$;

alter function qr_refresh.notify_stored(text[], text[], timestamptz) owner to qr_refresh_owner;
revoke all on function qr_refresh.notify_stored(text[], text[], timestamptz) from public;

comment on function qr_refresh.notify_stored(text[], text[], timestamptz) is
'Tells channel qr_refresh of each row that was written: {"instance_name", "last_qr_update"}. With settings.notify off it does nothing.
instance_names, outcomes: arrays of one length; written are the rows with outcome stored or connected. stored_at: their last_qr_update.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/prune_history.sql

-- qr_refresh.prune_history(): deletes what pg_cron keeps of our jobs for longer than we want.
create or replace function qr_refresh.prune_history()
returns bigint
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    -- What qr_refresh.schedule() schedules. The history of other jobs is their owners'.
    our_commands constant text := '^(select|call) (public[.])?(refresh_qr_codes|qr_refresh[.][a-z_]+)[(]';
    retention constant interval := (select s.history_retention from qr_refresh.settings as s);
    deleted bigint;
begin
    perform qr_refresh.check_pg_cron(format(
        'DELETE FROM cron.job_run_details WHERE database = %L AND command ~* %L AND start_time < now() - interval %L;',
        current_database(), our_commands, retention
    ));
    delete from cron.job_run_details as d
    where
        d.database = current_database()
        and d.command ~* our_commands
        -- One that never started has no time, so its number tells how old it is.
        and d.runid <= (
            select max(old.runid)
            from cron.job_run_details as old
            where old.start_time < now() - retention
        )
        and coalesce(d.start_time < now() - retention, true);
    get diagnostics deleted = row_count;
    return deleted;
end
$$;

alter function qr_refresh.prune_history() owner to qr_refresh_owner;
revoke all on function qr_refresh.prune_history() from public;

comment on function qr_refresh.prune_history() is
'Deletes rows of cron.job_run_details that belong to jobs of this database that run refresh_qr_codes() or a function of qr_refresh, '
'and are older than settings.history_retention. pg_cron itself deletes nothing.
Returns the number of rows.
Errors: QR002 pg_cron is missing or lives in another database (the hint says what to run and where).
Privileges: EXECUTE for nobody but the owner and superusers; the caller needs USAGE on schema cron and SELECT on qr_refresh.settings. '
'Who is no superuser deletes only what ran as them, by pg_cron''s own rule.';

-- db/functions/reconnect_at.sql

-- qr_refresh.reconnect_at(): when connect may be called again on an instance in state close.
create or replace function qr_refresh.reconnect_at(
    instance_name text, reconnected_at timestamptz, reconnects integer
)
returns timestamptz
language sql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    select
        reconnected_at
        + interval '1 minute'
        * least(10, 2 ^ least(greatest(reconnects - 1, 0), 10))
        -- Spread over a quarter more, so that instances which went down together come apart.
        * (1 + (hashtextextended(instance_name, 1) & 1023) / 4096.0)::double precision
$$;

alter function qr_refresh.reconnect_at(text, timestamptz, integer) owner to qr_refresh_owner;
revoke all on function qr_refresh.reconnect_at(text, timestamptz, integer) from public;

comment on function qr_refresh.reconnect_at(text, timestamptz, integer) is
'When connect may be called again on an instance that Evolution API has in state close, which opens a WhatsApp socket each time: '
'1 minute after the last such call, then 2, 4, 8 and at most 10, and up to a quarter more.
instance_name: spreads the times. reconnected_at, reconnects: as in qr_refresh.instance_state.
Returns that time; NULL when there was no such call.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/record_outcomes.sql

-- qr_refresh.record_outcomes(): remembers what each instance answered, and when to ask it again.
create or replace function qr_refresh.record_outcomes(
    asked_at timestamptz,
    instance_names text[],
    outcomes text[],
    qr_digests bytea[],
    errors text[],
    reconnected boolean[],
    elapsed double precision[]
)
returns void
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
declare
    seen_at constant timestamptz := clock_timestamp();
    -- How long Evolution API serves a QR code; measured 44.9 to 45.1 s.
    lifetime constant interval := '45 seconds';
    -- An answer that takes longer than this belongs into the slow lane.
    slow_answer constant double precision := 1;
begin
    with observed as materialized (
        select
            o.*,
            o.outcome not in ('failed', 'timeout') as is_answer,
            o.outcome in ('stored', 'unchanged', 'changed') as is_live,
            -- Not known (NULL) where connect was called without asking for the state first. Where
            -- it opens a socket it sleeps 2 or 5 seconds, else it answers at once.
            coalesce(
                o.reconnected,
                o.outcome = 'timeout' or (o.elapsed > 1.5 and o.outcome <> 'failed')
            ) as opened_socket
        from unnest(instance_names, outcomes, qr_digests, errors, reconnected, elapsed)
            as o (instance_name, outcome, qr_digest, error, reconnected, elapsed)
        where o.outcome <> 'not_attempted' and o.instance_name is not null
    ), known as materialized (
        -- Locked rows are skipped: another session's open transaction must not hold a run.
        select s.*
        from qr_refresh.instance_state as s
        where s.instance_name = any(instance_names)
        for update skip locked
    ), learned as (
        select
            o.*,
            o.qr_digest is distinct from k.qr_digest and o.qr_digest is not null as is_new_qr,
            k.instance_name is not null as is_known,
            k.qr_digest as known_qr_digest,
            k.qr_first_seen_at as known_first_seen_at,
            k.qr_changed_after as known_changed_after,
            k.answered_at as known_answered_at,
            k.poll_interval as known_poll_interval,
            k.reconnected_at as known_reconnected_at,
            coalesce(k.reconnects, 0) as known_reconnects,
            coalesce(k.failures, 0) as known_failures,
            o.outcome in ('closed', 'failed', 'timeout')
            or o.elapsed > slow_answer as is_slow,
            -- In the fast lane a call is cut short: what then happens is for the slow lane to say.
            o.outcome in ('closed', 'timeout') and not coalesce(k.is_slow, false) as changes_lane
        from observed as o
        left join known as k on o.instance_name = k.instance_name
    ), phase as (
        select
            l.*,
            case when l.is_new_qr then seen_at else l.known_first_seen_at end as first_seen_at,
            case
                when l.is_new_qr then greatest(l.known_answered_at, seen_at - lifetime)
                -- Still served, so it cannot have been there for longer than one lives.
                when l.qr_digest is not null
                    then least(
                        l.known_first_seen_at,
                        greatest(l.known_changed_after, asked_at - lifetime)
                    )
                else l.known_changed_after
            end as changed_after,
            case
                when l.is_live then 0
                -- A new socket has its QR code within seconds, so the waiting begins anew.
                when l.reconnected then 1
                when l.changes_lane then l.known_failures
                else l.known_failures + 1
            end as new_failures
        from learned as l
    ), paced as (
        select
            p.*,
            case
                -- The next one comes within a span as long as the one in which this one came. Four
                -- attempts divide it by four, so a few QR codes later it is short. With a little
                -- more there are at most five attempts in 45 seconds; the first one takes two calls.
                when p.is_new_qr then least(
                    interval '9.1 seconds',
                    greatest(
                        interval '0.2 seconds',
                        (p.first_seen_at - p.changed_after) / 4 + interval '0.1 seconds'
                    )
                )
                else coalesce(p.known_poll_interval, interval '9.1 seconds')
            end as new_poll_interval
        from phase as p
    ), timed as (
        select
            p.*,
            case when p.opened_socket then seen_at else p.known_reconnected_at end
                as new_reconnected_at,
            case when p.is_live then 0 else p.known_reconnects + p.opened_socket::integer end
                as new_reconnects,
            -- Up to a fifth more after failures: what failed together must not come back together.
            qr_refresh.wait_for_next_attempt(
                p.outcome,
                p.new_failures,
                seen_at - p.changed_after,
                seen_at - p.first_seen_at,
                p.new_poll_interval
            ) * case when p.is_live then 1 else 1 + 0.2 * random() end as wait
        from paced as p
    ), fresh as (
        select
            p.is_known,
            p.instance_name,
            asked_at as attempted_at,
            p.outcome,
            p.error,
            coalesce(p.qr_digest, p.known_qr_digest) as qr_digest,
            p.first_seen_at as qr_first_seen_at,
            p.changed_after as qr_changed_after,
            case when p.is_answer then asked_at else p.known_answered_at end as answered_at,
            p.new_poll_interval as poll_interval,
            p.new_failures as failures,
            p.new_reconnected_at as reconnected_at,
            p.new_reconnects as reconnects,
            p.is_slow,
            case
                when p.changes_lane then seen_at
                -- Nor later than connect may be called again.
                when p.outcome = 'closed' and p.new_reconnected_at is not null
                    then least(
                        seen_at + p.wait,
                        greatest(
                            seen_at + interval '1 second',
                            qr_refresh.reconnect_at(
                                p.instance_name, p.new_reconnected_at, p.new_reconnects
                            )
                        )
                    )
                else seen_at + p.wait
            end as next_attempt_at
        from timed as p
    ), updated as (
        update qr_refresh.instance_state as s
        set
            attempted_at = f.attempted_at,
            outcome = f.outcome,
            error = f.error,
            qr_digest = f.qr_digest,
            qr_first_seen_at = f.qr_first_seen_at,
            qr_changed_after = f.qr_changed_after,
            answered_at = f.answered_at,
            poll_interval = f.poll_interval,
            failures = f.failures,
            reconnected_at = f.reconnected_at,
            reconnects = f.reconnects,
            is_slow = f.is_slow,
            next_attempt_at = f.next_attempt_at
        from fresh as f
        where f.is_known and s.instance_name = f.instance_name
    )
    insert into qr_refresh.instance_state (
        instance_name, attempted_at, outcome, error, qr_digest, qr_first_seen_at, qr_changed_after,
        answered_at, poll_interval, failures, reconnected_at, reconnects, is_slow, next_attempt_at
    )
    select
        f.instance_name,
        f.attempted_at,
        f.outcome,
        f.error,
        f.qr_digest,
        f.qr_first_seen_at,
        f.qr_changed_after,
        f.answered_at,
        f.poll_interval,
        f.failures,
        f.reconnected_at,
        f.reconnects,
        f.is_slow,
        f.next_attempt_at
    from fresh as f
    where
        not f.is_known
        -- A row that is there and not known is another session's at the moment.
        and not exists (
            select from qr_refresh.instance_state as s where s.instance_name = f.instance_name
        )
    -- Where names are not unique, the first one.
    on conflict do nothing;
end
$$;

alter function qr_refresh.record_outcomes(
    timestamptz, text[], text[], bytea[], text[], boolean[], double precision[]
) owner to qr_refresh_owner;
revoke all on function qr_refresh.record_outcomes(
    timestamptz, text[], text[], bytea[], text[], boolean[], double precision[]
) from public;

comment on function qr_refresh.record_outcomes(
    timestamptz, text[], text[], bytea[], text[], boolean[], double precision[]
) is
'Updates qr_refresh.instance_state after the attempts of a run.
asked_at: when the run began to ask. The arrays have one length: instance_names; outcomes (stored, unchanged, changed, update_failed, expired, '
'no_qr_code, connected, closed, failed, timeout; not_attempted leaves the row as it is); qr_digests (SHA-256; NULL where there was no QR code); errors (reason '
'of outcome failed, SQLSTATE of update_failed); reconnected (connect was called on state close, NULL: not known); elapsed (seconds).
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

-- db/functions/refresh_due.sql

-- qr_refresh.refresh_due(): asks the instances of one lane and worker whose time has come.
create or replace function qr_refresh.refresh_due(
    lane text,
    worker integer,
    workers integer,
    out report jsonb,
    out next_attempt_at timestamptz
)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
-- Whoever changes the table's definition may hold it for long.
set lock_timeout = '1s'
as $$
-- The table may have columns of any name.
#variable_conflict use_variable
begin
    perform qr_refresh.forget_instances();
    -- In SQL alone: PL/Python and requests are loaded only where there is somebody to ask.
    select min(
        case
            -- Somebody has cleared it; a trigger may do so each time.
            when e.qr_code is null and s.outcome in ('stored', 'unchanged')
                then least(s.next_attempt_at, s.attempted_at + interval '1 second')
            else coalesce(s.next_attempt_at, '-infinity')
        end
    )
    into next_attempt_at
    from public.evolution_instances as e
    left join qr_refresh.instance_state as s on e.instance_name::text = s.instance_name
    where
        e.instance_status = 'connecting'
        and e.instance_name is not null
        and coalesce(s.is_slow, false) = (lane = 'slow')
        and (
            workers = 1
            or (hashtextextended(e.instance_name::text, 0) & 2147483647) % workers = worker - 1
        );
    if next_attempt_at <= clock_timestamp() then
        perform qr_refresh.translate_messages(false);
        report := qr_refresh.run_cycle(null, true, lane, worker, workers);
        perform qr_refresh.translate_messages(true);
    end if;
end
$$;

alter function qr_refresh.refresh_due(text, integer, integer) owner to qr_refresh_owner;
revoke all on function qr_refresh.refresh_due(text, integer, integer) from public;

comment on function qr_refresh.refresh_due(text, integer, integer) is
'What a tick of qr_refresh.live() does: asks the instances whose time has come, if there are any.
lane: fast or slow. worker, workers: the share of this worker, from 1.
Returns report (as public.refresh_qr_codes(); NULL when nothing was due) and next_attempt_at (the earliest time at which something is due, '
'before this tick; NULL when nothing is connecting).
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/refresh_qr_codes.sql

-- refresh_qr_codes(): the job. One run at a time; each is kept in qr_refresh.runs.
create or replace function public.refresh_qr_codes(
    instance_name text default null, only_due boolean default false
)
returns jsonb
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
-- A caller could otherwise have the plans of our queries shown, and in them the tokens.
set debug_print_parse = off
set debug_print_rewritten = off
set debug_print_plan = off
as $$
declare
    begun_at constant timestamptz := clock_timestamp();
    -- One instance has a lock of its own: who asks for it waits for no run.
    lock_name constant text := 'qr_refresh' || coalesce(':' || instance_name, '');
    report jsonb;
begin
    perform qr_refresh.check_writable();
    if not pg_try_advisory_xact_lock(hashtextextended(lock_name, 0)) then
        return jsonb_build_object(
            'success', false, 'error', 'Another refresh cycle is already running'
        );
    end if;
    perform qr_refresh.translate_messages(false);
    report := qr_refresh.run_cycle(instance_name, only_due, null, 1, 1);
    perform qr_refresh.translate_messages(true);
    if report is null then
        raise exception using
            errcode = 'QR001',
            message = 'there is no such instance',
            detail = 'No row of evolution_instances has this instance_name.',
            hint = 'Names are case-sensitive: SELECT instance_name FROM evolution_instances;';
    end if;
    -- A run that found nothing due writes nothing.
    if not only_due or report -> 'results' is distinct from '[]' then
        perform qr_refresh.record_run(
            extract(epoch from clock_timestamp() - begun_at)::double precision,
            instance_name,
            report
        );
    end if;
    return report;
end
$$;

alter function public.refresh_qr_codes(text, boolean) owner to qr_refresh_owner;
revoke all on function public.refresh_qr_codes(text, boolean) from public;
grant execute on function public.refresh_qr_codes(text, boolean) to service_role;

comment on function public.refresh_qr_codes(text, boolean) is
'Fetches a fresh QR code from Evolution API for each instance that is connecting, and stores it in evolution_instances.
instance_name: this instance only; NULL (the default) for all. only_due: true leaves out instances whose QR code cannot have changed '
'since the last attempt, and those that are waited for after failures; it writes nothing where the stored QR code is the current one.
Returns the report: {"success", "total_instances", "refreshed", "failed", "results": [{"instance_name", "success", "qr_updated", "error"}]}, '
'or {"success": false, "error"} when the run as a whole could not be done. Takes at most settings.run_timeout and a little.
Errors: QR001 no row has this instance_name.
Privileges: EXECUTE for service_role and those you grant it to. Runs with the privileges of qr_refresh_owner.';

-- db/functions/run_cycle.sql

-- qr_refresh.run_cycle(): one run. Selects the instances, fetches, stores, reports.
create or replace function qr_refresh.run_cycle(
    instance_name text, only_due boolean, lane text, worker integer, workers integer
)
returns jsonb
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import hashlib
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

    def log_step(line: str, detail: str = "instance") -> None:
        if not only_due:  # too many words for each second
            log(line, detail)

    settings = run("select * from qr_refresh.run_settings($1)", ["text"], [lane])[0]
    log_step("Starting QR code refresh cycle...", "cycle")
    if settings["base_url_error"]:
        log(settings["base_url_error"], "cycle")
        return json.dumps({"success": False, "error": settings["base_url_error"]})

    instances = attempt(
        "Error fetching instances",
        "select * from qr_refresh.instances_to_ask($1, $2, $3, $4, $5, $6)",
        ["text", "boolean", "text", "integer", "integer", "text"],
        [instance_name, only_due, lane, worker, workers, settings["base_url"]],
    )
    if instances is None:
        return json.dumps({"success": False, "error": "Error fetching instances"})
    if instance_name is not None and not instances and not only_due:
        return None
    instances = [row for row in instances if row["is_connecting"]]
    columns = ("name", "token", "base_url", "check_state", "connect_on_close")
    names, tokens, urls, checks, reconnects = ([row[c] for row in instances] for c in columns)
    log_step(f"Found {len(names)} connecting instance(s)", "cycle")
    for name in names:
        log_step(f"Processing {name}...")
        log_step(f"Fetching QR for {name}")

    asked_at = time.time()
    fetched = run(
        # Not in FROM, where all the pictures would go through a temporary file.
        "select qr_refresh.fetch_qr_codes($1, $2, $3, $4, $5, $6, $7, $8, $9) as answer",
        ["text[]", "text[]", "text[]", "boolean[]", "boolean[]", "float8", "float8", "int", "text"],
        [names, tokens, urls, checks, reconnects, settings["request_timeout"]]
        + [settings["run_timeout"] - (time.monotonic() - begun_at)]
        + [settings["max_concurrency"], settings["ca_file"]],
    )
    answers = [row["answer"] for row in fetched]
    outcomes = [answer["outcome"] for answer in answers]
    pictures = [answer["qr_code"] for answer in answers]
    digests = [hashlib.sha256(p.encode()).digest() if p else None for p in pictures]

    # The same picture for too long is dead: it was used, or Evolution API gets no new one.
    for i, row in enumerate(instances):
        is_old = digests[i] and time.time() > (row["qr_dead_at"] or float("inf"))
        if is_old and row["qr_digest"] == digests[i]:
            outcomes[i] = "expired"

    def store(outcome: str, command: str, types: list[str], arguments: list[Any]) -> None:
        """Writes the rows of one outcome, and puts what came of it in the outcome's place."""
        found = [i for i, o in enumerate(outcomes) if o == outcome]
        # Not all at once: PL/Python holds several copies of what it hands over, and small ones are
        # quicker to come by.
        for part in (found[start : start + 100] for start in range(0, len(found), 100)):
            rows = [[a[i] for i in part] if isinstance(a, list) else a for a in arguments]
            for i, row in zip(part, run(command, types, rows), strict=True):
                outcomes[i] = row["outcome"]
                if row.get("error_code"):
                    answers[i]["error"] = f"SQLSTATE {row['error_code']}"
                    log(f"Database update failed for {names[i]} (SQLSTATE {row['error_code']})")

    stored_at = time.time()
    store(
        "qr_code",
        "select * from qr_refresh.store_qr_codes($1, $2, $3, to_timestamp($4), $5)",
        ["text[]", "text[]", "text[]", "float8", "boolean"],
        [names, tokens, pictures, stored_at, only_due],
    )
    gives_up_at = time.time() + settings["lock_patience"]  # for all parts together
    store(
        "postponed",
        "select * from qr_refresh.store_postponed_qr_codes($1, $2, $3, to_timestamp($4),"
        " to_timestamp($5))",
        ["text[]", "text[]", "text[]", "float8", "float8"],
        [names, tokens, pictures, stored_at, gives_up_at],
    )
    if settings["connected_status"] is not None:
        store(
            "connected",
            "select * from qr_refresh.store_connected($1, $2, $3)",
            ["text[]", "text[]", "text"],
            [names, tokens, settings["connected_status"]],
        )
    told_of = ("error", "reconnected", "elapsed")
    attempt(
        "State of instances not recorded",
        "select qr_refresh.record_outcomes(to_timestamp($1), $2, $3, $4, $5, $6, $7),"
        " qr_refresh.forget_instances()",
        ["float8", "text[]", "text[]", "bytea[]", "text[]", "boolean[]", "float8[]"],
        [asked_at, names, outcomes, digests, *([a[c] for a in answers] for c in told_of)],
    )

    described = run(
        "select * from qr_refresh.describe_outcomes($1, $2, $3)",
        ["text[]", "text[]", "text[]"],
        [names, outcomes, [answer["error"] for answer in answers]],
    )
    results = []
    for row, outcome, digest, told in zip(instances, outcomes, digests, described, strict=True):
        result = {"instance_name": row["name"], "success": told["success"]}
        result |= {"qr_updated": outcome == "stored"}
        results.append(result | ({"error": told["error"]} if told["error"] else {}))
        if digest:
            log_step(f"Successfully fetched QR for {row['name']}")
        if told["log_line"] and (outcome != "connected" or outcome != row["former_outcome"]):
            log(told["log_line"])

    refreshed = sum(result["success"] for result in results)
    failed = len(results) - refreshed
    log_step(f"Refresh cycle complete: {refreshed} success, {failed} failures", "cycle")
    report = {"success": True, "total_instances": len(results), "refreshed": refreshed}
    return json.dumps(report | {"failed": failed, "results": results}, ensure_ascii=False)
$python$;

alter function qr_refresh.run_cycle(text, boolean, text, integer, integer)
owner to qr_refresh_owner;
revoke all on function qr_refresh.run_cycle(text, boolean, text, integer, integer) from public;

comment on function qr_refresh.run_cycle(text, boolean, text, integer, integer) is
'Does one run; public.refresh_qr_codes() and live mode call it.
instance_name, only_due: as in public.refresh_qr_codes(). lane: NULL for a run of its own; fast or slow for a tick of live mode. worker, workers: the share of this worker, from 1.
Returns the report of public.refresh_qr_codes(); NULL where no row has this instance_name.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/run_settings.sql

-- qr_refresh.run_settings(): the settings that are in force for a run, times in seconds.
create or replace function qr_refresh.run_settings(
    lane text,
    out base_url text,
    out base_url_error text,
    out request_timeout double precision,
    out run_timeout double precision,
    out lock_patience double precision,
    out max_concurrency integer,
    out ca_file text,
    out connected_status text,
    out log_detail text
)
language sql stable parallel restricted security invoker
set search_path = pg_catalog, pg_temp
as $$
    select
        u.base_url,
        u.error,
        -- What is slow must not hold up the others of the fast lane: it goes to the slow one.
        least(extract(epoch from s.request_timeout), case when lane = 'fast' then 1.5 end),
        least(extract(epoch from s.run_timeout), case when lane = 'fast' then 4 end),
        -- Live mode tries again in a second.
        case when lane is null then 0.5 else 0.1 end,
        s.max_concurrency,
        s.ca_file,
        s.connected_status,
        s.log_detail
    from qr_refresh.settings as s
    cross join qr_refresh.evolution_api_base_url() as u
$$;

alter function qr_refresh.run_settings(text) owner to qr_refresh_owner;
revoke all on function qr_refresh.run_settings(text) from public;

comment on function qr_refresh.run_settings(text) is
'What qr_refresh.run_cycle() needs of qr_refresh.settings.
lane: fast or slow for a tick of live mode, NULL for a run of its own.
Returns base_url (http(s) URL) or base_url_error (why there is none); request_timeout and run_timeout (seconds; in the fast lane at most 1.5 and '
'4); lock_patience (seconds that locked rows are waited for, in all); max_concurrency, ca_file, connected_status and log_detail as they are set.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/schedule.sql

-- qr_refresh.schedule(): the pg_cron jobs that run refresh_qr_codes() or live mode.
create or replace function qr_refresh.schedule(
    schedule text default '* * * * *', workers integer default 1
)
returns bigint
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    job_name constant text := 'refresh-qr-codes';
    is_live constant boolean := schedule = 'live';
    -- Once a day pg_cron's own history of these jobs is cut; pg_cron never does it.
    names text [] := array[job_name, job_name || '-prune'];
    schedules text [] := array[schedule, '17 3 * * *'];
    commands text [] := array['SELECT refresh_qr_codes()', 'SELECT qr_refresh.prune_history()'];
    job bigint;
    first_job bigint;
begin
    if workers is null or workers not between 1 and 32 or (workers > 1 and not is_live) then
        raise exception using
            errcode = 'QR004',
            message = 'this number of workers makes no sense',
            detail = 'Only live mode has several workers, 1 to 32.',
            hint = 'SELECT qr_refresh.schedule(''live'', workers => 4);';
    end if;
    if is_live then
        schedules[1] := '* * * * *';
        commands[1] := format('CALL qr_refresh.live(''fast'', 1, %s)', workers);
        names := names || (job_name || '-slow');
        schedules := schedules || schedules[1];
        commands := commands || 'CALL qr_refresh.live(''slow'')'::text;
        for n in 2 .. workers loop
            names := names || format('%s-%s', job_name, n);
            schedules := schedules || schedules[1];
            commands := commands || format('CALL qr_refresh.live(''fast'', %s, %s)', n, workers);
        end loop;
    end if;
    perform qr_refresh.check_pg_cron((
        select
            string_agg(
                format(
                    'SELECT cron.schedule_in_database(%L, %L, %L, %L);',
                    -- pg_cron takes a second job of a name for a change of the first.
                    n.name || '@' || current_database(), n.at, n.command, current_database()
                ),
                ' '
            )
            -- Lanes and workers of a former schedule would go on beside these.
            || format(
                ' SELECT cron.unschedule(jobid) FROM cron.job WHERE database = %L'
                ' AND jobname ~ %L AND jobname <> ALL (%L);',
                current_database(),
                '^' || job_name || '(-slow|-[0-9]+)?@',
                array_agg(n.name || '@' || current_database())
            )
        from unnest(names, schedules, commands) as n (name, at, command)
        -- It works only where pg_cron lives; what it does elsewhere is to say what to run there.
        where n.name <> job_name || '-prune'
    ));

    -- One that waits for another to end would not run at all: those of live mode last a minute.
    if is_live and workers >= current_setting('cron.max_running_jobs')::integer then
        raise exception using
            errcode = 'QR004',
            message = 'pg_cron runs too few jobs at a time for so many workers',
            detail = format(
                'cron.max_running_jobs is %s; live mode needs one for each worker and one for the slow lane.',
                current_setting('cron.max_running_jobs')
            ),
            hint = format(
                'In postgresql.conf: cron.max_running_jobs = %s, and a larger max_worker_processes. '
                'Restart Postgres.',
                workers + 1
            );
    end if;

    -- The views read the jobs as qr_refresh_owner. On a platform only its own role may grant this.
    begin
        grant usage on schema cron to qr_refresh_owner;
    exception when insufficient_privilege then
        null;
    end;

    -- Jobs of a former schedule, and those of that name under another role, would run beside these.
    perform cron.unschedule(j.jobid)
    from cron.job as j
    where
        j.jobname ~ ('^' || job_name || '(-slow|-prune|-[0-9]+)?$')
        and j.database = current_database()
        and not (j.jobname = any(names) and j.username = current_user);

    for i in 1 .. array_length(names, 1) loop
        begin
            job := cron.schedule(names[i], schedules[i], commands[i]);
        exception when others then
            raise exception using
                errcode = 'QR004',
                message = format('pg_cron refuses the schedule %L', schedule),
                detail = sqlerrm,
                hint = 'live, or five cron fields such as * * * * *; from pg_cron 1.5 on also 1 to 59 '
                    'seconds, such as 30 seconds.';
        end;
        perform cron.alter_job(job, active => true);
        first_job := coalesce(first_job, job);
    end loop;
    return first_job;
end
$$;

alter function qr_refresh.schedule(text, integer) owner to qr_refresh_owner;
revoke all on function qr_refresh.schedule(text, integer) from public;

comment on function qr_refresh.schedule(text, integer) is
'Creates the pg_cron job refresh-qr-codes, or changes the one there is, also one that called the Edge Function. Can be repeated.
schedule: five cron fields (in cron.timezone, by default GMT); from pg_cron 1.5 on ''N seconds''; or ''live'', which calls qr_refresh.live() each '
'minute. workers: for live mode with thousands of instances, how many jobs share them, 1 to 32: refresh-qr-codes, refresh-qr-codes-2 and so on. '
'Live mode also has the job refresh-qr-codes-slow. '
'refresh-qr-codes-prune calls qr_refresh.prune_history() once a day. Jobs of a former schedule are removed, those of other databases stay.
Returns the number of the job refresh-qr-codes. The jobs run as the calling role.
Errors: QR002 pg_cron is missing or lives in another database (the hint says what to run and where); '
'QR004 workers makes no sense or needs a higher cron.max_running_jobs, or pg_cron refuses the schedule.
Privileges: EXECUTE for nobody but the owner and superusers; the caller needs USAGE on schema cron.';

-- db/functions/show_qr.sql

-- qr_refresh.show_qr(): a stored QR code as text, to scan from psql.
create or replace function qr_refresh.show_qr(
    instance_name text, light_background boolean default false
)
returns text
language plpython3u stable parallel restricted security definer
set search_path = pg_catalog, pg_temp
-- A caller could otherwise have the plans of our queries shown, and what is in them.
set debug_print_parse = off
set debug_print_rewritten = off
set debug_print_plan = off
as $python$
    import base64
    import io
    from typing import Any

    encoding = plpy.execute("select current_setting('server_encoding') as name")[0]["name"]
    if encoding != "UTF8":
        plpy.error(
            "a QR code cannot be shown in this database",
            detail=f"The block characters are not in its encoding, {encoding}.",
            hint="Show the column qr_code in a browser: it is a data URL.",
            sqlstate="QR008",
        )
    try:
        from PIL import Image
    except ImportError:
        plpy.error(
            "the Python library Pillow is missing on the database server",
            detail="show_qr() reads the stored picture with it; the job itself does without.",
            hint="On the server, Debian or Ubuntu: apt install python3-pil; then a new session.",
            sqlstate="QR005",
        )

    found = plpy.execute(
        plpy.prepare(
            "select qr_code::text from public.evolution_instances where instance_name::text = $1",
            ["text"],
        ),
        [instance_name],
    )
    if not found:
        plpy.error(
            "there is no such instance",
            detail="No row of evolution_instances has this instance_name.",
            hint="Names are case-sensitive: SELECT instance_name FROM evolution_instances;",
            sqlstate="QR001",
        )
    stored = found[0]["qr_code"]
    if not stored:
        plpy.error(
            "this instance has no QR code",
            detail="Its qr_code is empty.",
            hint="SELECT refresh_qr_codes('NAME'); says why there is none.",
            sqlstate="QR006",
        )

    def read_modules(data_url: str) -> list[list[bool]]:
        """Returns the dark modules of a QR picture, row by row; raises ValueError."""
        png = base64.b64decode(data_url.split(",", 1)[-1], validate=True)
        # Only PNG, and only of a sane size: the picture comes from another server.
        picture: Any = Image.open(io.BytesIO(png), formats=["PNG"])
        if max(picture.size) > 2000:
            raise ValueError
        # On white, because what is transparent would turn black.
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        dark = picture.convert("L").point(lambda level: 255 * (level < 160))
        left, top, right, bottom = dark.getbbox() or (0, 0, 0, 0)
        # The finder pattern in the corner begins with seven dark modules in a row.
        width = right - left
        run = next((x for x in range(width) if not dark.getpixel((left + x, top))), 0)
        count = round(width / (run / 7)) if run else 0
        # QR codes have 21, 25, 29 ... 177 modules a side.
        if count % 4 != 1 or not 21 <= count <= 177 or abs(width - (bottom - top)) > 2:
            raise ValueError
        middle = [int((i + 0.5) * width / count) for i in range(count)]
        return [[bool(dark.getpixel((left + x, top + y))) for x in middle] for y in middle]

    try:
        modules = read_modules(stored)
    except Exception:  # Pillow has many ways to refuse a file
        plpy.error(
            "the stored qr_code is not a picture of a QR code",
            detail="It must be data:image/png;base64,... with one QR code and nothing else.",
            hint="SELECT refresh_qr_codes('NAME'); stores a new one.",
            sqlstate="QR007",
        )

    # A light margin of four modules, which a scanner needs; and an even number of rows.
    side = len(modules) + 8
    margin = [False] * 4
    rows: list[list[bool]] = [margin + row + margin for row in modules]
    rows = [[False] * side] * 4 + rows + [[False] * side] * (5 if side % 2 else 4)
    # Two modules a character: (upper, lower) of what is drawn in the terminal's text colour.
    blocks = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}
    ink = bool(light_background)
    return "\n".join(
        "".join(blocks[upper == ink, lower == ink] for upper, lower in zip(*pair, strict=True))
        for pair in zip(rows[::2], rows[1::2], strict=True)
    )
$python$;

alter function qr_refresh.show_qr(text, boolean) owner to qr_refresh_owner;
revoke all on function qr_refresh.show_qr(text, boolean) from public;
grant execute on function qr_refresh.show_qr(text, boolean) to service_role;

comment on function qr_refresh.show_qr(text, boolean) is
'The stored QR code of an instance as text of block characters, to scan from psql: SELECT qr_refresh.show_qr(''NAME'');
instance_name: which one. light_background: true for a terminal with dark text on light; the default is light text on dark.
Returns the lines, with the margin that a scanner needs.
Errors: QR001 no row has this instance_name; QR005 Pillow (python3-pil) is missing on the server; QR006 no QR code is stored; '
'QR007 what is stored is not a picture of a QR code; QR008 the database''s encoding lacks the block characters.
Privileges: EXECUTE for service_role; whoever sees a QR code can link a phone to the instance. Runs with the privileges of qr_refresh_owner.';

-- db/functions/status.sql

-- qr_refresh.status: one row for each connecting instance.
-- `create or replace` keeps the grants of others; so columns are only ever added, at the end.
create or replace view qr_refresh.status as
select
    c.instance_name,
    c.is_live,
    c.qr_age,
    c.last_outcome,
    c.last_error,
    c.failures,
    c.last_attempt_at,
    c.next_attempt_at,
    c.last_qr_update,
    c.no_live_qr_since,
    c.qr_age_at_most,
    c.is_slow,
    c.evolution_server
from qr_refresh.connecting_instances() as c;

alter view qr_refresh.status owner to qr_refresh_owner;
revoke all on qr_refresh.status from public;
grant select on qr_refresh.status to pg_monitor, service_role;

comment on view qr_refresh.status is
'One row for each instance that is connecting: is its stored QR code live, and how the last attempt went. No token and no QR code. '
'Not readable on a standby.';
comment on column qr_refresh.status.instance_name is 'Name of the instance in Evolution API.';
comment on column qr_refresh.status.is_live is
'The stored QR code was first seen less than 45 s ago, which is how long WhatsApp accepts one.';
comment on column qr_refresh.status.qr_age is
'Time since the stored QR code was first seen. NULL: none is stored, or the job has not seen it since the instance is connecting.';
comment on column qr_refresh.status.last_outcome is
'Of the last attempt: stored, unchanged, no_qr_code, connected, closed, expired, changed, failed, update_failed, timeout. '
'NULL: not asked yet.';
comment on column qr_refresh.status.last_error is
'Short reason of the outcome failed, without host and token; SQLSTATE of update_failed.';
comment on column qr_refresh.status.failures is
'Attempts since the last live QR code was seen: without a QR code, with a dead one, or failed.';
comment on column qr_refresh.status.last_attempt_at is 'When Evolution API was last asked.';
comment on column qr_refresh.status.next_attempt_at is
'When live mode asks again. A plain run asks for every connecting instance.';
comment on column qr_refresh.status.last_qr_update is 'When qr_code was last written, as in evolution_instances.';
comment on column qr_refresh.status.no_live_qr_since is
'Since when there is no live QR code; at the earliest since the job knows the instance as connecting. NULL: it is live, or not asked yet.';
comment on column qr_refresh.status.qr_age_at_most is
'Greatest possible age of the stored QR code: time since the last answer without it. NULL: not known.';
comment on column qr_refresh.status.is_slow is
'Asked in the slow lane of live mode, because it answered slowly, not at all or with an error.';
comment on column qr_refresh.status.evolution_server is
'Name in qr_refresh.evolution_servers; NULL: the server of qr_refresh.settings.';

-- db/functions/store_connected.sql

-- qr_refresh.store_connected(): marks instances as connected that Evolution API says are connected.
create or replace function qr_refresh.store_connected(
    instance_names text[], instance_tokens text[], connected_status text
)
returns table (outcome text, error_code text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
-- The table may have columns of any name.
#variable_conflict use_variable
declare
    written_at constant timestamptz := clock_timestamp();
    outcomes text [];
    written bigint;
begin
    for i in 1 .. cardinality(instance_names) loop
        outcome := 'connected';
        error_code := null;
        begin
            -- Not to wait while other rows are held: that could be a deadlock with the application.
            perform
            from public.evolution_instances as e
            where
                e.instance_name::text = instance_names[i]
                and e.instance_token::text = instance_tokens[i]
                and e.instance_status = 'connecting'
            for no key update nowait;
            if not found then
                outcome := 'changed';
            else
                -- As a literal, which fits an enum as well.
                execute format(
                    'update public.evolution_instances as e'
                    ' set instance_status = %L, qr_code = null, last_qr_update = $1'
                    ' where e.instance_name::text = $2 and e.instance_token::text = $3'
                    ' and e.instance_status = ''connecting''',
                    connected_status
                ) using written_at, instance_names[i], instance_tokens[i];
                get diagnostics written = row_count;
                if written = 0 then
                    -- A trigger has returned NULL.
                    outcome := 'update_failed';
                    error_code := '09000';
                end if;
            end if;
        exception when others or assert_failure then
            outcome := 'update_failed';
            error_code := sqlstate;
        end;
        outcomes[i] := outcome;
        return next;
    end loop;
    perform qr_refresh.notify_stored(instance_names, outcomes, written_at);
end
$$;

alter function qr_refresh.store_connected(text[], text[], text) owner to qr_refresh_owner;
revoke all on function qr_refresh.store_connected(text[], text[], text) from public;

comment on function qr_refresh.store_connected(text[], text[], text) is
'Writes instance_status and clears the used QR code of instances that are connected; for settings.connected_status.
instance_names, instance_tokens: arrays of one length. connected_status: the value for instance_status.
Returns one row for each element, in order: outcome (connected; changed: the row is no longer connecting, has another token or is gone; '
'update_failed), error_code (SQLSTATE for outcome update_failed; 09000: a trigger has kept it as it was). Does not wait for locked rows. '
'Tells qr_refresh.notify_stored() of them.
Raises nothing of its own. Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/store_postponed_qr_codes.sql

-- qr_refresh.store_postponed_qr_codes(): what store_qr_codes() has left, row by row.
create or replace function qr_refresh.store_postponed_qr_codes(
    instance_names text[],
    instance_tokens text[],
    qr_codes text[],
    stored_at timestamptz,
    gives_up_at timestamptz
)
returns table (outcome text, error_code text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
-- Because of this line, what is set below holds for this function alone.
set default_toast_compression = 'pglz'
as $$
-- The table may have columns of any name.
#variable_conflict use_variable
declare
    outcomes text [] := array_fill(null::text, array[cardinality(instance_names)]);
    error_codes text [] := outcomes;
    is_free boolean;
    is_written boolean;
begin
    begin
        perform set_config('default_toast_compression', 'lz4', true);
    exception when invalid_parameter_value then
        null; -- PostgreSQL was built without it
    end;

    loop
        for i in 1 .. cardinality(instance_names) loop
            continue when outcomes[i] is not null;
            -- A trigger may wait for something, or the whole table may be locked: many short waits
            -- must not add up to a long one.
            if clock_timestamp() > gives_up_at then
                perform set_config('lock_timeout', '1ms', true);
            end if;
            -- One that a trigger or a CHECK refuses costs only itself.
            begin
                -- Not to wait for a row while other rows are held: that could be a deadlock.
                with free as (
                    select
                        e.instance_name,
                        e.instance_token
                    from public.evolution_instances as e
                    where
                        e.instance_name::text = instance_names[i]
                        and e.instance_token::text = instance_tokens[i]
                        and e.instance_status = 'connecting'
                    for no key update skip locked
                ), written as (
                    update public.evolution_instances as e
                    set qr_code = qr_codes[i], last_qr_update = stored_at
                    from free as f
                    where
                        f.instance_name = e.instance_name
                        and f.instance_token = e.instance_token
                        and e.instance_status = 'connecting'
                    returning e.instance_name
                )
                select exists (select from free), exists (select from written)
                into is_free, is_written;
                if is_written then
                    outcomes[i] := 'stored';
                elsif is_free then
                    -- A trigger has returned NULL.
                    outcomes[i] := 'update_failed';
                    error_codes[i] := '09000';
                elsif not exists (
                    select
                    from public.evolution_instances as e
                    where
                        e.instance_name::text = instance_names[i]
                        and e.instance_token::text = instance_tokens[i]
                        and e.instance_status = 'connecting'
                ) then
                    outcomes[i] := 'changed';
                end if; -- else somebody else has locked it
            exception when others or assert_failure then
                outcomes[i] := 'update_failed';
                error_codes[i] := sqlstate;
            end;
        end loop;
        exit when array_position(outcomes, null) is null or clock_timestamp() > gives_up_at;
        perform pg_sleep(0.01);
    end loop;

    perform qr_refresh.notify_stored(instance_names, outcomes, stored_at);
    return query
    select
        coalesce(o.outcome, 'update_failed'),
        case when o.outcome is null then '55P03' else o.error_code end
    from unnest(outcomes, error_codes) as o (outcome, error_code);
end
$$;

alter function qr_refresh.store_postponed_qr_codes(
    text[], text[], text[], timestamptz, timestamptz
) owner to qr_refresh_owner;
revoke all on function qr_refresh.store_postponed_qr_codes(
    text[], text[], text[], timestamptz, timestamptz
) from public;

comment on function qr_refresh.store_postponed_qr_codes(
    text[], text[], text[], timestamptz, timestamptz
) is
'Writes what qr_refresh.store_qr_codes() has postponed, row by row, so that one that is refused costs only itself; tells '
'qr_refresh.notify_stored() of what is stored.
instance_names, instance_tokens, qr_codes: arrays of one length. stored_at: the value for last_qr_update. gives_up_at: until then '
'locked rows are tried again, and what triggers wait for is waited for up to 0.1 s; afterwards each is tried once.
Returns one row for each element, in order: outcome (stored; changed: the row is no longer connecting, has another token or is gone; '
'update_failed), error_code (SQLSTATE for outcome update_failed; 55P03: the row stayed locked; 09000: a trigger has kept it as it was).
Raises nothing of its own. Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/store_qr_codes.sql

-- qr_refresh.store_qr_codes(): writes to the application's table, all at once, waiting for nobody.
create or replace function qr_refresh.store_qr_codes(
    instance_names text[],
    instance_tokens text[],
    qr_codes text[],
    stored_at timestamptz,
    only_changed boolean
)
returns table (outcome text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
-- What a trigger or a lock of the whole table makes wait is for store_postponed_qr_codes().
set lock_timeout = '10ms'
-- Because of this line, what is set below holds for this function alone.
set default_toast_compression = 'pglz'
as $$
-- The table may have columns of any name.
#variable_conflict use_variable
declare
    outcomes text [];
begin
    -- Compressing a picture with pglz costs more than all the rest of storing it.
    begin
        perform set_config('default_toast_compression', 'lz4', true);
    exception when invalid_parameter_value then
        null; -- PostgreSQL was built without it
    end;

    with fetched as (
        -- Without the pictures, which would be sorted along.
        select f.*
        from unnest(instance_names, instance_tokens)
            with ordinality as f (instance_name, instance_token, position)
    ), found as materialized (
        -- Read without a lock: a row that holds the QR code already is not touched at all.
        select
            f.*,
            -- Where names are not unique, more rows than one.
            bool_and(only_changed and coalesce(e.qr_code = qr_codes[f.position::integer], false))
                as is_unchanged
        from fetched as f
        inner join public.evolution_instances as e
            on
                f.instance_name = e.instance_name::text
                and f.instance_token = e.instance_token::text
        where e.instance_status = 'connecting'
        group by f.position, f.instance_name, f.instance_token
    ), free as (
        select f.position, e.instance_name, e.instance_token
        from found as f
        inner join public.evolution_instances as e
            on
                f.instance_name = e.instance_name::text
                and f.instance_token = e.instance_token::text
        where e.instance_status = 'connecting' and not f.is_unchanged
        -- Not FOR UPDATE: rows of other tables may refer to these meanwhile. And who waits for a row
        -- while holding others can be in a deadlock with the application, in whatever order that
        -- takes them.
        for no key update of e skip locked
    ), written as (
        update public.evolution_instances as e
        set qr_code = qr_codes[f.position::integer], last_qr_update = stored_at
        from free as f
        where
            f.instance_name = e.instance_name
            and f.instance_token = e.instance_token
            and e.instance_status = 'connecting'
        returning f.position
    )
    select array_agg(
        case
            when f.position in (select w.position from written as w) then 'stored'
            when o.position is null then 'changed'
            when o.is_unchanged then 'unchanged'
            else 'postponed'
        end
        order by f.position
    ) into outcomes
    from fetched as f
    left join found as o on f.position = o.position;

    perform qr_refresh.notify_stored(instance_names, outcomes, stored_at);
    return query select unnest(outcomes);
exception when others or assert_failure then
    return query select 'postponed' from unnest(instance_names);
end
$$;

alter function qr_refresh.store_qr_codes(text[], text[], text[], timestamptz, boolean)
owner to qr_refresh_owner;
revoke all on function qr_refresh.store_qr_codes(text[], text[], text[], timestamptz, boolean)
from public;

comment on function qr_refresh.store_qr_codes(text[], text[], text[], timestamptz, boolean) is
'Writes qr_code and last_qr_update of rows that are still connecting and still have the token that was read before; tells '
'qr_refresh.notify_stored() of them.
instance_names, instance_tokens, qr_codes: arrays of one length. stored_at: the value for last_qr_update. only_changed: true leaves rows '
'alone that hold the QR code already.
Returns one row for each element, in order: outcome (stored; unchanged: left alone; changed: the row is no longer connecting, has another token or '
'is gone; postponed: for qr_refresh.store_postponed_qr_codes(), because the row is locked, or all of them because one is refused).
Raises nothing of its own. Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/translate_messages.sql

-- qr_refresh.translate_messages(): whether Postgres's messages are in the language of lc_messages.
create or replace function qr_refresh.translate_messages(wanted boolean)
returns void
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import contextlib
    import locale

    # Where the database is not UTF-8, an error of a query whose message is not ASCII makes
    # PL/Python jump out of the middle of Python, and the server crash later. lc_messages itself is
    # only for superusers to set; this takes effect in this session alone.
    session = plpy.execute(
        "select current_setting('lc_messages') as language,"
        " current_setting('server_encoding') <> 'UTF8' as is_risky"
    )[0]
    if session["is_risky"]:
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_MESSAGES, session["language"] if wanted else "C")
$python$;

alter function qr_refresh.translate_messages(boolean) owner to qr_refresh_owner;
revoke all on function qr_refresh.translate_messages(boolean) from public;

comment on function qr_refresh.translate_messages(boolean) is
'For this session, in a database that is not UTF-8: turns the translation of Postgres''s messages off, or on again. '
'With it on, an error in PL/Python can crash the server there.
wanted: false for English, true for the language of lc_messages.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- db/functions/unschedule.sql

-- qr_refresh.unschedule(): removes the pg_cron jobs that qr_refresh.schedule() creates.
create or replace function qr_refresh.unschedule()
returns boolean
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Its own, those of live mode, and nothing else.
    job_names constant text := '^refresh-qr-codes(-slow|-prune|-[0-9]+)?(@|$)';
begin
    perform qr_refresh.check_pg_cron(format(
        'SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname ~ %L AND database = %L;',
        job_names, current_database()
    ));
    perform cron.unschedule(j.jobid)
    from cron.job as j
    where j.jobname ~ job_names and j.database = current_database();
    return found;
end
$$;

alter function qr_refresh.unschedule() owner to qr_refresh_owner;
revoke all on function qr_refresh.unschedule() from public;

comment on function qr_refresh.unschedule() is
'Removes all pg_cron jobs of this database that qr_refresh.schedule() creates. Can be repeated.
Returns true when there was one.
Errors: QR002 pg_cron is missing or lives in another database (the hint says what to run and where).
Privileges: EXECUTE for nobody but the owner and superusers; the caller needs USAGE on schema cron.';

-- db/functions/wait_for_next_attempt.sql

-- qr_refresh.wait_for_next_attempt(): how long to leave an instance alone after an attempt.
create or replace function qr_refresh.wait_for_next_attempt(
    outcome text,
    failures integer,
    changed_ago interval,
    first_seen_ago interval,
    poll_interval interval
)
returns interval
language sql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    select case
        when outcome = 'changed'
            then interval '1 second'
        when outcome in ('stored', 'unchanged')
            then case
                -- Just before the next QR code can come, to know that the present one is still there.
                when changed_ago < interval '44.6 seconds'
                    then interval '44.6 seconds' - changed_ago
                -- It is gone when it is that old for sure, so that is the last moment to wait for.
                when first_seen_ago < interval '45 seconds'
                    then least(
                        greatest(interval '45 seconds' - changed_ago, interval '0') + poll_interval,
                        interval '45.1 seconds' - first_seen_ago
                    )
                -- Overdue: as long again as it is late, so that there are few attempts.
                else least(
                    interval '10 seconds',
                    greatest(poll_interval, first_seen_ago - interval '45 seconds')
                )
            end
        -- What has failed: 1, 2, 4 ... seconds, at most 10 minutes.
        when outcome in ('failed', 'timeout', 'update_failed')
            then interval '1 second' * least(600, 2 ^ least(greatest(failures - 1, 0), 10))
        -- A QR code is being waited for: each second, then less and less often.
        else interval '1 second' * least(600, 1.3 ^ least(greatest(failures - 15, 0), 30))
    end
$$;

alter function qr_refresh.wait_for_next_attempt(text, integer, interval, interval, interval)
owner to qr_refresh_owner;
revoke all on function qr_refresh.wait_for_next_attempt(text, integer, interval, interval, interval)
from public;

comment on function qr_refresh.wait_for_next_attempt(text, integer, interval, interval, interval) is
'How long to leave an instance alone, by what the last attempt gave. A QR code lives 45 seconds, so the next one comes 45 seconds after '
'the present one did; before that nobody asks.
outcome, failures: as in qr_refresh.instance_state. changed_ago: the QR code came into being at most so long ago. first_seen_ago: and at '
'least so long ago. poll_interval: time between attempts while the next QR code is expected.
Returns the wait, before jitter.
Privileges: EXECUTE for nobody but the owner and superusers.';

-- Tells a later `make migrate` (dbmate) what has been run.

create table if not exists qr_refresh.schema_migrations (version varchar primary key);
insert into qr_refresh.schema_migrations (version) values
    ('20261124000000'),
    ('20261124000100'),
    ('20261124000200'),
    ('20261124000300'),
    ('20261124000400'),
    ('20261124000500'),
    ('20261124000600'),
    ('20261124100000'),
    ('20261124200000'),
    ('20261124200100'),
    ('20261124300000')
on conflict do nothing;

-- db/privileges.sql

-- The last step of every installation. Default privileges (ALTER DEFAULT PRIVILEGES) put grants on
-- each new object: Supabase has some for anon, authenticated and service_role. They are taken back
-- from what is ours. A grant of the operator's stays, unless default privileges name the same role.
do $$
declare
    excess record;
begin
    for excess in
        with ours as (
            select
                'routine' as kind,
                'f' as type,
                p.oid::regprocedure::text as name,
                p.proname as short_name,
                p.pronamespace as namespace,
                p.proacl as acl
            from pg_catalog.pg_proc as p
            where
                p.pronamespace = 'qr_refresh'::regnamespace
                or (p.pronamespace = 'public'::regnamespace and p.proname = 'refresh_qr_codes')
            union all
            select
                case c.relkind when 'S' then 'sequence' else 'table' end,
                case c.relkind when 'S' then 'S' else 'r' end,
                c.oid::regclass::text,
                c.relname,
                c.relnamespace,
                c.relacl
            from pg_catalog.pg_class as c
            where
                c.relnamespace = 'qr_refresh'::regnamespace
                and c.relkind in ('r', 'p', 'v', 'm', 'S')
            union all
            select 'schema', 'n', n.oid::regnamespace::text, n.nspname, 0, n.nspacl
            from pg_catalog.pg_namespace as n
            where n.nspname = 'qr_refresh'
        )
        select distinct o.kind, o.name, granted.privilege_type as privilege, r.rolname as role
        from ours as o
        cross join pg_catalog.aclexplode(o.acl) as granted
        inner join pg_catalog.pg_roles as r on granted.grantee = r.oid
        inner join pg_catalog.pg_default_acl as d
            on o.type = d.defaclobjtype and d.defaclnamespace in (0, o.namespace)
        inner join pg_catalog.aclexplode(d.defaclacl) as by_default
            on
                granted.grantee = by_default.grantee
                and granted.privilege_type = by_default.privilege_type
        where
            r.rolname not in (current_user, 'qr_refresh_owner')
            and not starts_with(r.rolname, 'pg_')
            -- What we grant ourselves.
            and (r.rolname, o.short_name, granted.privilege_type) not in (
                ('service_role', 'qr_refresh', 'USAGE'),
                ('service_role', 'refresh_qr_codes', 'EXECUTE'),
                ('service_role', 'live', 'EXECUTE'),
                ('service_role', 'live_tick', 'EXECUTE'),
                ('service_role', 'show_qr', 'EXECUTE'),
                ('service_role', 'active_alerts', 'EXECUTE'),
                ('service_role', 'connecting_instances', 'EXECUTE'),
                ('service_role', 'cron_jobs', 'EXECUTE'),
                ('service_role', 'alerts', 'SELECT'),
                ('service_role', 'health', 'SELECT'),
                ('service_role', 'metrics', 'SELECT'),
                ('service_role', 'runs', 'SELECT'),
                ('service_role', 'status', 'SELECT')
            )
    loop
        execute format(
            'revoke %s on %s %s from %I', excess.privilege, excess.kind, excess.name, excess.role
        );
    end loop;
end
$$;

commit;
