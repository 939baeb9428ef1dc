-- Run by every installation, before the migrations: what evolution_instances lacks is added, and
-- what is there is left alone, without a lock that the application could wait for.
do $$
declare
    relation regclass := to_regclass('public.evolution_instances');
    is_table boolean;
    is_known boolean := false;
    may_join boolean;
    statement text;
begin
    if relation is null then
        -- With row level security, because it holds tokens.
        create table public.evolution_instances (
            id uuid primary key default gen_random_uuid(),
            instance_name text not null unique,
            instance_token text,
            instance_status text not null default 'creating' check (
                instance_status in ('creating', 'disconnected', 'connecting', 'connected', 'error')
            ),
            qr_code text,
            last_qr_update timestamptz,
            created_at timestamptz not null default now(),
            updated_at timestamptz not null default now(),
            evolution_server text
        );
        alter table public.evolution_instances enable row level security;
        -- Without a name: a table that was renamed keeps the names of its indexes.
        create index on public.evolution_instances (instance_status);

        comment on table public.evolution_instances is
        'WhatsApp instances of Evolution API, one row each. Belongs to the application.';
        comment on column public.evolution_instances.instance_name is
        'Name of the instance in Evolution API.';
        comment on column public.evolution_instances.instance_token is
        'Secret: API key of the instance, sent as the header apikey.';
        comment on column public.evolution_instances.instance_status is
        'State as the application sees it. The job serves rows that are connecting.';
        relation := 'public.evolution_instances'::regclass;
    end if;

    -- A view and a foreign table are as the application has made them.
    is_table := (select c.relkind in ('r', 'p') from pg_catalog.pg_class as c where c.oid = relation);
    if is_table then
        -- The comments are the last that is added: where one is missing, the table is new to the job.
        is_known := coalesce(
            (
                select col_description(relation, a.attnum) ~ 'refresh_qr_codes'
                from pg_catalog.pg_attribute as a
                where a.attrelid = relation and a.attname = 'qr_code' and not a.attisdropped
            ),
            false
        );
        select
            'alter table public.evolution_instances '
            || string_agg(format('add column %I %s', c.name, c.definition), ', ' order by c.place)
        into statement
        from (
            values
            (1, 'instance_token', 'text'),
            (2, 'instance_status', 'text not null default ''creating'''),
            (3, 'qr_code', 'text'),
            (4, 'last_qr_update', 'timestamptz'),
            (5, 'evolution_server', 'text')
        ) as c (place, name, definition)
        where not exists (
            select from pg_catalog.pg_attribute as a
            where a.attrelid = relation and a.attname = c.name and not a.attisdropped
        );
        if statement is not null then
            execute statement;
        end if;
        for statement in
            select format('comment on column public.evolution_instances.%I is %L', c.name, c.comment)
            from (
                values
                (
                    'qr_code',
                    'QR code to scan, as data:image/png;base64,... Written by refresh_qr_codes().'
                ),
                ('last_qr_update', 'When refresh_qr_codes() last wrote qr_code.'),
                (
                    'evolution_server',
                    'Name of a row of qr_refresh.evolution_servers; NULL: the one of the settings.'
                )
            ) as c (name, comment)
            inner join pg_catalog.pg_attribute as a
                on a.attrelid = relation and c.name = a.attname and not a.attisdropped
            where col_description(relation, a.attnum) ~ 'refresh_qr_codes|qr_refresh' is not true
        loop
            execute statement;
        end loop;
    end if;

    -- Supabase Realtime sends what is in the publication supabase_realtime. The table joins it once, so
    -- that one which an operator takes out again stays out.
    -- Not pg_publication_tables, which has the partitions in the place of a partitioned table.
    if not exists (
        select from pg_catalog.pg_publication as p
        where
            p.pubname = 'supabase_realtime'
            and (
                not is_table
                or not (
                    p.puballtables
                    or exists (
                        select from pg_catalog.pg_publication_rel as r
                        where r.prpubid = p.oid and r.prrelid = relation
                    )
                    or exists (
                        select from pg_catalog.pg_publication_namespace as n
                        where n.pnpubid = p.oid and n.pnnspid = 'public'::regnamespace
                    )
                )
            )
    ) then
        return;
    end if;
    if to_regclass('qr_refresh.schema_migrations') is null then
        is_known := false;
    elsif not exists (
        -- The version with which a table first joined.
        select from qr_refresh.schema_migrations where version = '20261124200000'
    ) then
        is_known := false;
    end if;
    -- A published table without a replica identity takes no UPDATE any more, from nobody.
    may_join := is_table and exists (
        select from pg_catalog.pg_class as c
        where
            c.oid = relation
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
    );
    if may_join and not is_known then
        alter publication supabase_realtime add table public.evolution_instances;
        return;
    end if;
    raise warning using
        message = 'evolution_instances is not in publication supabase_realtime, so Realtime does not see it',
        detail = case
            when not is_table then 'It is no table, and only tables can be published.'
            when may_join then 'It was taken out of it.'
            else 'Only a logged table with a primary key, or another replica identity, can be published.'
        end,
        hint = case
            when not is_table then 'Publish the table that holds the rows.'
            when may_join then
                'If that is not on purpose: '
                'ALTER PUBLICATION supabase_realtime ADD TABLE public.evolution_instances;'
            else
                'Add a primary key, then: '
                'ALTER PUBLICATION supabase_realtime ADD TABLE public.evolution_instances;'
        end;
end
$$;
