-- qr_refresh.pg_cron_obstacles(): why pg_cron begins no job, whatever the jobs are.
create or replace function qr_refresh.pg_cron_obstacles()
returns table (obstacle text, detail text, fix text)
language plpgsql stable parallel restricted security invoker
rows 1
set search_path = pg_catalog, pg_temp
-- Compiling our queries takes longer than running them.
set jit = off
as $$
begin
    if not exists (select from pg_settings as s where s.name = 'cron.database_name') then
        return;
    end if;
    if pg_has_role('pg_read_all_stats', 'usage')
        and not exists (select from pg_stat_activity as a where a.backend_type = 'pg_cron launcher') then
        return query select
            'pg_cron''s scheduler runs',
            'pg_cron''s scheduler (pg_cron launcher) does not run: it was ended, or ends again and again',
            'Restart Postgres. Where it ends again, the server log says why';
    end if;
    if exists (
        select from pg_settings as s where s.name = 'cron.launch_active_jobs' and s.setting = 'off'
    ) then
        return query select
            'pg_cron begins active jobs',
            'cron.launch_active_jobs is off, so pg_cron begins no job',
            'ALTER SYSTEM SET cron.launch_active_jobs = on; SELECT pg_reload_conf();';
    end if;
    if exists (
        select from pg_settings as s where s.name = 'cron.enable_superuser_jobs' and s.setting = 'off'
    ) then
        return query
        select
            'pg_cron begins jobs of superusers',
            'cron.enable_superuser_jobs is off, so pg_cron begins no job of a superuser: '
            || string_agg(format('%s (role %s)', j.jobid, j.username), ', ' order by j.jobid),
            qr_refresh.same_schedule()
        from qr_refresh.cron_jobs() as j
        inner join pg_roles as r on j.username = r.rolname
        where r.rolsuper
        having count(*) > 0;
    end if;
    if qr_refresh.jobs_wait_for_each_other()
        and exists (select from qr_refresh.cron_jobs() as j where j.calls = 'live') then
        return query select
            'jobs do not wait for each other',
            'before version 1.5, and with cron.use_background_workers = on, pg_cron begins no job while '
            'another one is at work: live mode stops the jobs of others, and theirs stop live mode',
            qr_refresh.way_without_background_workers() || qr_refresh.same_schedule();
    end if;
end
$$;

comment on function qr_refresh.pg_cron_obstacles() is
'Why pg_cron begins no job, or not in time: its scheduler does not run, or a setting stands in the way.
Returns one row for each reason that the caller may see, so none to who is no member of pg_monitor: obstacle (the check of qr_refresh.doctor() '
'that it fails), detail and fix.
Raises nothing of its own. Privileges: EXECUTE for pg_monitor and service_role, who read it through qr_refresh.alerts.';
