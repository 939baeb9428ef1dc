-- qr_refresh.unschedule(): removes the pg_cron job that runs refresh_qr_codes().
create or replace function qr_refresh.unschedule()
returns boolean
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    job_name constant text := 'refresh-qr-codes';
begin
    perform qr_refresh.check_pg_cron(format('SELECT cron.unschedule(%L);', job_name));
    perform cron.unschedule(j.jobid) from cron.job as j where j.jobname = job_name;
    return found;
end
$$;

alter function qr_refresh.unschedule() owner to qr_refresh_owner;
revoke all on function qr_refresh.unschedule() from public;

comment on function qr_refresh.unschedule() is
'Removes the pg_cron job refresh-qr-codes. Can be repeated.
Returns true when there was one.
Errors: QR002 pg_cron is missing or lives in another database (the hint says what to run and where).
Privileges: EXECUTE for nobody but the owner and superusers; the caller needs USAGE on schema cron.';
