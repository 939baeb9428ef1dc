-- One of the last steps of every installation: who owns what is ours, and who may use it. The one
-- place that says so; what the catalog has beyond it is taken back.
do $$
declare
    statement text;
begin
    -- Row level security shows every role its own jobs; the owner passes that, but needs USAGE.
    if exists (select from pg_catalog.pg_extension as e where e.extname = 'pg_cron') then
        grant usage on schema cron to qr_refresh_owner, qr_refresher;
    end if;
    -- With these qr_refresh.log() writes one line, and not the statement as well.
    grant set on parameter log_error_verbosity, log_min_error_statement to qr_refresh_owner;
    -- What FOR UPDATE SKIP LOCKED asks for; an identity is never written.
    grant update (id) on qr_refresh.runs to qr_refresh_owner;

    -- The application's table, or a view or foreign table in its place: only what the job uses. Asked
    -- for first, so that an installation which changes nothing writes nothing.
    if not has_schema_privilege('qr_refresh_owner'::regrole, 'public', 'usage') then
        grant usage on schema public to qr_refresh_owner;
    end if;
    for statement in
        select format(
            'grant %s (%I) on public.evolution_instances to qr_refresh_owner', g.privilege, a.attname
        )
        from (
            values
            ('select', 'instance_name instance_token instance_status qr_code last_qr_update evolution_server'),
            ('update', 'qr_code last_qr_update')
        ) as g (privilege, names)
        inner join pg_catalog.pg_attribute as a
            on
                a.attrelid = 'public.evolution_instances'::regclass
                and a.attname = any(string_to_array(g.names, ' '))
                and not a.attisdropped
        where not has_column_privilege('qr_refresh_owner', a.attrelid, a.attnum, g.privilege)
    loop
        execute statement;
    end loop;

    -- Another server that takes what is sent, and never answers, would keep a job of pg_cron for ever.
    if qr_refresh.rows_are_foreign() and not exists (
        select
        from pg_catalog.pg_db_role_setting as s
        inner join pg_catalog.pg_database as d on s.setdatabase = d.oid
        where
            d.datname = current_database()
            and s.setrole = 'qr_refresher'::regrole
            and array_to_string(s.setconfig, ' ') ~ 'statement_timeout='
    ) then
        execute format(
            'alter role qr_refresher in database %I set statement_timeout = ''90s''',
            current_database()
        );
    end if;

    for statement in
        with listed (objects, privileges, roles) as (
            values
            ('qr_refresh', 'usage', 'qr_refresh_owner pg_monitor service_role qr_refresher'),
            -- What a person or the application calls.
            ('refresh_qr_codes live live_tick', 'execute', 'service_role qr_refresher'),
            ('receive_evolution_event show_qr', 'execute', 'service_role'),
            -- What pg_cron calls beside that, once a day.
            ('prune_history check_pg_cron', 'execute', 'qr_refresher'),
            -- The views, and what they call with the privileges of whoever reads them.
            ('alerts health metrics runs status', 'select', 'pg_monitor service_role'),
            ('active_alerts connecting_instances cron_jobs', 'execute', 'pg_monitor service_role'),
            ('jobs_wait_for_each_other pg_cron_obstacles', 'execute', 'pg_monitor service_role'),
            ('same_schedule way_without_background_workers', 'execute', 'pg_monitor service_role'),
            -- The job's own tables. They belong to the superuser who installed them.
            ('evolution_servers outcomes settings', 'select', 'qr_refresh_owner'),
            ('instance_state', 'select insert update delete', 'qr_refresh_owner'),
            ('server_state', 'select insert update', 'qr_refresh_owner'),
            ('runs', 'select insert delete', 'qr_refresh_owner'),
            -- Private: for the owner and superusers.
            ('schema_migrations runs_id_seq', '', ''),
            ('ask check_client evolution_api_base_url evolution_client', '', ''),
            ('attempts_for choose choose_due connecting_rows instance_key', '', ''),
            ('instance_problem is_share_of new_instances next_due_at notice notice_new oversized_rows places', '', ''),
            ('came_to notify_stored run_deferred_triggers sort_out_expired store', '', ''),
            ('store_connected store_postponed store_qr_codes', '', ''),
            ('find_foreign foreign_condition rows_are_foreign store_foreign', '', ''),
            ('was_cancelled_there write_foreign', '', ''),
            ('connects_per_code reconnect_at remember remember_servers', '', ''),
            ('wait_for_next_code', '', ''),
            ('begin_run check_instance_exists check_writable end_run log log_tersely', '', ''),
            ('record_run translate_messages', '', ''),
            ('minute_ends_at refresh_due', '', ''),
            ('instances_of_event read_event', '', ''),
            ('role_of_jobs schedule tell_of_obstacles tell_of_replaced_jobs unschedule', '', ''),
            ('is_no_answer late_workers orphaned_jobs skipped_minutes', '', ''),
            ('doctor doctor_client doctor_cron_jobs doctor_evolution_api', '', ''),
            ('doctor_instances doctor_privileges doctor_publications doctor_python', '', ''),
            ('doctor_refusals doctor_schedule doctor_server fitting_view grants_below_view', '', '')
        ), granted as (
            select object, upper(privilege) as privilege, role
            from listed as l
            cross join unnest(string_to_array(l.objects, ' ')) as object
            cross join unnest(string_to_array(l.privileges, ' ')) as privilege
            cross join unnest(string_to_array(l.roles, ' ')) as role
        ), ours as (
            select
                'routine' as kind,
                'f' as default_acl_type,
                p.oid::regprocedure::text as name,
                p.proname as object,
                p.pronamespace as namespace,
                p.proowner as owner,
                true as is_the_owners,
                coalesce(p.proacl, acldefault('f', p.proowner)) as acl
            from pg_catalog.pg_proc as p
            where
                p.pronamespace = 'qr_refresh'::regnamespace
                or (p.pronamespace = 'public'::regnamespace and p.proname in ('refresh_qr_codes', 'receive_evolution_event'))
            union all
            select
                case c.relkind when 'S' then 'sequence' else 'table' end,
                case c.relkind when 'S' then 'S' else 'r' end,
                c.oid::regclass::text,
                c.relname,
                c.relnamespace,
                c.relowner,
                -- A view reads with the privileges of its owner.
                c.relkind = 'v',
                coalesce(
                    c.relacl,
                    acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner)
                )
            from pg_catalog.pg_class as c
            where
                c.relnamespace = 'qr_refresh'::regnamespace
                and c.relkind in ('r', 'p', 'v', 'm', 'S')
            union all
            select
                'schema', 'n', n.nspname::text, n.nspname, 0, n.nspowner, false,
                coalesce(n.nspacl, acldefault('n', n.nspowner))
            from pg_catalog.pg_namespace as n
            where n.nspname = 'qr_refresh'
        ), held as (
            select
                o.*,
                acl.grantee,
                acl.privilege_type as privilege,
                case acl.grantee when 0 then 'public' else acl.grantee::regrole::text end as role
            from ours as o
            cross join aclexplode(o.acl) as acl
            -- What an owner holds as such goes with the ownership.
            where acl.grantee <> o.owner
        ), excess as (
            select h.*
            from held as h
            where
                h.grantee = 0
                -- Who could create something in the schema could stand in the way of what is ours.
                or (h.kind = 'schema' and h.privilege = 'CREATE')
                -- Default privileges (ALTER DEFAULT PRIVILEGES) put grants on each new object:
                -- Supabase has some for anon, authenticated and service_role. A grant of the
                -- operator's stays, unless default privileges name the same role.
                or (
                    h.grantee not in (current_user::regrole, 'qr_refresh_owner'::regrole)
                    and not starts_with(h.role, 'pg_')
                    and exists (
                        select
                        from pg_catalog.pg_default_acl as d
                        cross join aclexplode(d.defaclacl) as by_default
                        where
                            d.defaclobjtype = h.default_acl_type::"char"
                            and d.defaclnamespace in (0, h.namespace)
                            and by_default.grantee = h.grantee
                            and by_default.privilege_type = h.privilege
                    )
                    and (h.object, h.privilege, h.role) not in (
                        select g.object, g.privilege, g.role from granted as g
                    )
                )
        )
        select format('alter %s %s owner to qr_refresh_owner', o.kind, o.name), 1 as step
        from ours as o
        where o.is_the_owners and o.owner <> 'qr_refresh_owner'::regrole
        union all
        select distinct format('revoke %s on %s %s from %s', e.privilege, e.kind, e.name, e.role), 2
        from excess as e
        union all
        select format('grant %s on %s %s to %s', g.privilege, o.kind, o.name, g.role), 3
        from granted as g
        inner join ours as o on g.object = o.object
        where (g.object, g.privilege, g.role) not in (
            select h.object, h.privilege, h.role from held as h
        )
        order by step
    loop
        execute statement;
    end loop;
end
$$;
