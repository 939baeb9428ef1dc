-- qr_refresh.check_instance_exists(): has any row this name?
create or replace function qr_refresh.check_instance_exists(instance_name text)
returns void
language plpgsql stable parallel restricted security invoker
set search_path = pg_catalog, pg_temp
as $$
-- The table may have columns of any name.
#variable_conflict use_variable
begin
    if
        not exists (
            select from public.evolution_instances as e
            where e.instance_name::text = instance_name
        )
    then
        raise exception using
            errcode = 'QR001',
            message = 'there is no such instance',
            detail = 'No row of evolution_instances has this instance_name.',
            hint = 'Names are case-sensitive: SELECT instance_name FROM evolution_instances;';
    end if;
end
$$;

comment on function qr_refresh.check_instance_exists(text) is
'Raises QR001 with a hint where no row of evolution_instances has this instance_name, whatever its status.
Private.';
