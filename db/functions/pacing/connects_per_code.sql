-- qr_refresh.connects_per_code(): how often connect may be called while a QR code lives.
create or replace function qr_refresh.connects_per_code(round_trip double precision)
returns double precision
language sql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    -- Between the answer about the state and connect the instance may be scanned, and connect then
    -- breaks the pairing. All these moments together are at most 0.1 of the 45 seconds; of a server
    -- that is very far away, one connect in 68 seconds.
    select least(20, greatest(0.66, 0.1 / greatest(coalesce(round_trip, 0.005), 0.001)))
$$;

comment on function qr_refresh.connects_per_code(double precision) is
'How often connect may be called within the 45 seconds that a QR code lives: at most 20 times, and less often the longer an answer is under way, down to 0.66.
round_trip: seconds that the state takes to be answered; NULL: not known.
Returns the number; below 1 where it is less than once. Private.';
