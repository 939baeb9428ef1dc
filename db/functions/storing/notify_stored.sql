-- qr_refresh.notify_stored(): tells who listens which rows have been written.
create or replace function qr_refresh.notify_stored(
    instance_names text[], outcomes text[], stored_at timestamptz
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
            json_build_object('instance_name', i.name, 'last_qr_update', stored_at)::text
        )
    from unnest(instance_names, outcomes) as i (name, outcome)
    where
        i.outcome in ('stored', 'connected')
        and (select s.notify from qr_refresh.settings as s)
$$;

comment on function qr_refresh.notify_stored(text[], text[], timestamptz) is
'Tells channel qr_refresh of each row that was written: {"instance_name", "last_qr_update"}. With settings.notify off it does nothing.
instance_names, outcomes: arrays of one length; written are the rows with outcome stored or connected. stored_at: their last_qr_update.
Private.';
