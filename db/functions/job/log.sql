-- qr_refresh.log(): writes one line into the server log.
create or replace function qr_refresh.log(line text, detail text)
returns void
language plpgsql volatile parallel restricted security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    -- A name with a line break in it must not write lines of its own.
    printable constant text := regexp_replace(line, '[[:cntrl:]]', '?', 'g');
begin
    if
        line is null
        or (select s.log_detail not in ('instance', detail) from qr_refresh.settings as s)
    then
        return;
    end if;
    -- The right to these goes with an uninstallation in another database, until the next installation.
    if
        has_parameter_privilege('log_error_verbosity', 'set')
        and has_parameter_privilege('log_min_error_statement', 'set')
    then
        perform qr_refresh.log_tersely(printable);
    else
        raise log '[refresh-qr-codes] %', printable;
    end if;
end
$$;

comment on function qr_refresh.log(text, text) is
'Writes a line into the server log, as far as settings.log_detail asks for it.
line: the text; NULL: nothing. detail: instance for a line about one of them, cycle for a line about the run; NULL: whatever the setting says.
Private.';
