-- qr_refresh.active_alerts(): what somebody should look at now.
create or replace function qr_refresh.active_alerts()
returns table (alert text, instance_name text, since timestamptz, detail text)
language plpgsql stable parallel unsafe security definer
rows 10
set search_path = pg_catalog, pg_temp
-- Compiling our queries takes longer than running them.
set jit = off
-- A caller could otherwise have the plans of our queries shown, and what is in them.
set debug_print_parse = off
set debug_print_rewritten = off
set debug_print_plan = off
as $$
#variable_conflict use_column
declare
    alert_after constant interval := (select s.alert_after from qr_refresh.settings as s);
    late_since constant timestamptz := clock_timestamp() - alert_after;
    sees_jobs constant boolean := exists (select from pg_extension where extname = 'pg_cron')
        and coalesce(has_schema_privilege(to_regnamespace('cron'), 'usage'), false);
    last_run qr_refresh.runs;
    said text;
    is_readable boolean := true;
begin
    select r.* into last_run
    from qr_refresh.runs as r
    where r.requested_instance is null
    order by r.id desc
    limit 1;

    begin
        return query
        -- Once: it reads each QR code, which may come from another server.
        with c as materialized (
            select * from qr_refresh.connecting_instances()
        )
        (
            select
                'no_live_qr',
                c.instance_name,
                c.no_live_qr_since,
                'no live QR code; last outcome: ' || c.last_outcome || coalesce(', ' || c.last_error, '')
            from c
            where c.no_live_qr_since < late_since
            order by c.no_live_qr_since, c.instance_name
        )
        union all
        select
            'server_unreachable',
            null::text,
            -- When somebody there last got an answer.
            (
                select max(s.answered_at)
                from qr_refresh.instance_state as s
                left join qr_refresh.evolution_servers as v on c.evolution_server = v.server_name
                where s.evolution_server = coalesce(v.server_name, '')
            ),
            format(
                'none of %s instances got an answer%s: %s',
                count(*),
                ' of Evolution server ' || quote_ident(c.evolution_server),
                string_agg(distinct coalesce(c.last_error, 'timeout'), ', ')
            )
        from c
        where
            c.last_attempt_at > late_since
            -- Or is being waited for: after failures that can be for longer.
            or c.next_attempt_at > clock_timestamp()
        group by c.evolution_server
        having bool_and(c.last_outcome = 'timeout' or qr_refresh.is_no_answer(c.last_error))
        union all
        select
            'no_qr_code_from_server',
            null::text,
            min(c.no_live_qr_since),
            format(
                'none of %s instances gets a QR code%s, although it answers; see "No QR code at all" in docs/operations.md',
                count(*),
                ' of Evolution server ' || quote_ident(c.evolution_server)
            )
        from c
        where c.last_outcome is not null
        group by c.evolution_server
        having
            bool_and(c.last_outcome in ('no_qr_code', 'closed', 'given_up'))
            -- One that was connecting for as long, and not just closed all the time.
            and bool_or(c.last_outcome = 'no_qr_code' and c.no_live_qr_since < late_since);
    exception when others then
        -- On a standby nothing is told.
        if sqlstate = '0A000' then
            raise;
        end if;
        is_readable := false;
        get stacked diagnostics said = pg_exception_detail;
        return query
        select
            'run_failed', null::text, last_run.finished_at,
            -- What other errors say may name a host.
            format(
                'evolution_instances cannot be read%s',
                case when sqlstate = 'QR018' then ': ' || said else format(' (SQLSTATE %s)', sqlstate) end
            );
    end;

    if sees_jobs then
        return query
        select
            'job_missing', null::text, last_run.finished_at,
            'pg_cron has no job that runs refresh_qr_codes()'
        where not exists (
            select from qr_refresh.cron_jobs() as j where j.calls in ('live', 'refresh_qr_codes')
        );

        return query
        select
            'job_inactive', null::text, j.last_start_at,
            format('pg_cron job %s (%s) is not active', j.jobid, j.jobname)
        from qr_refresh.cron_jobs() as j
        where j.calls in ('live', 'refresh_qr_codes') and not j.is_active;

        return query
        select
            'job_blocked', null::text, null::timestamptz,
            format(
                'pg_cron job %s (%s) has role %s, which is not there: the scheduler ends on it again and '
                'again, and starts no job',
                o.jobid, o.jobname, o.username
            )
        from qr_refresh.orphaned_jobs() as o;
    end if;

    return query
    select
        'job_late', null::text, l.last_finished_at,
        format(
            'no run of worker %s of %s of live mode for over %s', l.worker, l.workers, alert_after
        )
    from qr_refresh.late_workers() as l;

    return query
    select
        'job_late', null::text, s.last_began_at,
        format(
            'worker %s of %s of live mode skipped %s of the last 15 minutes',
            s.worker, s.workers, s.minutes
        )
    from qr_refresh.skipped_minutes() as s;

    if last_run.finished_at is null then
        return query select 'job_late', null::text, null::timestamptz, 'never ran: no run is on record';
    elsif last_run.finished_at < late_since then
        return query
        select 'job_late', null::text, last_run.finished_at, format('no run for over %s', alert_after);
    elsif last_run.report ->> 'success' = 'false' and is_readable then
        return query
        select
            'run_failed', null::text, last_run.finished_at,
            coalesce(
                last_run.report ->> 'error',
                'no tick of live mode could be done; the server log has the SQLSTATE'
            );
    end if;
end
$$;

comment on function qr_refresh.active_alerts() is
'The rows of the view qr_refresh.alerts, whose columns are described there. No token and no QR code.
Errors: on a standby 0A000, because qr_refresh.instance_state is not there.
Privileges: EXECUTE for pg_monitor and service_role. Runs with the privileges of qr_refresh_owner.';
