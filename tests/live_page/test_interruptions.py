"""What the live page shows when the database, its server, the machine or the clock stops."""

from __future__ import annotations

import re
import time
from urllib.parse import urlsplit

import psycopg
from playwright.sync_api import Browser, Page, expect

from examples.live_page.server import serving
from simulator.background import in_background
from simulator.picture import data_url, qr_text
from tests.live_page.screen import (
    CONNECTED,
    EXPIRED,
    LIVE,
    WAITING,
    add_with_code,
    card,
    opened,
    set_status,
    state,
)
from tools.engines import start_postgres
from tools.job import Job, install
from tools.page_role import create_page_role


def test_a_database_that_goes_away_is_announced_and_its_return_is_noticed(
    browser: Browser,
) -> None:
    with start_postgres(own=True) as server:
        install(server.dsn())
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute(
                "insert into evolution_instances (instance_name, instance_status)"
                " values ('bakery', 'connecting')"
            )
        with (
            in_background(serving(create_page_role(server.dsn()))) as address,
            opened(browser, address) as page,
        ):
            expect(state(page, "bakery")).to_have_text(WAITING)
            problem = page.get_by_role("alert")
            expect(problem).to_be_hidden()
            server.stop()
            expect(problem).to_contain_text("The database does not answer.")
            expect(state(page, "bakery")).to_have_text(WAITING)
            server.start()
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                connection.execute("update evolution_instances set instance_status = 'connected'")
            expect(state(page, "bakery")).to_have_text(CONNECTED)
            expect(problem).to_be_hidden()


def test_a_page_server_that_goes_away_is_announced_and_its_return_is_noticed(
    job: Job, page_database: str, browser: Browser
) -> None:
    job.add_row("bakery")
    with opened(browser, "about:blank") as page:
        with in_background(serving(page_database)) as address:
            page.goto(address)
            expect(state(page, "bakery")).to_have_text(WAITING)
        problem = page.get_by_role("alert")
        expect(problem).to_contain_text("The connection to this page's server is lost.")
        set_status(job, "bakery", "connecting")
        port = urlsplit(address).port
        assert port is not None
        with in_background(serving(page_database, port=port)):
            expect(problem).to_be_hidden()
            expect(state(page, "bakery")).to_have_text(WAITING)


def test_a_code_dies_while_the_machine_sleeps_also_if_the_page_wakes_up_alone(
    job: Job, page_database: str, browser: Browser
) -> None:
    with opened(browser, "about:blank") as page:
        with in_background(serving(page_database)) as address:
            add_with_code(job, "bakery")
            page.goto(address)
            expect(state(page, "bakery")).to_have_text(LIVE)
        expect(page.get_by_role("alert")).to_be_visible()
        expect(state(page, "bakery")).to_have_text(LIVE)
        # performance.now() stands still during sleep, unlike this.
        page.evaluate("""() => {
            const former = Date.now;
            Date.now = () => former() + 3600_000;
        }""")
        expect(state(page, "bakery")).to_have_text(EXPIRED)
        expect(card(page, "bakery").locator(".age")).to_contain_text("1 h 0 min")


def test_a_page_that_stood_still_knows_how_old_the_codes_are_that_came_meanwhile(
    job: Job, page: Page
) -> None:
    add_with_code(job, "bakery")
    expect(state(page, "bakery")).to_have_text(LIVE)
    picture = data_url(qr_text("next"))
    page.evaluate("""() => {
        setTimeout(() => {
            const end = Date.now() + 8000;
            while (Date.now() < end);
        });
    }""")
    job.connection.execute(
        "update evolution_instances set qr_code = %s, last_qr_update = now()", (picture,)
    )
    stored_at = time.monotonic()
    text = page.evaluate(
        """async (picture) => {
            const image = document.querySelector("#cards img");
            while (image.src !== picture) await new Promise((resolve) => setTimeout(resolve));
            return document.querySelector("#cards .age").textContent;
        }""",
        picture,
    )
    found = re.fullmatch(r"Expires in (\d+) s", text)
    assert found
    assert abs(45 - int(found[1]) - (time.monotonic() - stored_at)) < 4


def test_a_clock_that_is_set_makes_the_page_ask_anew_how_old_the_codes_are(
    job: Job, page: Page
) -> None:
    add_with_code(job, "bakery")
    expect(state(page, "bakery")).to_have_text(LIVE)
    # Less than the silence after which a connection counts as lost.
    with page.expect_request(re.compile("/events$")):
        page.evaluate("""() => {
            const former = Date.now;
            Date.now = () => former() + 15_000;
        }""")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_page_whose_token_is_no_longer_good_says_so(
    job: Job, page_database: str, browser: Browser
) -> None:
    job.add_row("bakery")
    with opened(browser, "about:blank") as page:
        with in_background(serving(page_database, token="the-former-token")) as address:
            page.goto(f"{address}?token=the-former-token")
            assert page.url == address
            expect(state(page, "bakery")).to_have_text(WAITING)
        port = urlsplit(address).port
        assert port is not None
        with in_background(serving(page_database, port=port, token="another-token")):
            expect(page.locator("body")).to_contain_text("needs its token")
