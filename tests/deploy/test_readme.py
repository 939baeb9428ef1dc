"""What README.md says can be run, and names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg

from tests.engines import start_postgres
from tests.job import Job, install

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_uninstall_removes_everything_of_ours_and_keeps_the_table() -> None:
    (script,) = re.findall(r"```sql\n(.*?)```", section("Uninstall"), re.DOTALL)
    with start_postgres() as fresh:
        install(fresh.dsn())
        with psycopg.connect(fresh.dsn(), autocommit=True) as connection:
            connection.execute(
                "insert into evolution_instances (instance_name, qr_code) values ('shop', 'a qr')"
            )
            connection.execute("create extension pg_cron")
            connection.execute("select qr_refresh.schedule()")
            connection.execute(script.encode())
            rows = connection.execute(
                "select (select qr_code from evolution_instances),"
                " (select count(*) from cron.job),"
                " (select count(*) from pg_namespace where nspname = 'qr_refresh'),"
                " (select count(*) from pg_proc where proname = 'refresh_qr_codes'),"
                " (select count(*) from pg_roles where rolname = 'qr_refresh_owner')"
            ).fetchall()
    assert rows == [("a qr", 0, 0, 0, 0)]


def test_the_table_of_settings_has_every_setting_with_its_default(job: Job) -> None:
    documented = re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", section("Settings"), re.MULTILINE)
    job.set(evolution_api_base_url=None)
    units = {"8 s": "00:00:08", "30 s": "00:00:30", "60 s": "00:01:00"}
    for name, default in documented:
        actual = job.value(f"select coalesce({name}::text, 'NULL') from qr_refresh.settings")
        assert (name, actual) == (name, units.get(default, default))
    columns = job.value(
        "select array_agg(column_name::text) from information_schema.columns"
        " where table_schema = 'qr_refresh' and table_name = 'settings'"
    )
    assert {name for name, _ in documented} == set(columns) - {"singleton"}
