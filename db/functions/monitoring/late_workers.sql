-- qr_refresh.late_workers(): what of live mode stands still while the rest of it goes on.
create or replace function qr_refresh.late_workers()
returns table (worker integer, workers integer, last_finished_at timestamptz)
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
            coalesce((r.report ->> 'worker')::integer, 1) as worker,
            coalesce((r.report ->> 'workers')::integer, 1) as workers
        from qr_refresh.runs as r
        cross join qr_refresh.settings as s
        where
            r.requested_instance is null
            and r.report ->> 'mode' = 'live'
            and r.started_at > clock_timestamp() - s.alert_after - interval '3 minutes'
    ), latest as (
        -- None, where live mode as a whole stands still or has been left.
        select l.workers
        from (
            select m.workers, m.finished_at
            from minutes as m
            order by m.id desc
            limit 1
        ) as l
        where l.finished_at > clock_timestamp() - interval '3 minutes'
    )
    select
        e.worker,
        l.workers,
        (
            select max(r.finished_at)
            from qr_refresh.runs as r
            where
                r.report ->> 'mode' = 'live'
                and coalesce((r.report ->> 'worker')::integer, 1) = e.worker
        )
    from latest as l
    cross join qr_refresh.settings as s
    cross join lateral generate_series(1, l.workers) as e (worker)
    where
        not exists (
            select from minutes as m
            where m.worker = e.worker and m.finished_at >= clock_timestamp() - s.alert_after
        )
        -- It has been live mode with as many workers for so long.
        and exists (
            select from minutes as m
            where m.workers = l.workers and m.started_at < clock_timestamp() - s.alert_after
        )
    order by e.worker
$$;

comment on function qr_refresh.late_workers() is
'The workers of live mode of which no run has ended for settings.alert_after, while others go on: their instances are not asked.
Returns one row for each: worker, workers (how many there are); last_finished_at (when its last run ended; NULL: none is on record).
Private.';
