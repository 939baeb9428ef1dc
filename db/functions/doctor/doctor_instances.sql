-- qr_refresh.doctor_instances(): the part of qr_refresh.doctor() about the application's table.
create or replace function qr_refresh.doctor_instances()
returns table ("check" text, ok boolean, detail text, fix text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    relation constant regclass := to_regclass('public.evolution_instances');
    missing text;
    connecting bigint;
    unusable text;
    lost text;
    row_estimate bigint;
    has_index boolean;
begin
    select string_agg(c.name, ', ') into missing
    from unnest(array[
        'instance_name', 'instance_token', 'instance_status', 'qr_code', 'last_qr_update',
        'evolution_server'
    ]) as c (name)
    where not exists (
        select from pg_attribute as a
        where a.attrelid = relation and a.attname = c.name and not a.attisdropped
    );
    return query select
        'table evolution_instances',
        missing is null,
        case
            when relation is null then 'there is no table public.evolution_instances'
            else coalesce('columns are missing: ' || missing, 'has the columns that the job uses')
        end,
        'make migrate adds what is missing; a table or column of another name must be renamed';
    if missing is not null then
        return;
    end if;

    select
        count(*),
        string_agg(
            format('%s: %s', coalesce(e.instance_name::text, 'NULL'), p.problem),
            '; ' order by e.instance_name::text
        ) filter (where p.problem is not null),
        string_agg(
            format('%s: %s', e.instance_name::text, e.evolution_server::text),
            '; ' order by e.instance_name::text
        ) filter (
            where
                e.evolution_server is not null
                and not exists (
                    select from qr_refresh.evolution_servers as v
                    where v.server_name = e.evolution_server::text
                )
        )
    into connecting, unusable, lost
    from public.evolution_instances as e
    cross join lateral (
        select qr_refresh.instance_problem(e.instance_name::text, e.instance_token::text) as problem
    ) as p
    where e.instance_status = 'connecting';
    return query select
        'connecting instances',
        nullif(connecting > 0, false),
        connecting::text,
        'Nothing to do for the job: it serves rows whose instance_status is connecting';
    return query select
        'tokens of connecting instances',
        unusable is null,
        coalesce(left(unusable, 300), 'can be sent'),
        'Correct it, such as: UPDATE evolution_instances SET instance_token = ''...'' WHERE instance_name = ''...'';';
    return query select
        'servers of connecting instances',
        lost is null,
        coalesce('not in qr_refresh.evolution_servers: ' || left(lost, 300), 'are known'),
        'INSERT INTO qr_refresh.evolution_servers VALUES (''name'', ''https://...''); or correct '
        'evolution_instances.evolution_server: NULL is the server of the settings';

    row_estimate := (select greatest(c.reltuples, 0) from pg_class as c where c.oid = relation);
    has_index := exists (
        select
        from pg_index as i
        inner join pg_attribute as a on i.indrelid = a.attrelid
        where
            i.indrelid = relation and i.indisvalid and a.attname = 'instance_status'
            and (
                i.indkey[0] = a.attnum
                or pg_get_expr(i.indpred, i.indrelid) ~ '\minstance_status\M'
            )
    );
    return query select
        'index on instance_status',
        has_index or row_estimate < 10000,
        format('%s, about %s rows', case when has_index then 'there' else 'none' end, row_estimate),
        'CREATE INDEX CONCURRENTLY ON public.evolution_instances (instance_status);';
end
$$;

comment on function qr_refresh.doctor_instances() is
'Part of qr_refresh.doctor(), which describes the columns: the application''s table and its rows.
Raises nothing of its own. Private.';
