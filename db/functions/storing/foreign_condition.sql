-- qr_refresh.foreign_condition(): the row of an attempt, in words that another server takes.
create or replace function qr_refresh.foreign_condition(
    attempt qr_refresh.attempt, number bigint, with_qr_code boolean default false
)
returns text
language sql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    select format(
        'e.instance_name = %s and e.instance_token = %s and e.evolution_server %s',
        replace(v.value, 'X', 'instance_name'),
        replace(v.value, 'X', 'instance_token'),
        case
            when attempt.evolution_server is null then 'is null'
            else '= ' || replace(v.value, 'X', 'evolution_server')
        end
    )
    -- In the place of the picture, which would be sent there and back.
    || case when with_qr_code then format(' and md5(e.qr_code) = %L', md5(attempt.qr_code)) else '' end
    from (
        select format('(select a.X from asked as a where a.ordinality = %s)', number) as value
    ) as v
$$;

comment on function qr_refresh.foreign_condition(qr_refresh.attempt, bigint, boolean) is
'The condition of a query on evolution_instances AS e for the row of one attempt. Its values are subqueries of asked, which postgres_fdw sends as parameters: as literals, tokens and pictures '
'would be in the log of the other server whenever it refuses the statement.
attempt: one that has a name and a token. number: its ordinality in asked. with_qr_code: also, the row holds the QR code of the attempt already.
Returns the condition. Private.';
