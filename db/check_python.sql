-- Run first by every installation: can PL/Python be loaded? It is tried with a statement of its own,
-- so that a file of it which is missing is told from all else that can fail.
do $$
begin
    if
        (select r.rolsuper from pg_catalog.pg_roles as r where r.rolname = current_user)
        and exists (
            select from pg_catalog.pg_available_extensions as e where e.name = 'plpython3u'
        )
    then
        execute 'create extension if not exists plpython3u with schema pg_catalog';
        execute 'do language plpython3u ''import sys''';
    end if;
exception when others then
    -- A file cannot be read, or the system's loader refuses it.
    if sqlstate not like '58%' and sqlstate <> 'XX000' then
        raise;
    end if;
    raise exception using
        errcode = 'QR015',
        message = 'PL/Python cannot be loaded on the database server',
        detail = sqlerrm || '.',
        hint = format(
            'On the server, Debian or Ubuntu: apt install --reinstall postgresql-plpython3-%s. '
            'What its library lacks is shown by: ldd $(pg_config --pkglibdir)/plpython3.so',
            current_setting('server_version_num')::integer / 10000
        );
end
$$;
