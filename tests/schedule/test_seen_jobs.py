"""What health, metrics and doctor() say of the jobs of pg_cron."""

from __future__ import annotations

from tests.doctor.findings import findings
from tests.monitoring.views import row
from tools.job import Job


def seen(cron: Job) -> tuple[object, object, object]:
    health = row(cron, "health")
    return health["schedule"], health["is_active"], row(cron, "metrics")["job_active"]


def test_health_and_metrics_tell_of_the_schedule_and_whether_it_is_active(cron: Job) -> None:
    assert seen(cron) == (None, None, None)
    cron.connection.execute("select qr_refresh.schedule('*/7 * * * *')")
    # A second one, of the operator's.
    cron.connection.execute(
        "select cron.schedule('mine', '3 * * * *', 'SELECT refresh_qr_codes()')"
    )
    schedule = "refresh-qr-codes: */7 * * * *, mine: 3 * * * *"
    assert seen(cron) == (schedule, True, 1)
    stop = "select cron.alter_job(jobid, active => false) from cron.job where jobname = %s"
    # What cuts the history stores no QR code.
    cron.connection.execute(stop, ("refresh-qr-codes-prune",))
    assert seen(cron) == (schedule, True, 1)
    cron.connection.execute(stop, ("mine",))
    assert seen(cron) == (schedule, False, 0)


def test_background_workers_are_a_way_to_connect(cron: Job) -> None:
    found = findings(cron.connection)["way of pg_cron to connect"]
    uses_workers = cron.value("show cron.use_background_workers") == "on"
    if uses_workers:
        assert (found["ok"], found["detail"]) == (True, "background workers")
    else:
        assert found["detail"].startswith("libpq to ")
