-- qr_refresh.doctor_publications(): the part of qr_refresh.doctor() about Supabase Realtime.
create or replace function qr_refresh.doctor_publications()
returns table ("check" text, ok boolean, detail text, fix text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    has_realtime constant boolean := exists (
        select from pg_publication as p where p.pubname = 'supabase_realtime'
    );
    wal_level constant text := current_setting('wal_level');
    publishing text;
    private_tables text;
begin
    select
        string_agg(distinct t.pubname, ', ') filter (
            where t.schemaname = 'public' and t.tablename = 'evolution_instances'
        ),
        string_agg(distinct t.pubname || ' (' || t.tablename || ')', ', ') filter (
            where t.schemaname = 'qr_refresh'
        )
    into publishing, private_tables
    from pg_publication_tables as t;

    if qr_refresh.rows_are_foreign() then
        return query select
            'table is published for Realtime',
            null::boolean,
            'the rows are in another database, and cannot be published here',
            'Over there: ALTER PUBLICATION supabase_realtime ADD TABLE ...; '
            'LISTEN qr_refresh is for sessions of this database';
    else
        return query select
            'table is published for Realtime',
            case when publishing is not null then true when has_realtime then false end,
            coalesce(publishing, 'evolution_instances is in no publication'),
            case
                when has_realtime
                    then 'ALTER PUBLICATION supabase_realtime ADD TABLE public.evolution_instances;'
                else 'Only for Supabase Realtime: '
                    'CREATE PUBLICATION supabase_realtime FOR TABLE public.evolution_instances;'
            end;
    end if;
    if publishing is not null then
        return query select
            'wal_level',
            wal_level = 'logical',
            wal_level,
            'ALTER SYSTEM SET wal_level = logical; then restart Postgres: Realtime sees nothing otherwise';
    end if;
    return query select
        'state of the job is not published',
        private_tables is null,
        coalesce('published: ' || private_tables, 'yes'),
        'Name the tables instead of FOR ALL TABLES or TABLES IN SCHEMA qr_refresh: '
        'DROP PUBLICATION ...; CREATE PUBLICATION ... FOR TABLE public.evolution_instances;';
end
$$;

comment on function qr_refresh.doctor_publications() is
'Part of qr_refresh.doctor(), which describes the columns: publications for Supabase Realtime.
Raises nothing of its own. Private.';
