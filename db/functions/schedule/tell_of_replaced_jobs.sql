-- qr_refresh.tell_of_replaced_jobs(): which jobs of the Edge Function go, and how they come back.
create or replace function qr_refresh.tell_of_replaced_jobs()
returns void
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    job record;
    is_on_record boolean;
begin
    for job in
        select j.*, j.jobname ~ '^refresh-qr-codes(-slow|-prune|-[0-9]+)?$' as is_replaced
        from qr_refresh.cron_jobs() as j
        where j.calls in ('edge function', 'something else')
        order by j.jobid
    loop
        if not job.is_replaced then
            raise notice 'pg_cron job % (%) still calls the Edge Function', job.jobid, job.jobname
                using hint = format('To remove it: SELECT cron.unschedule(%s);', job.jobid);
            continue;
        end if;
        -- Not the command itself, in which there may be a key.
        execute 'select exists (select from cron.job_run_details as d where d.jobid = $1)'
        into is_on_record using job.jobid;
        raise notice 'pg_cron job % (%, %) is replaced: it called %',
            job.jobid, job.jobname, job.schedule,
            case job.calls when 'edge function' then 'the Edge Function' else job.calls end
            using
                hint = 'To go back: SELECT qr_refresh.unschedule(); ' || case
                    when is_on_record then format(
                        'SELECT cron.schedule(%L, %L, command) FROM cron.job_run_details WHERE jobid = %s '
                        'AND command !~* ''qr_refresh|refresh_qr_codes'' ORDER BY runid DESC LIMIT 1;',
                        job.jobname, job.schedule, job.jobid
                    )
                    else format(
                        'SELECT cron.schedule(%L, %L, ...); with its command, of which pg_cron has no run on record.',
                        job.jobname, job.schedule
                    )
                end;
    end loop;
end
$$;

comment on function qr_refresh.tell_of_replaced_jobs() is
'Raises a notice for each job of pg_cron that belongs to the Edge Function: whether qr_refresh.schedule() replaces it, and how to go back. '
'No command, since it may hold a key.
Raises nothing else of its own. Private.';
