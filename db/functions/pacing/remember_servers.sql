-- qr_refresh.remember_servers(): notes which Evolution servers answer, and who is due again.
create or replace function qr_refresh.remember_servers(attempts qr_refresh.attempt[])
returns void
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    returned text [];
begin
    with told as (
        select
            coalesce(v.server_name, '') as evolution_server,
            max(a.answered_at) filter (where not is_silence) as answered_at,
            max(a.asked_at) filter (where is_silence) as silent_at,
            min(a.round_trip) filter (where not is_silence and k.round_trip is not null)
                as round_trip
        from unnest(attempts) as a
        left join qr_refresh.evolution_servers as v on a.evolution_server = v.server_name
        left join qr_refresh.instance_state as k on a.instance = k.instance
        cross join lateral (
            select a.outcome = 'timeout' or qr_refresh.is_no_answer(a.error) as is_silence
        ) as s
        -- One that could not be asked tells nothing.
        where a.round_trip is not null or is_silence
        group by 1
    ), added as (
        insert into qr_refresh.server_state (evolution_server, answered_at, round_trip)
        select t.evolution_server, coalesce(t.answered_at, t.silent_at), t.round_trip
        from told as t
        where not exists (
            select from qr_refresh.server_state as s where s.evolution_server = t.evolution_server
        )
        on conflict do nothing
    ), free as (
        select s.evolution_server
        from qr_refresh.server_state as s
        where s.evolution_server in (select t.evolution_server from told as t)
        for update skip locked
    ), updated as (
        update qr_refresh.server_state as s
        set
            answered_at = greatest(s.answered_at, t.answered_at),
            away_since = case
                when t.answered_at is not null then null
                -- Nobody has had an answer since this one was asked.
                when t.silent_at > s.answered_at then coalesce(s.away_since, s.answered_at)
                else s.away_since
            end,
            -- The fastest shows how far it is. Once a second at most a little more, so that it follows.
            round_trip = coalesce(
                least(t.round_trip, 0.9 * s.round_trip + 0.1 * t.round_trip),
                t.round_trip,
                s.round_trip
            ),
            next_probe_at = greatest(s.next_probe_at, clock_timestamp() + interval '2 seconds')
        from told as t
        where
            s.evolution_server = t.evolution_server
            and s.evolution_server in (select f.evolution_server from free as f)
            and (
                s.away_since is not null
                or t.silent_at > s.answered_at
                or t.answered_at > s.answered_at + interval '1 second'
                or t.round_trip < 0.7 * s.round_trip
            )
        returning s.evolution_server, t.answered_at is not null as is_back
    )
    select array_agg(u.evolution_server) into returned
    from updated as u
    where
        u.is_back
        and u.evolution_server in (
            select s.evolution_server from qr_refresh.server_state as s where s.away_since is not null
        );

    if returned is not null then
        -- Their own waits have grown while nobody could answer. A few seconds for all of them.
        update qr_refresh.instance_state as s
        set next_attempt_at = clock_timestamp() + interval '3 seconds' * random()
        where s.instance in (
            select w.instance
            from qr_refresh.instance_state as w
            where
                w.left_at is null
                and w.evolution_server = any(returned)
                and w.queue = 'failing'
                and w.under_way_until is null
            for update skip locked
        );
    end if;
end
$$;

comment on function qr_refresh.remember_servers(qr_refresh.attempt[]) is
'Notes in qr_refresh.server_state which servers have answered, and which answer nobody. When one is back that was away, its instances are due within three seconds.
attempts: as qr_refresh.store() returns them. Only live mode calls it: a transaction of the application may stay open, and hold the row of a server.
Private.';
