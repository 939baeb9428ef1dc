-- qr_refresh.oversized_rows(): connecting rows whose name or token is too long to be touched.
create or replace function qr_refresh.oversized_rows()
returns setof qr_refresh.attempt
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
-- The table may have columns of any name.
#variable_conflict use_variable
declare
    most constant integer := 10; -- that are named
    longest constant integer := 1020; -- bytes, as in qr_refresh.connecting_rows()
    counted bigint := 0;
    found record;
begin
    for found in
        select
            coalesce(octet_length(e.instance_token::text) > longest, false) as has_long_token,
            -- Of a name that is compressed only the beginning is read.
            left(e.instance_name::text, 40) as beginning,
            octet_length(e.instance_name::text) as bytes,
            count(*) over () as counted
        from public.evolution_instances as e
        where
            e.instance_status = 'connecting'
            and (
                octet_length(e.instance_name::text) > longest
                or octet_length(e.instance_token::text) > longest
                or octet_length(e.evolution_server::text) > longest
            )
        limit most
    loop
        counted := found.counted;
        return query
        select
            sha256(convert_to(gen_random_uuid()::text, getdatabaseencoding())),
            found.beginning
            || case when found.bytes > longest then format('... (%s bytes)', found.bytes) else '' end,
            null::text, null::text, null::text, false, false, clock_timestamp(),
            'failed',
            case
                when found.bytes > longest then 'instance name cannot be part of a URL'
                when found.has_long_token then 'instance token cannot be sent as an HTTP header'
                else 'Evolution server is unknown'
            end,
            null::text, null::bytea, false, null::double precision, clock_timestamp(),
            null::integer;
    end loop;
    if counted > most then
        perform qr_refresh.log(
            format('%s instances have a name or token of over %s bytes', counted, longest), 'cycle'
        );
    end if;
end
$$;

comment on function qr_refresh.oversized_rows() is
'The connecting rows that qr_refresh.connecting_rows() leaves out, because their name, token or server has over 1,020 bytes.
Returns an attempt for each of at most ten, with the outcome failed and the beginning of its name. Of more the server log has the number.
Private.';
