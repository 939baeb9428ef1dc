-- qr_refresh.came_to(): the same attempt with another outcome.
create or replace function qr_refresh.came_to(
    attempt qr_refresh.attempt, outcome text, error text default null
)
returns qr_refresh.attempt
language sql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    select (
        attempt.instance, attempt.instance_name, attempt.evolution_server, attempt.instance_token,
        attempt.base_url, attempt.may_connect, attempt.connect_on_close, attempt.asked_at,
        outcome, error,
        attempt.qr_code, attempt.qr_digest, attempt.reconnected, attempt.round_trip,
        attempt.answered_at, attempt.qr_count
    )::qr_refresh.attempt
$$;

comment on function qr_refresh.came_to(qr_refresh.attempt, text, text) is
'The same attempt with another outcome.
attempt: what is known so far. outcome, error: what came of it, as in qr_refresh.attempt.
Returns the attempt. Private.';
