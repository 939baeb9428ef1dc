-- migrate:up

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

-- migrate:down
-- Nothing: there is no way back to an older schema but a backup. README.md tells how to uninstall.
