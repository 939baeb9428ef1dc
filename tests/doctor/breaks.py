"""What breaks each thing that doctor() checks, and what its row then says."""

from __future__ import annotations

from tests.broken_python import NO_INTERPRETER

PYTHON = "do language plpython3u $python$ {} $python$"
REFUSALS = "rows take their QR codes"
TRIGGER = (
    "create function of_app() returns trigger language plpgsql as $$ begin {}; end $$;"
    "create trigger of_app before update on evolution_instances"
    " for each row execute function of_app();"
    "select refresh_qr_codes()"
)

# A view over two tables, which can be written by a trigger alone.
MADE_A_VIEW = (
    "alter table evolution_instances rename to instances_of_app;"
    "create view evolution_instances as select i.* from instances_of_app as i"
    " cross join (values (1)) as v;"
    "create function of_app() returns trigger language plpgsql as $$ begin return old; end $$;"
    "create trigger of_app"
)

# check: (what breaks it, ok after that, a part of the detail)
BREAKS: list[tuple[str, str, bool | None, str]] = [
    ("PL/Python", "drop extension plpython3u cascade", False, "is not created"),
    ("python", "drop function qr_refresh.doctor_python()", False, "42883"),
    ("client", "drop function qr_refresh.doctor_client()", False, "42883"),
    (
        "HTTP client starts",
        PYTHON.format(NO_INTERPRETER),
        False,
        "Starting /nowhere/bin/python3",
    ),
    (
        "Python library Pillow",
        PYTHON.format("import sys; sys.modules['PIL'] = None"),
        None,
        "not in the Python 3",
    ),
    (
        "clock",
        "update qr_refresh.instance_state set attempted_at = now() + interval '1 hour'",
        False,
        "rows of the job from the future: 1",
    ),
    (
        "timeouts of the job's role",
        "do $$ begin execute format("
        "'alter database %I set statement_timeout = ''29s''', current_database()); end $$",
        False,
        "statement_timeout = 29s",
    ),
    (
        "base URL",
        "update qr_refresh.settings set evolution_api_base_url = null",
        False,
        "Missing required environment variables (from: nowhere)",
    ),
    (
        "table evolution_instances",
        "alter table evolution_instances rename qr_code to picture",
        False,
        "columns are missing: qr_code",
    ),
    (
        "table evolution_instances",
        "alter table evolution_instances rename to instances",
        False,
        "there is no table",
    ),
    (
        "connecting instances",
        "update evolution_instances set instance_status = 'connected'",
        None,
        "0",
    ),
    (
        "tokens of connecting instances",
        "update evolution_instances set instance_token = null",
        False,
        "shop: instance token is missing",
    ),
    (
        "tokens of connecting instances",
        "alter table evolution_instances alter instance_name drop not null;"
        "update evolution_instances set instance_name = null",
        False,
        "NULL: instance name cannot be part of a URL",
    ),
    (
        "servers of connecting instances",
        "update evolution_instances set evolution_server = 'nowhere'",
        False,
        "not in qr_refresh.evolution_servers: shop: nowhere",
    ),
    (
        "index on instance_status",
        "drop index evolution_instances_instance_status_idx;"
        "update pg_class set reltuples = 20000 where relname = 'evolution_instances'",
        False,
        "none, about 20000 rows",
    ),
    (REFUSALS, "select 1", True, "none was refused"),
    (
        REFUSALS,
        "alter table evolution_instances add constraint tiny check (length(qr_code) < 9) not valid;"
        "select refresh_qr_codes()",
        False,
        'violates check constraint "tiny" (SQLSTATE 23514)',
    ),
    (
        REFUSALS,
        "create table audit (name text);"
        + TRIGGER.format("insert into public.audit values (new.instance_name); return new"),
        False,
        "permission denied for table audit (SQLSTATE 42501), in function public.of_app()",
    ),
    (
        REFUSALS,
        TRIGGER.format("perform helper_of_app(); return new"),
        False,
        # Before it PostgreSQL 19 has a sentence more.
        "(SQLSTATE 42883), in function public.of_app()",
    ),
    (REFUSALS, TRIGGER.format("return null"), False, "a trigger or a rule keeps the row as it is"),
    (
        REFUSALS,
        TRIGGER.format("raise exception 'no, %', new.instance_token"),
        False,
        "shop: refused (SQLSTATE P0001), in function public.of_app()",
    ),
    (
        REFUSALS,
        "alter table evolution_instances drop constraint evolution_instances_pkey;"
        "create publication of_app for table evolution_instances; select refresh_qr_codes()",
        False,
        "does not have a replica identity",
    ),
    (
        REFUSALS,
        "create publication of_app for table evolution_instances where (instance_status = 'error');"
        "select refresh_qr_codes()",
        False,
        "Column used in the publication WHERE expression is not part of the replica identity",
    ),
    (
        REFUSALS,
        "update qr_refresh.instance_state set outcome = 'update_failed'",
        None,
        "would be stored now",
    ),
    ("role qr_refresh_owner", "alter role qr_refresh_owner login", False, "can log in"),
    ("role qr_refresh_owner", "alter role qr_refresh_owner superuser", False, "superuser"),
    ("role qr_refresh_owner", "alter role qr_refresh_owner nobypassrls", False, "row level"),
    (
        "grants of qr_refresh_owner",
        "update qr_refresh.settings set connected_status = 'connected'",
        False,
        "missing: update (instance_status)",
    ),
    (
        "grants of qr_refresh_owner",
        "revoke update (qr_code) on evolution_instances from qr_refresh_owner",
        False,
        "missing: update (qr_code)",
    ),
    (
        "qr_refresh_owner may use schema public",
        "revoke usage on schema public from public, qr_refresh_owner",
        False,
        "no",
    ),
    (
        "callers of the functions",
        "grant execute on function qr_refresh.cron_jobs to public",
        False,
        "PUBLIC may execute",
    ),
    (
        "callers of the functions",
        "grant execute on function refresh_qr_codes to anon",
        False,
        "anon may execute",
    ),
    (
        "owner of the functions",
        "alter function qr_refresh.instance_problem(text, text) owner to current_user",
        False,
        "instance_problem",
    ),
    (
        "owner of the functions",
        "create function refresh_qr_codes() returns jsonb language sql as 'select null::jsonb'",
        False,
        "public.refresh_qr_codes()",
    ),
    (
        "members of qr_refresh_owner",
        "grant qr_refresh_owner to authenticated",
        False,
        "authenticated may become it",
    ),
    (
        "view can be written",
        f"{MADE_A_VIEW} instead of delete on evolution_instances"
        " for each row execute function of_app()",
        False,
        "cannot update view",
    ),
    (
        "instance_token is private",
        "alter table evolution_instances disable row level security;"
        "grant select on evolution_instances to authenticated",
        False,
        "authenticated may read it of every row",
    ),
    (
        "instance_token is private",
        "grant select on evolution_instances to authenticated;"
        "create policy own on evolution_instances for select to authenticated using (true)",
        None,
        "authenticated may read it, of rows that a policy shows",
    ),
    (
        "table is published for Realtime",
        "create publication supabase_realtime",
        False,
        "in no publication",
    ),
    ("table is published for Realtime", "select 1", None, "in no publication"),
    (
        "wal_level",
        "create publication supabase_realtime for table evolution_instances",
        False,
        "replica",
    ),
    (
        "state of the job is not published",
        "create publication everything for all tables",
        False,
        "everything (runs)",
    ),
    ("a run within the last 00:05:00", "delete from qr_refresh.runs", False, "there has been none"),
    (
        "a run within the last 00:05:00",
        "update qr_refresh.runs set finished_at = finished_at - interval '301 s'",
        False,
        "last run ended",
    ),
    (
        "a run within the last 00:05:00",
        "insert into qr_refresh.runs (started_at, finished_at, report) select"
        " now() - make_interval(mins => n + 1), now() - make_interval(mins => n),"
        """ '{"success": true, "mode": "live", "worker": 1, "workers": 2}'"""
        " from generate_series(20, 0, -1) as n",
        False,
        "none of live mode: worker 2 of 2",
    ),
    (
        "live mode skips no minute",
        "insert into qr_refresh.runs (started_at, finished_at, report) select"
        " now() - make_interval(mins => n + 1), now() - make_interval(mins => n),"
        """ '{"success": true, "mode": "live", "worker": 1, "workers": 1}'"""
        " from unnest('{9, 8, 4, 3, 2, 1, 0}'::integer[]) as n",
        False,
        "worker 1 of 1: 3 of the last 15",
    ),
    (
        "last run",
        "select qr_refresh.record_run(58, null, "
        """'{"success": false, "mode": "live", "refreshed": 0, "failed": 0}')""",
        False,
        "no tick of live mode could be done",
    ),
    (
        "last run",
        "alter table evolution_instances rename instance_status to s;"
        "select refresh_qr_codes();"
        "alter table evolution_instances rename s to instance_status",
        False,
        "Error fetching instances",
    ),
]


FAILED = (
    "insert into cron.job_run_details (jobid, runid, status, return_message)"
    " select jobid, (select coalesce(max(runid), 0) + 1 from cron.job_run_details), 'failed', '{}'"
    " from cron.job where jobname = 'refresh-qr-codes'"
)


CRON_BREAKS: list[tuple[str, str, bool | None, str]] = [
    (
        "jobs can be seen",
        "revoke usage on schema cron from qr_refresh_owner",
        False,
        "lacks USAGE",
    ),
    ("job is scheduled", "select qr_refresh.unschedule()", False, "pg_cron has no job"),
    ("job is active", "update cron.job set active = false", False, "not active: "),
    (
        "job's role may run it",
        "update cron.job set username = 'pg_monitor'",
        False,
        "(role pg_monitor)",
    ),
    (
        "there is no second job",
        "select cron.schedule('old', '* * * * *', 'select refresh_qr_codes()')",
        False,
        "(old, calls refresh_qr_codes)",
    ),
    (
        "there is no second job",
        "select cron.schedule('old', '* * * * *', "
        "$$select net.http_post('https://x/functions/v1/refresh-qr-codes', 'a key')$$)",
        False,
        "(old, calls edge function)",
    ),
    (
        "every job has its role",
        "create role gone login;"
        "select cron.schedule_in_database('app', '* * * * *', 'select 1', 'postgres', 'gone');"
        "drop role gone",
        False,
        "(app, role gone)",
    ),
    ("pg_cron's last execution", FAILED.format("connection failed"), False, "connection failed"),
    ("pg_cron's last execution", FAILED.format("server restarted"), None, "server restarted"),
    (
        "size of cron.job_run_details",
        "alter table cron.job_run_details alter return_message set storage external;"
        "insert into cron.job_run_details (runid, return_message)"
        " select n, repeat('x', 4000000) from generate_series(1000001, 1000027) as n",
        None,
        "MB",
    ),
]


TESTED_ELSEWHERE = {
    "Evolution API answers",
    "Evolution API version",
    "extension pg_cron",
    "pg_cron is loaded",
    "way of pg_cron to connect",
    "job's role has no other power",
    "pg_cron's scheduler runs",
    "pg_cron begins active jobs",
    "pg_cron begins jobs of superusers",
    "jobs do not wait for each other",
    "no run hangs",
    "server encoding",
    "database is writable",
    "instance_state is readable",
}
