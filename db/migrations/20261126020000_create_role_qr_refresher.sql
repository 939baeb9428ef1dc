-- migrate:up

-- pg_cron runs the job as qr_refresher, which can do nothing else: whoever replaces what a
-- superuser would call replaces it for a role without power. pg_cron refuses roles that cannot
-- log in.
do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'qr_refresher') then
        create role qr_refresher login;
    end if;
end
$$;

comment on role qr_refresher is
'pg_cron runs refresh-qr-codes as this role. No password; it may run the job and nothing else.';

-- qr_refresh.prune_history(), which runs as its caller, asks how old is too old.
grant select (history_retention) on qr_refresh.settings to qr_refresher;

-- migrate:down
-- Nothing: there is no way back to an older schema but a backup. README.md tells how to uninstall.
