"""receive_evolution_event(): told of a QR code, in place of asking for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from simulator import Simulator
from simulator.picture import data_url, qr_text
from simulator.webhook import Webhook
from tools.freshness import event_receiver
from tools.job import OLD_QR, Connection, Job, read_qr, refusal, wait_until


def event(name: str, picture: str | None, **changed: Any) -> dict[str, Any]:
    """Return QRCODE_UPDATED as 2.3.7 posts it."""
    qr = {"instance": name, "pairingCode": None, "code": "2@x", "base64": picture}
    body: dict[str, Any] = {"event": "qrcode.updated", "instance": name, "data": {"qrcode": qr}}
    body |= {"destination": "https://app.example.com", "sender": "x", "apikey": None}
    return body | {"server_url": "http://evolution.internal"} | changed


def state_event(name: str, state: str) -> dict[str, Any]:
    """Return CONNECTION_UPDATE."""
    data = {"instance": name, "state": state, "statusReason": 200}
    return {"event": "connection.update", "instance": name, "data": data, "apikey": None}


def tell(job: Job, body: object) -> list[dict[str, Any]]:
    """Pass an event on, as the application or PostgREST does; return the results."""
    found = job.value("select receive_evolution_event(%s::json)", json.dumps(body))
    assert found["success"] is True
    results: list[dict[str, Any]] = found["results"]
    return results


def picture(number: int) -> str:
    return data_url(qr_text(f"shop/{number}"))


def test_an_event_stores_its_qr_code_at_once(job: Job) -> None:
    job.add_row("shop")
    assert tell(job, event("shop", picture(1))) == [
        {"instance_name": "shop", "success": True, "qr_updated": True}
    ]
    assert read_qr(job.row("shop").qr_code) == qr_text("shop/1")
    assert job.value("select is_live from qr_refresh.status") is True
    assert job.simulator.total_requests == 0


def test_what_evolution_api_posts_is_stored_at_once_and_hardly_anybody_is_asked(
    job: Job, database: str, simulator: Simulator
) -> None:
    names = [f"shop {number}" for number in range(10)]
    for number, name in enumerate(names):
        job.add(name, qr_age=4.5 * number)
    job.tick()

    def is_current() -> bool:
        codes = [simulator.current_code(name) for name in names]
        return [job.row(name).qr_code for name in names] == [data_url(c or "") for c in codes]

    with event_receiver(database) as url:
        simulator.webhook = Webhook(url)
        # The second code of each is the first that is told.
        wait_until(lambda: simulator.webhook and simulator.webhook.looks, "the first look")
        for second in range(0, 180, 5):
            if second == 45:
                before = [instance.connect_calls for instance in simulator.instances]
            job.let_time_pass(5)
            wait_until(is_current, "each has been told")
            job.tick()
    calls = [i.connect_calls - b for i, b in zip(simulator.instances, before, strict=True)]
    # In 135 seconds, of which each has three codes.
    assert max(calls) <= 3, calls


def test_who_is_told_is_asked_once_in_a_minute_and_its_phase_is_known(
    job: Job, simulator: Simulator
) -> None:
    job.add("shop")
    for number in range(1, 5):
        tell(job, event("shop", data_url(simulator.current_code("shop") or "")))
        for _ in range(9):
            job.let_time_pass(5)
            job.tick()
        assert simulator.routes_of("shop").count("connect") <= number
    # Nobody tells any more: it is asked as others are.
    job.let_time_pass(120)
    job.connection.execute("update qr_refresh.instance_state set told_at = null")
    assert job.tick() == ["shop"]


@pytest.mark.parametrize(
    "body",
    [
        event("shop", picture(2), apikey="nope"),
        event("nobody", picture(2)),
        event("shop", None),
        event("shop", OLD_QR),
        event("shop", picture(2)[:-20]),
        event("shop", "data:image/png;base64,%%%"),
        event("shop", picture(2).replace("image/png", "image/gif")),
        event("shop", "data:image/png;base64," + "A" * 400_000),
        event("shop", picture(2), event="messages.upsert"),
        event("shop", picture(2), date_time="2020-01-01T00:00:00.000Z"),
        event("shop", picture(1)),
        event("x" * 100_000, picture(2)),
        state_event("shop", "connecting"),
        {"event": "connection.update", "instance": "shop"},
        {"event": None},
        {},
        [],
        "text",
        None,
    ],
    ids=lambda body: str(body)[:40].replace("\n", " "),
)
def test_what_is_wrong_old_or_told_twice_changes_nothing(job: Job, body: object) -> None:
    job.add_row("shop")
    tell(job, event("shop", picture(1)))
    before = job.row("shop")
    assert tell(job, body) == []
    assert job.row("shop") == before


def test_an_event_of_two_rows_of_that_name_needs_the_url_of_its_server(job: Job) -> None:
    job.connection.execute(
        "alter table evolution_instances drop constraint evolution_instances_instance_name_key;"
        "insert into qr_refresh.evolution_servers values ('north', 'http://north/'),"
        " ('south', 'http://south')"
    )
    for server in ("north", "south"):
        job.add_row("main")
        job.connection.execute(
            "update evolution_instances set evolution_server = %s where evolution_server is null",
            (server,),
        )
    assert tell(job, event("main", picture(1))) == []
    assert len(tell(job, event("main", picture(1), server_url="http://south"))) == 1
    stored = "select array_agg(evolution_server) from evolution_instances where qr_code is not null"
    assert job.value(stored) == ["south"]


def test_open_means_that_its_qr_code_was_used(job: Job) -> None:
    job.add_row("shop")
    tell(job, event("shop", picture(1)))
    assert tell(job, state_event("shop", "open"))[0]["success"] is True
    assert job.value("select last_outcome from qr_refresh.status") == "connected"
    assert job.value("select is_live from qr_refresh.status") is False
    stored = job.row("shop")
    # Also with another code in between.
    assert tell(job, event("shop", picture(1))) == []
    assert job.row("shop") == stored


def test_an_open_event_writes_the_status_where_that_is_wanted(job: Job) -> None:
    job.set(connected_status="connected")
    job.connection.execute(
        "grant update (instance_status) on evolution_instances to qr_refresh_owner"
    )
    job.add_row("shop")
    tell(job, event("shop", picture(1)))
    tell(job, state_event("shop", "open"))
    row = job.row("shop")
    assert (row.instance_status, row.qr_code) == ("connected", None)


def test_the_end_of_all_qr_codes_is_taken_as_closed(job: Job) -> None:
    job.add_row("shop")
    tell(job, event("shop", picture(1)))
    message = {"message": "QR code limit reached, please login again", "statusCode": 500}
    (result,) = tell(job, event("shop", None, data=message))
    assert result["qr_updated"] is False
    assert job.value("select last_outcome from qr_refresh.status") == "closed"


def test_nobody_but_service_role_may_tell(job: Job) -> None:
    for role in ("anon", "authenticated"):
        job.connection.execute(
            f"do $$ begin create role {role}; exception when duplicate_object then null; end $$"
        )
    call = "select receive_evolution_event('{}')"
    for role in ("anon", "authenticated", "service_role"):
        job.connection.execute(f"set role {role}".encode())
        if role == "service_role":
            assert job.value(call)["success"] is True
        else:
            assert refusal(job.connection, call).sqlstate == "42501"
        job.connection.execute("reset role")


def test_a_row_that_is_locked_is_waited_for_only_a_moment(
    job: Job, second_session: Connection
) -> None:
    job.add_row("shop")
    with second_session.transaction():
        second_session.execute("select from evolution_instances for update")
        job.connection.execute("set statement_timeout = '5 s'")
        (result,) = tell(job, event("shop", picture(1)))
        assert result["error"] == "Database update failed"


@pytest.fixture
def second_session(connect: Any) -> Connection:
    session: Connection = connect()
    return session
