"""doctor() asks each Evolution API, and says what came of it."""

from __future__ import annotations

from typing import Any

import pytest

from simulator import Answer, Trouble, json_answer
from simulator.server import GREETING
from tests.doctor.findings import findings
from tools.backend import refusing_port
from tools.engines import Server
from tools.job import Job


def test_a_server_that_refuses_is_not_reachable(patient: Job, server: Server) -> None:
    with refusing_port(server.listen_host) as port:
        patient.set(evolution_api_base_url=f"http://{server.reachable_host}:{port}")
        found = findings(patient.connection)["Evolution API answers"]
    assert found["ok"] is False
    assert found["detail"].startswith("connection refused after ")


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (Answer(404, b"404 page not found"), "404 Not Found by something before"),
        (Answer(301), "301 Moved Permanently"),
        (Answer(200, b"<html>log in</html>"), "answer is not JSON"),
        (Answer(429, b"slow down"), "429 Too Many Requests"),
        (
            json_answer({"error": "service not activated", "code": "LICENSE_REQUIRED"}, 503),
            "Evolution API needs its license activated",
        ),
    ],
)
def test_what_is_not_evolution_api_is_not_taken_for_it(
    patient: Job, answer: Answer, detail: str
) -> None:
    # Whom doctor() asks about, because nobody has that name.
    nobody = patient.simulator.add_instance("refresh-qr-codes-doctor", "nope")
    nobody.answer_state_with = answer
    try:
        found = findings(patient.connection)["Evolution API answers"]
    finally:
        patient.simulator.remove_instance(nobody.name)
    assert found["ok"] is False
    assert found["detail"].startswith(detail)


def test_2_4_without_its_licence_is_told_as_that(patient: Job) -> None:
    patient.simulator.is_activated = False
    try:
        found = findings(patient.connection)
    finally:
        patient.simulator.is_activated = True
    said = "Evolution API needs its license activated"
    answers = found["Evolution API answers"]
    assert (answers["ok"], answers["detail"].startswith(said)) == (False, True)
    assert found["Evolution API knows the instance and its token"]["detail"] == f"shop: {said}"
    # GET / is answered all the same.
    assert found["Evolution API version"]["ok"] is True


def test_an_instance_that_hangs_does_not_make_its_server_unreachable(patient: Job) -> None:
    patient.set(request_timeout="1500 ms")
    patient.simulator.instance("shop").answer_with = Trouble.HANG
    try:
        found = findings(patient.connection)
    finally:
        patient.simulator.instance("shop").answer_with = None
    assert found["Evolution API answers"]["ok"] is True
    knows = found["Evolution API knows the instance and its token"]
    assert (knows["ok"], knows["detail"]) == (False, "shop: timeout")


def test_a_second_evolution_server_is_asked_too(patient: Job, server: Server) -> None:
    with refusing_port(server.listen_host) as port:
        patient.connection.execute(
            "insert into qr_refresh.evolution_servers values ('north', %s)",
            (f"http://{server.reachable_host}:{port}",),
        )
        found = findings(patient.connection)
    assert found["Evolution API answers"]["ok"] is True
    assert found["Evolution API north answers"]["ok"] is False


def test_a_second_evolution_server_may_end_with_a_slash(patient: Job) -> None:
    patient.connection.execute(
        "insert into qr_refresh.evolution_servers values ('north', %s)",
        (f"{patient.simulator.base_url}/",),
    )
    patient.connection.execute("update evolution_instances set evolution_server = 'north'")
    found = findings(patient.connection)
    assert found["Evolution API north answers"]["ok"] is True
    knows = found["Evolution API north knows the instance and its token"]
    assert (knows["ok"], knows["detail"]) == (True, "shop: qr_code")
    assert found["servers of connecting instances"]["ok"] is True


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ("instance_token = 'wrong-secret'", "shop: 401 Unauthorized"),
        ("instance_name = 'nobody'", "nobody: 404 Not Found"),
        ("instance_name = 'shop '", '"shop ": 404 Not Found'),
    ],
)
def test_evolution_api_is_asked_about_an_instance_and_no_token_is_shown(
    patient: Job, change: str, detail: str
) -> None:
    before = patient.simulator.instance("shop").sockets_opened
    patient.connection.execute(f"update evolution_instances set {change}".encode())
    found = findings(patient.connection)
    assert found["Evolution API answers"]["ok"] is True
    knows = found["Evolution API knows the instance and its token"]
    assert (knows["ok"], knows["detail"]) == (False, detail)
    assert "wrong-secret" not in str(found) and "token-of" not in str(found)
    assert patient.simulator.instance("shop").sockets_opened == before


def test_a_hanging_server_costs_the_doctor_no_more_than_request_timeout(
    patient: Job, stalled_tls_server: Any
) -> None:
    patient.set(
        evolution_api_base_url=stalled_tls_server.base_url.replace("http:", "https:"),
        request_timeout="300 ms",
    )
    found = findings(patient.connection)["Evolution API answers"]
    assert found["ok"] is False
    assert found["detail"].startswith("Request timeout after ")


@pytest.mark.parametrize(
    ("greeting", "ok", "detail"),
    [
        ({}, True, "2.3.7, WhatsApp Web 2.3000.1030831524; "),
        ({"version": "1.8.6", "whatsappWebVersion": None}, True, "1.8.6; "),
        # Those that loop before the first QR code.
        ({"version": "2.2.3"}, False, "2.2.3, WhatsApp Web 2.3000.1030831524; "),
        ({"version": "<b>", "whatsappWebVersion": 7}, None, "GET / has none; "),
        ({"error": "no"}, None, "GET / does not tell it; "),
        (
            Answer(
                302,
                headers=(("Location", "https://nobody:nope@login.example.com:8443/?token=nope"),),
            ),
            None,
            "GET / is redirected: 302 Found to https://login.example.com; ",
        ),
        (Answer(301), None, "GET / is redirected: 301 Moved Permanently; "),
        (
            Answer(307, headers=(("Location", "/manager"),)),
            None,
            "GET / is redirected: 307 Temporary Redirect; ",
        ),
        (
            Answer(308, headers=(("Location", "https://[nope"),)),
            None,
            "GET / is redirected: 308 Permanent Redirect; ",
        ),
    ],
)
def test_its_version_is_told_and_what_is_known_of_it(
    patient: Job, greeting: dict[str, Any] | Answer, ok: bool | None, detail: str
) -> None:
    patient.simulator.greeting = (
        greeting if isinstance(greeting, Answer) else json_answer(GREETING | greeting)
    )
    try:
        found = findings(patient.connection)["Evolution API version"]
        asked = [r for r in patient.simulator.requests if r.path == "/"]
    finally:
        patient.simulator.greeting = json_answer(GREETING)
    assert (found["ok"], found["detail"].startswith(detail)) == (ok, True), found
    assert (found["fix"] is None) is (ok is True)
    assert "nope" not in str(found)
    assert asked and not any("token-of" in str(request.headers) for request in asked)
