-- qr_refresh.remember(): keeps what attempts have taught, and when each instance is due again.
create or replace function qr_refresh.remember(attempts qr_refresh.attempt[], is_quiet boolean)
returns table (instance bytea, result jsonb)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    -- How long Evolution API serves a QR code; measured 44.9 to 45.1 s.
    lifetime constant interval := interval '45 seconds';
    -- As in qr_refresh.attempts_for().
    closed_for constant interval := interval '7 seconds';
    -- As in qr_refresh.wait_for_next_code().
    short_span constant interval := interval '1 second';
    told record;
    give_up_after constant interval := (select s.give_up_after from qr_refresh.settings as s);
begin
    for told in
    with known as materialized (
        -- What another session holds is skipped: an open transaction must not hold this one.
        select s.*
        from qr_refresh.instance_state as s
        where s.instance in (select a.instance from unnest(attempts) as a)
        for update skip locked
    ), observed as materialized (
        select
            a.instance,
            a.instance_name,
            a.evolution_server,
            a.error,
            a.asked_at,
            a.answered_at,
            a.qr_digest,
            a.qr_count,
            a.reconnected,
            a.round_trip,
            case
                when a.outcome = 'closed' and a.answered_at > k.known_since + give_up_after
                    then 'given_up'
                else a.outcome
            end as outcome
        from unnest(attempts) as a
        left join known as k on a.instance = k.instance
    ), learned as materialized (
        select
            a.instance,
            a.asked_at,
            a.answered_at,
            a.outcome,
            a.error,
            a.reconnected,
            a.qr_digest,
            -- WhatsApp gives a socket six; then Evolution API opens the next one.
            coalesce(a.qr_count % 6 = 0, false) as is_last_of_socket,
            o.is_answer,
            o.is_live,
            o.queue,
            o.first_wait,
            o.growth,
            o.patience,
            o.longest_wait,
            k.outcome as known_outcome,
            a.qr_digest is not null and a.qr_digest is distinct from k.qr_digest as is_new_qr,
            k.qr_digest as known_qr_digest,
            k.qr_first_seen_at as known_first_seen_at,
            k.qr_changed_after as known_changed_after,
            k.answered_at as known_answered_at,
            k.poll_interval as known_poll_interval,
            k.reconnected_at as known_reconnected_at,
            k.reconnects as known_reconnects,
            k.failures as known_failures,
            k.used_digest as known_used_digest,
            k.quiet_until as known_quiet_until,
            k.closed_since as known_closed_since,
            coalesce(k.told_at > a.answered_at - interval '100 seconds', false) as is_told,
            case
                -- The first one opens a connection, and many that begin together wait for each
                -- other. What others have seen of the server says more.
                when k.answered_at is null then t.round_trip
                -- One that was slow by chance changes little; one that was fast shows how far it is.
                else coalesce(
                    least(a.round_trip, 0.7 * k.round_trip + 0.3 * a.round_trip),
                    a.round_trip,
                    k.round_trip
                )
            end as round_trip,
            coalesce(known_as.is_live, false) as was_live
        from observed as a
        inner join known as k on a.instance = k.instance
        left join qr_refresh.server_state as t
            on coalesce(a.evolution_server, '') = t.evolution_server
        inner join qr_refresh.outcomes as o on a.outcome = o.outcome
        left join qr_refresh.outcomes as known_as on k.outcome = known_as.outcome
    ), phase as (
        select
            l.*,
            qr_refresh.connects_per_code(l.round_trip) as connects,
            case when l.is_new_qr then l.answered_at else l.known_first_seen_at end
                as first_seen_at,
            case
                when l.is_new_qr then greatest(
                    l.known_answered_at,
                    l.answered_at - lifetime,
                    -- Our own connect opened its socket.
                    case when l.reconnected then l.asked_at end,
                    -- The one before has lived its time. Where the span was short, it was asked for
                    -- once more, and known_answered_at says it.
                    case
                        when
                            l.was_live
                            and l.known_first_seen_at - l.known_changed_after > short_span
                            and l.answered_at >= l.known_changed_after + interval '44.9 seconds'
                            then l.known_changed_after + interval '44.9 seconds'
                    end
                )
                -- Still served, so it cannot have been there for longer than one lives.
                when l.qr_digest is not null
                    then least(
                        l.known_first_seen_at,
                        greatest(l.known_changed_after, l.answered_at - lifetime)
                    )
                else l.known_changed_after
            end as changed_after,
            case
                when l.is_live then 0
                -- A new socket has its QR code within seconds, so the waiting begins anew.
                when l.reconnected then 1
                else l.known_failures + 1
            end as failures,
            case when l.reconnected then l.answered_at else l.known_reconnected_at end
                as reconnected_at,
            case when l.is_live then 0 else l.known_reconnects + l.reconnected::integer end
                as reconnects,
            case
                when l.outcome = 'closed'
                    then coalesce(l.known_closed_since, l.answered_at)
                when l.queue = 'failing' then l.known_closed_since
            end as closed_since,
            -- It had a live QR code, and it was not time for it to go: somebody has scanned it. Where
            -- nobody knows when it came, that is by far the likeliest as well.
            case
                when
                    l.was_live
                    and l.outcome in ('closed', 'connected')
                    and (
                        l.outcome = 'connected'
                        or l.answered_at < l.known_changed_after + interval '44.5 seconds'
                        or (
                            l.known_first_seen_at > l.known_changed_after + interval '10 seconds'
                            and l.answered_at < l.known_first_seen_at + interval '44.5 seconds'
                        )
                    )
                    then l.answered_at + interval '1 minute'
                else l.known_quiet_until
            end as quiet_until
        from learned as l
    ), paced as (
        select
            p.*,
            case
                -- Nobody has seen it come. It is young: the row has just begun to connect. What began
                -- together must not come back together.
                when p.is_new_qr and p.known_answered_at is null and not p.reconnected
                    then greatest(interval '4 seconds', lifetime / p.connects)
                    * (1 + 0.2 * random())
                -- The next one comes within a span as long as the one in which this one came. Three
                -- attempts divide it by three, so a few QR codes later it is short. With the one
                -- before it there are at most four attempts in 45 seconds.
                when p.is_new_qr then least(
                    interval '9.1 seconds',
                    greatest(
                        interval '0.2 seconds',
                        (p.first_seen_at - p.changed_after) / least(3, greatest(1, p.connects))
                        + interval '0.1 seconds'
                    )
                )
                else coalesce(p.known_poll_interval, interval '9.1 seconds')
            end as poll_interval
        from phase as p
    ), timed as (
        select
            p.*,
            p.answered_at + case
                -- Of each new one an event tells: this is a safety net.
                when p.is_live and p.is_told then interval '60 seconds'
                when p.first_wait is null then qr_refresh.wait_for_next_code(
                    p.answered_at - p.changed_after,
                    p.answered_at - p.first_seen_at,
                    greatest(
                        p.poll_interval,
                        -- Nobody knows when it comes, or it is overdue.
                        case
                            when
                                p.first_seen_at - p.changed_after > interval '10 seconds'
                                or p.answered_at >= p.first_seen_at + lifetime
                                then lifetime / p.connects
                        end
                    ),
                    p.connects,
                    p.is_last_of_socket
                )
                else least(
                    p.longest_wait,
                    p.first_wait
                    * p.growth ^ least(greatest(p.failures - 1 - p.patience, 0), 40)
                )
                -- What failed together must not come back together.
                * (1 + 0.2 * random())
            end as next_attempt_at
        from paced as p
    ), updated as (
        update qr_refresh.instance_state as s
        set
            outcome = t.outcome,
            error = t.error,
            attempted_at = t.asked_at,
            answered_at = case when t.is_answer then t.answered_at else t.known_answered_at end,
            qr_digest = coalesce(t.qr_digest, t.known_qr_digest),
            qr_first_seen_at = t.first_seen_at,
            qr_changed_after = t.changed_after,
            used_digest = case
                when t.outcome = 'connected' then t.known_qr_digest else t.known_used_digest
            end,
            poll_interval = t.poll_interval,
            round_trip = t.round_trip,
            failures = t.failures,
            reconnected_at = t.reconnected_at,
            reconnects = t.reconnects,
            closed_since = t.closed_since,
            quiet_until = t.quiet_until,
            queue = t.queue,
            under_way_until = null,
            next_attempt_at = case
                when t.closed_since is null then t.next_attempt_at
                -- Nor later than it may be connected.
                else greatest(
                    t.answered_at + interval '1 second',
                    least(
                        t.next_attempt_at,
                        greatest(
                            t.closed_since + closed_for,
                            t.quiet_until,
                            qr_refresh.reconnect_at(t.instance, t.reconnected_at, t.reconnects)
                        )
                    )
                )
            end
        from timed as t
        where s.instance = t.instance and t.outcome <> 'not_attempted'
    ), not_reached as (
        update qr_refresh.instance_state as s
        set under_way_until = null, next_attempt_at = a.answered_at
        from observed as a
        inner join known as k on a.instance = k.instance
        where s.instance = a.instance and a.outcome = 'not_attempted'
    )
    select
        a.instance,
        a.instance_name,
        a.qr_digest is not null and not is_quiet as is_fetched,
        jsonb_build_object(
            'instance_name', a.instance_name,
            'success', o.success,
            'qr_updated', a.outcome = 'stored'
        ) || case when w.words is null then '{}' else jsonb_build_object('error', w.words) end
            as result,
        case
            -- That is told once.
            when a.outcome = l.known_outcome and a.outcome = 'connected' then null
            else format(
                o.log_line,
                a.instance_name,
                w.words,
                -- Not every database encoding has the check mark. Its number must not be a constant,
                -- of which chr() would be computed, and refused, before it is looked at.
                coalesce(chr(case getdatabaseencoding() when 'UTF8' then 10003 end) || ' ', '')
            )
        end as log_line,
        case when o.queue = 'failing' and o.is_answer then a.error end as sqlstate
    from observed as a
    inner join qr_refresh.outcomes as o on a.outcome = o.outcome
    left join learned as l on a.instance = l.instance
    cross join lateral (select format(o.error, a.instance_name, a.error) as words) as w
    loop
        if told.is_fetched then
            perform qr_refresh.log('Successfully fetched QR for ' || told.instance_name, 'instance');
        end if;
        if told.sqlstate is not null then
            perform qr_refresh.log(
                format('Database update failed for %s (%s)', told.instance_name, told.sqlstate),
                'cycle'
            );
        end if;
        perform qr_refresh.log(told.log_line, 'instance');
        instance := told.instance;
        result := told.result;
        return next;
    end loop;
end
$$;

comment on function qr_refresh.remember(qr_refresh.attempt[], boolean) is
'Updates qr_refresh.instance_state after attempts: what was seen, and when each instance is due again. Writes the lines of the server log about them.
attempts: as qr_refresh.store() returns them. is_quiet: true leaves out that a QR code was fetched.
Returns one row for each attempt: instance, and its result in the report.
What another session holds at the moment stays as it is. Raises nothing of its own. Private.';
