"""Code of the application's that runs within the job: what it may do there."""

from __future__ import annotations

import pytest

from tools.job import Job

# What a trigger can try to become more than it is. All of it is open to a superuser's session.
ATTEMPTS = [
    "set role {superuser}",
    "reset role",
    "set session authorization {superuser}",
    "reset session authorization",
    "alter role qr_refresh_owner superuser",
    "grant {superuser} to qr_refresh_owner",
    "update qr_refresh.settings set evolution_api_base_url = 'http://127.0.0.1:1'",
    "update public.evolution_instances set instance_token = 'mine'",
    "delete from public.evolution_instances",
    "create function qr_refresh.mine() returns void language sql as ''",
    "do language plpython3u 'pass'",
    "copy (select 1) to program 'true'",
]


AT_ONCE = "create trigger try_all before update on evolution_instances"
# That one runs at COMMIT, as whoever called the job.
AT_THE_END = (
    "create constraint trigger try_all after update on evolution_instances"
    " deferrable initially deferred"
)


@pytest.mark.parametrize(
    ("caller", "trigger"),
    [("refresh_qr_codes", AT_ONCE), ("refresh_qr_codes", AT_THE_END), ("doctor", AT_ONCE)],
)
def test_a_trigger_gains_nothing_from_a_superuser_who_runs_the_job(
    job: Job, caller: str, trigger: str
) -> None:
    """It has the privileges of qr_refresh_owner, and cannot get back to the session's own."""
    attempts = [attempt.format(superuser=job.connection.info.user) for attempt in ATTEMPTS]
    execute = job.connection.execute
    execute("create table commands (command text); grant select on commands to qr_refresh_owner")
    execute("insert into commands select * from unnest(%s::text[])", (attempts,))
    execute(
        """
        create function try_all() returns trigger language plpgsql as $$
        declare
            attempt text;
        begin
            for attempt in select command from public.commands loop
                begin
                    execute attempt;
                    raise notice '%|%|done', attempt, current_user;
                exception when others then
                    raise notice '%|%|%', attempt, current_user, sqlstate;
                end;
            end loop;
            return new;
        end $$;
        """
    )
    job.add("shop")
    assert job.run()["refreshed"] == 1
    execute(f"{trigger} for each row execute function try_all()".encode())
    # Notices, because doctor() takes back what it writes.
    told: list[list[str]] = []
    job.connection.add_notice_handler(
        lambda notice: told.append(str(notice.message_primary).split("|"))
    )
    if caller == "doctor":
        # Where a QR code was refused, it is written once more.
        execute("update qr_refresh.instance_state set outcome = 'update_failed'")
        execute("select * from qr_refresh.doctor()")
    else:
        assert job.run()["refreshed"] == 1
    rows = [row for row in told if len(row) == 3]
    assert [command for command, _, _ in rows] == attempts
    assert {ran_as for _, ran_as, _ in rows} == {"qr_refresh_owner"}
    # Insufficient privilege; not inside a function with SECURITY DEFINER.
    assert [row for row in rows if row[2] not in ("42501", "0A000")] == []


def test_what_a_deferred_constraint_refuses_costs_that_row_alone(job: Job) -> None:
    job.connection.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin if new.instance_name = 'bad' then raise check_violation; end if;"
        " return null; end $$;"
        "create constraint trigger refuse after update on evolution_instances"
        " deferrable initially deferred for each row execute function refuse()"
    )
    for name in ("bad", "good", "other"):
        job.add(name)
    results = {result["instance_name"]: result for result in job.run()["results"]}
    assert results["bad"]["error"] == "Database update failed"
    assert job.row("bad").qr_code is None
    assert job.row("good").qr_code is not None
    assert job.row("other").qr_code is not None
