-- qr_refresh.find_foreign(): which of these rows are on another server, still connecting.
create or replace function qr_refresh.find_foreign(
    attempts qr_refresh.attempt[], with_qr_code boolean default false
)
returns bytea[]
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    found bytea [];
begin
    execute (
        select format(
            'with asked as materialized ('
            ' select a.* from unnest($1) with ordinality as a'
            ') select array_agg(qr_refresh.instance_key('
            ' e.evolution_server::text, e.instance_name::text, e.instance_token::text))'
            ' from public.evolution_instances as e where e.instance_status = %L and (%s)',
            'connecting',
            string_agg(
                qr_refresh.foreign_condition(
                    attempts[a.ordinality], a.ordinality, with_qr_code
                ),
                ' or '
            )
        )
        from unnest(attempts) with ordinality as a
    ) into found using attempts;
    return coalesce(found, '{}');
end
$$;

comment on function qr_refresh.find_foreign(qr_refresh.attempt[], boolean) is
'Asks the other server which instances of a foreign table are still connecting.
attempts: at least one. with_qr_code: only those whose row holds the QR code of the attempt already.
Returns their keys, see qr_refresh.instance_key().
Raises what the other server says. Private.';
