-- qr_refresh.prune_history(): deletes what pg_cron keeps of our jobs for longer than we want.
create or replace function qr_refresh.prune_history()
returns bigint
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    -- What qr_refresh.schedule() schedules. The history of other jobs is their owners'.
    our_commands constant text := '^(select|call) (public[.])?(refresh_qr_codes|qr_refresh[.][a-z_]+)[(]';
    retention constant interval := (select s.history_retention from qr_refresh.settings as s);
    deleted bigint;
begin
    perform qr_refresh.check_pg_cron(format(
        'DELETE FROM cron.job_run_details WHERE database = %L AND command ~* %L AND start_time < now() - interval %L;',
        current_database(), our_commands, retention
    ));
    delete from cron.job_run_details as d
    where
        d.database = current_database()
        and d.command ~* our_commands
        -- One that never started has no time, so its number tells how old it is.
        and d.runid <= (
            select max(old.runid)
            from cron.job_run_details as old
            where old.start_time < now() - retention
        )
        and coalesce(d.start_time < now() - retention, true);
    get diagnostics deleted = row_count;
    return deleted;
end
$$;

comment on function qr_refresh.prune_history() is
'Deletes rows of cron.job_run_details that belong to jobs of this database that run refresh_qr_codes() or a function of qr_refresh, '
'and are older than settings.history_retention. pg_cron itself deletes nothing.
Returns the number of rows.
Errors: QR002 pg_cron is missing or lives in another database (the hint says what to run and where).
Privileges: EXECUTE for qr_refresher, whose job calls it once a day; the caller needs USAGE on schema cron and SELECT on qr_refresh.settings. '
'Who is no superuser deletes only what ran as them, by pg_cron''s own rule.';
