"""`python -m simulator`, as a person runs it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "simulator"]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_stopped(stop: signal.Signals) -> None:
    options = ["--port", "0", "--instances", "2", "--instance", "a:b:secret:open"]
    with subprocess.Popen(
        [*COMMAND, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            printed = ""
            for line in process.stdout:
                printed += line
                if line == "Stop it with Ctrl-C.\n":
                    break
            url = re.search(r"http://\S+", printed)
            assert url, printed
            assert "instance-2  apikey: token-instance-2  connecting" in printed
            answer = requests.get(
                f"{url[0]}/instance/connect/a%3Ab", headers={"apikey": "secret"}, timeout=10
            )
            assert answer.json() == {"instance": {"instanceName": "a:b", "state": "open"}}
        finally:
            process.send_signal(stop)
        assert process.wait(timeout=10) == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--instance", "name:token"], "'name:token' is not NAME:TOKEN:STATE"),
        (["--instance", "name:token:shut"], "STATE one of close, connecting, open, not_in_memory"),
        (["--port", "70000"], "'70000' is not a port"),
        (["--rotation", "0"], "must be more than 0 seconds"),
        (["--latency", "nan"], "'nan' is not a number of seconds"),
        (["--instances", "-1"], "'-1' is not a number of instances"),
        (["--flavour", "v3"], "invalid choice: 'v3'"),
        # An address of nobody's; a name would be asked for at a name server.
        (["--host", "192.0.2.1"], "Cannot listen on 192.0.2.1:8080"),
    ],
)
def test_bad_input_gets_a_clear_error(options: list[str], complaint: str) -> None:
    result = subprocess.run(
        [*COMMAND, *options], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode != 0
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr
