"""pg_dump and pg_restore of a database with the job in it."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from db.connection import database_name
from tests.deploy.installation import value
from tests.evolution_api import simulator_for
from tools.engines import Server, start_postgres
from tools.job import Connection, Job, install, read_qr


def filled(connection: Connection, job: Job) -> None:
    job.set(evolution_api_base_url=job.simulator.base_url, max_concurrency=3)
    job.add("shop")
    assert job.run()["refreshed"] == 1


def runs_on(url: str, former: Job) -> None:
    """The restored job has its settings, rows and history, and fetches the next QR code."""
    with psycopg.connect(url, autocommit=True) as connection:
        job = Job(connection, former.simulator)
        assert job.value("select max_concurrency from qr_refresh.settings") == 3
        assert job.row("shop") == former.row("shop")
        assert job.value("select count(*) from qr_refresh.runs") == 1
        former.simulator.clock.advance(46)
        connection.execute("set role service_role")
        assert job.run()["refreshed"] == 1
        connection.execute("reset role")
        assert read_qr(job.row("shop").qr_code) == former.simulator.current_code("shop")
        assert job.value("select count(*) from qr_refresh.runs") == 2


def test_a_database_restored_on_the_same_server_is_the_same(
    server: Server,
    job: Job,
    database: str,
    empty_database: str,
    schema_of: Callable[[str], str],
) -> None:
    filled(job.connection, job)
    restored = database_name(empty_database)
    script = (
        "umask 077; folder=$(mktemp -d); trap 'rm -r $folder' EXIT;"
        " pg_dump -Fc -f $folder/dump && pg_restore --exit-on-error -d $1 $folder/dump"
    )
    code, output = server.run_client(
        ["sh", "-c", script, "sh", restored], dbname=database_name(database)
    )
    assert (code, output) == (0, "")
    assert schema_of(empty_database) == schema_of(database)
    runs_on(empty_database, job)


@pytest.mark.engines
def test_a_database_moves_to_another_server_with_its_roles_and_its_schedule(
    pg_cron: None,
) -> None:
    with start_postgres(own=True) as old, simulator_for(old) as simulator:
        install(old.dsn())
        with psycopg.connect(old.dsn(), autocommit=True) as connection:
            connection.execute("create extension pg_cron")
            job = Job(connection, simulator)
            filled(connection, job)
            connection.execute("select qr_refresh.schedule('0 3 1 1 *')")
            roles = old.run_client(["pg_dumpall", "--roles-only", "--no-role-passwords"]).output
            dump = old.run_client(["pg_dump"]).output
            with start_postgres(own=True) as new:
                # The superuser is there already.
                for script in (roles.replace("CREATE ROLE postgres;", ""), dump):
                    code, output = new.run_client(
                        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-f", "-"],
                        stdin=script,
                    )
                    assert (code, output) == (0, "")
                jobs = "select coalesce(array_agg(jobname || schedule), '{}') from cron.job"
                assert value(new.dsn(), jobs) == value(old.dsn(), jobs) != []
                runs_on(new.dsn(), job)
