"""What README.md says can be run, and names what there is."""

from __future__ import annotations

import re

from tests.deploy.installation import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_command_to_uninstall_is_a_target_of_the_makefile() -> None:
    (command,) = re.findall(r"^make (\w+) DATABASE_URL=postgresql://", section("Uninstall"), re.M)
    assert re.search(rf"^{command}: ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
