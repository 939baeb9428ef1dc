"""Who reads the views, what does not stand in them, and what may change below them."""

from __future__ import annotations

import pytest

from simulator import Trouble
from tests.monitoring.views import VIEWS, age_state, row, rows
from tools.job import Job, install


@pytest.mark.parametrize("role", ["pg_monitor", "service_role"])
def test_monitoring_roles_read_every_view(job: Job, role: str) -> None:
    job.add("shop")
    job.run()
    job.connection.execute(f"set role {role}".encode())
    for view in (*VIEWS, "runs"):
        assert rows(job, view) is not None
    assert row(job, "status")["is_live"] is True


def test_no_token_and_no_picture_stands_in_a_view(job: Job) -> None:
    job.add("shop")
    job.add("gone").answer_with = Trouble.RESET
    job.run()
    age_state(job, "10 minutes")
    text = "\n".join(
        job.value(f"select coalesce(string_agg(v::text, ';'), '') from qr_refresh.{view} as v")
        for view in (*VIEWS, "runs")
    )
    assert "shop" in text and "gone" in text
    for secret in ("token-of", "base64", "iVBOR", job.simulator.current_code("shop") or "2@"):
        assert secret not in text


def test_the_application_may_still_change_its_columns(job: Job) -> None:
    job.add("shop")
    job.connection.execute(
        "alter table evolution_instances alter instance_name type varchar(200),"
        " alter qr_code type varchar(20000), alter last_qr_update type timestamp"
    )
    job.run()
    assert row(job, "status")["is_live"] is True


def test_a_deploy_keeps_what_others_may_read(job: Job, database: str) -> None:
    job.connection.execute("grant select on qr_refresh.status to pg_read_all_settings")
    install(database)
    assert job.value(
        "select has_table_privilege('pg_read_all_settings', 'qr_refresh.status', 'select')"
    )


EDGE_FUNCTION_QUERIES = """
SELECT
  instance_name,
  instance_status,
  last_qr_update,
  NOW() - last_qr_update AS age,
  qr_code IS NOT NULL AS has_qr_code
FROM evolution_instances
WHERE instance_status = 'connecting'
ORDER BY last_qr_update DESC;

SELECT
  instance_name,
  last_qr_update,
  NOW() - last_qr_update AS age
FROM evolution_instances
WHERE instance_status = 'connecting'
AND (last_qr_update IS NULL OR last_qr_update < NOW() - INTERVAL '5 minutes');
"""


def test_the_queries_of_the_edge_functions_documentation_still_work(job: Job) -> None:
    job.add("shop")
    job.add("late", qr_delay=3600)
    job.run()
    fresh, without = (
        job.connection.execute(q.encode()) for q in EDGE_FUNCTION_QUERIES.split(";")[:2]
    )
    assert {(r[0], r[4]) for r in fresh.fetchall()} == {("shop", True), ("late", False)}
    assert [r[0] for r in without.fetchall()] == ["late"]
