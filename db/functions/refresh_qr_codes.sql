-- refresh_qr_codes(): the job. Selects the connecting instances, fetches, stores, reports.
create or replace function public.refresh_qr_codes(instance_name text default null)
returns jsonb
language plpython3u volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
as $python$
    import json
    import time
    from typing import Any

    begun_at = time.monotonic()

    def run(command: str, types: list[str], values: list[Any]) -> list[dict[str, Any]]:
        return list(plpy.execute(plpy.prepare(command, types), values))

    def attempt(failure: str, *query: Any) -> list[dict[str, Any]] | None:
        """Runs a query whose failure is reported instead of raised; a cancel is always raised."""
        try:
            return run(*query)
        except plpy.SPIError as e:
            if isinstance(e, plpy.spiexceptions.QueryCanceled):
                raise
            # The error's own text may quote a row, and so a token.
            log(f"{failure} (SQLSTATE {e.sqlstate})", "cycle")
            return None

    def log(line: str, detail: str = "instance") -> None:
        if settings["log_detail"] in ("instance", detail):
            # A name with a line break in it must not write lines of its own.
            printable = "".join(c if c.isprintable() else "?" for c in line)
            plpy.log(f"[refresh-qr-codes] {printable}")

    def finish(report: dict[str, Any]) -> str:
        """Keeps the report in qr_refresh.runs, and returns it."""
        text = json.dumps(report, ensure_ascii=False)
        run(
            "select qr_refresh.record_run($1, $2, $3)",
            ["float8", "text", "jsonb"],
            [time.monotonic() - begun_at, instance_name, text],
        )
        return text

    # One run at a time. One instance has a lock of its own: who asks for it waits for no run.
    lock = "qr_refresh" if instance_name is None else f"qr_refresh:{instance_name}"
    if not run(
        "select pg_try_advisory_xact_lock(hashtextextended($1, 0)) as ours", ["text"], [lock]
    )[0]["ours"]:
        return json.dumps({"success": False, "error": "Another refresh cycle is already running"})

    settings = plpy.execute(
        "select s.log_detail, s.max_concurrency, s.ca_file, u.base_url, u.error,"
        " extract(epoch from s.request_timeout)::float8 as request_timeout,"
        " extract(epoch from s.run_timeout)::float8 as run_timeout,"
        " current_setting('server_encoding') = 'UTF8' as has_check_mark"
        " from qr_refresh.settings as s, qr_refresh.evolution_api_base_url() as u"
    )[0]
    log("Starting QR code refresh cycle...", "cycle")
    if settings["error"]:
        log(settings["error"], "cycle")
        return finish({"success": False, "error": settings["error"]})

    instances = attempt(
        "Error fetching instances",
        "select e.instance_name::text as name, e.instance_token::text as token,"
        " e.instance_status = 'connecting' as is_connecting"
        " from public.evolution_instances as e"
        " left join qr_refresh.instance_state as s on e.instance_name::text = s.instance_name"
        " where (e.instance_status = 'connecting' or $1 is not null)"
        " and ($1 is null or e.instance_name::text = $1)"
        # What the last run did not reach comes first.
        " order by s.attempted_at nulls first, e.instance_name",
        ["text"],
        [instance_name],
    )
    if instances is None:
        return finish({"success": False, "error": "Error fetching instances"})
    if instance_name is not None and not instances:
        plpy.error(
            "there is no such instance",
            detail="No row of evolution_instances has this instance_name.",
            hint="Names are case-sensitive: SELECT instance_name FROM evolution_instances;",
            sqlstate="QR001",
        )
    instances = [row for row in instances if row["is_connecting"]]

    names = [row["name"] for row in instances]
    tokens = [row["token"] for row in instances]
    log(f"Found {len(names)} connecting instance(s)", "cycle")
    for name in names:
        log(f"Processing {name}...")
        log(f"Fetching QR for {name}")
    answers = run(
        "select outcome, qr_code, error"
        " from qr_refresh.fetch_qr_codes($1, $2, $3, $4, $4, $5, $6, $7, $8)",
        ["text[]", "text[]", "text[]", "bool[]", "float8", "float8", "integer", "text"],
        [names, tokens, [settings["base_url"]] * len(names), [False] * len(names)]
        + [settings["request_timeout"]]
        + [settings["run_timeout"] - (time.monotonic() - begun_at)]
        + [settings["max_concurrency"], settings["ca_file"]],
    )
    outcomes = [answer["outcome"] for answer in answers]
    pictures = [answer["qr_code"] for answer in answers]

    expired = attempt(
        "State of instances not recorded",
        "select * from qr_refresh.record_outcomes($1, $2, $3) as expired",
        ["text[]", "text[]", "text[]"],
        [names, outcomes, pictures],
    )
    for i, row in enumerate(expired or []):
        if row["expired"]:
            outcomes[i] = "expired"
    live = [i for i, outcome in enumerate(outcomes) if outcome == "qr_code"]
    stored = run(
        "select * from qr_refresh.store_qr_codes($1, $2, $3)",
        ["text[]", "text[]", "text[]"],
        [[column[i] for i in live] for column in (names, tokens, pictures)],
    )
    for i, row in zip(live, stored, strict=True):
        outcomes[i] = row["outcome"]
        if row["error_code"]:
            log(f"Database update failed for {names[i]} (SQLSTATE {row['error_code']})")

    no_qr_code = (True, "No QR code available from Evolution API")
    meanings = {  # outcome: success, error
        "stored": (True, None),
        "no_qr_code": no_qr_code,
        "connected": no_qr_code,
        "expired": (True, "QR code expired, waiting for a new one"),
        "changed": (True, "Instance changed during the run"),
        "failed": (False, None),
        "update_failed": (False, "Database update failed"),
        "timeout": (False, "Request timeout"),
        "not_attempted": (False, "Not attempted: run timeout reached"),
    }
    results = []
    for name, outcome, answer in zip(names, outcomes, answers, strict=True):
        success, error = meanings[outcome]
        if answer["qr_code"]:
            log(f"Successfully fetched QR for {name}")
        if outcome == "stored":
            log(f"{'✓ ' if settings['has_check_mark'] else ''}Successfully refreshed QR for {name}")
        elif outcome == "failed":
            error = f"Failed to fetch QR for {name}: {answer['error']}"
            log(error)
        elif not success:
            log(f"Error processing {name}: {error}")
        result = {"instance_name": name, "success": success, "qr_updated": outcome == "stored"}
        results.append(result | ({"error": error} if error else {}))

    refreshed = sum(result["success"] for result in results)
    failed = len(results) - refreshed
    log(f"Refresh cycle complete: {refreshed} success, {failed} failures", "cycle")
    return finish(
        {"success": True, "total_instances": len(results), "refreshed": refreshed}
        | {"failed": failed, "results": results}
    )
$python$;

alter function public.refresh_qr_codes(text) owner to qr_refresh_owner;
revoke all on function public.refresh_qr_codes(text) from public;
grant execute on function public.refresh_qr_codes(text) to service_role;

comment on function public.refresh_qr_codes(text) is
'Fetches a fresh QR code from Evolution API for each instance that is connecting, and stores it in evolution_instances.
instance_name: this instance only; NULL (the default) for all.
Returns the report: {"success", "total_instances", "refreshed", "failed", "results": [{"instance_name", "success", "qr_updated", "error"}]}, '
'or {"success": false, "error"} when the run as a whole could not be done. Takes at most settings.run_timeout and a little.
Errors: QR001 no row has this instance_name.
Privileges: EXECUTE for service_role and those you grant it to. Runs with the privileges of qr_refresh_owner.';
