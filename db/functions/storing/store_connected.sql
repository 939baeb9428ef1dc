-- qr_refresh.store_connected(): marks instances as connected that Evolution API says are connected.
create or replace function qr_refresh.store_connected(
    instance_names text[], instance_tokens text[], connected_status text
)
returns table (outcome text, error_code text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
-- The table may have columns of any name.
#variable_conflict use_variable
declare
    written_at constant timestamptz := clock_timestamp();
    outcomes text [];
    written bigint;
begin
    for i in 1 .. cardinality(instance_names) loop
        outcome := 'connected';
        error_code := null;
        begin
            -- Not to wait while other rows are held: that could be a deadlock with the application.
            perform
            from public.evolution_instances as e
            where
                e.instance_name::text = instance_names[i]
                and e.instance_token::text = instance_tokens[i]
                and e.instance_status = 'connecting'
            for no key update nowait;
            if not found then
                outcome := 'changed';
            else
                -- As a literal, which fits an enum as well.
                execute format(
                    'update public.evolution_instances as e'
                    ' set instance_status = %L, qr_code = null, last_qr_update = $1'
                    ' where e.instance_name::text = $2 and e.instance_token::text = $3'
                    ' and e.instance_status = ''connecting''',
                    connected_status
                ) using written_at, instance_names[i], instance_tokens[i];
                get diagnostics written = row_count;
                if written = 0 then
                    -- A trigger has returned NULL.
                    outcome := 'update_failed';
                    error_code := '09000';
                end if;
            end if;
        exception when others or assert_failure then
            outcome := 'update_failed';
            error_code := sqlstate;
        end;
        outcomes[i] := outcome;
        return next;
    end loop;
    perform qr_refresh.notify_stored(instance_names, outcomes, written_at);
end
$$;

comment on function qr_refresh.store_connected(text[], text[], text) is
'Writes instance_status and clears the used QR code of instances that are connected; for settings.connected_status.
instance_names, instance_tokens: arrays of one length. connected_status: the value for instance_status.
Returns one row for each element, in order: outcome (connected; changed: the row is no longer connecting, has another token or is gone; '
'update_failed), error_code (SQLSTATE for outcome update_failed; 09000: a trigger has kept it as it was). Does not wait for locked rows. '
'Tells qr_refresh.notify_stored() of them.
Raises nothing of its own. Private.';
