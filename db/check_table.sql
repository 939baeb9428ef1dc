-- Run by every installation before anything is changed: an evolution_instances that is there
-- already must be one that the job can use. Else this stops, and says what to change. It reads no
-- row of a view or foreign table: a view may call functions of others, and the other server may be
-- away.
do $$
declare
    relation constant regclass := to_regclass('public.evolution_instances');
    kind constant "char" := (select c.relkind from pg_catalog.pg_class as c where c.oid = relation);
    fitting record;
    tried record;
    problem text;
    advice text;
    same_names text;
begin
    if relation is null then
        return;
    end if;
    if kind not in ('r', 'p', 'v', 'f') then
        raise exception using
            errcode = 'QR009',
            message = 'public.evolution_instances is no table',
            detail = 'It has to be a table, a view that can be written, or a foreign table.',
            hint = 'Let the table that holds the rows have this name, or make a view of this name over it.';
    end if;
    select f.* into fitting from qr_refresh.fitting_view() as f;
    -- A table gets what it lacks. But not beside a column of another name that is meant for the same.
    if
        fitting.missing is not null
        and (
            kind in ('v', 'f')
            or fitting.found_instead is not null
            or starts_with(fitting.missing, 'instance_name')
        )
    then
        raise exception using
            errcode = 'QR013',
            message = format('public.evolution_instances has no column %s', fitting.missing),
            detail = concat(
                'It has: ' || fitting.columns_there || '.',
                ' It seems to have: ' || fitting.found_instead || '.',
                ' Words of its status: ' || array_to_string(fitting.words, ', ') || '.'
            ),
            hint = case
                when fitting.script is null then
                    'The job needs the table that lists the instances of Evolution API. '
                    'Rename the other table, or add the columns and fill them.'
                else
                    'Rename the columns, or put a view in its place, in which all of its columns are as before:'
                    || e'\n' || fitting.script
            end;
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
        advice := tried.hint;
        problem := case when tried.is_no_text or tried.is_short then 'Its type is ' || tried.type end;
        begin
            -- Never run: only what the columns are can make it fail.
            execute format('prepare check_table as ' || tried.query, 'public.evolution_instances');
            deallocate check_table;
        exception when others then
            problem := coalesce(problem, sqlerrm);
            -- PostgreSQL's own, such as what makes a view one that can be written.
            if kind = 'v' then
                get stacked diagnostics advice = pg_exception_hint;
                advice := coalesce(nullif(advice, ''), tried.hint);
            end if;
        end;
        if tried.name = 'instance_status' then
            if problem is null and not 'connecting' = any(fitting.words) then
                problem := 'It may only be ' || array_to_string(fitting.words, ', ');
            end if;
            advice := concat_ws(
                e'\n', advice, 'Or a view, with which the job sees connecting. The application then uses the '
                'table by its new name:', fitting.script
            );
        end if;
        if problem is not null then
            raise exception using
                errcode = 'QR009',
                message = format(
                    'the job cannot use column %s of public.evolution_instances', tried.name
                ),
                detail = problem || '.',
                hint = advice;
        end if;
    end loop;

    if kind in ('r', 'p') and exists (
        select
        from pg_catalog.pg_attribute as a
        inner join pg_catalog.pg_type as t on a.atttypid = t.oid
        left join pg_catalog.pg_collation as c on a.attcollation = c.oid
        where
            a.attrelid = relation
            and a.attname = 'instance_name'
            and (t.typname = 'citext' or not c.collisdeterministic)
    ) then
        execute
            'select string_agg(s.names, ''; '') from ('
            ' select string_agg(distinct left(e.instance_name::text, 60) collate "C", '', '') as names'
            ' from public.evolution_instances as e group by e.instance_name'
            ' having count(distinct e.instance_name::text collate "C") > 1 limit 5) as s'
        into same_names;
        if same_names is not null then
            raise exception using
                errcode = 'QR014',
                message = format('instances have the same name for the database: %s', same_names),
                detail = 'The collation or type of instance_name takes them for the same, and Evolution API does not: '
                    'a QR code would reach the wrong row.',
                hint = 'Rename or delete one of them, or: '
                    'ALTER TABLE public.evolution_instances ALTER COLUMN instance_name TYPE text COLLATE "C";';
        end if;
    end if;
end
$$;
