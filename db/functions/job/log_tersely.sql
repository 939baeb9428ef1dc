-- qr_refresh.log_tersely(): writes a line into the server log, and not where it comes from as well.
create or replace function qr_refresh.log_tersely(line text)
returns void
language plpgsql volatile parallel restricted security invoker
set search_path = pg_catalog, pg_temp
-- Both are for superusers to set; db/privileges.sql grants that to qr_refresh_owner.
set log_error_verbosity = 'terse'
set log_min_error_statement = 'panic'
as $$
begin
    raise log '[refresh-qr-codes] %', line;
end
$$;

comment on function qr_refresh.log_tersely(text) is
'Writes one line into the server log, without the context and the statement that PostgreSQL would add.
line: the text.
Errors: insufficient_privilege (42501) without the right to set log_error_verbosity and log_min_error_statement. Private.';
