-- qr_refresh.store_connected(): marks instances as connected that Evolution API says are connected.
create or replace function qr_refresh.store_connected(
    attempts qr_refresh.attempt[], stored_at timestamptz, connected_status text
)
returns qr_refresh.attempt[]
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
-- The table may have columns of any name.
#variable_conflict use_variable
declare
    attempt qr_refresh.attempt;
    written bigint;
begin
    for i in 1 .. coalesce(cardinality(attempts), 0) loop
        attempt := attempts[i];
        continue when attempt.outcome is distinct from 'connected';
        begin
            -- Not to wait while other rows are held: that could be a deadlock with the application.
            perform
            from public.evolution_instances as e
            where
                e.instance_name::text = attempt.instance_name
                and e.instance_token::text = attempt.instance_token
                and e.evolution_server::text is not distinct from attempt.evolution_server
                and e.instance_status = 'connecting'
            for no key update nowait;
            if not found then
                attempts[i] := qr_refresh.came_to(attempt, 'changed');
            else
                -- As a literal, which fits an enum as well.
                execute format(
                    'update public.evolution_instances as e'
                    ' set instance_status = %L, qr_code = null, last_qr_update = $1'
                    ' where e.instance_name::text = $2 and e.instance_token::text = $3'
                    ' and e.evolution_server::text is not distinct from $4'
                    ' and e.instance_status = ''connecting''',
                    connected_status
                ) using
                    stored_at,
                    attempt.instance_name,
                    attempt.instance_token,
                    attempt.evolution_server;
                get diagnostics written = row_count;
                perform qr_refresh.run_deferred_triggers();
                if written = 0 then
                    -- A trigger has returned NULL.
                    attempts[i] := qr_refresh.came_to(attempt, 'update_failed', 'SQLSTATE 09000');
                end if;
            end if;
        exception when others or assert_failure then
            attempts[i] := qr_refresh.came_to(attempt, 'update_failed', 'SQLSTATE ' || sqlstate);
        end;
    end loop;
    return attempts;
end
$$;

comment on function qr_refresh.store_connected(qr_refresh.attempt[], timestamptz, text) is
'Writes instance_status and clears the used QR code of instances that are connected; for settings.connected_status.
attempts: those with the outcome connected are written. stored_at: the value for last_qr_update. connected_status: the value for instance_status.
Returns all attempts; the outcome of these is connected; changed: the row is no longer connecting, has another server or token or is gone; '
'update_failed (error: the SQLSTATE; 09000: a trigger has kept it as it was). Does not wait for locked rows.
Raises nothing of its own. Private.';
