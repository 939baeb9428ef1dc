-- Run by every installation before anything of it is created: nobody else may have put something
-- where the job's own belongs.
-- CREATE OR REPLACE and IF NOT EXISTS would keep it, or its owner, and a superuser would run it.
do $$
declare
    found_objects text;
    found_owners text;
begin
    select
        string_agg(format('%s %s', o.type, o.identity), ', ' order by o.identity),
        string_agg(distinct quote_ident(o.owner), ', ')
    into found_objects, found_owners
    from (
        select i.type, i.identity, r.rolname::text as owner
        from pg_catalog.pg_shdepend as s
        inner join pg_catalog.pg_roles as r on s.refobjid = r.oid
        cross join lateral pg_catalog.pg_identify_object(s.classid, s.objid, 0) as i
        where
            s.dbid = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
            and s.deptype = 'o'
            and s.refclassid = 'pg_catalog.pg_authid'::regclass
            and not r.rolsuper
            and r.rolname <> 'qr_refresh_owner'
            and (
                exists (
                    select from pg_catalog.pg_depend as d
                    where
                        d.classid = s.classid
                        and d.objid = s.objid
                        and d.refclassid = 'pg_catalog.pg_namespace'::regclass
                        and d.refobjid = to_regnamespace('qr_refresh')
                )
                or (
                    s.classid = 'pg_catalog.pg_proc'::regclass
                    and s.objid in (
                        select p.oid from pg_catalog.pg_proc as p
                        where
                            p.pronamespace = 'public'::regnamespace
                            and p.proname in ('refresh_qr_codes', 'receive_evolution_event')
                    )
                )
            )
    ) as o;
    if found_objects is not null then
        raise exception using
            errcode = 'QR012',
            message = format('something of others is where refresh-qr-codes belongs: %s', found_objects),
            detail = format(
                'It belongs to %s. Schema qr_refresh and functions with the names of the job in schema public '
                'may have no other owners than superusers and qr_refresh_owner.',
                found_owners
            ),
            hint = 'Find out what it is and drop it. What a superuser has to keep: ALTER ... OWNER TO CURRENT_USER;';
    end if;
end
$$;

create schema if not exists qr_refresh;
