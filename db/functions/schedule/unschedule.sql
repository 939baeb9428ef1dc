-- qr_refresh.unschedule(): removes the pg_cron jobs that qr_refresh.schedule() creates.
create or replace function qr_refresh.unschedule()
returns boolean
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Its own, those of live mode, and nothing else.
    job_names constant text := '^refresh-qr-codes(-slow|-prune|-[0-9]+)?(@|$)';
begin
    perform qr_refresh.check_pg_cron(format(
        'SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname ~ %L AND database = %L;',
        job_names, current_database()
    ));
    perform cron.unschedule(j.jobid)
    from cron.job as j
    where j.jobname ~ job_names and j.database = current_database();
    return found;
end
$$;

comment on function qr_refresh.unschedule() is
'Removes all pg_cron jobs of this database that qr_refresh.schedule() creates. Can be repeated.
Returns true when there was one.
Errors: QR002 pg_cron is missing or lives in another database (the hint says what to run and where).
Private; the caller needs USAGE on schema cron.';
