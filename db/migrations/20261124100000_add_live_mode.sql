-- migrate:up

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

-- migrate:down
-- Nothing: there is no way back to an older schema but a backup. README.md tells how to uninstall.
