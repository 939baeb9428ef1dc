-- qr_refresh.define_answer_reader(): what answers of Evolution API mean, in Python.
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

    def parse(http_status: int, body: bytes) -> tuple[Any, str | None]:
        """Returns a JSON object or string, and why there is none."""
        if http_status != 200:
            # The standard phrase: the server's own may hold anything.
            return {}, f"{http_status} {http.client.responses.get(http_status, '')}".rstrip()
        if len(body) > 262144:
            return {}, "answer is over 256 kB"
        if not body.strip():
            return {}, "answer is empty"
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            return {}, "answer is not JSON"
        if not isinstance(answer, dict | str):
            return {}, "answer is not a JSON object"
        if isinstance(answer, dict) and answer.get("error"):
            return {}, "Evolution API reports an error"
        return answer, None

    def state_of(answer: dict[str, Any]) -> str | None:
        instance = answer.get("instance")
        state = instance.get("state") if isinstance(instance, dict) else None
        return state if state in ("open", "connecting", "close") else None

    def read_state(http_status: int, body: bytes) -> tuple[str | None, str | None]:
        """Returns state and error; None for both where Evolution API has no state of it."""
        answer, problem = parse(http_status, body)
        if problem is None and not isinstance(answer, dict):
            problem = "answer is not a JSON object"
        return (None, problem) if problem else (state_of(answer), None)

    def failed(reason: str) -> tuple[str, str | None, str | None]:
        return "failed", None, reason

    def read_answer(http_status: int, body: bytes) -> tuple[str, str | None, str | None]:
        """Returns outcome, QR code and error; raises nothing, whatever the bytes."""
        answer, problem = parse(http_status, body)
        if problem is not None:
            return failed(problem)
        picture: Any = answer
        if isinstance(answer, dict):
            wrapped = answer.get("qrcode")
            picture = answer.get("base64") or wrapped
            if isinstance(wrapped, dict) and not answer.get("base64"):
                picture = wrapped.get("base64")
            if not picture:
                return "connected" if state_of(answer) == "open" else "no_qr_code", None, None
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

    GD["qr_refresh.read_answer"], GD["qr_refresh.read_state"] = read_answer, read_state
$python$;

comment on function qr_refresh.define_answer_reader() is
'Defines Python functions for qr_refresh.fetch_qr_codes() of this session, in PL/Python''s dictionary GD. '
'read_answer(http_status, body) of GET /instance/connect returns outcome (qr_code, no_qr_code, connected, failed), QR code '
'(data:image/png;base64,... for outcome qr_code) and error (a short reason for outcome failed; never a part of the body). '
'read_state(http_status, body) of GET /instance/connectionState returns the state (open, connecting, close, or None where the answer names '
'none) and error.
Private.';
