-- refresh_qr_codes(): the job. One run at a time; each is kept in qr_refresh.runs.
create or replace function public.refresh_qr_codes(
    instance_name text default null, only_due boolean default false
)
returns jsonb
language plpython3u volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
-- Compiling our queries takes longer than running them.
set jit = off
-- A caller could otherwise have the plans of our queries shown, and in them the tokens.
set debug_print_parse = off
set debug_print_rewritten = off
set debug_print_plan = off
as $python$
    import os
    import time
    from typing import Any

    begun_at = time.monotonic()

    def call(function: str, types: str = "", *values: Any) -> list[dict[str, Any]]:
        kinds = types.replace("attempts", "qr_refresh.attempt[]").split()
        arguments = ", ".join(f"${number}" for number in range(1, len(kinds) + 1))
        command = f"select * from qr_refresh.{function}({arguments})"
        return list(plpy.execute(plpy.prepare(command, kinds), [*values]))

    def choose() -> list[dict[str, Any]] | None:
        try:
            return call("choose", "text bool", instance_name, only_due)
        except plpy.SPIError as e:
            if isinstance(e, plpy.spiexceptions.QueryCanceled):
                raise
            # The error's own text may quote a row, and so a token.
            line = f"Error fetching instances (SQLSTATE {getattr(e, 'sqlstate', 'unknown')})"
            call("log", "text text", line, "cycle")
            return None

    def ask(attempts: list[dict[str, Any]], run_ends: float) -> list[dict[str, Any]]:
        answered: list[dict[str, Any]] = []
        to_ask = attempts
        try:
            while len(answered) < len(attempts):
                left = run_ends - time.monotonic()
                answered += call("ask", "attempts float8 float8", to_ask, left, 1.0)
                to_ask = []
        finally:
            # Where the postmaster is process 1, a client that somebody kills while it is idle would
            # be left to it, and it would take that for the crash of a session.
            if len(answered) < len(attempts) or os.getppid() == 1:
                call("ask", "attempts float8 float8", None, 0.0, 0.0)
        return answered

    try:
        begun = call("begin_run", "text", instance_name)[0]
        if begun["report"]:
            return str(begun["report"])
        chosen = choose()
        if chosen == [] and instance_name is not None and not only_due:
            call("check_instance_exists", "text", instance_name)
        answered = ask(chosen or [], begun_at + begun["run_timeout"])
        results: dict[bytes, str] = {}
        # Now, because what is written stays locked until the end. In parts: PL/Python holds several
        # copies of what it hands over.
        for part in (answered[start : start + 100] for start in range(0, len(answered), 100)):
            # Half a second for rows that are locked, for all parts together.
            patience = 0.5 * len(part) / len(answered)
            stored = call("store", "attempts bool float8", part, only_due, patience)
            for told in call("remember", "attempts bool", stored, only_due):
                results[told["instance"]] = told["result"]
        in_order = None if chosen is None else [results[a["instance"]] for a in chosen]
        run_of = (instance_name, only_due, time.monotonic() - begun_at, in_order)
        return str(call("end_run", "text bool float8 jsonb[]", *run_of)[0]["end_run"])
    finally:
        call("translate_messages", "bool", True)
$python$;

comment on function public.refresh_qr_codes(text, boolean) is
'Fetches a fresh QR code from Evolution API for each instance that is connecting, and stores it in evolution_instances.
instance_name: this instance only; NULL (the default) for all. only_due: true leaves out instances whose QR code cannot have changed '
'since the last attempt, and those that are waited for after failures; it writes nothing where the stored QR code is the current one.
Returns the report: {"success", "total_instances", "refreshed", "failed", "results": [{"instance_name", "success", "qr_updated", "error"}]}, '
'or {"success": false, "error"} when the run as a whole could not be done. Takes at most settings.run_timeout and a little.
Errors: QR001 no row has this instance_name; QR003 the transaction is read-only; QR010 and QR011 the HTTP client does not start.
Privileges: EXECUTE for service_role and those you grant it to. Runs with the privileges of qr_refresh_owner.';
