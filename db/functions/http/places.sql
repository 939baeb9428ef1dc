-- qr_refresh.places(): how many calls may be under way at each Evolution server.
create or replace function qr_refresh.places()
returns integer
language sql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    -- The HTTP client has 512 threads, for all servers together.
    select least(
        (select s.max_concurrency from qr_refresh.settings as s),
        512 / (1 + (select count(*) from qr_refresh.evolution_servers))
    )::integer
$$;

comment on function qr_refresh.places() is
'How many calls of one session may be under way at a time at each Evolution server: settings.max_concurrency, and less where there are so many servers that all together would get more than 512.
Returns that number. Private.';
