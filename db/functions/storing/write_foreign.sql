-- qr_refresh.write_foreign(): writes rows that are on another server, in one statement.
create or replace function qr_refresh.write_foreign(
    attempts qr_refresh.attempt[],
    stored_at timestamptz,
    connected_status text,
    gives_up_at timestamptz
)
returns qr_refresh.attempt[]
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
-- A time without a time zone takes what stands before the zone.
set datestyle = 'ISO'
as $$
declare
    command constant text := (
        select format(
            'with asked as materialized ('
            ' select a.* from unnest($1) with ordinality as a'
            '), written as ('
            ' update public.evolution_instances as e set %s, last_qr_update = %L'
            ' where e.instance_status = %L and (%s)'
            ' returning e.evolution_server, e.instance_name, e.instance_token'
            ') select array_agg(qr_refresh.instance_key('
            ' w.evolution_server::text, w.instance_name::text, w.instance_token::text)) from written as w',
            case
                when connected_status is not null
                    then format('qr_code = null, instance_status = %L', connected_status)
                else format(
                    'qr_code = case %s else e.qr_code end',
                    string_agg(
                        format(
                            'when %s then (select a.qr_code from asked as a where a.ordinality = %s)',
                            c.condition,
                            a.ordinality
                        ),
                        ' '
                    )
                )
            end,
            stored_at,
            'connecting',
            string_agg(c.condition, ' or ')
        )
        from unnest(attempts) with ordinality as a
        cross join lateral (
            select qr_refresh.foreign_condition(attempts[a.ordinality], a.ordinality) as condition
        ) as c
    );
    half constant integer := cardinality(attempts) / 2;
    written bytea [];
    there bytea [];
    rest qr_refresh.attempt [];
    context text;
begin
    execute command into written using attempts;
    rest := array(select a from unnest(attempts) as a where a.instance = any(written) is not true);
    if cardinality(rest) > 0 then
        there := qr_refresh.find_foreign(rest);
    end if;
    return array(
        select case
            when a.instance = any(written) and connected_status is null
                then qr_refresh.came_to(a, 'stored')
            when a.instance = any(written) then a
            -- A trigger has returned NULL.
            when a.instance = any(there)
                then qr_refresh.came_to(a, 'update_failed', 'SQLSTATE 09000')
            else qr_refresh.came_to(a, 'changed')
        end
        from unnest(attempts) as a
    );
exception when others or assert_failure or query_canceled then
    get stacked diagnostics context = pg_exception_context;
    if sqlstate = '57014' and not qr_refresh.was_cancelled_there(context) then
        raise;
    end if;
    -- Over there the transaction sees what was there when it began.
    if half = 0 and sqlstate = '40001' then
        return array[qr_refresh.came_to(attempts[1], 'changed')];
    elsif half = 0 or clock_timestamp() > gives_up_at or left(sqlstate, 2) = '08' then
        return array(
            select qr_refresh.came_to(a, 'update_failed', 'SQLSTATE ' || sqlstate)
            from unnest(attempts) as a
        );
    end if;
    -- One of them is locked or refused: it has to cost only itself.
    return qr_refresh.write_foreign(attempts[:half], stored_at, connected_status, gives_up_at)
        || qr_refresh.write_foreign(attempts[half + 1:], stored_at, connected_status, gives_up_at);
end
$$;

comment on function qr_refresh.write_foreign(qr_refresh.attempt[], timestamptz, text, timestamptz) is
'Writes rows of a foreign table that are still connecting and still have the server and the token with which they were asked: all in one statement, which the other server does as a whole. '
'No row over there is locked that is not written. Where it fails the halves are tried, down to the one that is refused.
attempts: at least one. stored_at: the value for last_qr_update. connected_status: the value for instance_status, which clears qr_code; NULL to store their QR codes. gives_up_at: '
'from then on all of a statement that fails have failed.
Returns the attempts; the outcome is stored, or as it was where connected_status is given; changed: the row is no longer connecting, has another server or token, is gone, or was changed '
'meanwhile; update_failed (error: the SQLSTATE; 09000: a trigger has kept it as it was).
Raises nothing of its own. Private.';
