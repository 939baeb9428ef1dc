-- qr_refresh.connecting_rows(): the rows of the application that can be instances at all.
create or replace function qr_refresh.connecting_rows(without_qr_code boolean default false)
returns table (
    instance bytea,
    instance_name text,
    instance_token text,
    evolution_server text,
    last_qr_update timestamptz
)
language sql stable parallel restricted security invoker
rows 100
as $$
    select
        qr_refresh.instance_key(
            e.evolution_server::pg_catalog.text,
            e.instance_name::pg_catalog.text,
            e.instance_token::pg_catalog.text
        ),
        e.instance_name::pg_catalog.text,
        e.instance_token::pg_catalog.text,
        e.evolution_server::pg_catalog.text,
        e.last_qr_update::pg_catalog.timestamptz
    from public.evolution_instances as e
    where
        e.instance_status operator(pg_catalog.=) 'connecting'
        -- Asked for here, because a foreign table would have to send all pictures for it.
        and (not $1 or e.qr_code is null)
        -- Before anything else touches them: 255 characters are never more bytes. What is longer
        -- costs nobody the time to read it, nor the way from another server.
        and pg_catalog.int4le(pg_catalog.octet_length(e.instance_name::pg_catalog.text), 1020)
        and (
            e.instance_token is null
            or pg_catalog.int4le(pg_catalog.octet_length(e.instance_token::pg_catalog.text), 1020)
        )
        and (
            e.evolution_server is null
            or pg_catalog.int4le(pg_catalog.octet_length(e.evolution_server::pg_catalog.text), 1020)
        )
$$;

comment on function qr_refresh.connecting_rows(boolean) is
'The connecting rows of evolution_instances, but for those whose name, token or server has over 1,020 bytes.
without_qr_code: true leaves out those that have a QR code.
Returns one row for each: instance (see qr_refresh.instance_key(); two rows may be the same instance), instance_name, instance_token (a secret), '
'evolution_server, last_qr_update.
Without SET search_path, so that a query which joins it is planned as one; its callers set it. Private.';
