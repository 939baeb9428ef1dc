-- qr_refresh.instance_key(): who an instance is.
create or replace function qr_refresh.instance_key(
    evolution_server text, instance_name text, instance_token text
)
returns bytea
language sql stable parallel safe security invoker
as $$
    -- With their lengths: two different instances never give the same text.
    select pg_catalog.sha256(pg_catalog.convert_to(
        pg_catalog.concat(
            pg_catalog.length(evolution_server), ':', evolution_server,
            pg_catalog.length(instance_name), ':', instance_name, instance_token
        ),
        pg_catalog.getdatabaseencoding()
    ))
$$;

comment on function qr_refresh.instance_key(text, text, text) is
'Who an instance is: in Evolution API that is its server and name. With another token, what is known of it may no longer be so.
evolution_server, instance_name, instance_token: as in its row; the first and the last may be NULL.
Returns a digest, from which the token cannot be learned.
Without SET search_path, so that a query which asks it is planned as one; its callers set it. Private.';
