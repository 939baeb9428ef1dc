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
comment on column qr_refresh.metrics.slow_instances is 'Connecting instances that answer after over a second, with an error or not at all.';
comment on column qr_refresh.metrics.oldest_live_qr_seconds is 'Greatest age of a live QR code in seconds; NULL without any.';
comment on column qr_refresh.metrics.active_alerts is 'Rows of qr_refresh.alerts.';
