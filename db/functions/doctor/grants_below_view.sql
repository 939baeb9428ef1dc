-- qr_refresh.grants_below_view(): what the job's role needs where the table is a view that reads
-- with the rights of whoever uses it (security_invoker).
create or replace function qr_refresh.grants_below_view()
returns text
language sql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    with below as (
        select t.oid as relation, t.relnamespace as namespace, a.attname as name
        from pg_rewrite as w
        inner join pg_depend as d on d.classid = 'pg_rewrite'::regclass and w.oid = d.objid
        inner join pg_class as t on d.refclassid = 'pg_class'::regclass and d.refobjid = t.oid
        inner join pg_attribute as a on t.oid = a.attrelid and d.refobjsubid = a.attnum
        where w.ev_class = to_regclass('public.evolution_instances') and t.oid <> w.ev_class
    ), written as (
        -- As the view is printed: the column, and AS with the view's name for it where that is another.
        select coalesce(
            substring(
                pg_get_viewdef(to_regclass('public.evolution_instances')), '("[^"]+"|\w+) AS ' || v.name || '\M'
            ),
            v.name
        ) as name
        from unnest(array['qr_code', 'last_qr_update']) as v (name)
    )
    select string_agg(g.command, ' ' order by g.place, g.command)
    from (
        select 1 as place, format('GRANT USAGE ON SCHEMA %s TO qr_refresh_owner;', b.namespace::regnamespace) as command
        from below as b
        where not has_schema_privilege('qr_refresh_owner', b.namespace, 'usage')
        group by b.namespace
        union all
        select
            2,
            format(
                'GRANT SELECT (%s)%s ON %s TO qr_refresh_owner;',
                string_agg(quote_ident(b.name), ', ' order by b.name),
                ', UPDATE ('
                || string_agg(quote_ident(b.name), ', ' order by b.name) filter (
                    where b.name in (select trim('"' from w.name) from written as w)
                )
                || ')',
                b.relation::regclass
            )
        from below as b
        group by b.relation
    ) as g
$$;

comment on function qr_refresh.grants_below_view() is
'The commands that let qr_refresh_owner read and write what is below the view evolution_instances, as far as can be told from its text.
Returns them as one text; NULL where it is no view.
Private.';
