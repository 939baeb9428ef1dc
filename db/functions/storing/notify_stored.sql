-- qr_refresh.notify_stored(): tells who listens which rows have been written.
create or replace function qr_refresh.notify_stored(
    attempts qr_refresh.attempt[], stored_at timestamptz, stores_connected boolean
)
returns void
language sql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
    select
        -- Never the picture: 8,000 bytes would abort the transaction. A name that could be asked for
        -- has at most 255 characters.
        pg_notify(
            'qr_refresh',
            json_build_object('instance_name', a.instance_name, 'last_qr_update', stored_at)::text
        )
    from unnest(attempts) as a
    where a.outcome = 'stored' or (a.outcome = 'connected' and stores_connected)
$$;

comment on function qr_refresh.notify_stored(qr_refresh.attempt[], timestamptz, boolean) is
'Tells channel qr_refresh of each row that was written: {"instance_name", "last_qr_update"}.
attempts: written are the rows of those with outcome stored. stored_at: their last_qr_update. stores_connected: also of those with outcome connected.
Private.';
