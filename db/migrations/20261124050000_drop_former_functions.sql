-- migrate:up

-- Functions whose arguments have changed would stay beside the new ones.
drop function if exists qr_refresh.fetch_qr_codes(
    text[], text[], text, double precision, double precision, integer, text
);

-- migrate:down
-- Nothing: there is no way back to an older schema but a backup. README.md tells how to uninstall.
