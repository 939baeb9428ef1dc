-- migrate:up

create schema if not exists qr_refresh;

-- Somebody else may have made it first; whoever owns it could drop what is in it.
alter schema qr_refresh owner to current_user;

comment on schema qr_refresh is
'refresh-qr-codes: settings, state and functions of the job that keeps WhatsApp QR codes fresh.';

revoke all on schema qr_refresh from public;
grant usage on schema qr_refresh to qr_refresh_owner, service_role;

-- migrate:down
-- Nothing: there is no way back to an older schema but a backup. README.md tells how to uninstall.
