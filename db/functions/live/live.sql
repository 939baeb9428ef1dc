-- qr_refresh.live(): keeps QR codes current until the minute is over; pg_cron calls it each minute.
create or replace procedure qr_refresh.live(worker integer default 1, workers integer default 1)
language plpgsql security invoker
-- Without SET search_path and SECURITY DEFINER: a procedure with one of them cannot commit. So it
-- does nothing itself.
as $$
declare
    progress pg_catalog.jsonb;
begin
    loop
        -- Whatever the default: a stricter level would lose whole ticks to rows that change meanwhile,
        -- and a commit that fails would end the minute.
        commit;
        set transaction isolation level read committed;
        progress := qr_refresh.live_tick(worker, workers, progress);
        exit when progress is null;
    end loop;
end
$$;

comment on procedure qr_refresh.live (integer, integer) is
'Live mode: asks each instance when its QR code can have changed, several times a second if need be and one transaction at a time, '
'until just before the next minute begins. What one instance answers is stored at once, whatever the others do. Each transaction is read committed. '
'SELECT qr_refresh.schedule(''live'') runs it each minute. It cannot run inside a transaction block.
worker, workers: the share of this worker, from 1. A second call with the same worker leaves at once.
Keeps one row a minute in qr_refresh.runs, whose counts are of attempts.
Errors: QR004 the worker is not one of the workers; invalid_transaction_termination (2D000) inside a transaction block.
Privileges: EXECUTE for service_role and those you grant it to, with qr_refresh.live_tick().';
