-- migrate:up

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

-- migrate:down
-- Nothing: there is no way back to an older schema but a backup. README.md tells how to uninstall.
