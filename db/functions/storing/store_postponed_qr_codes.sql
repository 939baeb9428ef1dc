-- qr_refresh.store_postponed_qr_codes(): what store_qr_codes() has left, row by row.
create or replace function qr_refresh.store_postponed_qr_codes(
    instance_names text[],
    instance_tokens text[],
    qr_codes text[],
    stored_at timestamptz,
    gives_up_at timestamptz
)
returns table (outcome text, error_code text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
-- Because of this line, what is set below holds for this function alone.
set default_toast_compression = 'pglz'
as $$
-- The table may have columns of any name.
#variable_conflict use_variable
declare
    outcomes text [] := array_fill(null::text, array[cardinality(instance_names)]);
    error_codes text [] := outcomes;
    is_free boolean;
    is_written boolean;
begin
    begin
        perform set_config('default_toast_compression', 'lz4', true);
    exception when invalid_parameter_value then
        null; -- PostgreSQL was built without it
    end;

    loop
        for i in 1 .. cardinality(instance_names) loop
            continue when outcomes[i] is not null;
            -- A trigger may wait for something, or the whole table may be locked: many short waits
            -- must not add up to a long one.
            if clock_timestamp() > gives_up_at then
                perform set_config('lock_timeout', '1ms', true);
            end if;
            -- One that a trigger or a CHECK refuses costs only itself.
            begin
                -- Not to wait for a row while other rows are held: that could be a deadlock.
                with free as (
                    select
                        e.instance_name,
                        e.instance_token
                    from public.evolution_instances as e
                    where
                        e.instance_name::text = instance_names[i]
                        and e.instance_token::text = instance_tokens[i]
                        and e.instance_status = 'connecting'
                    for no key update skip locked
                ), written as (
                    update public.evolution_instances as e
                    set qr_code = qr_codes[i], last_qr_update = stored_at
                    from free as f
                    where
                        f.instance_name = e.instance_name
                        and f.instance_token = e.instance_token
                        and e.instance_status = 'connecting'
                    returning e.instance_name
                )
                select exists (select from free), exists (select from written)
                into is_free, is_written;
                if is_written then
                    outcomes[i] := 'stored';
                elsif is_free then
                    -- A trigger has returned NULL.
                    outcomes[i] := 'update_failed';
                    error_codes[i] := '09000';
                elsif not exists (
                    select
                    from public.evolution_instances as e
                    where
                        e.instance_name::text = instance_names[i]
                        and e.instance_token::text = instance_tokens[i]
                        and e.instance_status = 'connecting'
                ) then
                    outcomes[i] := 'changed';
                end if; -- else somebody else has locked it
            exception when others or assert_failure then
                outcomes[i] := 'update_failed';
                error_codes[i] := sqlstate;
            end;
        end loop;
        exit when array_position(outcomes, null) is null or clock_timestamp() > gives_up_at;
        perform pg_sleep(0.01);
    end loop;

    perform qr_refresh.notify_stored(instance_names, outcomes, stored_at);
    return query
    select
        coalesce(o.outcome, 'update_failed'),
        case when o.outcome is null then '55P03' else o.error_code end
    from unnest(outcomes, error_codes) as o (outcome, error_code);
end
$$;

comment on function qr_refresh.store_postponed_qr_codes(
    text[], text[], text[], timestamptz, timestamptz
) is
'Writes what qr_refresh.store_qr_codes() has postponed, row by row, so that one that is refused costs only itself; tells '
'qr_refresh.notify_stored() of what is stored.
instance_names, instance_tokens, qr_codes: arrays of one length. stored_at: the value for last_qr_update. gives_up_at: until then '
'locked rows are tried again, and what triggers wait for is waited for up to 0.1 s; afterwards each is tried once.
Returns one row for each element, in order: outcome (stored; changed: the row is no longer connecting, has another token or is gone; '
'update_failed), error_code (SQLSTATE for outcome update_failed; 55P03: the row stayed locked; 09000: a trigger has kept it as it was).
Raises nothing of its own. Private.';
