-- migrate:up

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

-- migrate:down
-- Nothing: there is no way back to an older schema but a backup. README.md tells how to uninstall.
