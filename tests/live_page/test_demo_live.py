"""`make demo-live`, as a person runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests

from tools.engines import ROOT, Server
from tools.job import read_qr


@pytest.fixture
def demo(server: Server, pg_cron: None) -> Iterator[subprocess.Popen[str]]:
    if server.engine == "url":
        pytest.skip("takes a server of its own: PG=docker or PG=local runs it")
    with subprocess.Popen(
        [sys.executable, "-m", "tools.demo_live"],
        cwd=ROOT,
        env={**os.environ, "PG": server.engine},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGINT)


@pytest.mark.engines
def test_the_page_shows_the_codes_that_the_job_stores_until_ctrl_c(
    demo: subprocess.Popen[str],
) -> None:
    assert demo.stdout is not None
    printed = ""
    for line in demo.stdout:
        printed += line
        found = re.search(r"== Open (http://127\.0\.0\.1:\d+/) ", line)
        if found:
            break
    else:
        pytest.fail(printed)
    address = found[1]
    codes: dict[str, str] = {}
    with requests.get(f"{address}events", stream=True, timeout=30) as response:
        for line in response.iter_lines(decode_unicode=True):
            for card in json.loads(line.removeprefix("data: "))["cards"] if line else []:
                # Nobody shall try to link a phone with these.
                assert card["made_up"]
                if card["picture"]:
                    codes[card["name"]] = read_qr(card["picture"])
            if len(codes) == 5:
                break
    assert set(codes) == {"bakery", "florist", "hotel", "museum of art", "tailor"}
    assert len(set(codes.values())) == 5

    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, output
    assert "nothing of it stays" in output
    assert "Traceback" not in output
    with pytest.raises(requests.ConnectionError):
        requests.get(address, timeout=5)
