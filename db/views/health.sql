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
    where r.requested_instance is null
    order by r.id desc
    limit 1
),

last_hour as (
    select
        count(*) as runs,
        -- Whom a run did not come to has not failed.
        round(
            sum(r.refreshed)
            / nullif(
                sum(
                    r.refreshed + r.failed - coalesce((r.report ->> 'not_attempted')::integer, 0)
                ),
                0
            )::numeric,
            4
        ) as success_share
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
    select count(*) as active from qr_refresh.alerts
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


comment on view qr_refresh.health is
'The job at a glance, always one row. No token and no QR code. Not readable on a standby.';
comment on column qr_refresh.health.schedule is
'pg_cron''s jobs that run it and their schedules. NULL: none, or pg_cron lives in another database.';
comment on column qr_refresh.health.is_active is 'All of these jobs are active. NULL: as for schedule.';
comment on column qr_refresh.health.last_run_started_at is 'When the last run over all instances began. In live mode a run is a minute of a worker.';
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
