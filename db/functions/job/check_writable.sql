-- qr_refresh.check_writable(): may this transaction write? If not, why, and what to do.
create or replace function qr_refresh.check_writable()
returns void
language plpgsql stable parallel restricted security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_setting('transaction_read_only')::boolean then
        raise exception using
            errcode = 'QR003',
            message = 'refresh_qr_codes() writes, and this transaction is read-only',
            detail = 'Nothing was asked of Evolution API.',
            hint = case
                when pg_is_in_recovery() then 'This server is a standby: run it on the primary.'
                else 'Run it outside of BEGIN READ ONLY, and where default_transaction_read_only is off.'
            end;
    end if;
end
$$;

comment on function qr_refresh.check_writable() is
'Raises QR003 with a hint where the transaction is read-only: on a standby, or because it was begun so.
Private.';
