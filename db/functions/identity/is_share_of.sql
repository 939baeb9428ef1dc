-- qr_refresh.is_share_of(): whether an instance is one of this worker's.
create or replace function qr_refresh.is_share_of(instance bytea, worker integer, workers integer)
returns boolean
language sql immutable parallel safe security invoker
as $$
    select pg_catalog.int4eq(
        pg_catalog.mod(pg_catalog.get_byte(instance, 0), workers), pg_catalog.int4mi(worker, 1)
    )
$$;

comment on function qr_refresh.is_share_of(bytea, integer, integer) is
'Whether an instance is for this worker of live mode; the workers share them by key.
instance: see qr_refresh.instance_key(). worker: from 1. workers: how many there are.
Without SET search_path, so that a query which asks it is planned as one; its callers set it. Private.';
