-- migrate:up

-- qr_refresh_owner owns the functions. It cannot log in, and it reads and writes only the columns
-- that the job needs. BYPASSRLS: the job serves every tenant's rows, as the service key did before.
-- service_role is Supabase's name for the back end's own role; elsewhere it is made so that grants
-- and documentation are the same everywhere.
do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'qr_refresh_owner') then
        create role qr_refresh_owner nologin bypassrls;
    end if;
    if not exists (select from pg_catalog.pg_roles where rolname = 'service_role') then
        create role service_role nologin;
    end if;
end
$$;

comment on role qr_refresh_owner is
'Owns the functions of refresh-qr-codes. Cannot log in; column privileges only on what the job uses.';

-- migrate:down
-- Nothing: there is no way back to an older schema but a backup. README.md tells how to uninstall.
