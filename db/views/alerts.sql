-- qr_refresh.alerts: what somebody should look at now. Empty when all is well.
-- `create or replace` keeps the grants of others; so columns are only ever added, at the end.
create or replace view qr_refresh.alerts as
select
    a.alert,
    a.instance_name,
    a.since,
    a.detail
from qr_refresh.active_alerts() as a
union all
-- What only pg_monitor and superusers may see, so with the privileges of whoever reads the view.
select
    'job_blocked' as alert,
    null as instance_name,
    null as since,
    o.detail
from qr_refresh.pg_cron_obstacles() as o;


comment on view qr_refresh.alerts is
'What somebody should look at now; empty when all is well. No token and no QR code. Not readable on a standby.';
comment on column qr_refresh.alerts.alert is
'no_live_qr (for longer than settings.alert_after), server_unreachable (nobody who was asked got an answer), no_qr_code_from_server (nobody gets a QR code although it answers), job_missing, '
'job_inactive, job_late (no run for settings.alert_after, also of one worker of live mode, or one that skips minutes), job_blocked (why pg_cron begins none), run_failed (the last run as a whole could not be done, or evolution_instances cannot be read). '
'Jobs are seen only where pg_cron lives in this database.';
comment on column qr_refresh.alerts.instance_name is 'The instance of no_live_qr; NULL for the others.';
comment on column qr_refresh.alerts.since is
'Since when, as far as it is known: the last live QR code, answer, run or start of the job.';
comment on column qr_refresh.alerts.detail is 'The same in words.';
