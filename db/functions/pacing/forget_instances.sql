-- qr_refresh.forget_instances(): removes what is known of instances that are not connecting now.
create or replace function qr_refresh.forget_instances()
returns void
language sql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
    delete from qr_refresh.instance_state as s
    where s.instance_name in (
        select gone.instance_name
        from qr_refresh.instance_state as gone
        where not exists (
            select from public.evolution_instances as e
            where e.instance_name::text = gone.instance_name and e.instance_status = 'connecting'
        )
        -- Another session's open transaction must not hold a run.
        for update skip locked
    )
$$;

comment on function qr_refresh.forget_instances() is
'Removes the rows of qr_refresh.instance_state whose instances are no longer connecting. Writes nothing where there are none.
Private.';
