-- qr_refresh.schedule(): the pg_cron job that runs refresh_qr_codes().
create or replace function qr_refresh.schedule(schedule text default '* * * * *')
returns bigint
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    job_name constant text := 'refresh-qr-codes';
    command constant text := 'SELECT refresh_qr_codes()';
    job bigint;
begin
    perform qr_refresh.check_pg_cron(format(
        'SELECT cron.schedule_in_database(%L, %L, %L, %L);',
        job_name, schedule, command, current_database()
    ));

    -- A job of that name under another role would run beside this one.
    perform cron.unschedule(j.jobid)
    from cron.job as j
    where j.jobname = job_name and j.username <> current_user;

    begin
        job := cron.schedule(job_name, schedule, command);
    exception when others then
        raise exception using
            errcode = sqlstate,
            message = format('pg_cron refuses the schedule %L', schedule),
            detail = sqlerrm,
            hint = 'Five cron fields such as * * * * *; from pg_cron 1.5 on also 1 to 59 seconds, such as 30 seconds.';
    end;
    perform cron.alter_job(job, active => true);
    return job;
end
$$;

alter function qr_refresh.schedule(text) owner to qr_refresh_owner;
revoke all on function qr_refresh.schedule(text) from public;

comment on function qr_refresh.schedule(text) is
'Creates the pg_cron job refresh-qr-codes, or changes the one there is, also one that called the Edge Function. Can be repeated.
schedule: five cron fields (in cron.timezone, by default GMT), or from pg_cron 1.5 on ''N seconds''.
Returns the job''s number. The job runs as the calling role.
Errors: QR002 pg_cron is missing or lives in another database (the hint says what to run and where); '
'what pg_cron raises for a schedule that it refuses.
Privileges: EXECUTE for nobody but the owner and superusers; the caller needs USAGE on schema cron.';
