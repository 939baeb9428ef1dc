-- migrate:up

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

-- migrate:down
-- Nothing: there is no way back to an older schema but a backup. README.md tells how to uninstall.
