-- qr_refresh.store(): writes what attempts have brought into the application's table.
create or replace function qr_refresh.store(
    attempts qr_refresh.attempt[], only_changed boolean, patience double precision
)
returns setof qr_refresh.attempt
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    stored_at constant timestamptz := clock_timestamp();
    settings constant qr_refresh.settings := (select s from qr_refresh.settings as s);
begin
    attempts := qr_refresh.sort_out_expired(attempts, settings.qr_lifetime);
    if qr_refresh.rows_are_foreign() then
        attempts := qr_refresh.store_foreign(
            attempts, stored_at, only_changed, settings.connected_status, patience
        );
    else
        attempts := qr_refresh.store_qr_codes(attempts, stored_at, only_changed);
        attempts := qr_refresh.store_postponed(attempts, stored_at, patience);
        if settings.connected_status is not null then
            attempts := qr_refresh.store_connected(
                attempts, stored_at, settings.connected_status
            );
        end if;
    end if;
    if settings.notify then
        perform qr_refresh.notify_stored(
            attempts, stored_at, settings.connected_status is not null
        );
    end if;
    for i in 1 .. cardinality(attempts) loop
        attempts[i].qr_code := null; -- from here on its digest does
    end loop;
    return query select * from unnest(attempts);
end
$$;

comment on function qr_refresh.store(qr_refresh.attempt[], boolean, double precision) is
'Writes the QR codes of attempts into evolution_instances, and the status of instances that are connected (settings.connected_status).
attempts: as qr_refresh.ask() returns them. only_changed: true leaves rows alone that hold the QR code already. patience: for how many seconds locked rows are tried again.
Returns the attempts without their pictures; in the place of qr_code the outcome is stored, unchanged, changed (the row is no longer connecting, has another '
'token or server, or is gone), expired or update_failed (error: the SQLSTATE).
Raises nothing of its own. Private.';
