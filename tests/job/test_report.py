"""Every row of the report's table: what the report says, and what then stands in the table."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from simulator import (
    Answer,
    Trouble,
    bare_string_qr,
    code_only_qr,
    error_answer,
    json_answer,
    nested_qr,
    string_qr,
    unprefixed_qr,
)
from tests.http.misbehaviour import start_client
from tools.backend import refusing_port
from tools.engines import Server
from tools.job import OLD_QR, STORED, Connection, Job, read_qr, wait_until

NO_QR = {
    "success": True,
    "qr_updated": False,
    "error": "No QR code available from Evolution API",
}


def failure(error: str) -> dict[str, object]:
    return {"success": False, "qr_updated": False, "error": error}


def test_a_fetched_qr_is_stored_and_a_decoder_reads_the_servers_code(job: Job) -> None:
    job.add("shop")
    before = job.value("select clock_timestamp()")
    assert job.run() == {
        "success": True,
        "total_instances": 1,
        "refreshed": 1,
        "failed": 0,
        "results": [{"instance_name": "shop", "success": True, "qr_updated": True}],
    }
    row = job.row("shop")
    assert read_qr(row.qr_code) == job.simulator.current_code("shop")
    assert row.instance_status == "connecting"
    assert row.last_qr_update is not None
    assert before <= row.last_qr_update <= job.value("select clock_timestamp()")


def test_no_connecting_instance_gives_the_whole_report_and_no_request(job: Job) -> None:
    for status in ("creating", "disconnected", "connected", "error"):
        job.add_row(f"is {status}", status=status, qr_code=OLD_QR)
    assert job.run() == {
        "success": True,
        "total_instances": 0,
        "refreshed": 0,
        "failed": 0,
        "results": [],
    }
    assert job.simulator.total_requests == 0
    assert job.value("select count(*) from evolution_instances where qr_code = %s", OLD_QR) == 4


@pytest.mark.parametrize(
    "shape", [nested_qr, string_qr, bare_string_qr, unprefixed_qr], ids=lambda shape: shape.__name__
)
def test_older_shapes_of_the_answer_are_stored_alike(
    job: Job, shape: Callable[..., Answer]
) -> None:
    job.add("shop").answer_with = shape
    assert job.result("shop") == STORED
    assert read_qr(job.row("shop").qr_code) == job.simulator.current_code("shop")


def test_an_instance_that_is_close_gets_the_qr_that_connecting_it_gives(job: Job) -> None:
    job.add("shop", state="close")
    assert job.result("shop") == STORED
    assert read_qr(job.row("shop").qr_code) == job.simulator.current_code("shop")


@pytest.mark.parametrize(
    "options",
    [{"qr_delay": 3600.0}, {"state": "open"}, {"state": "open", "flavour": "v1"}],
    ids=["count 0", "open", "open in v1"],
)
def test_no_qr_is_no_failure_and_keeps_the_stored_one(job: Job, options: dict[str, object]) -> None:
    job.add("shop", qr_code=OLD_QR, **options)
    before = job.row("shop")
    assert job.result("shop") == NO_QR
    assert job.row("shop") == before


def test_an_empty_object_means_no_qr(job: Job) -> None:
    job.add("shop").answer_with = json_answer({})
    assert job.result("shop") == NO_QR


HTML = Answer(200, b"<html><body>Bad gateway</body></html>", (("Content-Type", "text/html"),))
BAD_ANSWERS = {
    "500": (error_answer(500, "Internal Server Error", "boom"), "500 Internal Server Error"),
    "401": (error_answer(401, "Unauthorized", "Unauthorized"), "401 Unauthorized"),
    "502 with HTML": (Answer(502, HTML.body), "502 Bad Gateway"),
    "Cloudflare's 522": (Answer(522, b"error code: 522"), "522"),
    "304": (Answer(304), "304 Not Modified"),
    "HTML": (HTML, "answer is not JSON"),
    "empty": (Answer(200), "answer is empty"),
    "a list": (json_answer([1]), "answer is not a JSON object"),
    "error true": (json_answer({"error": True, "message": "x"}), "Evolution API reports an error"),
    "not base64": (json_answer({"base64": "data:image/png;base64,?"}), "QR code is not base64"),
    "not PNG": (json_answer({"base64": "R0lGODlhAQABAAAAACw="}), "QR code is not a PNG picture"),
    "SVG": (
        json_answer({"base64": "data:image/svg+xml;base64,PHN2Zy8+"}),
        "QR code is not base64",
    ),
    "number": (json_answer({"base64": 7}), "QR code is not a string"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_a_bad_answer_is_reported_with_a_short_reason_and_keeps_the_stored_qr(
    job: Job, case: str
) -> None:
    answer, reason = BAD_ANSWERS[case]
    job.add("shop", qr_code=OLD_QR).answer_with = answer
    job.add("other")
    before = job.row("shop")
    assert job.result("shop") == failure(f"Failed to fetch QR for shop: {reason}")
    assert job.row("shop") == before
    assert job.row("other").qr_code is not None


def test_the_raw_code_is_never_stored_as_a_picture(job: Job) -> None:
    job.add("shop", qr_code=OLD_QR).answer_with = code_only_qr
    assert job.result("shop") == NO_QR
    assert job.row("shop").qr_code == OLD_QR


def test_known_but_not_in_memory_is_a_failure_in_both_versions(job: Job) -> None:
    job.add("two", state="not_in_memory")
    job.add("one", state="not_in_memory", flavour="v1")
    assert [r["error"] for r in job.run()["results"]] == [
        "Failed to fetch QR for one: answer is empty",
        "Failed to fetch QR for two: Evolution API reports an error",
    ]


def test_an_unknown_instance_is_404_whatever_its_token(job: Job) -> None:
    job.add_row("nobody")
    assert job.result("nobody") == failure("Failed to fetch QR for nobody: 404 Not Found")


def test_a_refused_connection_is_reported_without_the_host(job: Job, server: Server) -> None:
    job.add("shop")
    with refusing_port(server.listen_host) as port:
        job.set(evolution_api_base_url=f"http://{server.reachable_host}:{port}")
        assert job.result("shop") == failure("Failed to fetch QR for shop: connection refused")


def test_a_host_that_does_not_exist_is_reported_without_its_name(job: Job) -> None:
    # A name server that is far away, or not there, takes its time to say so.
    job.set(evolution_api_base_url="http://nowhere.invalid", request_timeout="30 s")
    job.add("shop")
    assert job.result("shop") == failure("Failed to fetch QR for shop: host not found")


def test_https_to_a_server_without_tls_is_a_tls_error(job: Job) -> None:
    job.set(evolution_api_base_url=job.simulator.base_url.replace("http:", "https:"))
    job.add("shop")
    assert job.result("shop") == failure("Failed to fetch QR for shop: TLS error")


def test_a_hanging_instance_times_out_and_costs_no_other(job: Job) -> None:
    job.set(request_timeout="1500 ms")
    job.add("hangs", qr_code=OLD_QR).answer_with = Trouble.HANG
    for number in range(5):
        job.add(f"good {number}")
    report = job.run()
    assert report["failed"] == 1
    assert {"instance_name": "hangs", **failure("Request timeout")} in report["results"]
    assert job.row("hangs").qr_code == OLD_QR
    assert all(job.row(f"good {number}").qr_code for number in range(5))


def test_a_reset_connection_costs_no_other_instance(job: Job) -> None:
    job.set(max_concurrency=1)
    job.add("a").answer_with = Trouble.RESET
    job.add("b")
    assert job.run()["refreshed"] == 1
    assert job.result("a") == failure("Failed to fetch QR for a: connection closed")
    assert job.row("b").qr_code is not None


def test_what_a_run_does_not_reach_is_reported_and_comes_first_in_the_next(job: Job) -> None:
    # Its start takes its time from the run.
    start_client(job)
    job.set(request_timeout="1500 ms", run_timeout="1500 ms", max_concurrency=1)
    job.add("a", qr_code=OLD_QR).answer_with = Trouble.HANG
    job.add("b", qr_code=OLD_QR)
    assert job.run()["results"] == [
        {"instance_name": "a", **failure("Request timeout")},
        {"instance_name": "b", **failure("Not attempted: run timeout reached")},
    ]
    assert job.row("b").qr_code == OLD_QR
    assert job.run()["results"] == [
        {"instance_name": "b", **STORED},
        {"instance_name": "a", **failure("Request timeout")},
    ]


def test_a_row_that_the_database_refuses_costs_only_itself(job: Job) -> None:
    job.connection.execute(
        "alter table evolution_instances add constraint no_qr_for_bad"
        " check (instance_name <> 'bad' or qr_code is null)"
    )
    job.add("bad")
    job.add("good")
    assert job.run()["results"] == [
        {"instance_name": "bad", **failure("Database update failed")},
        {"instance_name": "good", **STORED},
    ]
    assert job.row("bad").qr_code is None
    assert job.row("good").qr_code is not None


def test_a_trigger_that_raises_costs_only_its_row(job: Job) -> None:
    job.connection.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin raise exception 'no, %%', new.instance_token; end $$;"
        " create trigger refuse before update on evolution_instances"
        " for each row when (new.instance_name = 'bad') execute function refuse()".replace(
            "%%", "%"
        )
    )
    job.add("bad")
    job.add("good")
    assert job.result("bad") == failure("Database update failed")
    assert job.row("good").qr_code is not None


def test_a_locked_row_is_not_waited_for(job: Job, connect: Callable[[], Connection]) -> None:
    job.add("locked", qr_code=OLD_QR)
    job.add("free")
    application = connect()
    with application.transaction():
        application.execute(
            "select from evolution_instances where instance_name='locked' for update"
        )
        report = job.run()
    assert {"instance_name": "locked", **failure("Database update failed")} in report["results"]
    assert job.row("locked").qr_code == OLD_QR
    assert job.row("free").qr_code is not None


@pytest.mark.parametrize(
    "change",
    [
        "update evolution_instances set instance_status = 'connected'",
        "update evolution_instances set instance_token = 'another'",
        "update evolution_instances set instance_name = 'renamed'",
        "delete from evolution_instances",
    ],
)
def test_a_row_that_changes_during_the_call_is_left_alone(
    job: Job, connect: Callable[[], Connection], change: str
) -> None:
    job.simulator.latency = 1.0
    job.add("shop")
    application = connect()
    reports: list[dict[str, object]] = []
    run = threading.Thread(target=lambda: reports.append(job.run()))
    run.start()
    wait_until(lambda: job.simulator.total_requests, "the job asks the server")
    application.execute(change.encode())
    run.join()
    assert reports[0]["results"] == [
        {
            "instance_name": "shop",
            "success": True,
            "qr_updated": False,
            "error": "Instance changed during the run",
        }
    ]
    assert job.value("select count(*) from evolution_instances where qr_code is not null") == 0


def test_the_same_qr_is_stamped_anew_while_it_may_be_live(job: Job) -> None:
    job.add("shop")
    assert job.result("shop") == STORED
    first = job.row("shop")
    assert job.result("shop") == STORED
    second = job.row("shop")
    assert second.qr_code == first.qr_code
    assert first.last_qr_update is not None and second.last_qr_update is not None
    assert second.last_qr_update > first.last_qr_update


def test_a_qr_that_stays_the_same_for_longer_than_it_can_live_is_not_stamped(job: Job) -> None:
    job.add("shop")
    job.run()
    before = job.row("shop")
    job.connection.execute(
        "update qr_refresh.instance_state set qr_first_seen_at = now() - interval '61 seconds'"
    )
    assert job.result("shop") == {
        "success": True,
        "qr_updated": False,
        "error": "QR code expired, waiting for a new one",
    }
    assert job.row("shop") == before
    job.simulator.clock.advance(45)
    assert job.result("shop") == STORED
    assert read_qr(job.row("shop").qr_code) == job.simulator.current_code("shop")


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (None, "instance token is missing"),
        ("", "instance token is missing"),
        ("secret\r\nX-Admin: yes", "instance token cannot be sent as an HTTP header"),
        ("secret\n", "instance token cannot be sent as an HTTP header"),
        ("sécret", "instance token cannot be sent as an HTTP header"),
        ("s" * 256, "instance token cannot be sent as an HTTP header"),
    ],
    ids=["NULL", "empty", "CR LF", "LF", "not ASCII", "256 characters"],
)
def test_a_token_that_cannot_be_sent_is_refused_unquoted(
    job: Job, token: str | None, reason: str
) -> None:
    job.add_row("bad", token)
    job.add("good")
    report = job.run()
    assert report["results"][0] == {
        "instance_name": "bad",
        **failure(f"Failed to fetch QR for bad: {reason}"),
    }
    assert "ecret" not in json.dumps(report)
    assert job.row("good").qr_code is not None
    assert {request.instance_name for request in job.simulator.requests} == {"good"}


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 256], ids=["empty", ".", "..", "256"])
def test_a_name_that_cannot_be_a_path_segment_is_refused(job: Job, name: str) -> None:
    job.add_row(name)
    job.add("good")
    assert job.result(name) == failure(
        f"Failed to fetch QR for {name}: instance name cannot be part of a URL"
    )
    assert job.row("good").qr_code is not None
    assert {request.instance_name for request in job.simulator.requests} == {"good"}


@pytest.mark.parametrize(
    "name", ["with space", "a/b", "../admin", "50%", "%2e%2e", "a?b=c#d", "été 🤳", "x" * 255]
)
def test_any_other_name_reaches_its_own_instance(job: Job, name: str) -> None:
    job.add(name)
    assert job.result(name) == STORED
    assert read_qr(job.row(name).qr_code) == job.simulator.current_code(name)


def test_settings_without_a_usable_url_stop_the_run(job: Job) -> None:
    job.add("shop")
    job.set(evolution_api_base_url=None)
    for value, error in {
        " ": "Missing required environment variables",
        "ftp://example.org": "EVOLUTION_API_BASE_URL is not an http(s) URL",
        "https://user:password@example.org": "EVOLUTION_API_BASE_URL is not an http(s) URL",
    }.items():
        job.connection.execute(
            f"do language plpython3u $$ import os;"
            f" os.environ['EVOLUTION_API_BASE_URL'] = {value!r} $$".encode()
        )
        assert job.run() == {"success": False, "error": error}
    job.connection.execute(
        "do language plpython3u $$ import os; del os.environ['EVOLUTION_API_BASE_URL'] $$"
    )
    missing = "Missing required environment variables"
    assert job.run() == {"success": False, "error": missing}
    # A row that names a server of its own is asked all the same.
    job.connection.execute(
        "insert into qr_refresh.evolution_servers values ('north', 'http://127.0.0.1:1')"
    )
    assert job.result("shop")["error"] == f"Failed to fetch QR for shop: {missing}"
    assert job.simulator.total_requests == 0


def test_a_table_that_cannot_be_read_stops_the_run_with_the_edge_functions_error(
    job: Job,
) -> None:
    job.connection.execute("revoke select on evolution_instances from qr_refresh_owner")
    job.connection.execute(
        "revoke select (instance_name) on evolution_instances from qr_refresh_owner"
    )
    assert job.run() == {"success": False, "error": "Error fetching instances"}


def test_one_run_at_a_time_and_a_single_instance_waits_for_none(
    job: Job, connect: Callable[[], Connection]
) -> None:
    job.set(request_timeout="20 s")
    job.add("hangs").answer_with = Trouble.HANG
    job.add("good")
    second = Job(connect(), job.simulator)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(job.run)
        wait_until(lambda: job.simulator.requests_of("hangs"), "the first run asks the server")
        assert second.run() == {
            "success": False,
            "error": "Another refresh cycle is already running",
        }
        single = second.run("good")
        assert single["results"] == [{"instance_name": "good", **STORED}]
        assert not run.done(), "the first run should still wait for the hanging instance"
        job.connection.cancel()
        assert isinstance(run.exception(15), psycopg.errors.QueryCanceled)


def test_one_instance_by_name_leaves_the_others_alone(job: Job) -> None:
    job.add("wanted")
    job.add("other")
    assert job.run("wanted")["total_instances"] == 1
    assert job.row("wanted").qr_code is not None
    assert job.row("other").qr_code is None


def test_a_name_that_is_not_connecting_is_an_empty_report(job: Job) -> None:
    job.add_row("done", status="connected")
    assert job.run("done")["total_instances"] == 0


def test_an_unknown_name_is_an_error_with_a_hint(job: Job) -> None:
    with pytest.raises(psycopg.Error) as raised:
        job.run("nobody")
    assert raised.value.sqlstate == "QR001"
    assert "there is no such instance" in (raised.value.diag.message_primary or "")
    assert "case-sensitive" in (raised.value.diag.message_hint or "")


@pytest.mark.parametrize("most", [1, 7])
def test_at_most_max_concurrency_calls_are_under_way(job: Job, most: int) -> None:
    job.set(max_concurrency=most)
    # The first must still be under way when the last has come.
    job.simulator.latency = 0.03 * most
    for number in range(21):
        job.add(f"instance {number}")
    assert job.run()["refreshed"] == 21
    assert job.simulator.peak_concurrency == most


def test_the_request_carries_the_instances_own_token(job: Job) -> None:
    job.add("shop")
    job.run()
    state, connect = job.simulator.requests
    assert state.path == "/instance/connectionState/shop"
    assert connect.path == "/instance/connect/shop"
    for request in (state, connect):
        assert request.headers["apikey"] == "token-of-0"
        assert "authorization" not in request.headers
