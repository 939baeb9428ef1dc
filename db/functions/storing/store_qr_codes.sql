-- qr_refresh.store_qr_codes(): writes to the application's table, all at once, waiting for nobody.
create or replace function qr_refresh.store_qr_codes(
    instance_names text[],
    instance_tokens text[],
    qr_codes text[],
    stored_at timestamptz,
    only_changed boolean
)
returns table (outcome text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
-- What a trigger or a lock of the whole table makes wait is for store_postponed_qr_codes().
set lock_timeout = '10ms'
-- Because of this line, what is set below holds for this function alone.
set default_toast_compression = 'pglz'
as $$
-- The table may have columns of any name.
#variable_conflict use_variable
declare
    outcomes text [];
begin
    -- Compressing a picture with pglz costs more than all the rest of storing it.
    begin
        perform set_config('default_toast_compression', 'lz4', true);
    exception when invalid_parameter_value then
        null; -- PostgreSQL was built without it
    end;

    with fetched as (
        -- Without the pictures, which would be sorted along.
        select f.*
        from unnest(instance_names, instance_tokens)
            with ordinality as f (instance_name, instance_token, position)
    ), found as materialized (
        -- Read without a lock: a row that holds the QR code already is not touched at all.
        select
            f.*,
            -- Where names are not unique, more rows than one.
            bool_and(only_changed and coalesce(e.qr_code = qr_codes[f.position::integer], false))
                as is_unchanged
        from fetched as f
        inner join public.evolution_instances as e
            on
                f.instance_name = e.instance_name::text
                and f.instance_token = e.instance_token::text
        where e.instance_status = 'connecting'
        group by f.position, f.instance_name, f.instance_token
    ), free as (
        select f.position, e.instance_name, e.instance_token
        from found as f
        inner join public.evolution_instances as e
            on
                f.instance_name = e.instance_name::text
                and f.instance_token = e.instance_token::text
        where e.instance_status = 'connecting' and not f.is_unchanged
        -- Not FOR UPDATE: rows of other tables may refer to these meanwhile. And who waits for a row
        -- while holding others can be in a deadlock with the application, in whatever order that
        -- takes them.
        for no key update of e skip locked
    ), written as (
        update public.evolution_instances as e
        set qr_code = qr_codes[f.position::integer], last_qr_update = stored_at
        from free as f
        where
            f.instance_name = e.instance_name
            and f.instance_token = e.instance_token
            and e.instance_status = 'connecting'
        returning f.position
    )
    select array_agg(
        case
            when f.position in (select w.position from written as w) then 'stored'
            when o.position is null then 'changed'
            when o.is_unchanged then 'unchanged'
            else 'postponed'
        end
        order by f.position
    ) into outcomes
    from fetched as f
    left join found as o on f.position = o.position;

    perform qr_refresh.notify_stored(instance_names, outcomes, stored_at);
    return query select unnest(outcomes);
exception when others or assert_failure then
    return query select 'postponed' from unnest(instance_names);
end
$$;

comment on function qr_refresh.store_qr_codes(text[], text[], text[], timestamptz, boolean) is
'Writes qr_code and last_qr_update of rows that are still connecting and still have the token that was read before; tells '
'qr_refresh.notify_stored() of them.
instance_names, instance_tokens, qr_codes: arrays of one length. stored_at: the value for last_qr_update. only_changed: true leaves rows '
'alone that hold the QR code already.
Returns one row for each element, in order: outcome (stored; unchanged: left alone; changed: the row is no longer connecting, has another token or '
'is gone; postponed: for qr_refresh.store_postponed_qr_codes(), because the row is locked, or all of them because one is refused).
Raises nothing of its own. Private.';
