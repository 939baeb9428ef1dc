-- qr_refresh.skipped_minutes(): live mode that comes and goes.
create or replace function qr_refresh.skipped_minutes()
returns table (worker integer, workers integer, minutes integer, last_began_at timestamptz)
language sql stable parallel restricted security invoker
rows 1
set search_path = pg_catalog, pg_temp
-- Compiling our queries takes longer than running them.
set jit = off
as $$
    with runs as materialized (
        select
            r.id,
            r.started_at,
            r.finished_at,
            r.report ->> 'mode' as mode,
            coalesce((r.report ->> 'worker')::integer, 1) as worker,
            coalesce((r.report ->> 'workers')::integer, 1) as workers
        from qr_refresh.runs as r
        where
            r.requested_instance is null
            and r.finished_at > clock_timestamp() - interval '15 minutes'
    ), gaps as (
        select
            r.*,
            r.started_at - lag(r.finished_at) over same_worker as gap,
            lag(r.id) over same_worker as former_id
        from runs as r
        where r.mode = 'live'
        window same_worker as (partition by r.worker, r.workers order by r.id)
    )
    select
        g.worker,
        g.workers,
        sum(round(extract(epoch from g.gap) / 60))::integer,
        max(g.started_at)
    from gaps as g
    where
        g.gap > interval '30 seconds'
        -- The schedule may have been another one in between.
        and not exists (
            select from runs as r
            where
                r.id between g.former_id and g.id
                and (r.mode is distinct from 'live' or r.workers <> g.workers)
        )
    group by g.worker, g.workers
    -- A restart of Postgres may cost one.
    having sum(round(extract(epoch from g.gap) / 60)) >= 2
    order by g.worker
$$;

comment on function qr_refresh.skipped_minutes() is
'The workers of live mode that were not at work for two or more of the last 15 minutes, although they were before and are again.
Returns worker, workers (how many there are), minutes (how many were skipped) and last_began_at (when it began again the last time).
Private.';
