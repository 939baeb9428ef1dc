-- qr_refresh.orphaned_jobs(): the jobs on which pg_cron's scheduler ends.
-- Dynamic SQL, because pg_cron may be missing or come later.
create or replace function qr_refresh.orphaned_jobs()
returns table (jobid bigint, jobname text, username text)
language plpgsql stable parallel restricted security invoker
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from pg_extension where extname = 'pg_cron')
        and has_schema_privilege('cron', 'usage') then
        return query execute $query$
            select j.jobid, coalesce(j.jobname::text, 'without a name'), j.username
            from cron.job as j
            where not exists (select from pg_roles as r where r.rolname = j.username)
            order by j.jobid
        $query$;
    end if;
end
$$;

comment on function qr_refresh.orphaned_jobs() is
'The jobs of pg_cron, whoever''s they are, whose role is not there any more: its scheduler ends on each of them, at every start, and no job is begun.
Returns jobid, jobname and username, of the jobs that the caller may see.
Raises nothing of its own. Private.';
