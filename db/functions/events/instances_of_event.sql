-- qr_refresh.instances_of_event(): of which instance an event tells.
create or replace function qr_refresh.instances_of_event(
    told_name text, told_token text, told_url text
)
returns table (
    instance bytea, instance_name text, instance_token text, evolution_server text
)
language plpgsql stable parallel restricted security invoker
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    with named as (
        select distinct
            r.instance,
            r.instance_name,
            r.instance_token,
            r.evolution_server,
            coalesce(
                (
                    select rtrim(v.base_url, '/') = told_url
                    from qr_refresh.evolution_servers as v
                    where v.server_name = r.evolution_server
                ),
                false
            ) as is_at_this_url
        from qr_refresh.connecting_rows() as r
        where
            r.instance_name = told_name
            and (told_token is null or r.instance_token = told_token)
    )
    select n.instance, n.instance_name, n.instance_token, n.evolution_server
    from named as n
    -- What a server takes for its own URL may be another one than ours. Where two servers have an
    -- instance of this name, nothing else tells them apart.
    where n.is_at_this_url or (select count(*) from named) = 1;
end
$$;

comment on function qr_refresh.instances_of_event(text, text, text) is
'The connecting instance of which an event tells.
told_name, told_token (NULL: not told), told_url: the instance_name, instance_token and server_url of qr_refresh.read_event().
Returns instance, instance_name, instance_token (a secret) and evolution_server; no row where it is not clear which one is meant. Private.';
