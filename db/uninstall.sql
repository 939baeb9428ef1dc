-- Removes the job from this database, and nothing of the application's: evolution_instances keeps
-- its columns, its rows and its place in publications. `make uninstall` runs it, and removes the
-- jobs of pg_cron. By hand, as a superuser: SELECT qr_refresh.unschedule(); then psql -1 -f.
do $$
declare
    ours constant regnamespace := to_regnamespace('qr_refresh');
    object record;
    reason text;
begin
    if not (select r.rolsuper from pg_catalog.pg_roles as r where r.rolname = current_user) then
        raise exception using
            errcode = 'insufficient_privilege',
            message = 'removing refresh-qr-codes needs a superuser',
            hint = 'Connect as a superuser, for example postgres.';
    elsif to_regrole('qr_refresh_owner') is null then
        return;
    end if;

    -- Every run reads the settings first: this waits for the runs under way, before any other lock.
    if to_regclass('qr_refresh.settings') is not null then
        execute 'lock table qr_refresh.settings in access exclusive mode';
    end if;

    -- The application waits for whoever waits for its table, so not for long.
    perform set_config('lock_timeout', '5s', true);
    for object in
        select t.tgname, t.tgrelid::regclass as relation
        from pg_catalog.pg_trigger as t
        inner join pg_catalog.pg_proc as p on t.tgfoid = p.oid
        inner join pg_catalog.pg_class as c on t.tgrelid = c.oid
        where p.pronamespace = ours and c.relnamespace <> ours and not t.tgisinternal
    loop
        execute format('drop trigger %I on %s', object.tgname, object.relation);
    end loop;
    for object in
        select a.attname, a.attrelid::regclass as relation
        from pg_catalog.pg_attribute as a
        where
            a.attrelid = to_regclass('public.evolution_instances')
            and col_description(a.attrelid, a.attnum) ~ 'refresh_qr_codes|qr_refresh'
    loop
        execute format('comment on column %s.%I is null', object.relation, object.attname);
    end loop;

    -- All that is ours, and nothing else, to one owner. DROP OWNED then removes it at once, or refuses
    -- where something outside depends on it; DROP SCHEMA CASCADE would take that along.
    if ours is not null then
        execute 'alter schema qr_refresh owner to qr_refresh_owner';
    end if;
    for object in
        select
            c.oid::regclass as relation,
            case when c.relnamespace = ours then 'qr_refresh_owner' else 'current_user' end as new_owner
        from pg_catalog.pg_class as c
        where
            c.relkind in ('r', 'p', 'v', 'm', 'f')
            and (c.relnamespace = ours or c.relowner = 'qr_refresh_owner'::regrole)
    loop
        execute format('alter table %s owner to %s', object.relation, object.new_owner);
    end loop;
    for object in
        select t.oid::regtype as name
        from pg_catalog.pg_type as t
        inner join pg_catalog.pg_class as c on t.typrelid = c.oid
        where t.typnamespace = ours and c.relkind = 'c'
    loop
        execute format('alter type %s owner to qr_refresh_owner', object.name);
    end loop;
    begin
        drop owned by qr_refresh_owner;
    exception when dependent_objects_still_exist then
        get stacked diagnostics reason = pg_exception_detail;
        raise exception using
            errcode = 'dependent_objects_still_exist',
            message = 'something of yours depends on the job, so nothing was removed',
            detail = reason,
            hint = 'Drop or change what the detail names as depending, then run this again.';
    end;
end
$$;

-- Roles belong to the whole cluster: they go with the last database that uses them.
do $$
begin
    if exists (select from pg_catalog.pg_extension as e where e.extname = 'pg_cron') then
        execute 'revoke usage on schema cron from qr_refresher';
    end if;
    execute 'revoke usage on schema public from qr_refresher';
    execute format('revoke connect on database %I from qr_refresher', current_database());
    execute format(
        'alter role qr_refresher in database %I reset statement_timeout', current_database()
    );
exception when undefined_object then
    null;
end
$$;
do $$
begin
    drop role if exists qr_refresh_owner;
exception when dependent_objects_still_exist then
    raise notice 'role qr_refresh_owner stays: other databases of this server use it';
end
$$;
do $$
begin
    drop role if exists qr_refresher;
exception when dependent_objects_still_exist then
    raise notice 'role qr_refresher stays: other databases of this server use it';
end
$$;

-- service_role may be somebody else's, so it goes only if it is as bare as the job makes it.
do $$
begin
    if exists (
        select from pg_catalog.pg_roles as r
        where
            r.rolname = 'service_role'
            and not (r.rolsuper or r.rolcanlogin or r.rolbypassrls or r.rolcreaterole or r.rolcreatedb)
            and r.rolconfig is null
            and shobj_description(r.oid, 'pg_authid') is null
            and not exists (
                select from pg_catalog.pg_auth_members as m where r.oid in (m.roleid, m.member)
            )
    ) then
        drop role service_role;
    end if;
exception when dependent_objects_still_exist then
    raise notice 'role service_role stays: something else uses it';
end
$$;
