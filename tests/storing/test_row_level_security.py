"""Row level security: it does not stop the job, and the job does not weaken it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg.errors import InsufficientPrivilege

from tools.job import Job, read_qr

# Enabled and forced, so that it holds for the table's owner, too.
FORCED = (
    "alter table evolution_instances enable row level security;"
    "alter table evolution_instances force row level security;"
)


@pytest.fixture
def tenants(job: Job) -> Iterator[list[str]]:
    """Two tenants, who see the rows that carry their name, and who share the role authenticated."""
    job.connection.execute(
        "do $$ begin create role authenticated; exception when duplicate_object then null; end $$"
    )
    job.connection.execute(
        "alter table evolution_instances add column tenant text;"
        "create policy own_rows on evolution_instances to authenticated"
        " using (tenant = current_setting('app.tenant'));"
        "grant select, insert, update, delete on evolution_instances to authenticated"
    )
    for tenant in ("anna", "bert"):
        job.add(f"shop of {tenant}")
        job.connection.execute(
            "update evolution_instances set tenant = %s where instance_name = %s",
            (tenant, f"shop of {tenant}"),
        )
    yield ["anna", "bert"]


@pytest.mark.parametrize("row_security", ["on", "off"])
def test_with_rls_forced_and_no_policy_the_job_does_its_work(job: Job, row_security: str) -> None:
    job.connection.execute(FORCED)
    job.add("shop")
    job.connection.execute("set role service_role")
    job.connection.execute(f"set row_security = {row_security}")
    assert job.run()["refreshed"] == 1
    job.connection.execute("reset role")
    assert read_qr(job.row("shop").qr_code) == job.simulator.current_code("shop")


def test_a_tenant_sees_the_own_rows_and_no_others_after_a_run(job: Job, tenants: list[str]) -> None:
    job.connection.execute(FORCED)
    job.connection.execute("set role service_role")
    assert job.run()["refreshed"] == 2
    job.connection.execute("reset role")
    for tenant in tenants:
        job.connection.execute("set role authenticated")
        job.connection.execute("select set_config('app.tenant', %s, false)", (tenant,))
        rows = job.connection.execute(
            "select instance_name, qr_code from evolution_instances"
        ).fetchall()
        job.connection.execute("reset role")
        assert [name for name, _ in rows] == [f"shop of {tenant}"]
        assert read_qr(rows[0][1]) == job.simulator.current_code(f"shop of {tenant}")


def test_a_tenant_gets_at_nobody_elses_row_through_the_job(job: Job, tenants: list[str]) -> None:
    job.connection.execute(FORCED)
    job.connection.execute("set app.tenant = 'anna'")
    job.connection.execute("set role authenticated")
    for attempt in (
        "select refresh_qr_codes('shop of bert')",
        "select qr_refresh.store_qr_codes('{shop of bert}', '{token-of-1}', '{x}', now(), false)",
        "select report from qr_refresh.runs",
    ):
        with pytest.raises(InsufficientPrivilege):
            job.connection.execute(attempt.encode())
    job.connection.execute("reset role")
    assert job.row("shop of bert").qr_code is None
