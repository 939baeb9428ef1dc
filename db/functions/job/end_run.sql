-- qr_refresh.end_run(): reports a run, and keeps it.
create or replace function qr_refresh.end_run(
    instance_name text, only_due boolean, run_seconds double precision, results jsonb[]
)
returns jsonb
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    total constant integer := cardinality(results);
    refreshed constant integer := (
        select count(*) from unnest(results) as r (result) where (r.result ->> 'success')::boolean
    );
    report jsonb;
begin
    if results is null then
        report := jsonb_build_object('success', false, 'error', 'Error fetching instances');
    else
        report := jsonb_build_object(
            'success', true,
            'total_instances', total,
            'refreshed', refreshed,
            'failed', total - refreshed,
            'results', to_jsonb(results)
        );
        if not only_due then -- too many words for each second
            perform qr_refresh.log(
                format(
                    'Refresh cycle complete: %s success, %s failures', refreshed, total - refreshed
                ),
                'cycle'
            );
        end if;
    end if;
    -- A run that found nothing due writes nothing.
    if not only_due or total is distinct from 0 then
        perform qr_refresh.record_run(run_seconds, instance_name, report);
    end if;
    return report;
end
$$;

comment on function qr_refresh.end_run(text, boolean, double precision, jsonb[]) is
'Makes the report of a run, and keeps it in qr_refresh.runs.
instance_name, only_due: as in public.refresh_qr_codes(). run_seconds: how long it took. results: as qr_refresh.remember() returns them, in the order of the report; '
'NULL where the instances could not be read.
Returns the report. Private.';
