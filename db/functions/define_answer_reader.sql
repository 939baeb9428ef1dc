-- qr_refresh.define_answer_reader(): what an answer of Evolution API means, in Python.
-- Not an SQL function of its own: while threads do HTTP, fetch_qr_codes() must run no SQL.
create or replace function qr_refresh.define_answer_reader()
returns void
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import base64
    import http.client
    import json
    from typing import Any

    data_url_prefix = "data:image/png;base64,"

    def failed(reason: str) -> tuple[str, str | None, str | None]:
        return "failed", None, reason

    def read_answer(http_status: int, body: bytes) -> tuple[str, str | None, str | None]:
        """Returns outcome, QR code and error; raises nothing, whatever the bytes."""
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
                return "connected" if is_open else "no_qr_code", None, None
            if not isinstance(picture, str):
                return failed("QR code is not a string")

        encoded = picture.removeprefix(data_url_prefix)
        try:
            png = base64.b64decode(encoded, validate=True)
        except ValueError:
            png = b""
        # Python lets an excess = and stray bits pass.
        if base64.b64encode(png).decode() != encoded:
            return failed("QR code is not base64")
        # From the signature to the last chunk: a picture that was cut short is not one.
        if not (png.startswith(b"\x89PNG\r\n\x1a\n") and png.endswith(b"IEND\xaeB`\x82")):
            return failed("QR code is not a PNG picture")
        return "qr_code", data_url_prefix + encoded, None

    GD["qr_refresh.read_answer"] = read_answer
$python$;

alter function qr_refresh.define_answer_reader() owner to qr_refresh_owner;
revoke all on function qr_refresh.define_answer_reader() from public;

comment on function qr_refresh.define_answer_reader() is
'Defines the Python function read_answer(http_status, body) for qr_refresh.fetch_qr_codes() of this session, in PL/Python''s dictionary GD. '
'It returns outcome (qr_code, no_qr_code, connected, failed), QR code (data:image/png;base64,... for outcome qr_code) and error '
'(a short reason for outcome failed; never a part of the body).
Privileges: EXECUTE for nobody but the owner and superusers.';
