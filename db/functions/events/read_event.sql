-- qr_refresh.read_event(): what an event of Evolution API says.
create or replace function qr_refresh.read_event(
    event json,
    out outcome text,
    out instance_name text,
    out instance_token text,
    out server_url text,
    out happened_at timestamptz,
    out qr_code text,
    out qr_digest bytea
)
language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    prefix constant text := 'data:image/png;base64,';
    largest constant integer := 262144; -- bytes; a real one has 16,000
    picture bytea;
begin
    if json_typeof(event) is distinct from 'object' then
        return;
    end if;
    instance_name := event ->> 'instance';
    instance_token := event ->> 'apikey';
    server_url := rtrim(event ->> 'server_url', '/');
    begin
        happened_at := (event ->> 'date_time')::timestamptz;
    exception when others then
        null; -- it says nothing then
    end;
    if
        instance_name is null
        or octet_length(instance_name) > 1020
        or coalesce(octet_length(instance_token) > 1020, false)
    then
        return;
    end if;
    case event ->> 'event'
        when 'qrcode.updated' then
            qr_code := event #>> '{data,qrcode,base64}';
            if qr_code is null then
                -- The limit of QR codes is reached: Evolution API closes it.
                outcome := case when event #>> '{data,statusCode}' is not null then 'closed' end;
                return;
            end if;
            if not starts_with(qr_code, prefix) or octet_length(qr_code) > largest then
                qr_code := null;
                return;
            end if;
            begin
                picture := decode(substr(qr_code, length(prefix) + 1), 'base64');
            exception when others then
                qr_code := null;
                return;
            end;
            -- From the signature to the last chunk.
            if
                substr(picture, 1, 8) <> '\x89504e470d0a1a0a'
                or substr(picture, length(picture) - 7) <> '\x49454e44ae426082'
            then
                qr_code := null;
                return;
            end if;
            outcome := 'qr_code';
            qr_digest := sha256(convert_to(qr_code, getdatabaseencoding()));
        when 'connection.update' then
            outcome := case event #>> '{data,state}'
                when 'open' then 'connected'
                when 'close' then 'closed'
            end;
        else
            null; -- another one
    end case;
end
$$;

comment on function qr_refresh.read_event(json) is
'Reads an event of Evolution API (a webhook of 2.x).
event: its body.
Returns outcome (qr_code, connected, closed; NULL: it is of no use), instance_name, instance_token (a secret; NULL: it has none), server_url, happened_at (NULL: not told), '
'qr_code (a data URL that holds a whole PNG picture) and qr_digest.
Raises nothing of its own. Private.';
