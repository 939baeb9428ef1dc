-- Run first by every installation: can PL/Python be loaded? With a wrong PYTHONHOME, Python would
-- end the session without a word, so that is looked at before it is tried.
do $$
declare
    environment text;
    home text;
begin
    begin
        environment := encode(
            pg_read_binary_file(
                format('/proc/%s/environ', split_part(pg_read_file('postmaster.pid'), e'\n', 1))
            ),
            'escape'
        );
        home := substring('\000' || environment from '\\000PYTHONHOME=(.+?)\\000');
        if home is null or exists (
            select from pg_ls_dir(split_part(home, ':', 1) || '/lib') as f (name)
            where f.name like 'python3%'
        ) then
            return;
        end if;
    exception when others then
        if home is null then
            return; -- no superuser, or another system
        end if;
    end;
    raise exception using
        errcode = 'QR016',
        message = 'PYTHONHOME of the database server leads to no Python',
        detail = format('It is %s, in the environment with which PostgreSQL was started.', home),
        hint = 'Take it out (on Debian of /etc/postgresql/N/main/environment, else of the unit or script '
            'that starts PostgreSQL), then restart PostgreSQL.';
end
$$;

-- Tried with a statement of its own, so that a file which is missing is told from all else that
-- fails.
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
