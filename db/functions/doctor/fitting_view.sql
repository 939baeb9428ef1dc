-- qr_refresh.fitting_view(): what evolution_instances has in place of the job's columns and words.
-- An installation creates it before it looks at the table: it reads the catalog alone.
create or replace function qr_refresh.fitting_view(seen_words text[] default '{}')
returns table (columns_there text, missing text, found_instead text, words text[], script text)
language sql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    with wanted (place, name, type, others) as (
        values
        (1, 'instance_name', null, 'name instance session sessionname nome nomeinstancia'),
        (2, 'instance_token', null, 'token apikey key hash apitoken accesstoken instancekey instanceapikey'),
        (3, 'instance_status', null, 'status state connectionstatus connectionstate situacao estado'),
        (4, 'qr_code', 'text', 'qr qrcode base64 qrbase64 qrcodebase64 lastqr lastqrcode'),
        (5, 'last_qr_update', 'timestamptz', 'qrupdatedat qrcodeupdatedat lastqrat qrat qrgeneratedat'),
        (6, 'evolution_server', null, '')
    ), present as (
        select
            a.attnum,
            a.attname::text as name,
            a.atttypid,
            -- instanceName and instance_name are meant to be the same.
            lower(replace(a.attname, '_', '')) as spelling
        from pg_attribute as a
        where
            a.attrelid = to_regclass('public.evolution_instances')
            and a.attnum > 0
            and not a.attisdropped
    ), matched as (
        select w.place, w.name, w.type, m.attnum, m.atttypid, m.name as source, w.name = m.name as is_there
        from wanted as w
        left join lateral (
            select p.*
            from present as p
            where
                p.name = w.name
                or (
                    p.spelling = any(string_to_array(w.others, ' ') || replace(w.name, '_', ''))
                    and p.name not in (select o.name from wanted as o)
                )
            order by p.name = w.name desc, p.spelling = replace(w.name, '_', '') desc, p.attnum
            limit 1
        ) as m on true
    ), status as (
        select m.*, 't.' || quote_ident(m.source) as expression
        from matched as m
        where m.name = 'instance_status'
    ), known as (
        -- Those of an enum, those of a CHECK that lists what the status may be, those of the rows.
        select array_agg(distinct w.word) as words
        from (
            select e.enumlabel::text as word
            from status as s
            inner join pg_enum as e on s.atttypid = e.enumtypid
            union all
            select replace(literal[1], '''''', '''')
            from status as s
            inner join pg_constraint as c
                on
                    c.contype = 'c'
                    and (
                        (
                            c.conrelid = to_regclass('public.evolution_instances')
                            and c.conkey = array[s.attnum]
                        )
                        or c.contypid = s.atttypid
                    )
            cross join lateral regexp_matches(pg_get_constraintdef(c.oid), '''((?:[^'']|'''')*)''', 'g') as literal
            where
                -- A list and nothing else.
                pg_get_constraintdef(c.oid)
                ~ '^CHECK \(+[^=<>~]* = ANY \(+ARRAY\[[^]]*\]\)*(::[\w ]+\[\])?\)+( NOT VALID)?$'
            union all
            select unnest(seen_words)
        ) as w
    ), meant as (
        select
            k.words,
            array(
                select word from unnest(k.words) as word
                where
                    word ~* '^(connecting|conectando|conexion|connexion|conectandose|qr|qr_?code|pairing|scan.*|waiting.*|aguardando.*|esperando.*)$'
                order by word
            ) as connecting
        from known as k
    ), mapped as (
        select
            case
                when 'connecting' = any(w.words) or w.words is null then s.expression
                else format(
                    'CASE %s::text %s ELSE %1$s::text END',
                    s.expression,
                    coalesce(
                        (
                            select string_agg(format('WHEN %L THEN ''connecting''', word), ' ')
                            from unnest(w.connecting) as word
                        ),
                        'WHEN ''the word that means connecting'' THEN ''connecting'''
                    )
                )
            end as expression
        from meant as w
        cross join status as s
    ), rows_of as (
        select c.relkind in ('r', 'p') as is_table, c.relowner, c.relacl
        from pg_class as c
        where c.oid = to_regclass('public.evolution_instances')
    )
    select
        (select string_agg(quote_ident(p.name), ', ' order by p.attnum) from present as p),
        (select string_agg(m.name, ', ' order by m.place) from matched as m where m.is_there is not true),
        (
            select string_agg(quote_ident(m.source) || ' for ' || m.name, ', ' order by m.place)
            from matched as m
            where not m.is_there
        ),
        w.words,
        case
            when exists (
                select from matched as m
                where
                    m.source is null
                    and (m.place <= 3 or not r.is_table and m.type is not null)
            ) then null
            else concat_ws(
                e'\n',
                'BEGIN;',
                (
                    select
                        'ALTER TABLE public.evolution_instances '
                        || string_agg(format('ADD COLUMN %s %s', m.name, m.type), ', ' order by m.place) || ';'
                    from matched as m
                    where m.source is null and m.type is not null
                ),
                'ALTER TABLE public.evolution_instances RENAME TO evolution_instances_rows;',
                'CREATE VIEW public.evolution_instances WITH (security_invoker = true) AS SELECT '
                || (
                    select string_agg(c.item, ', ' order by c.place)
                    from (
                        select
                            p.attnum as place,
                            case p.name
                                when 'instance_status' then p_status.expression || ' AS instance_status'
                                else format('t.%I', p.name)
                            end as item
                        from present as p
                        cross join mapped as p_status
                        union all
                        select
                            10000 + m.place,
                            case
                                when m.name = 'instance_status' then m_status.expression
                                when m.source is not null then 't.' || quote_ident(m.source)
                                when m.type is not null then format('t.%I', m.name)
                                else 'NULL::text'
                            end || ' AS ' || m.name
                        from matched as m
                        cross join mapped as m_status
                        where m.is_there is not true
                    ) as c
                )
                || ' FROM public.evolution_instances_rows AS t;',
                'ALTER VIEW public.evolution_instances OWNER TO ' || r.relowner::regrole || ';',
                (
                    select
                        string_agg(
                            format(
                                'GRANT %s ON public.evolution_instances TO %s;',
                                g.privileges,
                                g.role
                            ),
                            e'\n' order by g.role
                        )
                    from (
                        select
                            case acl.grantee when 0 then 'PUBLIC' else acl.grantee::regrole::text end as role,
                            string_agg(acl.privilege_type, ', ' order by acl.privilege_type) as privileges
                        from aclexplode(r.relacl) as acl
                        where acl.grantee <> r.relowner
                        group by acl.grantee
                    ) as g
                ),
                'COMMIT;'
            )
        end
    from rows_of as r
    cross join meant as w
$$;

comment on function qr_refresh.fitting_view(text[]) is
'Compares evolution_instances with what the job needs, and writes a view that fits. Reads the catalog, and no row.
seen_words: values of its status that are known otherwise.
Returns one row, or none where there is no evolution_instances: columns_there; missing (columns of the job, NULL: none); found_instead (which others look like '
'them, NULL: none); words (of its status, NULL where none is known); script (SQL that puts a view in the place of the table, which gets another name; '
'NULL where something is missing that nothing looks like).
Private.';
