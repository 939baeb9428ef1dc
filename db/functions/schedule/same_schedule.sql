-- qr_refresh.same_schedule(): the call that makes the present jobs anew.
create or replace function qr_refresh.same_schedule()
returns text
language plpgsql stable parallel restricted security invoker
set search_path = pg_catalog, pg_temp
-- Compiling our queries takes longer than running them.
set jit = off
as $$
begin
    return (
        select case
            when count(*) filter (where j.calls = 'live') > 1
                then format(
                    'SELECT qr_refresh.schedule(''live'', workers => %s);',
                    count(*) filter (where j.calls = 'live')
                )
            when bool_or(j.calls = 'live') or count(*) = 0 then 'SELECT qr_refresh.schedule(''live'');'
            else format('SELECT qr_refresh.schedule(%L);', min(j.schedule))
        end
        from qr_refresh.cron_jobs() as j
        where j.calls in ('live', 'refresh_qr_codes')
    );
end
$$;

comment on function qr_refresh.same_schedule() is
'The call of qr_refresh.schedule() that makes the present jobs of pg_cron anew; live mode, where there are none.
Returns the statement.
Raises nothing of its own.
Privileges: EXECUTE for pg_monitor and service_role, whose views call it.';
