-- qr_refresh.refresh_due(): asks the instances of one lane and worker whose time has come.
create or replace function qr_refresh.refresh_due(
    lane text,
    worker integer,
    workers integer,
    out report jsonb,
    out next_attempt_at timestamptz
)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
-- Whoever changes the table's definition may hold it for long.
set lock_timeout = '1s'
as $$
-- The table may have columns of any name.
#variable_conflict use_variable
begin
    perform qr_refresh.forget_instances();
    -- In SQL alone: PL/Python and requests are loaded only where there is somebody to ask.
    select min(
        case
            -- Somebody has cleared it; a trigger may do so each time.
            when e.qr_code is null and s.outcome in ('stored', 'unchanged')
                then least(s.next_attempt_at, s.attempted_at + interval '1 second')
            else coalesce(s.next_attempt_at, '-infinity')
        end
    )
    into next_attempt_at
    from public.evolution_instances as e
    left join qr_refresh.instance_state as s on e.instance_name::text = s.instance_name
    where
        e.instance_status = 'connecting'
        and e.instance_name is not null
        and coalesce(s.is_slow, false) = (lane = 'slow')
        and (
            workers = 1
            or (hashtextextended(e.instance_name::text, 0) & 2147483647) % workers = worker - 1
        );
    if next_attempt_at <= clock_timestamp() then
        perform qr_refresh.translate_messages(false);
        report := qr_refresh.run_cycle(null, true, lane, worker, workers);
        perform qr_refresh.translate_messages(true);
    end if;
end
$$;

comment on function qr_refresh.refresh_due(text, integer, integer) is
'What a tick of qr_refresh.live() does: asks the instances whose time has come, if there are any.
lane: fast or slow. worker, workers: the share of this worker, from 1.
Returns report (as public.refresh_qr_codes(); NULL when nothing was due) and next_attempt_at (the earliest time at which something is due, '
'before this tick; NULL when nothing is connecting).
Private.';
