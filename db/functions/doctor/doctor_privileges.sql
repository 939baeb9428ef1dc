-- qr_refresh.doctor_privileges(): the part of qr_refresh.doctor() about who may do what.
create or replace function qr_refresh.doctor_privileges()
returns table ("check" text, ok boolean, detail text, fix text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    relation constant regclass := to_regclass('public.evolution_instances');
    owner_flags text;
    missing text;
    callers text;
    others text;
    members text;
    token_readers text;
    rls boolean;
    is_view boolean;
begin
    select concat_ws(
        ', ',
        case when r.rolsuper then 'is a superuser' end,
        case when r.rolcanlogin then 'can log in' end,
        case when not r.rolbypassrls then 'is stopped by row level security' end
    )
    into owner_flags
    from pg_roles as r
    where r.rolname = 'qr_refresh_owner';
    return query select
        'role qr_refresh_owner',
        coalesce(owner_flags = '', false),
        case owner_flags when '' then 'is as it should be' else coalesce(owner_flags, 'is missing') end,
        'ALTER ROLE qr_refresh_owner NOSUPERUSER NOLOGIN BYPASSRLS; where it is missing: make migrate';
    if owner_flags is null then
        return;
    end if;
    select string_agg(m.member::regrole::text, ', ') into members
    from pg_auth_members as m
    where m.roleid = 'qr_refresh_owner'::regrole;
    return query select
        'members of qr_refresh_owner',
        members is null,
        coalesce(members || ' may become it, read every token and change the functions', 'none'),
        format('REVOKE qr_refresh_owner FROM %s;', members);
    if relation is null then
        return;
    end if;

    select string_agg(p.privilege || ' (' || p.name || ')', ', ') into missing
    from (
        values
        ('select', 'instance_name'), ('select', 'instance_token'), ('select', 'instance_status'),
        ('select', 'qr_code'), ('select', 'last_qr_update'), ('select', 'evolution_server'),
        ('update', 'qr_code'), ('update', 'last_qr_update')
        union all
        select 'update', 'instance_status'
        from qr_refresh.settings as s
        where s.connected_status is not null
    ) as p (privilege, name)
    inner join pg_attribute as a
        on a.attrelid = relation and p.name = a.attname and not a.attisdropped
    where not has_column_privilege('qr_refresh_owner', relation, a.attnum, p.privilege);
    return query select
        'grants of qr_refresh_owner',
        missing is null,
        coalesce('missing: ' || missing, 'there on the columns that the job uses'),
        format('GRANT %s ON public.evolution_instances TO qr_refresh_owner;', missing);
    return query select
        'qr_refresh_owner may use schema public',
        has_schema_privilege('qr_refresh_owner', 'public', 'usage'),
        case when has_schema_privilege('qr_refresh_owner', 'public', 'usage') then 'yes' else 'no' end,
        'GRANT USAGE ON SCHEMA public TO qr_refresh_owner;';

    select
        string_agg(distinct coalesce(r.rolname, 'PUBLIC'), ', ') filter (
            where acl.grantee = 0 or r.rolname in ('anon', 'authenticated')
        ),
        string_agg(
            distinct format('%s (%s)', p.oid::regprocedure, p.proowner::regrole), ', '
        ) filter (where p.proowner <> 'qr_refresh_owner'::regrole)
    into callers, others
    from pg_proc as p
    cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as acl
    left join pg_roles as r on acl.grantee = r.oid
    where
        p.pronamespace = 'qr_refresh'::regnamespace
        or p.pronamespace = 'public'::regnamespace and p.proname in ('refresh_qr_codes', 'receive_evolution_event');
    return query select
        'callers of the functions',
        callers is null,
        coalesce(callers || ' may execute functions of ours', 'only those that should'),
        format(
            'REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA qr_refresh FROM %1$s; '
            'REVOKE EXECUTE ON FUNCTION public.refresh_qr_codes FROM %1$s;',
            callers
        );
    return query select
        'owner of the functions',
        others is null,
        coalesce('not of qr_refresh_owner: ' || others, 'qr_refresh_owner'),
        'make migrate, which gives them back, or names what somebody else has made: drop that';

    -- Row level security without a policy shows them no row. With one, a row comes with its token.
    select c.relrowsecurity, c.relkind = 'v' into rls, is_view from pg_class as c where c.oid = relation;
    select string_agg(r.name, ', ') into token_readers
    from unnest(array['public', 'anon', 'authenticated']) as r (name)
    where
        (r.name = 'public' or to_regrole(r.name) is not null)
        and has_column_privilege(r.name, relation, 'instance_token', 'select')
        and (
            not rls
            or exists (
                select from pg_policy as p
                where
                    p.polrelid = relation and p.polcmd in ('r', '*')
                    and (p.polroles @> '{0}' or p.polroles @> array[to_regrole(r.name)::oid])
            )
        );
    return query select
        'instance_token is private',
        case when token_readers is null then true when not rls and not is_view then false end,
        coalesce(
            token_readers || ' may read it'
            || case
                when is_view then ', of rows that the view shows'
                when rls then ', of rows that a policy shows'
                else ' of every row'
            end,
            'PUBLIC, anon and authenticated cannot read it'
        ),
        format(
            'Grant columns, not the table: REVOKE SELECT ON public.evolution_instances FROM %s; '
            'GRANT SELECT (instance_name, instance_status, qr_code, last_qr_update) '
            'ON public.evolution_instances TO ...; '
            'and row level security: ALTER TABLE public.evolution_instances ENABLE ROW LEVEL SECURITY;',
            token_readers
        );
end
$$;

comment on function qr_refresh.doctor_privileges() is
'Part of qr_refresh.doctor(), which describes the columns: roles, grants, row level security.
Raises nothing of its own. Private.';
