-- qr_refresh.schedule(): the pg_cron jobs that run refresh_qr_codes() or live mode.
create or replace function qr_refresh.schedule(
    schedule text default '* * * * *', workers integer default 1
)
returns bigint
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    job_name constant text := 'refresh-qr-codes';
    is_live constant boolean := schedule = 'live';
    -- Once a day pg_cron's own history of these jobs is cut; pg_cron never does it.
    names text [] := array[job_name, job_name || '-prune'];
    schedules text [] := array[schedule, '17 3 * * *'];
    commands text [] := array['SELECT refresh_qr_codes()', 'SELECT qr_refresh.prune_history()'];
    job bigint;
    first_job bigint;
begin
    if workers is null or workers not between 1 and 32 or (workers > 1 and not is_live) then
        raise exception using
            errcode = 'QR004',
            message = 'this number of workers makes no sense',
            detail = 'Only live mode has several workers, 1 to 32.',
            hint = 'SELECT qr_refresh.schedule(''live'', workers => 4);';
    end if;
    if is_live then
        schedules[1] := '* * * * *';
        commands[1] := format('CALL qr_refresh.live(1, %s)', workers);
        for n in 2 .. workers loop
            names := names || format('%s-%s', job_name, n);
            schedules := schedules || schedules[1];
            commands := commands || format('CALL qr_refresh.live(%s, %s)', n, workers);
        end loop;
    end if;
    perform qr_refresh.check_pg_cron((
        select
            string_agg(
                format(
                    'SELECT cron.schedule_in_database(%L, %L, %L, %L);',
                    -- pg_cron takes a second job of a name for a change of the first.
                    n.name || '@' || current_database(), n.at, n.command, current_database()
                ),
                ' '
            )
            -- Workers of a former schedule would go on beside these.
            || format(
                ' SELECT cron.unschedule(jobid) FROM cron.job WHERE database = %L'
                ' AND jobname ~ %L AND jobname <> ALL (%L);',
                current_database(),
                '^' || job_name || '(-slow|-[0-9]+)?@',
                array_agg(n.name || '@' || current_database())
            )
        from unnest(names, schedules, commands) as n (name, at, command)
        -- It works only where pg_cron lives; what it does elsewhere is to say what to run there.
        where n.name <> job_name || '-prune'
    ));

    -- One that waits for another to end would not run at all: those of live mode last a minute.
    if is_live and workers > current_setting('cron.max_running_jobs')::integer then
        raise exception using
            errcode = 'QR004',
            message = 'pg_cron runs too few jobs at a time for so many workers',
            detail = format(
                'cron.max_running_jobs is %s; live mode needs one for each worker.',
                current_setting('cron.max_running_jobs')
            ),
            hint = format(
                'In postgresql.conf: cron.max_running_jobs = %s, and a larger max_worker_processes. '
                'Restart Postgres.',
                workers
            );
    end if;

    -- The views read the jobs as qr_refresh_owner. On a platform only its own role may grant this.
    begin
        grant usage on schema cron to qr_refresh_owner;
    exception when insufficient_privilege then
        null;
    end;

    -- Jobs of a former schedule, and those of that name under another role, would run beside these.
    perform cron.unschedule(j.jobid)
    from cron.job as j
    where
        j.jobname ~ ('^' || job_name || '(-slow|-prune|-[0-9]+)?$')
        and j.database = current_database()
        and not (j.jobname = any(names) and j.username = current_user);

    for i in 1 .. array_length(names, 1) loop
        begin
            job := cron.schedule(names[i], schedules[i], commands[i]);
        exception when others then
            raise exception using
                errcode = 'QR004',
                message = format('pg_cron refuses the schedule %L', schedule),
                detail = sqlerrm,
                hint = 'live, or five cron fields such as * * * * *; from pg_cron 1.5 on also 1 to 59 '
                    'seconds, such as 30 seconds.';
        end;
        perform cron.alter_job(job, active => true);
        first_job := coalesce(first_job, job);
    end loop;
    return first_job;
end
$$;

comment on function qr_refresh.schedule(text, integer) is
'Creates the pg_cron job refresh-qr-codes, or changes the one there is, also one that called the Edge Function. Can be repeated.
schedule: five cron fields (in cron.timezone, by default GMT); from pg_cron 1.5 on ''N seconds''; or ''live'', which calls qr_refresh.live() each '
'minute. workers: for live mode with thousands of instances, how many jobs share them, 1 to 32: refresh-qr-codes, refresh-qr-codes-2 and so on. '
'refresh-qr-codes-prune calls qr_refresh.prune_history() once a day. Jobs of a former schedule are removed, those of other databases stay.
Returns the number of the job refresh-qr-codes. The jobs run as the calling role.
Errors: QR002 pg_cron is missing or lives in another database (the hint says what to run and where); '
'QR004 workers makes no sense or needs a higher cron.max_running_jobs, or pg_cron refuses the schedule.
Private; the caller needs USAGE on schema cron.';
