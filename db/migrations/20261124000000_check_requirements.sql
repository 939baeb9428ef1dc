-- migrate:up

-- Stops before anything is installed where the job could not work later. `make migrate` runs this
-- file once more, and rolls it back, before it lets dbmate begin.
do $$
declare
    major constant text := current_setting('server_version_num')::integer / 10000;
begin
    if not (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
        raise exception using
            errcode = 'insufficient_privilege',
            message = 'installing refresh-qr-codes needs a superuser',
            detail = 'Only a superuser can create functions in an untrusted language such as plpython3u.',
            hint = 'Connect as a superuser, for example postgres. Managed Postgres gives no superuser '
                'and has no plpython3u: this job needs a server of your own.';
    end if;
    if not exists (select from pg_catalog.pg_available_extensions where name = 'plpython3u') then
        raise exception using
            errcode = 'feature_not_supported',
            message = 'PL/Python (extension plpython3u) is missing on the database server',
            hint = format('On the server, Debian or Ubuntu: apt install postgresql-plpython3-%s', major);
    end if;
end
$$;

create extension if not exists plpython3u with schema pg_catalog;

do language plpython3u $$
try:
    import requests
except ImportError:
    plpy.error(
        "the Python library requests is missing on the database server",
        detail="PL/Python uses the system's own Python, not a virtual environment.",
        hint="On the server, Debian or Ubuntu: apt install python3-requests",
        sqlstate="0A000",
    )
$$;

-- migrate:down
-- Nothing: there is no way back to an older schema but a backup. README.md tells how to uninstall.
