-- qr_refresh.define_evolution_call(): what is asked about one instance, in Python.
create or replace function qr_refresh.define_evolution_call()
returns void
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    from typing import Any
    from urllib.parse import quote

    # Outcome, QR code, error, reconnected (None: not known).
    Answer = tuple[str, str | None, str | None, bool | None]

    def ask(
        client: Any,
        path: str,
        deadline: float,
        name: str,
        token: str,
        check_state: bool,
        connect_on_close: bool,
    ) -> Answer:
        """Asks for the state where that is wanted, then for the QR code. Runs in a worker."""

        def get(route: str) -> tuple[int, bytes, str | None]:
            route = f"{path}/instance/{route}/{quote(name, safe='')}"
            answer: tuple[int, bytes, str | None] = client.get(route, token, deadline)
            return answer

        def failure(error: str, reconnected: bool | None) -> Answer:
            if error == "Request timeout":
                return "timeout", None, None, reconnected
            return "failed", None, error, reconnected

        reconnected = None
        if check_state:
            status, body, error = get("connectionState")
            state = None
            if error is None:
                state, error = GD["qr_refresh.read_state"](status, body)
            if error is not None:
                return failure(error, False)
            if state == "open":
                return "connected", None, None, False
            if state == "close" and not connect_on_close:
                return "closed", None, None, False
            # On close, connect opens a WhatsApp socket.
            reconnected = state == "close"
        status, body, error = get("connect")
        if error is not None:
            return failure(error, reconnected)
        outcome, picture, error = GD["qr_refresh.read_answer"](status, body)
        return outcome, picture, error, reconnected

    GD["qr_refresh.ask"] = ask
$python$;

comment on function qr_refresh.define_evolution_call() is
'Defines the Python function ask() for qr_refresh.fetch_qr_codes() of this session, in PL/Python''s dictionary GD. It calls '
'GET /instance/connect/{name}, where check_state is set only after GET /instance/connectionState/{name} has not answered open, '
'nor close unless connect_on_close is set.
Private.';
