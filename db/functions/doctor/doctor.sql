-- qr_refresh.doctor(): everything that can keep QR codes from being fresh, as one row each.
create or replace function qr_refresh.doctor()
returns table ("check" text, ok boolean, detail text, fix text)
language plpgsql volatile parallel unsafe security invoker
rows 40
set search_path = pg_catalog, pg_temp
-- Compiling our queries takes longer than running them.
set jit = off
as $$
declare
    section text;
    hint text;
begin
    foreach section in array array[
        'server', 'python', 'client', 'evolution_api', 'instances', 'refusals', 'privileges',
        'publications', 'schedule'
    ] loop
        begin
            return query execute format(
                'select d."check", d.ok, d.detail, case when d.ok is not true then d.fix end'
                ' from qr_refresh.%I() as d',
                'doctor_' || section
            );
        -- One broken thing must not hide the others.
        exception when others or assert_failure then
            get stacked diagnostics hint = pg_exception_hint;
            "check" := section;
            ok := false;
            -- Class 42 names objects; what other errors say may quote a row.
            detail := format(
                'cannot be checked (SQLSTATE %s%s)',
                sqlstate, case when sqlstate like '42%' then ': ' || sqlerrm end
            );
            fix := case
                when sqlstate like 'QR%' then hint  -- an error of ours
                else 'make migrate, as a superuser; then look again'
            end;
            return next;
        end;
    end loop;
end
$$;

comment on function qr_refresh.doctor() is
'Checks everything that can keep QR codes from being fresh, and says what to do. Changes nothing: where a row has refused its '
'QR code, it is written and taken back. Asks each '
'Evolution server about one instance, without connecting one that is close, and about one that does not exist; neither has a side effect.
Returns one row for each check: check (what), ok (true; false: wrong; NULL: worth a look, or not to be seen from here), '
'detail (what was found, no token), fix (what to do; NULL where ok).
Takes up to twice settings.request_timeout for each server. Raises nothing of its own.
Private.';
