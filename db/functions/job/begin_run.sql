-- qr_refresh.begin_run(): may a run begin, and for how long may it last?
create or replace function qr_refresh.begin_run(
    instance_name text, out report jsonb, out run_timeout double precision
)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    -- One instance has a lock of its own: who asks for it waits for no run.
    lock_name constant text := 'qr_refresh' || coalesce(':' || instance_name, '');
    base_url_error constant text := (
        select u.error
        from qr_refresh.evolution_api_base_url() as u
        -- All rows may name servers of their own.
        where u.source <> 'nowhere' or not exists (select from qr_refresh.evolution_servers)
    );
begin
    perform qr_refresh.check_writable();
    perform qr_refresh.translate_messages(false);
    run_timeout := (select extract(epoch from s.run_timeout) from qr_refresh.settings as s);
    if not pg_try_advisory_xact_lock(hashtextextended(lock_name, 0)) then
        report := jsonb_build_object(
            'success', false, 'error', 'Another refresh cycle is already running'
        );
    elsif base_url_error is not null then
        report := jsonb_build_object('success', false, 'error', base_url_error);
        perform qr_refresh.log(base_url_error, 'cycle');
        perform qr_refresh.record_run(0, instance_name, report);
    end if;
end
$$;

comment on function qr_refresh.begin_run(text) is
'Begins a run: takes its lock, which the transaction then holds, and lets errors be in English, until qr_refresh.translate_messages(true).
instance_name: as in public.refresh_qr_codes().
Returns report (what the run returns where it cannot be done; NULL: it can) and run_timeout (seconds).
Errors: QR003 the transaction is read-only. Private.';
