-- qr_refresh.notice_new(): remembers since when instances are waiting that were not there before.
create or replace function qr_refresh.notice_new(
    worker integer, workers integer, wanted text default null
)
returns void
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
-- A transaction that is open may have the same instance in it. This one does not wait for it.
set lock_timeout = '10ms'
as $$
declare
    newcomer record;
    gives_up_at timestamptz;
begin
    begin
        insert into qr_refresh.instance_state (
            instance, instance_name, evolution_server, next_attempt_at
        )
        select * from qr_refresh.new_instances(worker, workers, wanted)
        on conflict do nothing;
    exception when lock_not_available or deadlock_detected then
        gives_up_at := clock_timestamp() + interval '0.2 seconds';
        for newcomer in select * from qr_refresh.new_instances(worker, workers, wanted) loop
            exit when clock_timestamp() > gives_up_at;
            begin
                insert into qr_refresh.instance_state (
                    instance, instance_name, evolution_server, next_attempt_at
                )
                values (
                    newcomer.instance,
                    newcomer.instance_name,
                    newcomer.evolution_server,
                    newcomer.next_attempt_at
                )
                on conflict do nothing;
            exception when lock_not_available or deadlock_detected then
                null; -- the other session is about to ask it
            end;
        end loop;
    end;
end
$$;

comment on function qr_refresh.notice_new(integer, integer, text) is
'Adds the instances to qr_refresh.instance_state that are connecting and not known. From then on they are due.
worker, workers: the share of this worker, from 1. wanted: this instance_name only; NULL for all.
One that another session is adding at this moment is left to it. Private.';
