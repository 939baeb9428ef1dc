-- qr_refresh.doctor_cron_jobs(): the part of qr_refresh.doctor() about pg_cron's jobs of ours.
create or replace function qr_refresh.doctor_cron_jobs()
returns table ("check" text, ok boolean, detail text, fix text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    job constant regprocedure := (
        select p.oid from pg_proc as p
        where p.pronamespace = 'public'::regnamespace and p.proname = 'refresh_qr_codes'
    );
    ours text;
    inactive text;
    helpless text;
    superfluous text;
    failure text;
    history_size bigint;
begin
    if not has_schema_privilege('qr_refresh_owner', 'cron', 'usage') then
        return query select
            'jobs can be seen',
            false,
            'qr_refresh_owner lacks USAGE on schema cron, so alerts and health show no job',
            'GRANT USAGE ON SCHEMA cron TO qr_refresh_owner;';
        return;
    end if;

    with jobs as (
        select
            j.*,
            j.calls in ('live', 'refresh_qr_codes') as is_ours,
            -- Two that do the same get into each other's way; live mode may have workers, by name.
            j.calls = 'refresh_qr_codes'
            and count(*) filter (where j.calls in ('live', 'refresh_qr_codes')) over () > 1
            or j.calls not in ('live', 'refresh_qr_codes', 'prune_history')
            or count(*) over (partition by j.jobname) > 1 as is_superfluous
        from qr_refresh.cron_jobs() as j
    )
    select
        string_agg(format('%s, %s', j.jobname, j.schedule), '; ') filter (where j.is_ours),
        string_agg(format('%s (%s)', j.jobid, j.jobname), ', ') filter (
            where j.is_ours and not j.is_active
        ),
        string_agg(format('%s (role %s)', j.jobid, j.username), ', ') filter (
            where
                j.is_ours
                -- NULL: there is no such role any more.
                and case j.calls
                    when 'live' then
                        has_schema_privilege(r.role, 'qr_refresh', 'usage')
                        and has_function_privilege(
                            r.role, 'qr_refresh.live(integer, integer)', 'execute'
                        )
                        and has_function_privilege(
                            r.role, 'qr_refresh.live_tick(integer, integer, jsonb)', 'execute'
                        )
                    else has_function_privilege(r.role, job, 'execute')
                end is not true
        ),
        string_agg(format('%s (%s, calls %s)', j.jobid, j.jobname, j.calls), ', ') filter (
            where j.is_superfluous
        )
    into ours, inactive, helpless, superfluous
    from jobs as j
    cross join lateral (select to_regrole(quote_ident(j.username)) as role) as r;
    return query select
        'job is scheduled', ours is not null, coalesce(ours, 'pg_cron has no job that runs refresh_qr_codes()'),
        'SELECT qr_refresh.schedule(''live''); or schedule() for once a minute';
    return query select
        'job is active', inactive is null, coalesce('not active: ' || inactive, 'yes'),
        'SELECT cron.alter_job(number, active => true); for each';
    return query select
        'job''s role may run it', helpless is null, coalesce('may not: ' || helpless, 'yes'),
        'GRANT USAGE ON SCHEMA qr_refresh TO ...; GRANT EXECUTE ON ROUTINE refresh_qr_codes, qr_refresh.live, qr_refresh.live_tick TO ...; '
        'or call qr_refresh.schedule() again as a superuser';
    return query select
        'there is no second job', superfluous is null, coalesce(superfluous, 'yes'),
        'SELECT cron.unschedule(number); for all but one';

    -- Execution by execution, because a job that has been made anew begins with none.
    execute $query$
        select format('job %s: %s', d.jobid, d.return_message)
        from qr_refresh.cron_jobs() as j
        inner join lateral (
            select * from cron.job_run_details as d
            where d.jobid = j.jobid and d.status in ('succeeded', 'failed')
            order by d.runid desc limit 1
        ) as d on true
        where d.status = 'failed' and j.calls in ('live', 'refresh_qr_codes')
        order by d.return_message is not distinct from 'server restarted'
        limit 1
    $query$ into failure;
    return query select
        'pg_cron''s last execution',
        -- So pg_cron calls what ran when Postgres stopped, be it for a restart or in a crash.
        case when failure is null then true when failure !~ ': server restarted$' then false end,
        coalesce(left(failure, 300), 'did not fail'),
        case
            when failure ~ ': server restarted$'
                then 'Nothing, where Postgres was restarted: the next execution that ends clears it. '
                    'Else the server log says why Postgres stopped'
            when failure ~ 'connection failed|authentication|pg_hba'
                then 'ALTER SYSTEM SET cron.use_background_workers = on; then restart Postgres. '
                    'Or let the role of the job connect to localhost (pg_hba.conf)'
            when failure ~ 'background process'
                then 'A higher max_worker_processes in postgresql.conf, where pg_cron, parallel queries and others '
                    'take all there are; then restart Postgres'
            else 'By hand, as the role of the job: SELECT refresh_qr_codes();'
        end;

    history_size := pg_table_size('cron.job_run_details'::regclass);
    return query select
        'size of cron.job_run_details',
        nullif(history_size < 100 * 1024 * 1024, false),
        pg_size_pretty(history_size),
        'SELECT qr_refresh.prune_history(); which the job refresh-qr-codes-prune does each day. '
        'What is left is the history of other jobs';
end
$$;

comment on function qr_refresh.doctor_cron_jobs() is
'Part of qr_refresh.doctor(), which describes the columns: the jobs of pg_cron that have to do with ours. Only where the extension pg_cron is.
Raises nothing of its own. Private.';
