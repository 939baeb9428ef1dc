-- refresh_qr_codes(): the job. One run at a time; each is kept in qr_refresh.runs.
create or replace function public.refresh_qr_codes(
    instance_name text default null, only_due boolean default false
)
returns jsonb
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
-- Compiling our queries takes longer than running them.
set jit = off
-- A caller could otherwise have the plans of our queries shown, and in them the tokens.
set debug_print_parse = off
set debug_print_rewritten = off
set debug_print_plan = off
as $$
declare
    begun_at constant timestamptz := clock_timestamp();
    -- One instance has a lock of its own: who asks for it waits for no run.
    lock_name constant text := 'qr_refresh' || coalesce(':' || instance_name, '');
    report jsonb;
begin
    perform qr_refresh.check_writable();
    if not pg_try_advisory_xact_lock(hashtextextended(lock_name, 0)) then
        return jsonb_build_object(
            'success', false, 'error', 'Another refresh cycle is already running'
        );
    end if;
    perform qr_refresh.translate_messages(false);
    report := qr_refresh.run_cycle(instance_name, only_due, null, 1, 1);
    perform qr_refresh.translate_messages(true);
    if report is null then
        raise exception using
            errcode = 'QR001',
            message = 'there is no such instance',
            detail = 'No row of evolution_instances has this instance_name.',
            hint = 'Names are case-sensitive: SELECT instance_name FROM evolution_instances;';
    end if;
    -- A run that found nothing due writes nothing.
    if not only_due or report -> 'results' is distinct from '[]' then
        perform qr_refresh.record_run(
            extract(epoch from clock_timestamp() - begun_at)::double precision,
            instance_name,
            report
        );
    end if;
    return report;
end
$$;

comment on function public.refresh_qr_codes(text, boolean) is
'Fetches a fresh QR code from Evolution API for each instance that is connecting, and stores it in evolution_instances.
instance_name: this instance only; NULL (the default) for all. only_due: true leaves out instances whose QR code cannot have changed '
'since the last attempt, and those that are waited for after failures; it writes nothing where the stored QR code is the current one.
Returns the report: {"success", "total_instances", "refreshed", "failed", "results": [{"instance_name", "success", "qr_updated", "error"}]}, '
'or {"success": false, "error"} when the run as a whole could not be done. Takes at most settings.run_timeout and a little.
Errors: QR001 no row has this instance_name.
Privileges: EXECUTE for service_role and those you grant it to. Runs with the privileges of qr_refresh_owner.';
