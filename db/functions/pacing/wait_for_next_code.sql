-- qr_refresh.wait_for_next_code(): how long to leave an instance alone that has a live QR code.
create or replace function qr_refresh.wait_for_next_code(
    changed_ago interval,
    first_seen_ago interval,
    poll_interval interval,
    connects double precision,
    is_last_of_socket boolean
)
returns interval
language sql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    select case
        -- Not even once for each QR code.
        when connects < 1
            then greatest(interval '45.1 seconds' - first_seen_ago, interval '45 seconds' / connects)
        -- Just before the next QR code can come, to know that the present one is still there. Where
        -- nobody knows when that is to a second, the attempts that follow find it out.
        when
            changed_ago < interval '44.6 seconds'
            and connects >= 6
            and changed_ago - first_seen_ago <= interval '1 second'
            then interval '44.6 seconds' - changed_ago
        -- It does not change but closes, and connect would open a second socket in a moment in which
        -- the state is told and it closes. Where that is known to a moment, nobody asks before it.
        when
            is_last_of_socket
            and changed_ago - first_seen_ago <= interval '2.5 seconds'
            and first_seen_ago < interval '45.2 seconds'
            then interval '45.2 seconds' - first_seen_ago
        -- It is gone when it is that old for sure, so that is the last moment to wait for.
        when first_seen_ago < interval '45 seconds'
            then least(
                greatest(interval '45 seconds' - changed_ago, interval '0') + poll_interval,
                interval '45.1 seconds' - first_seen_ago
            )
        -- Overdue: as long again as it is late, so that there are few attempts.
        else least(
            interval '10 seconds',
            greatest(poll_interval, first_seen_ago - interval '45 seconds')
        )
    end
$$;

comment on function qr_refresh.wait_for_next_code(interval, interval, interval, double precision, boolean) is
'How long to leave an instance alone that has a live QR code. That lives 45 seconds, so the next one comes 45 seconds after '
'the present one did; before that nobody asks.
changed_ago: the QR code came into being at most so long ago. first_seen_ago: and at least so long ago. poll_interval: time between attempts while the '
'next one is expected. connects: as qr_refresh.connects_per_code(). is_last_of_socket: after it Evolution API closes the instance and opens the next socket.
Returns the wait. Private.';
