-- qr_refresh.run_deferred_triggers(): lets deferred triggers of the table run now, and as our role.
create or replace function qr_refresh.run_deferred_triggers()
returns void
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    deferred constant text := (
        select string_agg(distinct format('%I.%I', n.nspname, c.conname), ', ')
        from pg_catalog.pg_constraint as c
        inner join pg_catalog.pg_namespace as n on c.connamespace = n.oid
        where
            c.conrelid = 'public.evolution_instances'::regclass
            and c.condeferrable
            and c.condeferred
    );
begin
    if deferred is not null then
        execute format('set constraints %s immediate', deferred);
        execute format('set constraints %s deferred', deferred);
    end if;
end
$$;

comment on function qr_refresh.run_deferred_triggers() is
'Runs the deferred triggers and constraints of evolution_instances that wait for the end of the transaction. At COMMIT they would run as whoever called the job, which may be a superuser, '
'and what one of them refuses would cost all rows.
Raises what they raise. Private.';
