-- migrate:up

alter table qr_refresh.settings add column if not exists notify boolean not null default true;

comment on column qr_refresh.settings.notify is
'Whether each QR code that is stored, or cleared after a scan, is told to sessions that LISTEN to channel qr_refresh, as {"instance_name", "last_qr_update"}. '
'Any role that can connect may listen.';

-- migrate:down
-- Nothing: there is no way back to an older schema but a backup. README.md tells how to uninstall.
