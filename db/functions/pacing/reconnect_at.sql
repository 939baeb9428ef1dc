-- qr_refresh.reconnect_at(): when connect may be called again on an instance in state close.
create or replace function qr_refresh.reconnect_at(
    instance bytea, reconnected_at timestamptz, reconnects integer
)
returns timestamptz
language sql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    select
        reconnected_at
        + interval '1 minute'
        * least(10, 2 ^ least(greatest(reconnects - 1, 0), 10))
        -- Spread over a quarter more, so that instances which went down together come apart.
        * (1 + get_byte(instance, 2) / 1024.0)::double precision
$$;

comment on function qr_refresh.reconnect_at(bytea, timestamptz, integer) is
'When connect may be called again on an instance that Evolution API has in state close, which opens a WhatsApp socket each time: '
'1 minute after the last such call, then 2, 4, 8 and at most 10, and up to a quarter more.
instance: its key, which spreads the times. reconnected_at, reconnects: as in qr_refresh.instance_state.
Returns that time; NULL when there was no such call.
Private.';
