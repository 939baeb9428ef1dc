-- qr_refresh.record_outcomes(): remembers what each instance answered, and when to ask it again.
create or replace function qr_refresh.record_outcomes(
    asked_at timestamptz,
    instance_names text[],
    outcomes text[],
    qr_digests bytea[],
    errors text[],
    reconnected boolean[],
    elapsed double precision[]
)
returns void
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
declare
    seen_at constant timestamptz := clock_timestamp();
    -- How long Evolution API serves a QR code; measured 44.9 to 45.1 s.
    lifetime constant interval := '45 seconds';
    -- An answer that takes longer than this belongs into the slow lane.
    slow_answer constant double precision := 1;
begin
    with observed as materialized (
        select
            o.*,
            o.outcome not in ('failed', 'timeout') as is_answer,
            o.outcome in ('stored', 'unchanged', 'changed') as is_live,
            -- Not known (NULL) where connect was called without asking for the state first. Where
            -- it opens a socket it sleeps 2 or 5 seconds, else it answers at once.
            coalesce(
                o.reconnected,
                o.outcome = 'timeout' or (o.elapsed > 1.5 and o.outcome <> 'failed')
            ) as opened_socket
        from unnest(instance_names, outcomes, qr_digests, errors, reconnected, elapsed)
            as o (instance_name, outcome, qr_digest, error, reconnected, elapsed)
        where o.outcome <> 'not_attempted' and o.instance_name is not null
    ), known as materialized (
        -- Locked rows are skipped: another session's open transaction must not hold a run.
        select s.*
        from qr_refresh.instance_state as s
        where s.instance_name = any(instance_names)
        for update skip locked
    ), learned as (
        select
            o.*,
            o.qr_digest is distinct from k.qr_digest and o.qr_digest is not null as is_new_qr,
            k.instance_name is not null as is_known,
            k.qr_digest as known_qr_digest,
            k.qr_first_seen_at as known_first_seen_at,
            k.qr_changed_after as known_changed_after,
            k.answered_at as known_answered_at,
            k.poll_interval as known_poll_interval,
            k.reconnected_at as known_reconnected_at,
            coalesce(k.reconnects, 0) as known_reconnects,
            coalesce(k.failures, 0) as known_failures,
            o.outcome in ('closed', 'failed', 'timeout')
            or o.elapsed > slow_answer as is_slow,
            -- In the fast lane a call is cut short: what then happens is for the slow lane to say.
            o.outcome in ('closed', 'timeout') and not coalesce(k.is_slow, false) as changes_lane
        from observed as o
        left join known as k on o.instance_name = k.instance_name
    ), phase as (
        select
            l.*,
            case when l.is_new_qr then seen_at else l.known_first_seen_at end as first_seen_at,
            case
                when l.is_new_qr then greatest(l.known_answered_at, seen_at - lifetime)
                -- Still served, so it cannot have been there for longer than one lives.
                when l.qr_digest is not null
                    then least(
                        l.known_first_seen_at,
                        greatest(l.known_changed_after, asked_at - lifetime)
                    )
                else l.known_changed_after
            end as changed_after,
            case
                when l.is_live then 0
                -- A new socket has its QR code within seconds, so the waiting begins anew.
                when l.reconnected then 1
                when l.changes_lane then l.known_failures
                else l.known_failures + 1
            end as new_failures
        from learned as l
    ), paced as (
        select
            p.*,
            case
                -- The next one comes within a span as long as the one in which this one came. Four
                -- attempts divide it by four, so a few QR codes later it is short. With a little
                -- more there are at most five attempts in 45 seconds; the first one takes two calls.
                when p.is_new_qr then least(
                    interval '9.1 seconds',
                    greatest(
                        interval '0.2 seconds',
                        (p.first_seen_at - p.changed_after) / 4 + interval '0.1 seconds'
                    )
                )
                else coalesce(p.known_poll_interval, interval '9.1 seconds')
            end as new_poll_interval
        from phase as p
    ), timed as (
        select
            p.*,
            case when p.opened_socket then seen_at else p.known_reconnected_at end
                as new_reconnected_at,
            case when p.is_live then 0 else p.known_reconnects + p.opened_socket::integer end
                as new_reconnects,
            -- Up to a fifth more after failures: what failed together must not come back together.
            qr_refresh.wait_for_next_attempt(
                p.outcome,
                p.new_failures,
                seen_at - p.changed_after,
                seen_at - p.first_seen_at,
                p.new_poll_interval
            ) * case when p.is_live then 1 else 1 + 0.2 * random() end as wait
        from paced as p
    ), fresh as (
        select
            p.is_known,
            p.instance_name,
            asked_at as attempted_at,
            p.outcome,
            p.error,
            coalesce(p.qr_digest, p.known_qr_digest) as qr_digest,
            p.first_seen_at as qr_first_seen_at,
            p.changed_after as qr_changed_after,
            case when p.is_answer then asked_at else p.known_answered_at end as answered_at,
            p.new_poll_interval as poll_interval,
            p.new_failures as failures,
            p.new_reconnected_at as reconnected_at,
            p.new_reconnects as reconnects,
            p.is_slow,
            case
                when p.changes_lane then seen_at
                -- Nor later than connect may be called again.
                when p.outcome = 'closed' and p.new_reconnected_at is not null
                    then least(
                        seen_at + p.wait,
                        greatest(
                            seen_at + interval '1 second',
                            qr_refresh.reconnect_at(
                                p.instance_name, p.new_reconnected_at, p.new_reconnects
                            )
                        )
                    )
                else seen_at + p.wait
            end as next_attempt_at
        from timed as p
    ), updated as (
        update qr_refresh.instance_state as s
        set
            attempted_at = f.attempted_at,
            outcome = f.outcome,
            error = f.error,
            qr_digest = f.qr_digest,
            qr_first_seen_at = f.qr_first_seen_at,
            qr_changed_after = f.qr_changed_after,
            answered_at = f.answered_at,
            poll_interval = f.poll_interval,
            failures = f.failures,
            reconnected_at = f.reconnected_at,
            reconnects = f.reconnects,
            is_slow = f.is_slow,
            next_attempt_at = f.next_attempt_at
        from fresh as f
        where f.is_known and s.instance_name = f.instance_name
    )
    insert into qr_refresh.instance_state (
        instance_name, attempted_at, outcome, error, qr_digest, qr_first_seen_at, qr_changed_after,
        answered_at, poll_interval, failures, reconnected_at, reconnects, is_slow, next_attempt_at
    )
    select
        f.instance_name,
        f.attempted_at,
        f.outcome,
        f.error,
        f.qr_digest,
        f.qr_first_seen_at,
        f.qr_changed_after,
        f.answered_at,
        f.poll_interval,
        f.failures,
        f.reconnected_at,
        f.reconnects,
        f.is_slow,
        f.next_attempt_at
    from fresh as f
    where
        not f.is_known
        -- A row that is there and not known is another session's at the moment.
        and not exists (
            select from qr_refresh.instance_state as s where s.instance_name = f.instance_name
        )
    -- Where names are not unique, the first one.
    on conflict do nothing;
end
$$;

comment on function qr_refresh.record_outcomes(
    timestamptz, text[], text[], bytea[], text[], boolean[], double precision[]
) is
'Updates qr_refresh.instance_state after the attempts of a run.
asked_at: when the run began to ask. The arrays have one length: instance_names; outcomes (stored, unchanged, changed, update_failed, expired, '
'no_qr_code, connected, closed, failed, timeout; not_attempted leaves the row as it is); qr_digests (SHA-256; NULL where there was no QR code); errors (reason '
'of outcome failed, SQLSTATE of update_failed); reconnected (connect was called on state close, NULL: not known); elapsed (seconds).
Raises lock_not_available (55P03) when another session is adding the same instance. '
'Private.';
