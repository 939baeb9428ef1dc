-- qr_refresh.cron_jobs(): the pg_cron jobs that run, or should run, the job of this database.
-- Dynamic SQL, because pg_cron may be missing or come later. Not the commands: an old one, which
-- called the Edge Function, has a service key in it.
create or replace function qr_refresh.cron_jobs()
returns table (
    jobid bigint,
    jobname text,
    schedule text,
    calls text,
    username text,
    is_active boolean,
    last_start_at timestamptz,
    last_status text
)
language plpgsql stable parallel restricted security definer
rows 4
set search_path = pg_catalog, pg_temp
-- Compiling our queries takes longer than running them.
set jit = off
-- A caller could otherwise have the plans of our queries shown, and what is in them.
set debug_print_parse = off
set debug_print_rewritten = off
set debug_print_plan = off
as $$
begin
    if not exists (select from pg_extension where extname = 'pg_cron')
        or not has_schema_privilege('cron', 'usage') then
        return;
    end if;
    return query execute $query$
        select *
        from (
            select
                j.jobid,
                j.jobname::text,
                j.schedule,
                case
                    when j.command ~* '\mqr_refresh\.live\s*\(' then 'live'
                    when j.command ~* '\mrefresh_qr_codes\s*\(' then 'refresh_qr_codes'
                    when j.command ~* '\mqr_refresh\.prune_history\s*\(' then 'prune_history'
                    when j.command ~ 'functions/v1/refresh-qr-codes' then 'edge function'
                    when j.jobname ~ '^refresh-qr-codes(-slow|-prune|-[0-9]+)?(@|$)'
                        then 'something else'
                end as calls,
                j.username,
                j.active
            from cron.job as j
            where j.database = current_database()
        ) as j
        left join lateral (
            select d.start_time, d.status
            from cron.job_run_details as d
            where d.jobid = j.jobid
            order by d.runid desc
            limit 1
        ) as d on true
        where j.calls is not null
        order by j.jobid
    $query$;
end
$$;

comment on function qr_refresh.cron_jobs() is
'The pg_cron jobs of this database that have to do with refresh-qr-codes. No row where pg_cron lives in another database or is missing.
Returns jobid, jobname, schedule; calls (live, refresh_qr_codes, prune_history, edge function, something else); username; is_active; '
'last_start_at and last_status of its last execution, as pg_cron knows it (NULL: none yet). No command: one may hold a key.
Raises nothing of its own. Privileges: EXECUTE for pg_monitor and service_role. Runs with the privileges of qr_refresh_owner.';
