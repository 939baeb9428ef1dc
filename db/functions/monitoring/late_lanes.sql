-- qr_refresh.late_lanes(): what of live mode stands still while the rest of it goes on.
create or replace function qr_refresh.late_lanes()
returns table (lane text, late_after interval, last_finished_at timestamptz)
language sql stable parallel restricted security invoker
rows 1
set search_path = pg_catalog, pg_temp
-- Compiling our queries takes longer than running them.
set jit = off
as $$
    with minutes as materialized (
        select
            r.id,
            r.started_at,
            r.finished_at,
            coalesce(r.report ->> 'lane', 'fast') as lane,
            coalesce((r.report ->> 'worker')::integer, 1) as worker,
            coalesce((r.report ->> 'workers')::integer, 1) as workers
        from qr_refresh.runs as r
        cross join qr_refresh.settings as s
        where
            r.requested_instance is null
            and r.report ->> 'mode' = 'live'
            and r.started_at > clock_timestamp() - s.alert_after - s.run_timeout - interval '3 minutes'
    ), latest as (
        -- None, where live mode as a whole stands still or has been left.
        select l.workers
        from (
            select m.workers, m.finished_at
            from minutes as m
            where m.lane = 'fast'
            order by m.id desc
            limit 1
        ) as l
        where l.finished_at > clock_timestamp() - interval '3 minutes'
    ), expected as (
        select
            e.lane,
            e.worker,
            l.workers,
            -- The last tick of a minute in the slow lane may take a whole run_timeout.
            s.alert_after
            + case e.lane when 'slow' then s.run_timeout else interval '0' end as late_after
        from latest as l
        cross join lateral (
            select 'slow' as lane, 1 as worker
            union all
            select 'fast', n from generate_series(1, l.workers) as g (n)
        ) as e
        cross join qr_refresh.settings as s
    )
    select
        case e.lane
            when 'slow' then 'the slow lane'
            else format('worker %s of %s', e.worker, e.workers)
        end,
        e.late_after,
        (
            select max(r.finished_at)
            from qr_refresh.runs as r
            where
                r.report ->> 'mode' = 'live'
                and coalesce(r.report ->> 'lane', 'fast') = e.lane
                and coalesce((r.report ->> 'worker')::integer, 1) = e.worker
        )
    from expected as e
    where
        not exists (
            select from minutes as m
            where
                m.lane = e.lane
                and m.worker = e.worker
                and m.finished_at >= clock_timestamp() - e.late_after
        )
        -- It has been live mode with as many workers for so long.
        and exists (
            select from minutes as m
            where
                m.lane = 'fast'
                and m.workers = e.workers
                and m.started_at < clock_timestamp() - e.late_after
        )
    order by e.lane desc, e.worker
$$;

comment on function qr_refresh.late_lanes() is
'The lanes and workers of live mode of which no run has ended for settings.alert_after, while others go on: their instances are not asked.
Returns one row for each: lane (in words); late_after (how long it has been waited for at least); last_finished_at (when its last run '
'ended; NULL: none is on record).
Private.';
