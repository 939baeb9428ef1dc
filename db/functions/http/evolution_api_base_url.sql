-- qr_refresh.evolution_api_base_url(): which URL the instance tokens are sent to, and who says so.
create or replace function qr_refresh.evolution_api_base_url()
returns table (base_url text, source text, error text)
language plpython3u stable parallel restricted security definer
set search_path = pg_catalog, pg_temp
as $python$
    import os
    import re

    # The same form as the CHECK on the setting; the environment variable passes no CHECK.
    http_url = r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[^\s?#]*)?"

    base_url = plpy.execute("select evolution_api_base_url from qr_refresh.settings")[0][
        "evolution_api_base_url"
    ]
    source = "settings"
    if base_url is None:
        base_url, source = os.environ.get("EVOLUTION_API_BASE_URL"), "environment"
    if base_url is None:
        source = "nowhere"

    if not (base_url or "").strip():
        return [(None, source, "Missing required environment variables")]
    if not re.fullmatch(http_url, base_url):
        return [(None, source, "EVOLUTION_API_BASE_URL is not an http(s) URL")]
    # A trailing slash would give //instance/..., which Evolution API answers with 404.
    return [(base_url.rstrip("/"), source, None)]
$python$;

comment on function qr_refresh.evolution_api_base_url() is
'The Evolution API base URL in force: settings.evolution_api_base_url, else the server''s environment variable '
'EVOLUTION_API_BASE_URL. Without either nobody is asked, so no token is sent to anybody by default.
Returns one row: base_url (without trailing slash; NULL when unusable), source (settings, environment or nowhere), '
'error (NULL, or why it is unusable).
Private.';
