-- qr_refresh.run_cycle(): one run. Selects the instances, fetches, stores, reports.
create or replace function qr_refresh.run_cycle(
    instance_name text, only_due boolean, lane text, worker integer, workers integer
)
returns jsonb
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import hashlib
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

    def log_step(line: str, detail: str = "instance") -> None:
        if not only_due:  # too many words for each second
            log(line, detail)

    settings = run("select * from qr_refresh.run_settings($1)", ["text"], [lane])[0]
    log_step("Starting QR code refresh cycle...", "cycle")
    if settings["base_url_error"]:
        log(settings["base_url_error"], "cycle")
        return json.dumps({"success": False, "error": settings["base_url_error"]})

    instances = attempt(
        "Error fetching instances",
        "select * from qr_refresh.instances_to_ask($1, $2, $3, $4, $5, $6)",
        ["text", "boolean", "text", "integer", "integer", "text"],
        [instance_name, only_due, lane, worker, workers, settings["base_url"]],
    )
    if instances is None:
        return json.dumps({"success": False, "error": "Error fetching instances"})
    if instance_name is not None and not instances and not only_due:
        return None
    instances = [row for row in instances if row["is_connecting"]]
    columns = ("name", "token", "base_url", "check_state", "connect_on_close")
    names, tokens, urls, checks, reconnects = ([row[c] for row in instances] for c in columns)
    log_step(f"Found {len(names)} connecting instance(s)", "cycle")
    for name in names:
        log_step(f"Processing {name}...")
        log_step(f"Fetching QR for {name}")

    asked_at = time.time()
    fetched = run(
        # Not in FROM, where all the pictures would go through a temporary file.
        "select qr_refresh.fetch_qr_codes($1, $2, $3, $4, $5, $6, $7, $8, $9) as answer",
        ["text[]", "text[]", "text[]", "boolean[]", "boolean[]", "float8", "float8", "int", "text"],
        [names, tokens, urls, checks, reconnects, settings["request_timeout"]]
        + [settings["run_timeout"] - (time.monotonic() - begun_at)]
        + [settings["max_concurrency"], settings["ca_file"]],
    )
    answers = [row["answer"] for row in fetched]
    outcomes = [answer["outcome"] for answer in answers]
    pictures = [answer["qr_code"] for answer in answers]
    digests = [hashlib.sha256(p.encode()).digest() if p else None for p in pictures]

    # The same picture for too long is dead: it was used, or Evolution API gets no new one.
    for i, row in enumerate(instances):
        is_old = digests[i] and time.time() > (row["qr_dead_at"] or float("inf"))
        if is_old and row["qr_digest"] == digests[i]:
            outcomes[i] = "expired"

    def store(outcome: str, command: str, types: list[str], arguments: list[Any]) -> None:
        """Writes the rows of one outcome, and puts what came of it in the outcome's place."""
        found = [i for i, o in enumerate(outcomes) if o == outcome]
        # Not all at once: PL/Python holds several copies of what it hands over, and small ones are
        # quicker to come by.
        for part in (found[start : start + 100] for start in range(0, len(found), 100)):
            rows = [[a[i] for i in part] if isinstance(a, list) else a for a in arguments]
            for i, row in zip(part, run(command, types, rows), strict=True):
                outcomes[i] = row["outcome"]
                if row.get("error_code"):
                    answers[i]["error"] = f"SQLSTATE {row['error_code']}"
                    log(f"Database update failed for {names[i]} (SQLSTATE {row['error_code']})")

    stored_at = time.time()
    store(
        "qr_code",
        "select * from qr_refresh.store_qr_codes($1, $2, $3, to_timestamp($4), $5)",
        ["text[]", "text[]", "text[]", "float8", "boolean"],
        [names, tokens, pictures, stored_at, only_due],
    )
    gives_up_at = time.time() + settings["lock_patience"]  # for all parts together
    store(
        "postponed",
        "select * from qr_refresh.store_postponed_qr_codes($1, $2, $3, to_timestamp($4),"
        " to_timestamp($5))",
        ["text[]", "text[]", "text[]", "float8", "float8"],
        [names, tokens, pictures, stored_at, gives_up_at],
    )
    if settings["connected_status"] is not None:
        store(
            "connected",
            "select * from qr_refresh.store_connected($1, $2, $3)",
            ["text[]", "text[]", "text"],
            [names, tokens, settings["connected_status"]],
        )
    told_of = ("error", "reconnected", "elapsed")
    attempt(
        "State of instances not recorded",
        "select qr_refresh.record_outcomes(to_timestamp($1), $2, $3, $4, $5, $6, $7),"
        " qr_refresh.forget_instances()",
        ["float8", "text[]", "text[]", "bytea[]", "text[]", "boolean[]", "float8[]"],
        [asked_at, names, outcomes, digests, *([a[c] for a in answers] for c in told_of)],
    )

    described = run(
        "select * from qr_refresh.describe_outcomes($1, $2, $3)",
        ["text[]", "text[]", "text[]"],
        [names, outcomes, [answer["error"] for answer in answers]],
    )
    results = []
    for row, outcome, digest, told in zip(instances, outcomes, digests, described, strict=True):
        result = {"instance_name": row["name"], "success": told["success"]}
        result |= {"qr_updated": outcome == "stored"}
        results.append(result | ({"error": told["error"]} if told["error"] else {}))
        if digest:
            log_step(f"Successfully fetched QR for {row['name']}")
        if told["log_line"] and (outcome != "connected" or outcome != row["former_outcome"]):
            log(told["log_line"])

    refreshed = sum(result["success"] for result in results)
    failed = len(results) - refreshed
    log_step(f"Refresh cycle complete: {refreshed} success, {failed} failures", "cycle")
    report = {"success": True, "total_instances": len(results), "refreshed": refreshed}
    return json.dumps(report | {"failed": failed, "results": results}, ensure_ascii=False)
$python$;

comment on function qr_refresh.run_cycle(text, boolean, text, integer, integer) is
'Does one run; public.refresh_qr_codes() and live mode call it.
instance_name, only_due: as in public.refresh_qr_codes(). lane: NULL for a run of its own; fast or slow for a tick of live mode. worker, workers: the share of this worker, from 1.
Returns the report of public.refresh_qr_codes(); NULL where no row has this instance_name.
Private.';
