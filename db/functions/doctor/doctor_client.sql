-- qr_refresh.doctor_client(): the part of qr_refresh.doctor() about the HTTP client's Python.
create or replace function qr_refresh.doctor_client()
returns table ("check" text, ok boolean, detail text, fix text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    versions text;
    found_detail text;
    found_hint text;
begin
    begin
        versions := qr_refresh.check_client();
    exception when sqlstate 'QR010' or sqlstate 'QR011' then
        get stacked diagnostics found_detail = pg_exception_detail, found_hint = pg_exception_hint;
    end;
    return query
    select 'HTTP client starts', versions is not null, coalesce(versions, found_detail), found_hint;
end
$$;

comment on function qr_refresh.doctor_client() is
'Part of qr_refresh.doctor(), which describes the columns: the Python that asks Evolution API.
Raises nothing of its own. Private.';
