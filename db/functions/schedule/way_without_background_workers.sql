-- qr_refresh.way_without_background_workers(): what lets pg_cron connect as a client.
create or replace function qr_refresh.way_without_background_workers()
returns text
language sql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp
-- Compiling our queries takes longer than running them.
set jit = off
as $$
    select format(
        'ALTER SYSTEM SET cron.use_background_workers = off; ALTER SYSTEM SET cron.host = %L; '
        'The first line of pg_hba.conf: local %s qr_refresher peer map=qr_refresher; '
        'a line of pg_ident.conf: qr_refresher postgres qr_refresher; '
        'where postgres is the system user of the server. Restart Postgres. Then ',
        coalesce(
            (
                select split_part(s.setting, ',', 1) from pg_settings as s
                where s.name = 'unix_socket_directories' and s.setting <> ''
            ),
            '/var/run/postgresql'
        ),
        quote_ident(current_database())
    )
$$;

comment on function qr_refresh.way_without_background_workers() is
'How pg_cron connects through the Unix socket and without a password: two settings, a line of pg_hba.conf and one of pg_ident.conf.
Returns the words, which end before what is to be called then.
Raises nothing of its own.
Privileges: EXECUTE for pg_monitor and service_role, whose views call it.';
