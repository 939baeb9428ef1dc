-- qr_refresh.worker_of(): which of several workers serves an instance.
create or replace function qr_refresh.worker_of(instance_name text, workers integer)
returns integer
language sql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    select (hashtextextended(instance_name, 0) & 2147483647)::integer % workers + 1
$$;

alter function qr_refresh.worker_of(text, integer) owner to qr_refresh_owner;
revoke all on function qr_refresh.worker_of(text, integer) from public;

comment on function qr_refresh.worker_of(text, integer) is
'Divides the instances among the workers of live mode.
instance_name: name of an instance. workers: how many there are.
Returns 1 to workers, always the same for the same arguments.
Privileges: EXECUTE for nobody but the owner and superusers.';
