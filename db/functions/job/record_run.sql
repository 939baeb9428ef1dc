-- qr_refresh.record_run(): keeps a run in qr_refresh.runs, and deletes the runs that are too old.
create or replace function qr_refresh.record_run(
    run_seconds double precision, requested_instance text, report jsonb
)
returns void
language sql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
    insert into qr_refresh.runs (
        started_at, finished_at, requested_instance, total_instances, refreshed, failed, report
    )
    values (
        clock_timestamp() - make_interval(secs => run_seconds),
        clock_timestamp(),
        requested_instance,
        (report ->> 'total_instances')::integer,
        (report ->> 'refreshed')::integer,
        (report ->> 'failed')::integer,
        report
    );
    delete from qr_refresh.runs
    where started_at < now() - (select s.history_retention from qr_refresh.settings as s);
$$;

comment on function qr_refresh.record_run(double precision, text, jsonb) is
'Adds a row to qr_refresh.runs, and deletes rows older than settings.history_retention.
run_seconds: how long ago the run began. requested_instance: the one instance asked for, NULL for all. '
'report: what refresh_qr_codes() returns.
Private.';
