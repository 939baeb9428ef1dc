-- The last step of every installation. Default privileges (ALTER DEFAULT PRIVILEGES) put grants on
-- each new object: Supabase has some for anon, authenticated and service_role. They are taken back
-- from what is ours. A grant of the operator's stays, unless default privileges name the same role.
do $$
declare
    excess record;
begin
    for excess in
        with ours as (
            select
                'routine' as kind,
                'f' as type,
                p.oid::regprocedure::text as name,
                p.proname as short_name,
                p.pronamespace as namespace,
                p.proacl as acl
            from pg_catalog.pg_proc as p
            where
                p.pronamespace = 'qr_refresh'::regnamespace
                or (p.pronamespace = 'public'::regnamespace and p.proname = 'refresh_qr_codes')
            union all
            select
                case c.relkind when 'S' then 'sequence' else 'table' end,
                case c.relkind when 'S' then 'S' else 'r' end,
                c.oid::regclass::text,
                c.relname,
                c.relnamespace,
                c.relacl
            from pg_catalog.pg_class as c
            where
                c.relnamespace = 'qr_refresh'::regnamespace
                and c.relkind in ('r', 'p', 'v', 'm', 'S')
            union all
            select 'schema', 'n', n.oid::regnamespace::text, n.nspname, 0, n.nspacl
            from pg_catalog.pg_namespace as n
            where n.nspname = 'qr_refresh'
        )
        select distinct o.kind, o.name, granted.privilege_type as privilege, r.rolname as role
        from ours as o
        cross join pg_catalog.aclexplode(o.acl) as granted
        inner join pg_catalog.pg_roles as r on granted.grantee = r.oid
        inner join pg_catalog.pg_default_acl as d
            on o.type = d.defaclobjtype and d.defaclnamespace in (0, o.namespace)
        inner join pg_catalog.aclexplode(d.defaclacl) as by_default
            on
                granted.grantee = by_default.grantee
                and granted.privilege_type = by_default.privilege_type
        where
            r.rolname not in (current_user, 'qr_refresh_owner')
            and not starts_with(r.rolname, 'pg_')
            -- What we grant ourselves.
            and (r.rolname, o.short_name, granted.privilege_type) not in (
                ('service_role', 'qr_refresh', 'USAGE'),
                ('service_role', 'refresh_qr_codes', 'EXECUTE'),
                ('service_role', 'live', 'EXECUTE'),
                ('service_role', 'live_tick', 'EXECUTE'),
                ('service_role', 'show_qr', 'EXECUTE'),
                ('service_role', 'active_alerts', 'EXECUTE'),
                ('service_role', 'connecting_instances', 'EXECUTE'),
                ('service_role', 'cron_jobs', 'EXECUTE'),
                ('service_role', 'alerts', 'SELECT'),
                ('service_role', 'health', 'SELECT'),
                ('service_role', 'metrics', 'SELECT'),
                ('service_role', 'runs', 'SELECT'),
                ('service_role', 'status', 'SELECT')
            )
    loop
        execute format(
            'revoke %s on %s %s from %I', excess.privilege, excess.kind, excess.name, excess.role
        );
    end loop;
end
$$;
