-- qr_refresh.doctor_server(): the part of qr_refresh.doctor() about the PostgreSQL server.
create or replace function qr_refresh.doctor_server()
returns table ("check" text, ok boolean, detail text, fix text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    major constant text := current_setting('server_version_num')::integer / 10000;
    python_version constant text := (
        select e.extversion from pg_extension as e where e.extname = 'plpython3u'
    );
    encoding constant text := current_setting('server_encoding');
    is_standby constant boolean := pg_is_in_recovery();
    future_rows bigint;
    job_role text := session_user;
    needed interval := (select s.run_timeout from qr_refresh.settings as s);
    limits text;
begin
    return query select
        'PL/Python',
        python_version is not null,
        coalesce('plpython3u ' || python_version, 'extension plpython3u is not created'),
        format('On the server: apt install postgresql-plpython3-%s. Then make migrate', major);

    return query select
        'database is writable',
        not is_standby,
        case when is_standby then 'this server is a standby' else 'yes' end,
        'Connect to the primary: a standby can write no QR code, and qr_refresh.instance_state is not there';

    return query select
        'server encoding',
        nullif(encoding = 'UTF8', false),
        encoding,
        'The job works; show_qr() needs UTF8, and the log lacks its check mark';

    begin
        select count(*) into future_rows
        from (
            select s.attempted_at as happened_at from qr_refresh.instance_state as s
            union all
            select r.finished_at from qr_refresh.runs as r
        ) as known
        where known.happened_at > clock_timestamp() + interval '5 seconds';
        return query select
            'instance_state is readable', true, 'yes', null;
        return query select
            'clock',
            future_rows = 0,
            format(
                '%s UTC; rows of the job from the future: %s',
                date_trunc('second', now() at time zone 'UTC'), future_rows
            ),
            'The clock of the server went back: set it by NTP. Then, once: '
            'DELETE FROM qr_refresh.instance_state WHERE attempted_at > now(); '
            'DELETE FROM qr_refresh.runs WHERE finished_at > now();';
    exception when feature_not_supported or undefined_table then
        return query select
            'instance_state is readable',
            false,
            sqlerrm,
            'On a standby it is not there, because it is unlogged; else make migrate';
    end;

    -- Where pg_cron is not seen, take who asks for whom the job runs as. Live mode lasts a minute.
    select
        coalesce(max(j.username), job_role),
        greatest(needed, max(interval '1 minute') filter (where j.calls = 'live'))
    into job_role, needed
    from qr_refresh.cron_jobs() as j
    where j.calls in ('live', 'refresh_qr_codes');
    -- The most specific setting wins; without one, that of the configuration file.
    select string_agg(format('%s = %s', t.name, coalesce(own.value, t.reset_val || 'ms')), ', ')
    into limits
    from pg_settings as t
    left join lateral (
        select split_part(c.setting, '=', 2) as value
        from pg_db_role_setting as d, unnest(d.setconfig) as c (setting)
        where
            split_part(c.setting, '=', 1) = t.name
            and d.setrole in (0, to_regrole(quote_ident(job_role)))
            and d.setdatabase in (
                0, (select b.oid from pg_database as b where b.datname = current_database())
            )
        order by d.setrole <> 0 desc, d.setdatabase <> 0 desc
        limit 1
    ) as own on true
    where
        t.name in ('statement_timeout', 'transaction_timeout')
        and case
            when coalesce(own.value, t.reset_val) ~ '^\d+$' then coalesce(own.value, t.reset_val) || 'ms'
            else own.value
        end::interval between interval '1 microsecond' and needed;
    return query select
        'timeouts of the job''s role',
        limits is null,
        format('%s: %s', job_role, coalesce(limits, 'a run has its time')),
        format(
            'A run may take %s. ALTER ROLE %I SET statement_timeout = 0; '
            '(or transaction_timeout, or a lower settings.run_timeout)',
            needed, job_role
        );
end
$$;

comment on function qr_refresh.doctor_server() is
'Part of qr_refresh.doctor(), which describes the columns: the PostgreSQL server.
Raises nothing of its own. Private.';
