-- qr_refresh.was_cancelled_there(): whether another server has ended a statement, and nobody here.
create or replace function qr_refresh.was_cancelled_there(context text)
returns boolean
language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
    -- What postgres_fdw had sent, after some words in the language of lc_messages. Where the rows are
    -- here, a trigger of the application's may have such a line in its text.
    return qr_refresh.rows_are_foreign()
    and context ~ '(?n)^[^:]{1,60}: ?(UPDATE|SELECT|DECLARE|FETCH|SAVEPOINT|RELEASE) ';
end
$$;

comment on function qr_refresh.was_cancelled_there(text) is
'Tells apart who has cancelled a statement, since the SQLSTATE is the same (57014): the statement_timeout of another server, or somebody here, whose cancel has to be obeyed.
context: pg_exception_context, without names and values of others.
Private.';
