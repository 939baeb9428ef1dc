-- qr_refresh.is_no_answer(): whether a failure means that Evolution API was not reached at all.
create or replace function qr_refresh.is_no_answer(error text)
returns boolean
language sql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        error in (
            'connection refused', 'connection closed', 'host not found', 'TLS error',
            'TLS certificate is not trusted', 'CA file cannot be read', 'no thread could be started'
        ),
        false
    )
$$;

comment on function qr_refresh.is_no_answer(text) is
'Whether an attempt that failed got no answer of Evolution API.
error: as in qr_refresh.instance_state.
Returns true or false, never NULL.
Private.';
