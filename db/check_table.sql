-- Run first by every installation: an evolution_instances that is there already must be one that
-- the job can use. Else this stops before anything is installed, and says what to change.
do $$
declare
    relation constant regclass := to_regclass('public.evolution_instances');
    tried record;
    problem text;
begin
    if relation is null then
        return;
    end if;
    if (select c.relkind from pg_catalog.pg_class as c where c.oid = relation) not in ('r', 'p') then
        raise exception using
            errcode = 'QR009',
            message = 'public.evolution_instances is not a table',
            detail = 'The job locks rows, writes them and adds columns, which a view or a foreign table does not take.',
            hint = 'Let the table that holds the rows have this name, and the view another one.';
    end if;
    for tried in
        select
            c.name,
            c.query,
            c.hint,
            pg_catalog.format_type(a.atttypid, a.atttypmod) as type,
            c.name in ('instance_name', 'instance_token')
            and t.typcategory not in ('S', 'N', 'E')
            and coalesce(nullif(t.typbasetype, 0), t.oid) <> 'uuid'::regtype as is_no_text,
            -- A picture has some 13,000 characters.
            c.name = 'qr_code' and a.atttypmod between 0 and 13000 as is_short
        from (
            values
            ('instance_name', 'select from %s order by instance_name', 'It may be text, varchar, citext, uuid or a number.'),
            ('instance_token', 'select from %s', 'It may be text, varchar, citext or uuid.'),
            (
                'instance_status',
                'select from %s where instance_status = ''connecting''',
                'It may be text, varchar, citext, or an enum with the value connecting: '
                'ALTER TYPE ... ADD VALUE ''connecting'';'
            ),
            (
                'qr_code',
                'update %s set qr_code = ''''::text',
                'It has to be text, not generated: ALTER TABLE public.evolution_instances ALTER COLUMN qr_code TYPE text;'
            ),
            (
                'last_qr_update',
                'update %s set last_qr_update = now() where last_qr_update::timestamptz is null',
                'It has to be timestamptz or timestamp, not generated.'
            )
        ) as c (name, query, hint)
        inner join pg_catalog.pg_attribute as a on a.attrelid = relation and c.name = a.attname
        inner join pg_catalog.pg_type as t on a.atttypid = t.oid
        where not a.attisdropped
    loop
        problem := case when tried.is_no_text or tried.is_short then 'Its type is ' || tried.type end;
        begin
            -- Never run: only what the columns are can make it fail.
            execute format('prepare check_table as ' || tried.query, 'public.evolution_instances');
            deallocate check_table;
        exception when others then
            problem := coalesce(problem, sqlerrm);
        end;
        if problem is not null then
            raise exception using
                errcode = 'QR009',
                message = format(
                    'the job cannot use column %s of public.evolution_instances', tried.name
                ),
                detail = problem || '.',
                hint = tried.hint;
        end if;
    end loop;
end
$$;
