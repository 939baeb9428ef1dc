-- migrate:up

-- Supabase Realtime sends what is in the publication supabase_realtime. The table joins it here and
-- once, so that one which an operator takes out again stays out.
do $$
begin
    if not exists (
        select from pg_catalog.pg_publication where pubname = 'supabase_realtime' and not puballtables
    ) or exists (
        select from pg_catalog.pg_publication_tables
        where
            pubname = 'supabase_realtime'
            and schemaname = 'public'
            and tablename = 'evolution_instances'
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
