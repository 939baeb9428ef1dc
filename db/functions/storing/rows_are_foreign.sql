-- qr_refresh.rows_are_foreign(): whether the rows of evolution_instances are on another server.
create or replace function qr_refresh.rows_are_foreign()
returns boolean
language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    rows constant regclass := 'public.evolution_instances'::regclass;
    kind constant "char" := (select c.relkind from pg_class as c where c.oid = rows);
begin
    if kind <> 'v' then
        return kind = 'f';
    end if;
    return exists (
        with recursive below (relation) as (
            select rows::oid
            union
            -- What a view reads; each depends on the view's rule.
            select d.refobjid
            from below as b
            inner join pg_rewrite as w on b.relation = w.ev_class
            inner join pg_depend as d
                on
                    d.classid = 'pg_rewrite'::regclass
                    and d.objid = w.oid
                    and d.refclassid = 'pg_class'::regclass
        )
        select from below as b inner join pg_class as c on b.relation = c.oid where c.relkind = 'f'
    );
end
$$;

comment on function qr_refresh.rows_are_foreign() is
'Whether evolution_instances is a foreign table, or a view over one. Reads the catalog alone.
Private.';
