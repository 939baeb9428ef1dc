-- qr_refresh.foreign_condition(): the rows of these attempts, in words that another server takes.
create or replace function qr_refresh.foreign_condition(
    attempts qr_refresh.attempt[], with_qr_code boolean default false
)
returns text
language sql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    select format('e.instance_status = %L and (%s)', 'connecting', string_agg(k.condition, ' or '))
    from unnest(attempts) as a
    cross join lateral (
        select concat_ws(
            ' and ',
            format('e.instance_name = %L and e.instance_token = %L', a.instance_name, a.instance_token),
            case
                when a.evolution_server is null then 'e.evolution_server is null'
                else format('e.evolution_server = %L', a.evolution_server)
            end,
            -- In the place of the picture, which would be sent there and back.
            case when with_qr_code then format('md5(e.qr_code) = %L', md5(a.qr_code)) end
        ) as condition
    ) as k
$$;

comment on function qr_refresh.foreign_condition(qr_refresh.attempt[], boolean) is
'The condition of a query on evolution_instances AS e: still connecting, and one of these instances. It has literals alone, because only such a query is done by postgres_fdw '
'on the other server as a whole.
attempts: at least one; only those that have a name and a token. with_qr_code: also, the row holds the QR code of the attempt already.
Returns the condition, with tokens in it: it must not get into a log. Private.';
