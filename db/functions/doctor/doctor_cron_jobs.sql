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
    settings constant jsonb := (
        select jsonb_object_agg(s.name, s.setting) from pg_settings as s where s.name ~ '^cron[.]'
    );
    is_client constant boolean := settings ->> 'cron.use_background_workers' = 'off';
    other_way constant text := case
        -- Only old ones lack it, and those must not have background workers.
        when not settings ? 'cron.timezone'
            then qr_refresh.way_without_background_workers() || qr_refresh.same_schedule()
        else 'ALTER SYSTEM SET cron.use_background_workers = on; then restart Postgres. '
            'Or let the role of the job connect to cron.host (pg_hba.conf)'
    end;
    ours text;
    inactive text;
    to_activate text;
    helpless text;
    powerful text;
    superfluous text;
    to_remove text;
    orphans text;
    to_unschedule text;
    has_worked boolean;
    has_run boolean;
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
            or count(*) over (partition by j.jobname) > 1 as is_superfluous,
            -- Of those that do the same, one stays: live mode before a run, ours before others.
            row_number() over (partition by j.jobname order by j.jobid) = 1
            and (
                j.calls = 'live'
                or j.calls = 'refresh_qr_codes'
                and row_number() over (
                    partition by j.calls in ('live', 'refresh_qr_codes')
                    order by j.calls = 'live' desc, j.jobname = 'refresh-qr-codes' desc, j.jobid
                ) = 1
            ) as stays
        from qr_refresh.cron_jobs() as j
    )
    select
        string_agg(format('%s, %s', j.jobname, j.schedule), '; ') filter (where j.is_ours),
        string_agg(format('%s (%s)', j.jobid, j.jobname), ', ') filter (
            where j.is_ours and not j.is_active
        ),
        string_agg(format('SELECT cron.alter_job(%s, active => true);', j.jobid), ' ') filter (
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
                    else has_schema_privilege(r.role, 'public', 'usage')
                        and has_function_privilege(r.role, job, 'execute')
                end is not true
        ),
        string_agg(format('%s (role %s)', j.jobid, j.username), ', ') filter (
            where
                j.is_ours
                and exists (
                    select from pg_roles as p
                    where
                        p.oid = r.role
                        and (
                            p.rolsuper or p.rolcreaterole or p.rolcreatedb or p.rolbypassrls
                            or exists (select from pg_auth_members as m where m.member = p.oid)
                        )
                )
        ),
        string_agg(format('%s (%s, calls %s)', j.jobid, j.jobname, j.calls), ', ' order by j.jobid) filter (
            where j.is_superfluous
        ),
        string_agg(format('SELECT cron.unschedule(%s);', j.jobid), ' ' order by j.jobid) filter (
            where j.is_superfluous and not j.stays
        ),
        bool_or(j.last_status in ('running', 'succeeded'))
    into ours, inactive, to_activate, helpless, powerful, superfluous, to_remove, has_worked
    from jobs as j
    cross join lateral (select to_regrole(quote_ident(j.username)) as role) as r;
    return query select
        'job is scheduled', ours is not null, coalesce(ours, 'pg_cron has no job that runs refresh_qr_codes()'),
        'SELECT qr_refresh.schedule(''live''); or schedule() for once a minute';
    return query select
        'job is active', inactive is null, coalesce('not active: ' || inactive, 'yes'),
        to_activate;
    return query select
        'job''s role may run it', helpless is null, coalesce('may not: ' || helpless, 'yes'),
        'GRANT USAGE ON SCHEMA qr_refresh TO ...; GRANT EXECUTE ON ROUTINE refresh_qr_codes, qr_refresh.live, qr_refresh.live_tick TO ...; '
        'or as a superuser: ' || qr_refresh.same_schedule();
    return query select
        'there is no second job', superfluous is null, coalesce(superfluous, 'yes'),
        to_remove;
    return query select
        'job''s role has no other power',
        case when powerful is null then true end,
        coalesce('has more than the job needs: ' || powerful, 'yes'),
        case
            when is_client then qr_refresh.way_without_background_workers()
            else ''
        end || qr_refresh.same_schedule();

    select
        string_agg(format('%s (%s, role %s)', o.jobid, o.jobname, o.username), ', '),
        string_agg(format('SELECT cron.unschedule(%s);', o.jobid), ' ')
    into orphans, to_unschedule
    from qr_refresh.orphaned_jobs() as o;
    return query select
        'every job has its role',
        orphans is null,
        coalesce(
            'pg_cron''s scheduler ends again and again, and begins no job, because of jobs whose role is not there: ' || orphans,
            'yes'
        ),
        to_unschedule;
    return query select
        'way of pg_cron to connect',
        nullif(not is_client or coalesce(has_worked, false), false),
        case
            when is_client then 'libpq to cron.host, ' || coalesce(settings ->> 'cron.host', '')
            else 'background workers'
        end,
        other_way;

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
    execute $query$
        select exists (
            select from cron.job_run_details as d
            inner join qr_refresh.cron_jobs() as j on d.jobid = j.jobid
            where d.status in ('succeeded', 'failed') and j.calls in ('live', 'refresh_qr_codes')
        )
    $query$ into has_run;
    return query select
        'pg_cron''s last execution',
        case
            -- So pg_cron calls what ran when Postgres stopped, be it for a restart or in a crash.
            when failure is not null then nullif(failure ~ ': server restarted$', true)
            when settings ->> 'cron.log_run' = 'on' and has_run then true
        end,
        coalesce(
            left(failure, 300),
            case
                when settings ->> 'cron.log_run' = 'off'
                    then 'not known: cron.log_run is off, so pg_cron keeps no record'
                when not has_run then 'none is on record'
                else 'did not fail'
            end
        ),
        case
            when failure is null and settings ->> 'cron.log_run' = 'off'
                then 'ALTER SYSTEM SET cron.log_run = on; then restart Postgres'
            when failure is null then 'Wait until it has ended once'
            when failure ~ ': server restarted$'
                then 'Nothing, where Postgres was restarted: the next execution that ends clears it. '
                    'Else the server log says why Postgres stopped'
            when failure ~ 'connection failed|authentication|pg_hba'
                then other_way
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
