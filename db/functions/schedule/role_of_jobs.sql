-- qr_refresh.role_of_jobs(): as whom pg_cron runs the jobs that the caller schedules.
create or replace function qr_refresh.role_of_jobs()
returns name
language plpgsql stable parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
    -- pg_cron lets only a superuser name another role.
    if not (select r.rolsuper from pg_roles as r where r.rolname = current_user) then
        return current_user;
    elsif exists (
        select from pg_settings as s
        where
            s.name = 'cron.use_background_workers' and s.setting = 'on'
            or s.name = 'cron.enable_superuser_jobs' and s.setting = 'off'
    ) then
        return 'qr_refresher';
    end if;
    -- Else pg_cron connects as a client, and can do that as a role that pg_hba.conf lets in.
    return case
        when exists (
            select from pg_hba_file_rules as h
            where 'qr_refresher' = any(h.user_name) and h.auth_method <> 'reject'
        )
            then 'qr_refresher'::name
        else current_user
    end;
end
$$;

comment on function qr_refresh.role_of_jobs() is
'As whom pg_cron runs the jobs that the caller schedules: qr_refresher, which can do nothing else, where the caller is a superuser and pg_cron can '
'become that role (background workers, or a line of pg_hba.conf that names it); else the caller.
Returns the name of the role.
Raises nothing of its own. Private.';
