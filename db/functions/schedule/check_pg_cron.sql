-- qr_refresh.check_pg_cron(): is pg_cron usable from this database? If not, what to do, and where.
create or replace function qr_refresh.check_pg_cron(command_elsewhere text)
returns void
language plpgsql stable parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    -- pg_settings: a line left in postgresql.conf does not mean that the library is loaded.
    cron_database constant text := (select s.setting from pg_settings as s where s.name = 'cron.database_name');
    major constant text := current_setting('server_version_num')::integer / 10000;
begin
    if exists (select from pg_extension where extname = 'pg_cron') then
        return;
    elsif cron_database is null then
        raise exception using
            errcode = 'QR002',
            message = 'pg_cron is not loaded on this server',
            detail = 'The setting cron.database_name does not exist, so shared_preload_libraries lacks pg_cron.',
            hint = format(
                'On the server, Debian or Ubuntu: apt install postgresql-%s-cron. In postgresql.conf: '
                'shared_preload_libraries = ''pg_cron'' and cron.database_name = %L. Restart Postgres. '
                'Then in database %I: CREATE EXTENSION pg_cron;',
                major, current_database(), current_database()
            );
    elsif cron_database <> current_database() then
        raise exception using
            errcode = 'QR002',
            message = format('pg_cron lives in database %L, not in this one', cron_database),
            detail = 'It schedules jobs for every database of the server, but only from the one of cron.database_name.',
            hint = format('Run there: %s', command_elsewhere);
    else
        raise exception using
            errcode = 'QR002',
            message = 'extension pg_cron is not created in this database',
            detail = 'The library is loaded, and this is the database of cron.database_name.',
            hint = format('As a superuser in database %I: CREATE EXTENSION pg_cron;', current_database());
    end if;
end
$$;

comment on function qr_refresh.check_pg_cron(text) is
'Raises QR002 with a hint where the jobs of this database cannot be scheduled from here.
command_elsewhere: the SQL command to name in the hint where pg_cron lives in another database.
Privileges: EXECUTE for qr_refresher, whose job calls qr_refresh.prune_history().';
