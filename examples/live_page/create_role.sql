-- The role with which the live page reads. It sees no instance token and writes nothing.
--
-- As a superuser, in the database of evolution_instances, once the job is installed:
--     psql -v ON_ERROR_STOP=1 -f examples/live_page/create_role.sql postgresql://...
-- Then give it a password:
--     \password qr_page
-- It can be run again. To remove the role: DROP OWNED BY qr_page; DROP ROLE qr_page;

do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'qr_page') then
        create role qr_page login;
    end if;
end
$$;

grant usage on schema public, qr_refresh to qr_page;
grant select (instance_name, evolution_server, instance_status, qr_code, last_qr_update)
on public.evolution_instances to qr_page;
-- After how long a QR code counts as expired.
grant select (qr_lifetime) on qr_refresh.settings to qr_page;
-- Why a code is missing. A view calls functions with the privileges of whoever reads it.
grant select on qr_refresh.status to qr_page;
grant execute on function qr_refresh.connecting_instances() to qr_page;

-- Where row level security is on, this is what lets it see rows.
drop policy if exists qr_page_reads on public.evolution_instances;
create policy qr_page_reads on public.evolution_instances for select to qr_page using (true);
