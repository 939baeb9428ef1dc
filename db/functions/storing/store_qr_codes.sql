-- qr_refresh.store_qr_codes(): writes to the application's table, all at once, waiting for nobody.
create or replace function qr_refresh.store_qr_codes(
    attempts qr_refresh.attempt[], stored_at timestamptz, only_changed boolean
)
returns qr_refresh.attempt[]
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
-- What a trigger or a lock of the whole table makes wait is for store_postponed().
set lock_timeout = '10ms'
-- Because of this line, what is set below holds for this function alone.
set default_toast_compression = 'pglz'
as $$
-- The table may have columns of any name.
#variable_conflict use_variable
declare
    stored qr_refresh.attempt [];
begin
    -- Compressing a picture with pglz costs more than all the rest of storing it.
    begin
        perform set_config('default_toast_compression', 'lz4', true);
    exception when invalid_parameter_value then
        null; -- PostgreSQL was built without it
    end;

    with fetched as materialized (
        select a.instance, a.instance_name, a.instance_token, a.evolution_server, a.qr_code
        from unnest(attempts) as a
        where a.outcome = 'qr_code'
    ), found as materialized (
        -- Read without a lock: a row that holds the QR code already is not touched at all.
        select
            f.instance,
            -- Two rows may be the same instance.
            bool_and(only_changed and coalesce(e.qr_code = f.qr_code, false)) as is_unchanged
        from fetched as f
        inner join public.evolution_instances as e
            on
                f.instance_name = e.instance_name::text
                and f.instance_token = e.instance_token::text
                and f.evolution_server is not distinct from e.evolution_server::text
        where e.instance_status = 'connecting'
        group by f.instance
    ), free as (
        select f.instance, e.instance_name, e.instance_token, e.evolution_server
        from found as o
        inner join fetched as f on o.instance = f.instance
        inner join public.evolution_instances as e
            on
                f.instance_name = e.instance_name::text
                and f.instance_token = e.instance_token::text
                and f.evolution_server is not distinct from e.evolution_server::text
        where e.instance_status = 'connecting' and not o.is_unchanged
        -- Not FOR UPDATE: rows of other tables may refer to these meanwhile. And who waits for a row
        -- while holding others can be in a deadlock with the application, in whatever order that
        -- takes them.
        for no key update of e skip locked
    ), written as (
        update public.evolution_instances as e
        set qr_code = f.qr_code, last_qr_update = stored_at
        from free as r
        inner join fetched as f on r.instance = f.instance
        where
            r.instance_name = e.instance_name
            and r.instance_token = e.instance_token
            and r.evolution_server is not distinct from e.evolution_server
            and e.instance_status = 'connecting'
        returning f.instance
    )
    select array_agg(
        case
            when a.outcome is distinct from 'qr_code' then a
            when a.instance in (select w.instance from written as w)
                then qr_refresh.came_to(a, 'stored')
            when o.instance is null then qr_refresh.came_to(a, 'changed')
            when o.is_unchanged then qr_refresh.came_to(a, 'unchanged')
            else qr_refresh.came_to(a, 'postponed')
        end
    ) into stored
    from unnest(attempts) as a
    left join found as o on a.instance = o.instance;
    perform qr_refresh.run_deferred_triggers();
    return coalesce(stored, '{}');
exception when others or assert_failure then
    return array(
        select case when a.outcome = 'qr_code' then qr_refresh.came_to(a, 'postponed') else a end
        from unnest(attempts) as a
    );
end
$$;

comment on function qr_refresh.store_qr_codes(qr_refresh.attempt[], timestamptz, boolean) is
'Writes qr_code and last_qr_update of rows that are still connecting and still have the server and the token with which they were asked.
attempts: those with the outcome qr_code are written. stored_at: the value for last_qr_update. only_changed: true leaves rows alone that hold the QR code already.
Returns all attempts; the outcome of these is stored; unchanged: left alone; changed: the row is no longer connecting, has another server or token or '
'is gone; postponed: for qr_refresh.store_postponed(), because the row is locked, or all of them because one is refused.
Raises nothing of its own. Private.';
