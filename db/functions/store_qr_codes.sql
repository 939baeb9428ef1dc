-- qr_refresh.store_qr_codes(): writes into the application's table, never waiting long for locks.
create or replace function qr_refresh.store_qr_codes(
    instance_names text[], instance_tokens text[], qr_codes text[], only_changed boolean
)
returns table (outcome text, error_code text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
-- What begin sets for this function alone goes back to this at its end.
set default_toast_compression = 'pglz'
as $$
declare
    written_at constant timestamptz := clock_timestamp();
    notifies constant boolean := (select s.notify from qr_refresh.settings as s);
    unchanged bigint [];
    stored bigint [] := '{}';
    outcomes text [];
begin
    -- Read without a lock: a row that holds the QR code already is not touched at all.
    select coalesce(array_agg(f.position), '{}') into unchanged
    from unnest(instance_names, instance_tokens, qr_codes)
        with ordinality as f (instance_name, instance_token, qr_code, position)
    inner join public.evolution_instances as e
        on
            f.instance_name = e.instance_name::text
            and f.instance_token = e.instance_token::text
            and f.qr_code = e.qr_code
    where only_changed and e.instance_status = 'connecting';

    -- Compressing a picture with pglz costs more than all the rest of storing it.
    begin
        perform set_config('default_toast_compression', 'lz4', true);
    exception when invalid_parameter_value then
        null; -- PostgreSQL was built without it
    end;

    -- All at once. Who waits for a row while holding others can be in a deadlock with the application,
    -- in whatever order that takes them. So rows that somebody else has locked are left out, and
    -- tried again for a moment.
    begin
        loop
            -- Without the pictures, which would be sorted along.
            with fetched as (
                select f.*
                from unnest(instance_names, instance_tokens)
                    with ordinality as f (instance_name, instance_token, position)
                where not exists (
                    select from unnest(stored || unchanged) as s (position)
                    where s.position = f.position
                )
            ), free as (
                select f.position, e.instance_name, e.instance_token
                from fetched as f
                inner join public.evolution_instances as e
                    on
                        f.instance_name = e.instance_name::text
                        and f.instance_token = e.instance_token::text
                where e.instance_status = 'connecting'
                order by e.instance_name
                -- Not FOR UPDATE: rows of other tables may refer to these meanwhile.
                for no key update of e skip locked
            ), written as (
                update public.evolution_instances as e
                set qr_code = qr_codes[f.position::integer], last_qr_update = written_at
                from free as f
                where
                    f.instance_name = e.instance_name
                    and f.instance_token = e.instance_token
                    and e.instance_status = 'connecting'
                returning f.position
            )
            select stored || coalesce(array_agg(w.position), '{}') into stored from written as w;
            exit when
                clock_timestamp() > written_at + interval '100 milliseconds'
                or not exists (
                    select
                    from unnest(instance_names, instance_tokens)
                        with ordinality as f (instance_name, instance_token, position)
                    inner join public.evolution_instances as e
                        on
                            f.instance_name = e.instance_name::text
                            and f.instance_token = e.instance_token::text
                    where
                        e.instance_status = 'connecting'
                        and not exists (
                            select from unnest(stored || unchanged) as s (position)
                            where s.position = f.position
                        )
                );
            perform pg_sleep(0.01);
        end loop;
    exception when others then
        stored := '{}';
    end;
    select array_agg(
        case
            when n.position = any(stored) then 'stored'
            when n.position = any(unchanged) then 'unchanged'
        end
        order by n.position
    ) into outcomes
    from generate_subscripts(instance_names, 1) as n (position);

    -- What is left, row by row: one that a trigger or a CHECK refuses costs only itself.
    for i in 1 .. coalesce(array_length(instance_names, 1), 0) loop
        outcome := outcomes[i];
        error_code := null;
        if outcome is null then
            outcome := 'stored';
            -- A trigger may wait for something, or the whole table may be locked: many short waits
            -- must not add up to a long one.
            if clock_timestamp() > written_at + interval '500 milliseconds' then
                perform set_config('lock_timeout', '1ms', true);
            end if;
            begin
                perform
                from public.evolution_instances as e
                where e.instance_name::text = instance_names[i]
                for no key update nowait;
                update public.evolution_instances as e
                set qr_code = qr_codes[i], last_qr_update = written_at
                where
                    e.instance_name::text = instance_names[i]
                    and e.instance_token::text = instance_tokens[i]
                    and e.instance_status = 'connecting';
                if not found then
                    outcome := 'changed';
                end if;
            exception when others then
                outcome := 'update_failed';
                error_code := sqlstate;
            end;
        end if;
        if notifies and outcome = 'stored' then
            -- Never the picture: 8,000 bytes would abort the transaction. A name that could be asked
            -- for has at most 255 characters.
            perform pg_notify('qr_refresh', json_build_object(
                'instance_name', instance_names[i], 'last_qr_update', written_at
            )::text);
        end if;
        return next;
    end loop;
end
$$;

alter function qr_refresh.store_qr_codes(text[], text[], text[], boolean) owner to qr_refresh_owner;
revoke all on function qr_refresh.store_qr_codes(text[], text[], text[], boolean) from public;

comment on function qr_refresh.store_qr_codes(text[], text[], text[], boolean) is
'Writes qr_code and last_qr_update of rows that are still connecting and still have the token that was read before.
instance_names, instance_tokens, qr_codes: arrays of one length. only_changed: true leaves rows alone that hold the QR code already.
Returns one row for each element, in order: outcome (stored; unchanged: left alone; changed: the row is no longer connecting, has another token or '
'is gone; update_failed), error_code (SQLSTATE for outcome update_failed). Waits at most 0.1 s for locked rows, and 0.7 s for '
'what triggers wait for. '
'With settings.notify each stored QR code is told to channel qr_refresh: {"instance_name", "last_qr_update"}.
Raises nothing of its own. Privileges: EXECUTE for nobody but the owner and superusers.';
