-- qr_refresh.refresh_due(): hands over who is due, and takes, stores and remembers what has come.
create or replace function qr_refresh.refresh_due(
    worker integer,
    workers integer,
    wait double precision default 0,
    inout under_way integer default 0,
    is_last boolean default false,
    out results jsonb[]
)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
-- Whoever changes the table's definition may hold it for long.
set lock_timeout = '1s'
as $$
declare
    patience constant double precision := 0.1; -- seconds for rows that are locked
    attempts qr_refresh.attempt [] := '{}';
    handed_over integer;
begin
    results := '{}';
    if not is_last then
        attempts := array(select a from qr_refresh.choose_due(worker, workers) as a);
    end if;
    handed_over := cardinality(attempts);
    under_way := under_way + handed_over;
    -- In SQL alone: PL/Python and requests are loaded only where there is somebody to ask.
    if under_way = 0 then
        perform pg_sleep(wait);
        return;
    end if;
    perform qr_refresh.translate_messages(false);
    attempts := array(
        select a
        from qr_refresh.ask(
            attempts,
            (select extract(epoch from s.request_timeout) from qr_refresh.settings as s),
            -- What is handed over is noted at once.
            case when handed_over > 0 then 0 else wait end
        ) as a
    );
    if cardinality(attempts) > 0 then
        attempts := array(select a from qr_refresh.store(attempts, true, patience) as a);
        results := array(select r.result from qr_refresh.remember(attempts, true) as r);
        perform qr_refresh.remember_servers(attempts);
    end if;
    perform qr_refresh.translate_messages(true);
    under_way := greatest(under_way - cardinality(attempts), 0);
end
$$;

comment on function qr_refresh.refresh_due(integer, integer, double precision, integer, boolean) is
'What a tick of qr_refresh.live() does: chooses who is due and hands them over to the HTTP client; takes the answers that have come; stores and remembers them.
worker, workers: the share of this worker, from 1. wait: for how many seconds it may wait where nobody is due. under_way: how many calls of this session '
'are. is_last: true hands nobody over.
Returns under_way as it is then, and results (as in the report, of those that have answered).
Private.';
