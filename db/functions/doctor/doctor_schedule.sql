-- qr_refresh.doctor_schedule(): the part of qr_refresh.doctor() about pg_cron and the runs.
create or replace function qr_refresh.doctor_schedule()
returns table ("check" text, ok boolean, detail text, fix text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    cron_database constant text := (
        select s.setting from pg_settings as s where s.name = 'cron.database_name'
    );
    cron_version constant text := (
        select e.extversion from pg_extension as e where e.extname = 'pg_cron'
    );
    major constant text := current_setting('server_version_num')::integer / 10000;
    settings constant qr_refresh.settings := (select s from qr_refresh.settings as s);
    last_run qr_refresh.runs;
    is_late boolean;
    late_workers text;
    skipped text;
    holder text;
begin
    select r.* into last_run from qr_refresh.runs as r
    where r.requested_instance is null
    order by r.id desc limit 1;
    is_late := coalesce(last_run.finished_at < clock_timestamp() - settings.alert_after, true);

    return query select
        'pg_cron is loaded',
        case when cron_database is not null then true when is_late then false end,
        coalesce('yes, for database ' || cron_database, 'no'),
        format(
            'On the server: apt install postgresql-%s-cron. In postgresql.conf: '
            'shared_preload_libraries = ''pg_cron'', cron.database_name = %L. Restart Postgres. '
            'Then: CREATE EXTENSION pg_cron; SELECT qr_refresh.schedule(''live'');',
            major, current_database()
        );
    if cron_database <> current_database() then
        return query select
            'pg_cron sees this database',
            null::boolean,
            format('pg_cron lives in database %s: its jobs cannot be seen from here', cron_database),
            format(
                'There: SELECT jobname, schedule, active FROM cron.job WHERE database = %L; '
                'and qr_refresh.schedule() tells what to run there',
                current_database()
            );
    elsif cron_database is not null then
        return query select
            'extension pg_cron',
            cron_version is not null,
            coalesce(cron_version, 'is not created in this database'),
            'CREATE EXTENSION pg_cron; SELECT qr_refresh.schedule(''live'');';
    end if;
    if cron_version is not null then
        return query select d.* from qr_refresh.doctor_cron_jobs() as d;
    end if;
    if cron_database is not null then
        return query
        select
            c.obstacle,
            o.obstacle is null,
            coalesce(o.detail, 'yes'),
            o.fix
        from (
            values
            ('pg_cron''s scheduler runs'),
            ('pg_cron begins active jobs'),
            ('pg_cron begins jobs of superusers'),
            ('jobs do not wait for each other')
        ) as c (obstacle)
        left join qr_refresh.pg_cron_obstacles() as o on c.obstacle = o.obstacle;
    end if;

    select string_agg(format('worker %s of %s', l.worker, l.workers), ', ') into late_workers
    from qr_refresh.late_workers() as l;
    return query select
        'a run within the last ' || settings.alert_after,
        not is_late and late_workers is null,
        coalesce('last run ended ' || date_trunc('second', last_run.finished_at), 'there has been none')
        || coalesce('; none of live mode: ' || late_workers, ''),
        case
            when late_workers is not null
                then 'Its job of pg_cron is not there, fails, or is never begun: SELECT qr_refresh.schedule(''live'', '
                    'workers => ...); makes it anew. cron.max_running_jobs and max_worker_processes must have room '
                    'for one job a worker, and the jobs of others'
            else 'The job of pg_cron is not there or fails: see its own checks. By hand: SELECT refresh_qr_codes();'
        end;
    select
        string_agg(
            format('worker %s of %s: %s of the last 15', s.worker, s.workers, s.minutes), ', '
        )
    into skipped
    from qr_refresh.skipped_minutes() as s;
    return query select
        'live mode skips no minute',
        skipped is null,
        coalesce(skipped, 'yes'),
        'Nothing, where Postgres or live mode was stopped: 15 minutes after that it is right again. Else pg_cron begins jobs '
        'too late: see its own checks; cron.max_running_jobs and max_worker_processes must have room for the jobs of others as well';
    if last_run.id is not null then
        return query select
            'last run',
            last_run.report ->> 'success' = 'true',
            coalesce(
                last_run.report ->> 'error',
                case
                    when last_run.report ->> 'success' = 'false' then 'no tick of live mode could be done'
                end,
                format('%s of %s attempts succeeded', last_run.refreshed, last_run.refreshed + last_run.failed)
            ),
            case
                when last_run.report ? 'error'
                    then 'docs/operations.md has the cause and the fix of this error'
                else 'The server log has the SQLSTATE: lines with [refresh-qr-codes]. By hand: SELECT refresh_qr_codes();'
            end;
    end if;

    select
        string_agg(format('process %s since %s', a.pid, date_trunc('second', a.xact_start)), ', ')
    into holder
    from (
        select hashtextextended('qr_refresh', 0) as key, interval '0' as idle
        union all
        -- A tick of live mode waits for a second before it asks.
        select hashtextextended(format('qr_refresh.live:%s', worker), 0), interval '2 seconds'
        from generate_series(1, 32) as worker
    ) as k
    inner join pg_locks as l on (l.classid::bigint << 32) | l.objid::bigint = k.key
    inner join pg_stat_activity as a on l.pid = a.pid
    where
        l.locktype = 'advisory' and l.objsubid = 1 and l.granted
        and l.database = (select d.oid from pg_database as d where d.datname = current_database())
        and a.xact_start < clock_timestamp() - 2 * settings.run_timeout - k.idle;
    return query select
        'no run hangs',
        holder is null,
        coalesce('the lock of a run is held by ' || holder, 'yes'),
        'SELECT pg_terminate_backend(...); for that process: other runs give way to it';
end
$$;

comment on function qr_refresh.doctor_schedule() is
'Part of qr_refresh.doctor(), which describes the columns: pg_cron, and the runs on record.
Raises nothing of its own. Private.';
