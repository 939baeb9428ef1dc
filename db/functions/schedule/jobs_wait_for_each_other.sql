-- qr_refresh.jobs_wait_for_each_other(): whether a long job holds up the others in this pg_cron.
create or replace function qr_refresh.jobs_wait_for_each_other()
returns boolean
language sql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp
-- Compiling our queries takes longer than running them.
set jit = off
as $$
    -- The library that is loaded, which may be newer than the extension: 1.5 has cron.timezone.
    select
        s.setting = 'on'
        and not exists (select from pg_settings as t where t.name = 'cron.timezone')
    from pg_settings as s
    where s.name = 'cron.use_background_workers'
$$;

comment on function qr_refresh.jobs_wait_for_each_other() is
'Whether pg_cron starts no job before those of the last minute have ended: before version 1.5, with cron.use_background_workers = on. '
'A job that lasts stops all others, those of the application as well.
Returns NULL where pg_cron is not loaded, or the caller may not see its settings.
Raises nothing of its own.
Privileges: EXECUTE for pg_monitor and service_role, whose views call it.';
