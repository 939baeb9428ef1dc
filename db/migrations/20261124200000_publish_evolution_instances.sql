-- migrate:up

-- Supabase Realtime sends what is in the publication supabase_realtime. The table joins it here and
-- once, so that one which an operator takes out again stays out.
do $$
begin
    -- The file of `make dist` runs each migration again with each upgrade.
    if to_regclass('qr_refresh.schema_migrations') is not null then
        if exists (
            select from qr_refresh.schema_migrations where version = '20261124200000'
        ) then
            return;
        end if;
    end if;
    -- Not pg_publication_tables, which has the partitions in the place of a partitioned table.
    if not exists (
        select from pg_catalog.pg_publication as p
        where
            p.pubname = 'supabase_realtime'
            and not p.puballtables
            and not exists (
                select from pg_catalog.pg_publication_rel as r
                where r.prpubid = p.oid and r.prrelid = 'public.evolution_instances'::regclass
            )
            and not exists (
                select from pg_catalog.pg_publication_namespace as n
                where n.pnpubid = p.oid and n.pnnspid = 'public'::regnamespace
            )
    ) then
        return;
    end if;
    -- A published table without a replica identity takes no UPDATE any more, from nobody.
    if not exists (
        select from pg_catalog.pg_class as c
        where
            c.oid = 'public.evolution_instances'::regclass
            and c.relkind in ('r', 'p')
            and c.relpersistence = 'p'
            and (
                c.relreplident = 'f'
                or exists (
                    select from pg_catalog.pg_index as i
                    where
                        i.indrelid = c.oid
                        and case c.relreplident
                            when 'd' then i.indisprimary
                            when 'i' then i.indisreplident
                        end
                )
            )
    ) then
        raise warning using
            message = 'evolution_instances is not in publication supabase_realtime',
            detail = 'Only a logged table with a primary key, or another replica identity, can be published.',
            hint = 'Add a primary key, then: '
                'ALTER PUBLICATION supabase_realtime ADD TABLE public.evolution_instances;';
        return;
    end if;
    alter publication supabase_realtime add table public.evolution_instances;
end
$$;

-- migrate:down
-- Nothing: there is no way back to an older schema but a backup. README.md tells how to uninstall.
