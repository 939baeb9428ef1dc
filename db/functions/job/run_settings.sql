-- qr_refresh.run_settings(): the settings that are in force for a run, times in seconds.
create or replace function qr_refresh.run_settings(
    lane text,
    out base_url text,
    out base_url_error text,
    out request_timeout double precision,
    out run_timeout double precision,
    out lock_patience double precision,
    out max_concurrency integer,
    out ca_file text,
    out connected_status text,
    out log_detail text
)
language sql stable parallel restricted security invoker
set search_path = pg_catalog, pg_temp
as $$
    select
        u.base_url,
        u.error,
        -- What is slow must not hold up the others of the fast lane: it goes to the slow one.
        least(extract(epoch from s.request_timeout), case when lane = 'fast' then 1.5 end),
        least(extract(epoch from s.run_timeout), case when lane = 'fast' then 4 end),
        -- Live mode tries again in a second.
        case when lane is null then 0.5 else 0.1 end,
        s.max_concurrency,
        s.ca_file,
        s.connected_status,
        s.log_detail
    from qr_refresh.settings as s
    cross join qr_refresh.evolution_api_base_url() as u
$$;

comment on function qr_refresh.run_settings(text) is
'What qr_refresh.run_cycle() needs of qr_refresh.settings.
lane: fast or slow for a tick of live mode, NULL for a run of its own.
Returns base_url (http(s) URL) or base_url_error (why there is none); request_timeout and run_timeout (seconds; in the fast lane at most 1.5 and '
'4); lock_patience (seconds that locked rows are waited for, in all); max_concurrency, ca_file, connected_status and log_detail as they are set.
Private.';
