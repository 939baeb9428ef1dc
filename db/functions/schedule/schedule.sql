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
    runs_as constant name := qr_refresh.role_of_jobs();
    most_jobs constant integer := (
        select j.setting from pg_settings as j where j.name = 'cron.max_running_jobs'
    );
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
        if qr_refresh.jobs_wait_for_each_other() then
            raise exception using
                errcode = 'QR004',
                message = 'this pg_cron starts no job while another one is at work',
                detail = 'Before version 1.5, and with cron.use_background_workers = on, live mode would stop '
                    'the jobs of others, and a long one of theirs would stop live mode.',
                hint = qr_refresh.way_without_background_workers() || 'SELECT qr_refresh.schedule(''live'');';
        end if;
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
                    'SELECT cron.schedule_in_database(%L, %L, %L, %L, %L);',
                    -- pg_cron takes a second job of a name for a change of the first.
                    n.name || '@' || current_database(), n.at, n.command, current_database(), runs_as
                ),
                ' '
            )
            -- Workers of a former schedule would go on beside these.
            || format(
                ' SELECT cron.unschedule(jobid) FROM cron.job WHERE database = %L'
                ' AND jobname ~ %L AND (jobname <> ALL (%L) OR username <> %L);',
                current_database(),
                '^' || job_name || '(-slow|-[0-9]+)?@',
                array_agg(n.name || '@' || current_database()),
                runs_as
            )
        from unnest(names, schedules, commands) as n (name, at, command)
        -- It works only where pg_cron lives; what it does elsewhere is to say what to run there.
        where n.name <> job_name || '-prune'
    ));

    -- One that waits for another to end would not run at all: those of live mode last a minute.
    if is_live and workers > most_jobs then
        raise exception using
            errcode = 'QR004',
            message = 'pg_cron runs too few jobs at a time for so many workers',
            detail = format(
                'cron.max_running_jobs is %s; live mode needs one for each worker.', most_jobs
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
    if runs_as <> current_user then
        -- For prune_history(). The others are PUBLIC's, unless somebody has taken them back.
        execute format('grant usage on schema cron to %I', runs_as);
        if not has_schema_privilege(runs_as, 'public', 'usage') then
            execute format('grant usage on schema public to %I', runs_as);
        end if;
        if not has_database_privilege(runs_as, current_database(), 'connect') then
            execute format('grant connect on database %I to %I', current_database(), runs_as);
        end if;
    end if;
    perform qr_refresh.tell_of_replaced_jobs();

    -- Jobs of a former schedule, and those of that name under another role, would run beside these.
    perform cron.unschedule(j.jobid)
    from cron.job as j
    where
        j.jobname ~ ('^' || job_name || '(-slow|-prune|-[0-9]+)?$')
        and j.database = current_database()
        and not (j.jobname = any(names) and j.username = runs_as);

    for i in 1 .. array_length(names, 1) loop
        begin
            if runs_as = current_user then
                job := cron.schedule(names[i], schedules[i], commands[i]);
                perform cron.alter_job(job, active => true);
            else
                job := cron.schedule_in_database(
                    names[i], schedules[i], commands[i], current_database(), runs_as
                );
                perform cron.alter_job(job, username => runs_as, active => true);
            end if;
        exception when others then
            raise exception using
                errcode = 'QR004',
                message = format('pg_cron refuses the schedule %L', schedule),
                detail = sqlerrm,
                hint = 'live, or five cron fields such as * * * * *; from pg_cron 1.5 on also 1 to 59 '
                    'seconds, such as 30 seconds.';
        end;
        first_job := coalesce(first_job, job);
    end loop;
    perform qr_refresh.tell_of_obstacles();
    return first_job;
end
$$;

comment on function qr_refresh.schedule(text, integer) is
'Creates the pg_cron job refresh-qr-codes, or changes the one there is, also one that called the Edge Function. Can be repeated.
schedule: five cron fields (in cron.timezone, by default GMT); from pg_cron 1.5 on ''N seconds''; or ''live'', which calls qr_refresh.live() each '
'minute. workers: for live mode with thousands of instances, how many jobs share them, 1 to 32: refresh-qr-codes, refresh-qr-codes-2 and so on. '
'refresh-qr-codes-prune calls qr_refresh.prune_history() once a day. Jobs of a former schedule are removed, those of other databases stay.
Returns the number of the job refresh-qr-codes. The jobs run as qr_refresh.role_of_jobs(). '
'A notice says which job of the Edge Function is replaced, and how to go back; a warning, why pg_cron would not begin these.
Errors: QR002 pg_cron is missing or lives in another database (the hint says what to run and where); '
'QR004 workers makes no sense or needs a higher cron.max_running_jobs, pg_cron refuses the schedule, or this pg_cron cannot run live mode.
Private; the caller needs USAGE on schema cron.';
