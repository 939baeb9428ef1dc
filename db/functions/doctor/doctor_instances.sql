-- qr_refresh.doctor_instances(): the part of qr_refresh.doctor() about the application's table.
create or replace function qr_refresh.doctor_instances()
returns table ("check" text, ok boolean, detail text, fix text)
-- Not the caller: a view, or a type of the application's, may call functions of others.
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    relation constant regclass := to_regclass('public.evolution_instances');
    kind constant "char" := (select c.relkind from pg_class as c where c.oid = relation);
    fitting record;
    reason text;
    filtered text;
    connecting bigint;
    unusable text;
    lost text;
    seen_words text;
    beside text;
    row_estimate bigint;
    has_index boolean;
begin
    select f.* into fitting from qr_refresh.fitting_view() as f;
    return query select
        'table evolution_instances',
        relation is not null and fitting.missing is null,
        case
            when relation is null then 'there is no table public.evolution_instances'
            when fitting.missing is null then 'has the columns that the job uses'
            else concat_ws(
                '; ',
                'columns are missing: ' || fitting.missing,
                'it has: ' || fitting.columns_there,
                'it seems to have: ' || fitting.found_instead
            )
        end,
        case
            when fitting.found_instead is not null
                then 'Rename the columns, or put a view in its place: ' || fitting.script
            when kind in ('v', 'f') then 'It needs these columns. evolution_server may be NULL::text'
            else 'make migrate adds what is missing; a table or column of another name must be renamed'
        end;
    if relation is null or fitting.missing is not null then
        return;
    end if;

    if kind = 'v' then
        begin
            -- Looks at the rights and plans, and runs nothing.
            execute 'explain update public.evolution_instances set qr_code = null, last_qr_update = null';
        exception when others then
            reason := format('%s (SQLSTATE %s)', sqlerrm, sqlstate);
        end;
        return query select
            'view can be written',
            reason is null,
            coalesce(reason, 'yes'),
            case when reason ~ '42501' then qr_refresh.grants_below_view() else
                'CREATE TRIGGER ... INSTEAD OF UPDATE ON public.evolution_instances, or a view over one table'
            end;
        -- What is below it is read as its owner.
        select string_agg(distinct format('%s, for %s', t.oid::regclass, v.relowner::regrole), '; ') into filtered
        from pg_class as v
        inner join pg_rewrite as w on v.oid = w.ev_class
        inner join pg_depend as d on d.classid = 'pg_rewrite'::regclass and w.oid = d.objid
        inner join pg_class as t on d.refclassid = 'pg_class'::regclass and d.refobjid = t.oid
        inner join pg_roles as r on v.relowner = r.oid
        where
            v.oid = relation
            and t.relrowsecurity
            and not (r.rolsuper or r.rolbypassrls)
            and (t.relforcerowsecurity or not pg_has_role(r.oid, t.relowner, 'usage'))
            and not coalesce(v.reloptions && array['security_invoker=true', 'security_invoker=on'], false);
        return query select
            'view shows all rows',
            case when filtered is null then true end,
            coalesce('row level security chooses the rows of ' || filtered, 'yes'),
            'Where rows are missing: a policy for the owner of the view, such as CREATE POLICY ... FOR ALL TO ... USING (true);';
    end if;

    begin
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
        if connecting = 0 then
            select string_agg(format('%s (%s)', w.word, w.times), ', '), array_agg(w.word)
            into seen_words, fitting.words
            from (
                select left(e.instance_status::text, 40) as word, count(*) as times
                from public.evolution_instances as e
                where e.instance_status is not null
                group by 1
                order by 2 desc, 1
                limit 10
            ) as w;
        end if;
    exception when others then
        -- What other errors say may quote a row.
        reason := format(
            'cannot be read (SQLSTATE %s%s)',
            sqlstate, case when left(sqlstate, 2) in ('08', '42', 'HV') then ': ' || sqlerrm end
        );
        return query select
            'connecting instances',
            false,
            reason,
            case kind
                when 'f' then 'Is the other server up, and may qr_refresh_owner use it? CREATE USER MAPPING FOR '
                    'qr_refresh_owner SERVER ... OPTIONS (user ''...'', password ''...'');'
                when 'v' then qr_refresh.grants_below_view()
                else 'make migrate, as a superuser; then look again'
            end;
        return;
    end;
    if seen_words is not null then
        beside := (
            select string_agg(quote_ident(a.attname), ', ')
            from pg_attribute as a
            where
                a.attrelid = relation
                and a.attnum > 0
                and not a.attisdropped
                and lower(replace(a.attname, '_', '')) in ('status', 'state', 'connectionstatus', 'connectionstate')
        );
        select f.* into fitting from qr_refresh.fitting_view(fitting.words) as f;
    end if;
    return query select
        'connecting instances',
        nullif(connecting > 0, false),
        concat_ws(
            '; ', connecting, 'instance_status is ' || seen_words, 'there is also a column ' || beside
        ),
        case
            when fitting.script ~ 'CASE .* WHEN ''[^'']*'' THEN' and fitting.script !~ 'the word that means'
                then 'The job serves rows whose instance_status is connecting. A view with which it sees them so; the '
                    'application then uses the table by its new name: ' || fitting.script
            else 'Nothing to do for the job: it serves rows whose instance_status is connecting'
        end;
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

    if kind not in ('r', 'p') then
        return;
    end if;
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
