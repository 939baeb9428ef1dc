-- qr_refresh.choose_due(): whose turn it is in live mode, as many as there are free places.
create or replace function qr_refresh.choose_due(worker integer, workers integer)
returns setof qr_refresh.attempt
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
-- By the index, whatever the statistics say: a crowd may have come a moment ago.
set enable_seqscan = off
set enable_bitmapscan = off
-- What is switched off counts as costly, and costly queries would be compiled.
set jit = off
as $$
#variable_conflict use_column
declare
    chosen_at constant timestamptz := clock_timestamp();
    places constant integer := qr_refresh.places();
    -- An answer comes before that, or never.
    answered_by constant timestamptz := chosen_at + interval '2 seconds'
    + (select s.request_timeout from qr_refresh.settings as s);
    instances bytea [];
    names text [];
begin
    with servers as materialized (
        select
            n.name,
            -- A server that answers nobody is asked by one, now and then, whoever is due.
            coalesce(t.away_since is not null, false) as is_away,
            case
                when t.away_since is null then places - u.taken
                when u.taken = 0 and t.next_probe_at <= chosen_at then 1
                else 0
            end as free,
            greatest(places / 4, 1) - u.failing as free_for_failing,
            -- Whoever has a live QR code that rotates gets half of the places at least.
            case
                when exists (
                    select
                    from qr_refresh.instance_state as s
                    where
                        s.left_at is null
                        and s.evolution_server = n.name
                        and s.queue = 'rotating'
                ) then (places + 1) / 2 - u.others
                else places
            end as free_for_others
        from (
            select '' as name
            union all
            select v.server_name from qr_refresh.evolution_servers as v
        ) as n
        left join qr_refresh.server_state as t on n.name = t.evolution_server
        cross join lateral (
            select
                count(*)::integer as taken,
                (count(*) filter (where s.queue = 'failing'))::integer as failing,
                (count(*) filter (where s.queue <> 'rotating'))::integer as others
            from qr_refresh.instance_state as s
            where
                s.under_way_until > chosen_at
                and s.evolution_server = n.name
                and qr_refresh.is_share_of(s.instance, worker, workers)
        ) as u
    ), oldest as materialized (
        select
            v.name,
            v.free,
            v.free_for_others,
            q.queue <> 'rotating' as is_other,
            s.instance,
            -- In turn, by weight.
            row_number() over (partition by v.name, q.queue order by s.next_attempt_at) / q.weight
                as turn
        from servers as v
        cross join (
            values ('rotating', 2.0), ('new', 1.0), ('waiting', 1.0), ('failing', 0.5)
        ) as q (queue, weight)
        cross join lateral (
            select s.instance, s.next_attempt_at
            from qr_refresh.instance_state as s
            where
                s.left_at is null
                and s.evolution_server = v.name
                and s.queue = q.queue
                and (s.next_attempt_at <= chosen_at or v.is_away)
                and (s.under_way_until is null or s.under_way_until <= chosen_at)
                and qr_refresh.is_share_of(s.instance, worker, workers)
            order by s.next_attempt_at
            limit greatest(
                case when q.queue = 'failing' and not v.is_away
                    then least(v.free, v.free_for_failing)
                    else v.free
                end,
                0
            )
            -- What cannot be recorded is not asked.
            for update skip locked
        ) as s
        where v.free > 0
    ), newest as materialized (
        -- In turn with those who wait for longest, so that nobody waits for a crowd.
        select
            v.name,
            v.free,
            v.free_for_others,
            true as is_other,
            s.instance,
            row_number() over (partition by v.name order by s.next_attempt_at desc) + 0.5 as turn
        from servers as v
        cross join lateral (
            select s.instance, s.next_attempt_at
            from qr_refresh.instance_state as s
            where
                s.left_at is null
                and s.evolution_server = v.name
                and s.queue = 'new'
                and s.next_attempt_at <= chosen_at
                and (s.under_way_until is null or s.under_way_until <= chosen_at)
                and qr_refresh.is_share_of(s.instance, worker, workers)
            order by s.next_attempt_at desc
            limit greatest(v.free, 0)
            for update skip locked
        ) as s
        where v.free > 0 and not v.is_away
    ), candidates as (
        select c.name, c.free, c.free_for_others, c.is_other, c.instance, min(c.turn) as turn
        from (select o.* from oldest as o union all select n.* from newest as n) as c
        group by c.name, c.free, c.free_for_others, c.is_other, c.instance
    ), ranked as (
        select
            c.*,
            row_number() over (partition by c.name, c.is_other order by c.turn) as position
        from candidates as c
    ), chosen as (
        select
            r.instance,
            r.name,
            row_number() over (partition by r.name order by r.turn) as position,
            r.free
        from ranked as r
        where not r.is_other or r.position <= r.free_for_others
    ), probing as (
        update qr_refresh.server_state as t
        -- Less and less often, but so that a server that is back is found within 8 seconds.
        set next_probe_at = chosen_at + least(
            interval '8 seconds', greatest(interval '2 seconds', (chosen_at - t.away_since) / 30)
        )
        where
            t.away_since is not null
            and t.evolution_server in (select c.name from chosen as c)
    ), handed_over as (
        update qr_refresh.instance_state as s
        set attempted_at = chosen_at, next_attempt_at = answered_by, under_way_until = answered_by
        from chosen as c
        where c.position <= c.free and s.instance = c.instance
        returning s.instance, s.instance_name
    )
    select array_agg(h.instance), array_agg(h.instance_name)
    into instances, names
    from handed_over as h;

    if instances is not null then
        return query select * from qr_refresh.attempts_for(instances, names, true, true);
    end if;
end
$$;

comment on function qr_refresh.choose_due(integer, integer) is
'Chooses whom live mode asks now: by due time, as many as there are free places at each server (settings.max_concurrency), and notes that they are under way. '
'Those with a live QR code that rotates, those that are new, wait or fail have their turns; the failing never take more than a quarter of the places, '
'and all that do not rotate together not more than half. What another session has locked is left out.
worker, workers: the share of this worker, from 1.
Returns the attempts; see qr_refresh.attempts_for(). Private.';
