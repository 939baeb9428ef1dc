-- qr_refresh.evolution_client(): the HTTP client, a program in Python: evolution_client.py.
create or replace function qr_refresh.evolution_client()
returns text
language sql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $sql$
    select $client$
include evolution_client.py
$client$
$sql$;

comment on function qr_refresh.evolution_client() is
'The text of the program that asks Evolution API; qr_refresh.ask() starts it as a child process of the session. '
'It is in the database so that SQL alone deploys it.
Private.';
