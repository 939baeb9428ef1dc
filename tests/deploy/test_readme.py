"""What README.md says can be run, and names what there is."""

from __future__ import annotations

import re

from tests.deploy.installation import ROOT
from tests.job import Job

README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_command_to_uninstall_is_a_target_of_the_makefile() -> None:
    (command,) = re.findall(r"^make (\w+) DATABASE_URL=postgresql://", section("Uninstall"), re.M)
    assert re.search(rf"^{command}: ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)


def test_the_table_of_settings_has_every_setting_with_its_default(job: Job) -> None:
    documented = re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", section("Settings"), re.MULTILINE)
    job.set(evolution_api_base_url=None)
    units = {"8 s": "00:00:08", "30 s": "00:00:30", "60 s": "00:01:00", "5 minutes": "00:05:00"}
    for name, default in documented:
        actual = job.value(f"select coalesce({name}::text, 'NULL') from qr_refresh.settings")
        assert (name, actual) == (name, units.get(default, default))
    columns = job.value(
        "select array_agg(column_name::text) from information_schema.columns"
        " where table_schema = 'qr_refresh' and table_name = 'settings'"
    )
    assert {name for name, _ in documented} == set(columns) - {"singleton"}
