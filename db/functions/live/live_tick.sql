-- qr_refresh.live_tick(): waits, then does one tick; a transaction of qr_refresh.live().
create or replace function qr_refresh.live_tick(
    lane text, worker integer, workers integer, progress jsonb
)
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
    shortest_wait constant double precision := 0.1;
    longest_wait constant double precision := 1;
    begun_at timestamptz := coalesce((progress ->> 'begun_at')::timestamptz, clock_timestamp());
    ends_at constant timestamptz := qr_refresh.minute_ends_at(begun_at);
    wait double precision := least(longest_wait, coalesce((progress ->> 'wait')::double precision, 0));
    ticks integer := coalesce((progress ->> 'ticks')::integer, 0);
    failed_ticks integer := coalesce((progress ->> 'failed_ticks')::integer, 0);
    qr_updated integer := coalesce((progress ->> 'qr_updated')::integer, 0);
    refreshed integer := coalesce((progress ->> 'refreshed')::integer, 0);
    failed integer := coalesce((progress ->> 'failed')::integer, 0);
    is_mine boolean;
    tick record;
begin
    perform qr_refresh.check_writable();
    if lane is null or lane not in ('fast', 'slow') then
        raise exception using
            errcode = 'QR004',
            message = 'unknown lane',
            detail = 'The lane is fast or slow.',
            hint = 'SELECT qr_refresh.schedule(''live'') schedules both.';
    elsif worker is null or workers is null or worker not between 1 and workers then
        raise exception using
            errcode = 'QR004',
            message = 'worker is not one of the workers',
            detail = 'Workers have the numbers from 1 to how many there are.',
            hint = 'SELECT qr_refresh.schedule(''live'', workers => 4) schedules all of them.';
    end if;

    -- Of the transaction, so that nothing is left of it however the session ends. It is held while
    -- waiting as well: a second one must not come in between.
    is_mine := pg_try_advisory_xact_lock(
        hashtextextended(format('qr_refresh.live:%s:%s', lane, worker), 0)
    );
    if not is_mine then
        raise log '[refresh-qr-codes] Live mode is running already: lane %, worker %', lane, worker;
    else
        perform pg_sleep(wait);
    end if;
    if not is_mine or clock_timestamp() >= ends_at then
        if ticks > 0 then
            perform qr_refresh.record_run(
                extract(epoch from clock_timestamp() - begun_at)::double precision,
                null,
                jsonb_build_object(
                    'success', failed_ticks < ticks,
                    'mode', 'live',
                    'lane', lane,
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

    wait := shortest_wait;
    begin
        tick := qr_refresh.refresh_due(lane, worker, workers);
        if tick.report is null then
            wait := extract(epoch from tick.next_attempt_at - clock_timestamp());
            wait := least(longest_wait, greatest(shortest_wait, coalesce(wait, longest_wait)));
        elsif (tick.report ->> 'success')::boolean then
            qr_updated := qr_updated + jsonb_array_length(
                jsonb_path_query_array(tick.report, '$.results[*] ? (@.qr_updated == true)')
            );
            refreshed := refreshed + (tick.report ->> 'refreshed')::integer;
            failed := failed + (tick.report ->> 'failed')::integer;
        else
            failed_ticks := failed_ticks + 1;
            wait := longest_wait;
        end if;
    exception when others or assert_failure then
        -- Not the error's text, which may quote a row. A cancel is not among `others`.
        raise log '[refresh-qr-codes] Live mode: a tick failed (SQLSTATE %)', sqlstate;
        failed_ticks := failed_ticks + 1;
        wait := longest_wait;
    end;
    ticks := ticks + 1;
    return jsonb_build_object(
        'ticks', ticks,
        'failed_ticks', failed_ticks,
        'qr_updated', qr_updated,
        'refreshed', refreshed,
        'failed', failed,
        'begun_at', begun_at,
        'wait', wait
    );
end
$$;

comment on function qr_refresh.live_tick(text, integer, integer, jsonb) is
'One transaction of qr_refresh.live(): waits until something is due, at most a second, then asks who is due. A tick that fails is logged, and '
'the next one comes a second later.
lane, worker, workers: as in qr_refresh.live(). progress: what the tick before returned; NULL for the first one.
Returns what the next tick needs; NULL when the minute is over or another session does the same, after keeping a row in qr_refresh.runs.
Errors: QR004 lane or worker makes no sense.
Privileges: EXECUTE for service_role. Runs with the privileges of qr_refresh_owner.';
