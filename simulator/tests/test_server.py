"""The simulator's HTTP side, apart from what the captures show."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
import requests

from simulator import (
    Answer,
    Clock,
    Instance,
    Simulator,
    Trouble,
    bare_string_qr,
    code_only_qr,
    json_answer,
    nested_qr,
    running_simulator,
    string_qr,
    unprefixed_qr,
)
from simulator.answers import UNAUTHORIZED
from simulator.picture import data_url
from tools.job import wait_until

TIMEOUT = 10


@pytest.fixture(scope="module")
def server() -> Iterator[Simulator]:
    with running_simulator(clock=Clock(speed=0)) as simulator:
        yield simulator


@pytest.fixture
def simulator(server: Simulator) -> Simulator:
    """Return a server without instances, whose clock stands still."""
    server.reset()
    server.latency = 0
    return server


def get(
    simulator: Simulator, name: str, key: str | bytes | None = "secret", route: str = "connect"
) -> requests.Response:
    url = f"{simulator.base_url}/instance/{route}/{quote(name, safe='')}"
    return requests.get(url, headers={"apikey": key} if key else {}, timeout=TIMEOUT)


def raw_get(simulator: Simulator, path: str, key: str) -> bytes:
    host, port = simulator.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\napikey: {key}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode("latin-1"))
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


@pytest.mark.parametrize("name", ["plain", "a/b c%41?x=1#y", "çé漢字🙂", "UPPER", '"'])
def test_a_name_is_one_decoded_path_segment(simulator: Simulator, name: str) -> None:
    simulator.add_instance(name, "secret", state="open")
    answer = get(simulator, name).json()
    assert answer == {"instance": {"instanceName": name, "state": "open"}}
    assert len(simulator.requests_of(name)) == 1


def test_the_server_does_not_resolve_dots(simulator: Simulator) -> None:
    simulator.add_instance("..", "secret", state="open")
    # requests would swallow them on the way.
    answer = raw_get(simulator, "/instance/connect/..", "secret")
    assert answer.endswith(b'{"instance":{"instanceName":"..","state":"open"}}')


def test_names_are_case_sensitive(simulator: Simulator) -> None:
    simulator.add_instance("Sales", "secret")
    assert get(simulator, "sales").status_code == 404


def test_only_the_apikey_header_counts(simulator: Simulator) -> None:
    simulator.add_instance("one", "secret")
    url = f"{simulator.base_url}/instance/connect/one"
    bearer = requests.get(url, headers={"Authorization": "Bearer secret"}, timeout=TIMEOUT)
    query = requests.get(url, params={"apikey": "secret"}, timeout=TIMEOUT)
    assert (bearer.status_code, query.status_code) == (401, 401)


def test_a_latin_1_token_is_compared_as_node_does(simulator: Simulator) -> None:
    simulator.add_instance("one", "caf\xe9")
    assert get(simulator, "one", "caf\xe9").status_code == 200


def test_a_query_string_overrides_the_name_after_the_key_check(simulator: Simulator) -> None:
    simulator.add_instance("mine", "secret")
    simulator.add_instance("theirs", "other", state="open")
    url = f"{simulator.base_url}/instance/connect/mine?instanceName="
    headers = {"apikey": "secret"}
    stolen = requests.get(url + "theirs", headers=headers, timeout=TIMEOUT).json()
    assert stolen == {"instance": {"instanceName": "theirs", "state": "open"}}
    missing = requests.get(url + "nobody", headers=headers, timeout=TIMEOUT).json()
    assert missing == {"error": True, "message": "[object Object]"}


def test_the_global_key_is_good_for_every_instance() -> None:
    with running_simulator(global_key="global") as simulator:
        simulator.add_instance("one", "secret")
        assert get(simulator, "one", "global").status_code == 200
        assert get(simulator, "one", None).status_code == 401


def test_a_client_that_accepts_gzip_gets_large_answers_compressed(simulator: Simulator) -> None:
    simulator.add_instance("one", "secret")
    large = get(simulator, "one")
    assert large.headers["Content-Encoding"] == "gzip"
    assert large.headers["Transfer-Encoding"] == "chunked"
    assert large.json()["code"] == simulator.current_code("one")
    small = get(simulator, "one", route="connectionState")
    assert "Content-Encoding" not in small.headers


def test_connection_state_has_no_side_effect(simulator: Simulator) -> None:
    simulator.add_instance("one", "secret", state="close")
    answer = get(simulator, "one", route="connectionState").json()
    assert answer == {"instance": {"instanceName": "one", "state": "close"}}
    assert simulator.sockets_opened("one") == 0
    assert simulator.state("one") == "close"


def test_the_state_of_an_instance_that_is_not_in_memory_is_left_out(simulator: Simulator) -> None:
    simulator.add_instance("one", "secret", state="not_in_memory")
    answer = get(simulator, "one", route="connectionState").json()
    assert answer == {"instance": {"instanceName": "one"}}


@pytest.mark.parametrize(("flavour", "sleep"), [("v1", 5.0), ("v2", 2.0)])
def test_connect_on_close_sleeps_and_then_has_a_qr(
    simulator: Simulator, flavour: str, sleep: float
) -> None:
    simulator.add_instance("one", "secret", state="close", flavour=flavour)  # type: ignore[arg-type]
    began = simulator.clock.now()
    answer = get(simulator, "one").json()
    assert simulator.clock.now() - began == pytest.approx(sleep)
    assert answer["code"] == simulator.current_code("one")
    assert simulator.sockets_opened("one") == 1


def test_while_one_connect_sleeps_another_is_answered_at_once() -> None:
    with running_simulator() as simulator:
        simulator.add_instance("one", "secret", state="close", qr_delay=60)
        with ThreadPoolExecutor() as pool:
            first = pool.submit(get, simulator, "one")
            wait_until(lambda: simulator.state("one") == "connecting", "the first connect")
            assert get(simulator, "one").json() == {"count": 0}
            assert not first.done()
            assert first.result().json() == {"count": 0}
        assert simulator.sockets_opened("one") == 1


def test_scan_logout_connect_hands_out_the_used_qr(simulator: Simulator) -> None:
    simulator.add_instance("one", "secret")
    used = get(simulator, "one").json()
    simulator.scan("one")
    assert get(simulator, "one").json()["instance"]["state"] == "open"
    assert simulator.current_code("one") is None
    simulator.logout("one")
    assert get(simulator, "one").json() == used
    simulator.clock.advance(60)
    assert get(simulator, "one").json() == used


def test_an_outage_leaves_one_socket_for_each_poll(simulator: Simulator) -> None:
    simulator.add_instance("before", "secret")
    simulator.start_outage()
    simulator.add_instance("during", "secret")
    for name in ("before", "during"):
        for _ in range(11):
            assert get(simulator, name).json() == {"count": 0}
        assert simulator.sockets_opened(name) == 11
    simulator.end_outage()
    assert simulator.state("before") == "close"
    assert "code" in get(simulator, "before").json()


def test_a_removed_instance_is_unknown(simulator: Simulator) -> None:
    simulator.add_instance("one", "secret")
    simulator.remove_instance("one")
    assert get(simulator, "one").status_code == 404


def test_the_latency_comes_before_each_answer(simulator: Simulator) -> None:
    simulator.latency = 0.1
    began = time.monotonic()
    assert get(simulator, "nobody").status_code == 404
    assert time.monotonic() - began >= 0.1


def test_requests_are_recorded_as_they_arrived(simulator: Simulator) -> None:
    simulator.add_instance("a b", "secret")
    get(simulator, "a b")
    requests.post(f"{simulator.base_url}/elsewhere?x=1", timeout=TIMEOUT)
    first, second = simulator.requests
    assert (first.method, first.path) == ("GET", "/instance/connect/a%20b")
    assert first.instance_name == "a b"
    assert first.headers["apikey"] == "secret"
    assert first.time == simulator.clock.now()
    assert (second.method, second.path) == ("POST", "/elsewhere?x=1")
    assert second.instance_name is None
    assert simulator.requests_of("a b") == [first]
    assert simulator.total_requests == 2


def test_requests_in_progress_are_counted_hanging_ones_too() -> None:
    with ThreadPoolExecutor() as pool:
        with running_simulator() as simulator:
            simulator.add_instance("one", "secret").answer_with = Trouble.HANG
            simulator.add_instance("two", "secret")
            hanging = [pool.submit(get, simulator, "one") for _ in range(3)]
            wait_until(lambda: simulator.total_requests == 3, "three requests")
            get(simulator, "two")
            get(simulator, "two")
            assert simulator.peak_concurrency == 4
        assert all(future.exception() for future in hanging)


def test_a_reset_forgets_everything() -> None:
    with running_simulator() as simulator:
        simulator.add_instance("one", "secret")
        simulator.start_outage()
        get(simulator, "nobody")
        simulator.reset()
        assert simulator.instances == []
        assert simulator.requests == []
        assert (simulator.total_requests, simulator.peak_concurrency) == (0, 0)
        assert simulator.add_instance("one", "secret").state == "connecting"


HTML = Answer(
    502, b"<html>Bad Gateway</html>", (("Content-Type", "text/html"), ("Server", "nginx"))
)


@pytest.mark.parametrize("answer", [HTML, json_answer({"code": "LICENSE_REQUIRED"}, 503)])
def test_an_answer_is_sent_as_it_stands(simulator: Simulator, answer: Answer) -> None:
    instance = simulator.add_instance("one", "secret")
    instance.answer_with = answer
    response = get(simulator, "one", "wrong key")
    assert (response.status_code, response.content) == (answer.status, answer.body)
    for name, value in answer.headers:
        assert response.headers[name] == value
    assert get(simulator, "one", route="connectionState").status_code == 200


def test_connection_state_has_answers_of_its_own(simulator: Simulator) -> None:
    instance = simulator.add_instance("one", "secret")
    instance.answer_state_with = HTML
    assert get(simulator, "one", route="connectionState").status_code == 502
    assert get(simulator, "one").status_code == 200


def test_a_function_can_fail_once_and_then_leave_it_to_the_simulation(
    simulator: Simulator,
) -> None:
    failures = [UNAUTHORIZED]
    instance = simulator.add_instance("one", "secret")
    instance.answer_with = lambda _: failures.pop() if failures else None
    assert [get(simulator, "one").status_code for _ in range(3)] == [401, 200, 200]


@pytest.mark.parametrize(
    ("shape", "find"),
    [
        (nested_qr, lambda answer: answer["qrcode"]["base64"]),
        (string_qr, lambda answer: answer["qrcode"]),
        (bare_string_qr, lambda answer: answer),
        (unprefixed_qr, lambda answer: "data:image/png;base64," + answer["base64"]),
    ],
)
def test_older_shapes_carry_the_same_picture(
    simulator: Simulator, shape: Callable[[Instance], Answer], find: Callable[[object], str]
) -> None:
    simulator.add_instance("one", "secret").answer_with = shape
    code = simulator.current_code("one")
    assert code is not None
    assert find(get(simulator, "one").json()) == data_url(code)


def test_an_answer_can_have_a_code_and_no_picture(simulator: Simulator) -> None:
    simulator.add_instance("one", "secret").answer_with = code_only_qr
    answer = get(simulator, "one").json()
    assert answer == {"pairingCode": None, "code": simulator.current_code("one"), "count": 1}


def test_an_instance_can_hang(simulator: Simulator) -> None:
    simulator.add_instance("one", "secret").answer_with = Trouble.HANG
    url = f"{simulator.base_url}/instance/connect/one"
    with pytest.raises(requests.ReadTimeout):
        requests.get(url, timeout=0.1)


def test_an_instance_can_reset_the_connection(simulator: Simulator) -> None:
    simulator.add_instance("one", "secret").answer_with = Trouble.RESET
    with pytest.raises(requests.ConnectionError, match="reset by peer"):
        get(simulator, "one")


def test_many_instances_share_few_pictures_and_neighbours_none(simulator: Simulator) -> None:
    added = simulator.add_instances(100, prefix="many-", pictures=4, token_of=lambda name: name)
    codes = [simulator.current_code(instance.name) for instance in added]
    assert len(set(codes)) == 4
    assert all(here != following for here, following in zip(codes, codes[1:], strict=False))
    assert get(simulator, "many-100", "many-100").json()["code"] == codes[99]
    simulator.clock.advance(45.01)
    assert simulator.current_code("many-1") not in (None, codes[0])


def test_many_instances_can_be_spread_over_a_rotation(simulator: Simulator) -> None:
    simulator.add_instances(90, spread=True)
    simulator.clock.advance(22.75)
    counts = [instance.qr.count for instance in simulator.instances if instance.qr]
    assert (counts.count(1), counts.count(2)) == (45, 45)


def test_it_stops_at_once_with_requests_hanging_and_leaves_nothing() -> None:
    threads = threading.active_count()
    with ThreadPoolExecutor() as pool:
        with running_simulator() as simulator:
            simulator.add_instance("one", "secret").answer_with = Trouble.HANG
            hanging = pool.submit(get, simulator, "one")
            wait_until(lambda: simulator.total_requests == 1, "the request")
            began = time.monotonic()
        assert time.monotonic() - began < 1
        assert isinstance(hanging.exception(), requests.ConnectionError)
    assert threading.active_count() == threads
    port = int(simulator.base_url.rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)


def test_a_port_in_use_is_an_error_and_leaves_no_thread(simulator: Simulator) -> None:
    threads = threading.active_count()
    port = int(simulator.base_url.rpartition(":")[2])
    with pytest.raises(OSError, match="address already in use"), running_simulator(port=port):
        pass
    assert threading.active_count() == threads


def test_it_serves_https(certificate: tuple[str, ssl.SSLContext]) -> None:
    ca_file, context = certificate
    with running_simulator(ssl_context=context) as simulator:
        simulator.add_instance("one", "secret")
        url = f"{simulator.base_url}/instance/connect/one"
        headers = {"apikey": "secret"}
        assert url.startswith("https://")
        assert requests.get(url, headers=headers, verify=ca_file, timeout=TIMEOUT).ok
