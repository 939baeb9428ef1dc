-- qr_refresh.live_tick(): waits, then does one tick; a transaction of qr_refresh.live().
create or replace function qr_refresh.live_tick(worker integer, workers integer, progress jsonb)
returns jsonb
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
-- Compiling our queries takes longer than running them.
set jit = off
-- A caller could otherwise have the plans of our queries shown, and in them the tokens.
set debug_print_parse = off
set debug_print_rewritten = off
set debug_print_plan = off
as $$
declare
    longest_wait constant double precision := 1;
    shortest_wait constant double precision := 0.01;
    begun_at timestamptz := coalesce((progress ->> 'begun_at')::timestamptz, clock_timestamp());
    ends_at constant timestamptz := qr_refresh.minute_ends_at(begun_at);
    wait double precision := least(longest_wait, (progress ->> 'wait')::double precision);
    looks_at timestamptz := (progress ->> 'looks_at')::timestamptz;
    under_way integer := coalesce((progress ->> 'under_way')::integer, 0);
    ticks integer := coalesce((progress ->> 'ticks')::integer, 0);
    failed_ticks integer := coalesce((progress ->> 'failed_ticks')::integer, 0);
    qr_updated integer := coalesce((progress ->> 'qr_updated')::integer, 0);
    refreshed integer := coalesce((progress ->> 'refreshed')::integer, 0);
    failed integer := coalesce((progress ->> 'failed')::integer, 0);
    next_due_at timestamptz;
    is_mine boolean;
    context text;
    tick record;
begin
    perform qr_refresh.check_writable();
    if worker is null or workers is null or worker not between 1 and workers then
        raise exception using
            errcode = 'QR004',
            message = 'worker is not one of the workers',
            detail = 'Workers have the numbers from 1 to how many there are.',
            hint = 'SELECT qr_refresh.schedule(''live'', workers => 4) schedules all of them.';
    end if;

    -- Of the transaction, so that nothing is left of it however the session ends. It is held while
    -- waiting as well: a second one must not come in between.
    is_mine := pg_try_advisory_xact_lock(hashtextextended(format('qr_refresh.live:%s', worker), 0));
    if not is_mine then
        perform qr_refresh.log(format('Live mode is running already: worker %s', worker), null);
        return null;
    end if;
    if clock_timestamp() >= ends_at then
        if ticks > 0 then
            perform qr_refresh.ask(null, 0, 0);
            perform qr_refresh.record_run(
                extract(epoch from clock_timestamp() - begun_at)::double precision,
                null,
                jsonb_build_object(
                    'success', failed_ticks < ticks,
                    'mode', 'live',
                    'worker', worker,
                    'workers', workers,
                    'ticks', ticks,
                    'failed_ticks', failed_ticks,
                    'qr_updated', qr_updated,
                    'total_instances', refreshed + failed,
                    'refreshed', refreshed,
                    'failed', failed
                )
            );
        end if;
        return null;
    end if;

    begin
        if looks_at is null or looks_at <= clock_timestamp() then
            looks_at := clock_timestamp();
            perform qr_refresh.notice(worker, workers), qr_refresh.notice_new(worker, workers);
            -- Once a second; where that takes long, less often, but a new one must not wait for long.
            looks_at := clock_timestamp() + least(
                interval '2 seconds',
                greatest(interval '1 second', 20 * (clock_timestamp() - looks_at))
            );
        end if;
        next_due_at := least(qr_refresh.next_due_at(worker, workers), looks_at, ends_at);
        wait := extract(epoch from next_due_at - clock_timestamp());
        tick := qr_refresh.refresh_due(
            worker,
            workers,
            -- Whoever is due and cannot be asked yet waits for a place, or for another session.
            case when wait <= 0 then 0.1 else least(longest_wait, greatest(shortest_wait, wait)) end,
            under_way,
            -- What is begun now would have too little time.
            ends_at - clock_timestamp() < interval '0.7 seconds'
        );
        under_way := tick.under_way;
        qr_updated := qr_updated + (
            select count(*) from unnest(tick.results) as r (result)
            where (r.result ->> 'qr_updated')::boolean
        );
        refreshed := refreshed + (
            select count(*) from unnest(tick.results) as r (result)
            where (r.result ->> 'success')::boolean
        );
        failed := failed + (
            select count(*) from unnest(tick.results) as r (result)
            where not (r.result ->> 'success')::boolean
        );
    exception when others or assert_failure or query_canceled then
        get stacked diagnostics context = pg_exception_context;
        if sqlstate = '57014' and not qr_refresh.was_cancelled_there(context) then
            raise;
        end if;
        -- Not the error's text, which may quote a row.
        perform qr_refresh.log(format('Live mode: a tick failed (SQLSTATE %s)', sqlstate), null);
        failed_ticks := failed_ticks + 1;
        perform qr_refresh.ask(null, 0, 0);
        under_way := 0;
        looks_at := null;
        perform pg_sleep(longest_wait);
    end;
    return jsonb_build_object(
        'ticks', ticks + 1,
        'failed_ticks', failed_ticks,
        'qr_updated', qr_updated,
        'refreshed', refreshed,
        'failed', failed,
        'begun_at', begun_at,
        'looks_at', looks_at,
        'under_way', under_way
    );
end
$$;

comment on function qr_refresh.live_tick(integer, integer, jsonb) is
'One transaction of qr_refresh.live(): looks who is connecting, once a second; then does one tick, which waits for answers or until somebody is due, at most a second. A tick that fails is logged, and '
'the next one comes a second later.
worker, workers: as in qr_refresh.live(). progress: what the tick before returned; NULL for the first one.
Returns what the next tick needs; NULL when the minute is over or another session does the same, after keeping a row in qr_refresh.runs.
Errors: QR003 the transaction is read-only; QR004 the worker is not one of the workers.
Privileges: EXECUTE for service_role. Runs with the privileges of qr_refresh_owner.';
