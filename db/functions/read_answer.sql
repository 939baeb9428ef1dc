-- qr_refresh.read_answer(): what an answer of Evolution API means. Pure: no table, no network.
create or replace function qr_refresh.read_answer(http_status integer, body bytea)
returns table (outcome text, qr_code text, error text)
language plpython3u immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import base64
    import http.client
    import json
    from typing import Any

    data_url_prefix = "data:image/png;base64,"

    def failed(reason: str) -> list[tuple[str, str | None, str | None]]:
        return [("failed", None, reason)]

    if http_status != 200:
        # The standard phrase: the server's own may hold anything.
        return failed(f"{http_status} {http.client.responses.get(http_status, '')}".rstrip())
    if len(body) > 262144:
        return failed("answer is over 256 kB")
    if not body.strip():
        return failed("answer is empty")
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return failed("answer is not JSON")

    picture: Any = answer
    if isinstance(answer, str):
        pass
    elif not isinstance(answer, dict):
        return failed("answer is not a JSON object")
    elif answer.get("error"):
        return failed("Evolution API reports an error")
    else:
        wrapped = answer.get("qrcode")
        picture = answer.get("base64") or wrapped
        if isinstance(wrapped, dict) and not answer.get("base64"):
            picture = wrapped.get("base64")
        if not picture:
            instance = answer.get("instance")
            is_open = isinstance(instance, dict) and instance.get("state") == "open"
            return [("connected" if is_open else "no_qr_code", None, None)]
        if not isinstance(picture, str):
            return failed("QR code is not a string")

    encoded = picture.removeprefix(data_url_prefix)
    try:
        png = base64.b64decode(encoded, validate=True)
    except ValueError:
        return failed("QR code is not base64")
    # From the signature to the last chunk: a picture that was cut short is not one.
    if not (png.startswith(b"\x89PNG\r\n\x1a\n") and png.endswith(b"IEND\xaeB`\x82")):
        return failed("QR code is not a PNG picture")
    return [("qr_code", data_url_prefix + encoded, None)]
$python$;

alter function qr_refresh.read_answer(integer, bytea) owner to qr_refresh_owner;
revoke all on function qr_refresh.read_answer(integer, bytea) from public;

comment on function qr_refresh.read_answer(integer, bytea) is
'Reads one answer of Evolution API to GET /instance/connect/{name}.
http_status: status code. body: the answer''s bytes, at most 256 kB.
Returns one row: outcome (qr_code, no_qr_code, connected, failed), qr_code (data:image/png;base64,... for outcome qr_code), '
'error (a short reason for outcome failed; never a part of the body).
Raises nothing, whatever the bytes.
Privileges: EXECUTE for nobody but the owner and superusers.';
