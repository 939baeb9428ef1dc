-- qr_refresh.wait_for_next_attempt(): how long to leave an instance alone after an attempt.
create or replace function qr_refresh.wait_for_next_attempt(
    outcome text,
    failures integer,
    changed_ago interval,
    first_seen_ago interval,
    poll_interval interval
)
returns interval
language sql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    select case
        when outcome = 'changed'
            then interval '1 second'
        when outcome in ('stored', 'unchanged')
            then case
                -- Just before the next QR code can come, to know that the present one is still there.
                when changed_ago < interval '44.6 seconds'
                    then interval '44.6 seconds' - changed_ago
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
        -- What has failed: 1, 2, 4 ... seconds, at most 10 minutes.
        when outcome in ('failed', 'timeout', 'update_failed')
            then interval '1 second' * least(600, 2 ^ least(greatest(failures - 1, 0), 10))
        -- A QR code is being waited for: each second, then less and less often.
        else interval '1 second' * least(600, 1.3 ^ least(greatest(failures - 15, 0), 30))
    end
$$;

comment on function qr_refresh.wait_for_next_attempt(text, integer, interval, interval, interval) is
'How long to leave an instance alone, by what the last attempt gave. A QR code lives 45 seconds, so the next one comes 45 seconds after '
'the present one did; before that nobody asks.
outcome, failures: as in qr_refresh.instance_state. changed_ago: the QR code came into being at most so long ago. first_seen_ago: and at '
'least so long ago. poll_interval: time between attempts while the next QR code is expected.
Returns the wait, before jitter.
Private.';
