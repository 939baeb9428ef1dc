"""Code of the application's that runs within the job: what it may do there."""

from __future__ import annotations

import pytest

from tests.job import Job

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


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_trigger_gains_nothing_from_a_superuser_who_runs_the_job(job: Job, attempt: str) -> None:
    """It has the privileges of qr_refresh_owner, and cannot get back to the session's own."""
    superuser = job.connection.info.user
    job.connection.execute(
        f"""
        create table seen (what text);
        grant insert on seen to qr_refresh_owner;
        create function attempt() returns trigger language plpgsql as $$
        begin
            insert into public.seen values (current_user);
            begin
                execute $attempt${attempt.format(superuser=superuser)}$attempt$;
                insert into public.seen values ('success as ' || current_user);
            exception when others then
                insert into public.seen values (sqlstate);
            end;
            return new;
        end $$;
        create trigger attempt before update on evolution_instances
        for each row execute function attempt();
        """.encode()
    )
    job.add("shop")
    assert job.run()["refreshed"] == 1
    seen = [row[0] for row in job.connection.execute("select what from seen").fetchall()]
    assert seen[0] == "qr_refresh_owner"
    assert seen[1] in ("42501", "0A000", "2F003", "55006"), seen
