-- qr_refresh.record_run(): keeps a run in qr_refresh.runs, and deletes the runs that are too old.
create or replace function qr_refresh.record_run(
    run_seconds double precision, requested_instance text, report jsonb
)
returns void
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
set lock_timeout = '10ms'
as $$
begin
    if requested_instance is null and report ? 'results' then
        report := report || coalesce(
            (
                select jsonb_build_object('not_attempted', count(*))
                from jsonb_array_elements(report -> 'results') as e (result)
                inner join qr_refresh.outcomes as o
                    on o.outcome = 'not_attempted' and o.error = e.result ->> 'error'
                having count(*) > 0
            ),
            '{}'
        );
        -- Of 5,000 instances, all of them are 1.9 GB a week.
        report := report || jsonb_build_object('results', (
            select coalesce(jsonb_agg(t.result order by t.place), '[]')
            from (
                select e.result, e.place
                from jsonb_array_elements(report -> 'results') with ordinality as e (result, place)
                where not (e.result ->> 'success')::boolean
                limit 100
            ) as t
        ));
    end if;
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
    -- Housekeeping: it waits for nobody, and what goes wrong with it costs nobody a run.
    delete from qr_refresh.runs as r
    where r.id in (
        select old.id
        from qr_refresh.runs as old
        where old.started_at < now() - (select s.history_retention from qr_refresh.settings as s)
        order by old.started_at
        limit 1000
        for update skip locked
    );
    delete from qr_refresh.instance_state as s
    where s.instance in (
        select gone.instance
        from qr_refresh.instance_state as gone
        where gone.left_at < now() - interval '1 day'
        limit 1000
        for update skip locked
    );
exception when others then
    perform qr_refresh.log(format('History not kept (SQLSTATE %s)', sqlstate), 'cycle');
end
$$;

comment on function qr_refresh.record_run(double precision, text, jsonb) is
'Adds a row to qr_refresh.runs; deletes rows older than settings.history_retention, and what is known of instances that left a day ago. '
'It waits for nobody: what another session holds is for the next run.
run_seconds: how long ago the run began. requested_instance: the one instance asked for, NULL for all. '
'report: what refresh_qr_codes() returns; of a run over all instances the first 100 results that failed are kept, and how many were not attempted.
Raises nothing of its own. Private.';
