-- qr_refresh.notice(): remembers who has begun to connect, and who no longer does.
create or replace function qr_refresh.notice(
    worker integer, workers integer, wanted text default null
)
returns void
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
-- The plan may be of a day with few rows, and a crowd of 50,000 may have come a moment ago. Each of
-- its rows was compared with each that is known, which took over 25 s.
set enable_nestloop = off
-- What is switched off counts as costly, and costly queries would be compiled.
set jit = off
as $$
-- The table may have columns of any name.
#variable_conflict use_variable
declare
    most constant integer := 10000; -- at a time, so that it takes well under a second
    looked_at constant timestamptz := clock_timestamp();
    instances bytea [];
    servers text [];
    have_left text [];
    connected text [];
begin
    with present as materialized (
        select
            r.instance,
            min(coalesce(v.server_name, '')) as evolution_server
        from qr_refresh.connecting_rows() as r
        left join qr_refresh.evolution_servers as v on r.evolution_server = v.server_name
        where
            qr_refresh.is_share_of(r.instance, worker, workers)
            and (wanted is null or r.instance_name = wanted)
        group by r.instance
    ), cleared as materialized (
        select r.instance from qr_refresh.connecting_rows(true) as r
    ), changed as (
        select
            s.instance,
            case when p.instance is null then s.instance_name end as has_left,
            coalesce(p.evolution_server, s.evolution_server) as evolution_server
        from qr_refresh.instance_state as s
        left join present as p on s.instance = p.instance
        where
            qr_refresh.is_share_of(s.instance, worker, workers)
            and (wanted is null or s.instance_name = wanted)
            and (
                (p.instance is null) <> (s.left_at is not null)
                or p.evolution_server <> s.evolution_server
                -- The clock was set back.
                or s.next_attempt_at > looked_at + interval '1 hour'
                -- Somebody has cleared its QR code; a trigger may do so each time.
                or (
                    s.instance in (select c.instance from cleared as c)
                    and s.queue = 'rotating'
                    and s.under_way_until is null
                    and s.next_attempt_at > looked_at
                    and s.attempted_at < looked_at - interval '1 second'
                )
            )
        limit most
    )
    select array_agg(c.instance), array_agg(c.evolution_server), array_agg(c.has_left)
    into instances, servers, have_left
    from changed as c;
    if instances is null then
        return;
    end if;
    -- In one query, since the table may be on another server.
    if cardinality(array_remove(have_left, null)) > 0 then
        connected := array(
            select e.instance_name::text
            from public.evolution_instances as e
            where
                e.instance_name::text = any(have_left)
                and e.instance_status::text
                in ('connected', (select t.connected_status from qr_refresh.settings as t))
        );
    end if;

    with free as (
        select s.instance, c.evolution_server, c.left_as is not null as has_left
        from qr_refresh.instance_state as s
        inner join unnest(instances, servers, have_left) as c (instance, evolution_server, left_as)
            on s.instance = c.instance
        -- Another session's open transaction must not hold this one.
        for update of s skip locked
    )
    update qr_refresh.instance_state as s
    set
        evolution_server = f.evolution_server,
        next_attempt_at = looked_at,
        left_at = case when f.has_left then looked_at end,
        -- With that QR code it was connected, as the application says.
        used_digest = case
            when f.has_left and s.left_at is null and s.instance_name = any(connected)
                then s.qr_digest
            else s.used_digest
        end,
        -- Whoever is back begins anew, but for the QR codes that were seen.
        known_since = case when s.left_at is null then s.known_since else looked_at end,
        failures = case when s.left_at is null then s.failures else 0 end,
        outcome = case when s.left_at is null then s.outcome end,
        error = case when s.left_at is null then s.error end,
        queue = case when s.left_at is null then s.queue else 'new' end
    from free as f
    where s.instance = f.instance;
end
$$;

comment on function qr_refresh.notice(integer, integer, text) is
'Looks at the connecting rows, and notes in qr_refresh.instance_state who has left, who is back, whose server has another name and whose QR code was cleared.
worker, workers: the share of this worker, from 1. wanted: this instance_name only; NULL for all.
Waits for nobody: what another session holds is for the next look. Private.';
