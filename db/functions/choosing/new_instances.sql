-- qr_refresh.new_instances(): who is connecting and was not seen before.
create or replace function qr_refresh.new_instances(
    worker integer, workers integer, wanted text default null
)
returns table (
    instance bytea, instance_name text, evolution_server text, next_attempt_at timestamptz
)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    select
        n.instance,
        n.instance_name,
        n.evolution_server,
        clock_timestamp()
    from (
        select
            r.instance,
            min(r.instance_name) as instance_name,
            min(coalesce(v.server_name, '')) as evolution_server
        from qr_refresh.connecting_rows() as r
        left join qr_refresh.evolution_servers as v on r.evolution_server = v.server_name
        where
            qr_refresh.is_share_of(r.instance, worker, workers)
            and (wanted is null or r.instance_name = wanted)
            and not exists (
                select from qr_refresh.instance_state as s where s.instance = r.instance
            )
        group by r.instance
        -- So that it takes well under a second.
        limit 10000
    ) as n;
end
$$;

comment on function qr_refresh.new_instances(integer, integer, text) is
'The connecting instances that are not in qr_refresh.instance_state, at most 10,000.
worker, workers: the share of this worker, from 1. wanted: this instance_name only; NULL for all.
Returns instance, instance_name, evolution_server (empty for the one of the settings) and when each is due: at once. Private.';
