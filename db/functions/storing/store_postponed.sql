-- qr_refresh.store_postponed(): what store_qr_codes() has left, row by row.
create or replace function qr_refresh.store_postponed(
    attempts qr_refresh.attempt[], stored_at timestamptz, patience double precision
)
returns qr_refresh.attempt[]
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
-- Because of this line, what is set below holds for this function alone.
set default_toast_compression = 'pglz'
as $$
-- The table may have columns of any name.
#variable_conflict use_variable
declare
    gives_up_at constant timestamptz := clock_timestamp() + make_interval(secs => patience);
    attempt qr_refresh.attempt;
    is_free boolean;
    is_written boolean;
    is_there boolean;
    has_more boolean;
begin
    begin
        perform set_config('default_toast_compression', 'lz4', true);
    exception when invalid_parameter_value then
        null; -- PostgreSQL was built without it
    end;

    loop
        has_more := false;
        for i in 1 .. coalesce(cardinality(attempts), 0) loop
            attempt := attempts[i];
            continue when attempt.outcome is distinct from 'postponed';
            -- A trigger may wait for something, or the whole table may be locked: many short waits
            -- must not add up to a long one.
            if clock_timestamp() > gives_up_at then
                perform set_config('lock_timeout', '1ms', true);
            end if;
            -- One that a trigger or a CHECK refuses costs only itself.
            begin
                -- Not to wait for a row while other rows are held: that could be a deadlock.
                with free as (
                    select e.instance_name, e.instance_token, e.evolution_server
                    from public.evolution_instances as e
                    where
                        e.instance_name::text = attempt.instance_name
                        and e.instance_token::text = attempt.instance_token
                        and e.evolution_server::text is not distinct from attempt.evolution_server
                        and e.instance_status = 'connecting'
                    for no key update skip locked
                ), written as (
                    update public.evolution_instances as e
                    set qr_code = attempt.qr_code, last_qr_update = stored_at
                    from free as f
                    where
                        f.instance_name = e.instance_name
                        and f.instance_token = e.instance_token
                        and f.evolution_server is not distinct from e.evolution_server
                        and e.instance_status = 'connecting'
                    returning e.instance_name
                )
                select
                    exists (select from free),
                    exists (select from written),
                    exists (
                        select
                        from public.evolution_instances as e
                        where
                            e.instance_name::text = attempt.instance_name
                            and e.instance_token::text = attempt.instance_token
                            and e.evolution_server::text
                            is not distinct from attempt.evolution_server
                            and e.instance_status = 'connecting'
                    )
                into is_free, is_written, is_there;
                perform qr_refresh.run_deferred_triggers();
                if is_written then
                    attempts[i] := qr_refresh.came_to(attempt, 'stored');
                elsif is_free then
                    -- A trigger has returned NULL.
                    attempts[i] := qr_refresh.came_to(attempt, 'update_failed', 'SQLSTATE 09000');
                elsif not is_there then
                    attempts[i] := qr_refresh.came_to(attempt, 'changed');
                elsif clock_timestamp() > gives_up_at then
                    -- Somebody else has locked it.
                    attempts[i] := qr_refresh.came_to(attempt, 'update_failed', 'SQLSTATE 55P03');
                else
                    has_more := true;
                end if;
            exception when others or assert_failure then
                attempts[i] := qr_refresh.came_to(
                    attempt, 'update_failed', 'SQLSTATE ' || sqlstate
                );
            end;
        end loop;
        exit when not has_more;
        perform pg_sleep(0.01);
    end loop;
    return attempts;
end
$$;

comment on function qr_refresh.store_postponed(qr_refresh.attempt[], timestamptz, double precision) is
'Writes what qr_refresh.store_qr_codes() has postponed, row by row, so that one that is refused costs only itself.
attempts: those with the outcome postponed are written. stored_at: the value for last_qr_update. patience: for how many seconds locked rows are tried '
'again, and what triggers wait for is waited for up to 0.1 s; afterwards each is tried once.
Returns all attempts; the outcome of these is stored; changed: the row is no longer connecting, has another server or token or is gone; '
'update_failed (error: the SQLSTATE; 55P03: the row stayed locked; 09000: a trigger has kept it as it was).
Raises nothing of its own. Private.';
