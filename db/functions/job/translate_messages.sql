-- qr_refresh.translate_messages(): whether Postgres's messages are in the language of lc_messages.
create or replace function qr_refresh.translate_messages(wanted boolean)
returns void
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import contextlib
    import locale

    # Where the database is not UTF-8, an error of a query whose message is not ASCII makes
    # PL/Python jump out of the middle of Python, and the server crash later. lc_messages itself is
    # only for superusers to set; this takes effect in this session alone.
    session = plpy.execute(
        "select current_setting('lc_messages') as language,"
        " current_setting('server_encoding') <> 'UTF8' as is_risky"
    )[0]
    if session["is_risky"]:
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_MESSAGES, session["language"] if wanted else "C")
$python$;

comment on function qr_refresh.translate_messages(boolean) is
'For this session, in a database that is not UTF-8: turns the translation of Postgres''s messages off, or on again. '
'With it on, an error in PL/Python can crash the server there.
wanted: false for English, true for the language of lc_messages.
Private.';
