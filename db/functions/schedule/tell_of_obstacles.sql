-- qr_refresh.tell_of_obstacles(): why pg_cron would not begin what has just been scheduled.
create or replace function qr_refresh.tell_of_obstacles()
returns void
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    obstacle record;
begin
    for obstacle in
        select o.detail, o.fix from qr_refresh.pg_cron_obstacles() as o
        union all
        select
            format('job %s (%s) has role %s, which is not there', o.jobid, o.jobname, o.username),
            format('SELECT cron.unschedule(%s);', o.jobid)
        from qr_refresh.orphaned_jobs() as o
    loop
        raise warning 'pg_cron does not begin the job: %', obstacle.detail using hint = obstacle.fix;
    end loop;
end
$$;

comment on function qr_refresh.tell_of_obstacles() is
'Raises a warning, with what to do, for each reason for which pg_cron begins no job, as far as the caller may see it.
Raises nothing else of its own. Private.';
