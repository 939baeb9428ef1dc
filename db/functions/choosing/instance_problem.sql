-- qr_refresh.instance_problem(): why an instance cannot even be asked for its QR code.
create or replace function qr_refresh.instance_problem(instance_name text, instance_token text)
returns text
language sql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    select case
        -- Dot segments are eaten on the way, so the call would reach another route.
        when coalesce(instance_name, '') in ('', '.', '..') or length(instance_name) > 255
            then 'instance name cannot be part of a URL'
        when coalesce(instance_token, '') = ''
            then 'instance token is missing'
        -- CR and LF would add headers of their own; beyond ASCII the bytes are anybody's guess.
        when instance_token collate "C" !~ '^[!-~]([ -~]*[!-~])?$' or length(instance_token) > 255
            then 'instance token cannot be sent as an HTTP header'
    end
$$;

comment on function qr_refresh.instance_problem(text, text) is
'Tells why an instance cannot be asked, without quoting its token.
instance_name: becomes one segment of the URL''s path. instance_token: becomes the header apikey; 1 to 255 printable ASCII characters.
Returns the reason, NULL when there is none.
Private.';
