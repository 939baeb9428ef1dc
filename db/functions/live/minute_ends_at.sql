-- qr_refresh.minute_ends_at(): when a session of live mode leaves its place to the next one.
create or replace function qr_refresh.minute_ends_at(begun_at timestamptz)
returns timestamptz
language sql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    -- Just before the next minute begins, or the one after it when that is about to.
    select date_trunc('minute', begun_at + interval '2 seconds') + interval '59 seconds'
$$;

comment on function qr_refresh.minute_ends_at(timestamptz) is
'When qr_refresh.live() ends: a second before the next minute, in which pg_cron calls it again.
begun_at: when it began. In the last two seconds of a minute that is for the next one.
Returns that time.
Private.';
