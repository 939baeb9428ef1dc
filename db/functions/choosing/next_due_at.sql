-- qr_refresh.next_due_at(): when live mode has somebody to ask.
create or replace function qr_refresh.next_due_at(worker integer, workers integer)
returns timestamptz
language sql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp
-- By the index, whatever the statistics say: a crowd may have come a moment ago.
set enable_seqscan = off
set enable_bitmapscan = off
-- What is switched off counts as costly, and costly queries would be compiled.
set jit = off
as $$
    select min(case when t.away_since is null then s.next_attempt_at else t.next_probe_at end)
    from (
        select '' as name
        union all
        select v.server_name from qr_refresh.evolution_servers as v
    ) as n
    left join qr_refresh.server_state as t on n.name = t.evolution_server
    cross join (values ('rotating'), ('new'), ('waiting'), ('failing')) as q (queue)
    cross join lateral (
        select s.next_attempt_at
        from qr_refresh.instance_state as s
        where
            s.left_at is null
            and s.evolution_server = n.name
            and s.queue = q.queue
            and s.under_way_until is null
            and qr_refresh.is_share_of(s.instance, worker, workers)
        order by s.next_attempt_at
        limit 1
    ) as s
$$;

comment on function qr_refresh.next_due_at(integer, integer) is
'When somebody is due who is not being asked already. It looks at four rows for each server, however many there are.
worker, workers: the share of this worker, from 1.
Returns that time, which may have passed; NULL where nobody is waiting. Private.';
