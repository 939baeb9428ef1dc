"""The live page as a person sees and uses it, in Chromium."""

from __future__ import annotations

import io
import re
import time
from datetime import timedelta
from urllib.parse import urlsplit

import psycopg
import pytest
import zxingcpp
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from examples.live_page import board
from examples.live_page.server import serving
from simulator.background import in_background
from simulator.instance import ROTATION
from simulator.picture import data_url, qr_text
from tests.live_page.conftest import add_with_code, opened
from tools.engines import start_postgres
from tools.job import Job, install, wait_until
from tools.page_role import create_page_role

LIVE, EXPIRED, WAITING, CONNECTED = "Live", "Expired", "Waiting for a code", "Connected"


def card(page: Page, name: str) -> Locator:
    return page.locator("#cards > li").filter(
        has=page.get_by_role("heading", name=name, exact=True)
    )


def state(page: Page, name: str) -> Locator:
    return card(page, name).locator(".state")


def wait_for_code(element: Locator, text: str | None) -> None:
    """Wait until this QR code, and no other, is to be seen: a browser draws it a little later."""
    wait_until(lambda: codes_on_screen(element) == [text], f"the screen shows the code {text}")


def codes_on_screen(element: Locator) -> list[str]:
    element.scroll_into_view_if_needed()
    found = zxingcpp.read_barcodes(Image.open(io.BytesIO(element.screenshot())))
    return [code.text for code in found]


def age(job: Job, name: str, stored_before: timedelta) -> None:
    job.connection.execute(
        "update evolution_instances set last_qr_update = now() - %s where instance_name = %s",
        (stored_before, name),
    )


def set_status(job: Job, name: str, status: str) -> None:
    job.connection.execute(
        "update evolution_instances set instance_status = %s where instance_name = %s",
        (status, name),
    )


def test_a_decoder_reads_the_current_code_from_the_screen_also_after_a_rotation(
    job: Job, page: Page
) -> None:
    job.add("bakery")
    job.run()
    expect(state(page, "bakery")).to_have_text(LIVE)
    first = job.simulator.current_code("bakery")
    wait_for_code(card(page, "bakery"), first)

    job.simulator.clock.advance(ROTATION)
    picture = card(page, "bakery").locator("img")
    before = picture.get_attribute("src")
    assert before is not None
    job.run()
    expect(picture).not_to_have_attribute("src", before)
    second = job.simulator.current_code("bakery")
    assert second != first
    wait_for_code(card(page, "bakery"), second)


def test_a_change_is_on_the_page_within_a_second(job: Job, page: Page) -> None:
    job.add_row("bakery")
    expect(state(page, "bakery")).to_have_text(WAITING)
    waits = []
    for text, status in [(CONNECTED, "connected"), (WAITING, "connecting")] * 3:
        set_status(job, "bakery", status)
        begun_at = time.monotonic()
        expect(state(page, "bakery")).to_have_text(text)
        waits.append(time.monotonic() - begun_at)
    # The best of six, because others may use this machine.
    assert min(waits) < 1


def test_a_notification_brings_a_change_at_once(
    job: Job, page_database: str, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "READ_INTERVAL", 3600.0)
    job.add_row("bakery")
    with in_background(serving(page_database)) as address, opened(browser, address) as page:
        expect(state(page, "bakery")).to_have_text(WAITING)
        job.connection.execute(
            "update evolution_instances set qr_code = %s, last_qr_update = now()",
            (data_url(qr_text("new")),),
        )
        job.connection.execute("select pg_notify('qr_refresh', '{\"instance_name\": \"bakery\"}')")
        expect(state(page, "bakery")).to_have_text(LIVE)


def test_a_scan_makes_the_card_say_connected_in_its_place(job: Job, page: Page) -> None:
    for name in ("hotel", "bakery", "museum"):
        job.add(name)
    job.run()
    names = ["bakery", "hotel", "museum"]
    expect(page.locator("#cards h2")).to_have_text(names)
    expect(state(page, "hotel")).to_have_text(LIVE)

    job.simulator.scan("hotel")
    set_status(job, "hotel", "connected")  # what the application does then
    expect(state(page, "hotel")).to_have_text(CONNECTED)
    expect(card(page, "hotel").locator("img")).to_be_hidden()
    expect(page.locator("#cards h2")).to_have_text(names)
    expect(page.locator("#summary")).to_have_text("2 live, 0 expired, 0 waiting, 1 connected")


def test_a_connected_instance_leaves_the_page_after_a_while_and_others_never_enter_it(
    job: Job, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.add_row("bakery")
    job.add_row("tailor", status="connected")
    expect(page.locator("#cards h2")).to_have_text(["bakery"])
    monkeypatch.setattr(board, "KEPT_AFTER_CONNECTING", 0.0)
    set_status(job, "bakery", "connected")
    expect(page.locator("#cards h2")).to_have_count(0)
    expect(page.locator("#empty")).to_be_visible()


def test_a_deleted_instance_leaves_the_page(job: Job, page: Page) -> None:
    job.add_row("bakery")
    job.add_row("hotel")
    expect(page.locator("#cards h2")).to_have_text(["bakery", "hotel"])
    job.connection.execute("delete from evolution_instances where instance_name = 'bakery'")
    expect(page.locator("#cards h2")).to_have_text(["hotel"])


def test_each_state_has_its_words_and_the_age_counts_up(job: Job, page: Page) -> None:
    for name in ("live", "old", "odd"):
        add_with_code(job, name)
    job.add_row("none")
    job.add_row("foreign", qr_code="https://example.org/qr.png")
    age(job, "old", timedelta(minutes=3, seconds=5))
    set_status(job, "odd", "error")
    age(job, "odd", timedelta(seconds=1))
    expect(state(page, "live")).to_have_text(LIVE)
    expect(state(page, "old")).to_have_text(EXPIRED)
    expect(state(page, "none")).to_have_text(WAITING)
    expect(state(page, "foreign")).to_have_text(WAITING)
    expect(card(page, "old").locator(".age")).to_have_text(re.compile(r"^Stored 3 min \d+ s ago$"))

    # An expired code cannot be scanned by mistake.
    wait_for_code(card(page, "live"), qr_text("live"))
    assert codes_on_screen(card(page, "old")) == []

    shown = card(page, "live").locator(".age")
    text = shown.text_content() or ""
    assert re.fullmatch(r"Stored \d+ s ago", text)
    expect(shown).not_to_have_text(text)  # a second later


def test_another_status_is_shown_as_it_is(job: Job, page: Page) -> None:
    job.add_row("bakery")
    expect(state(page, "bakery")).to_have_text(WAITING)
    set_status(job, "bakery", "error")
    expect(state(page, "bakery")).to_have_text("Status: error")


@pytest.mark.parametrize(
    ("qr_lifetime", "dies_after"),
    [("30 seconds", timedelta(seconds=31)), ("1 hour", timedelta(seconds=46))],
)
def test_a_code_expires_on_the_page_after_45_s_or_the_lifetime_of_the_settings(
    job: Job, page: Page, qr_lifetime: str, dies_after: timedelta
) -> None:
    job.set(qr_lifetime=qr_lifetime)
    add_with_code(job, "bakery")
    expect(state(page, "bakery")).to_have_text(LIVE)
    age(job, "bakery", dies_after)
    expect(state(page, "bakery")).to_have_text(EXPIRED)


def test_a_name_is_text_whatever_it_holds(job: Job, live_page: str, browser: Browser) -> None:
    names = [
        "<script>document.title = 'taken over'</script>",
        "<img src=x onerror=\"document.title = 'taken over'\">",
        'O\'Neil & "Söhne" ✓ \u202e',
    ]
    for name in names:
        job.add_row(name, qr_code=data_url(qr_text(name)))
    requests: list[str] = []
    with opened(browser, "about:blank") as page:
        page.on("request", lambda request: requests.append(request.url))
        page.goto(live_page)
        expect(page.locator("#cards h2")).to_have_count(3)
        assert set(page.locator("#cards h2").all_text_contents()) == set(names)
        assert page.locator("#cards script, #cards h2 *").count() == 0
        assert page.title() == "WhatsApp QR codes"
    # Nothing of a name has been loaded, and nothing from elsewhere.
    pictures = [url for url in requests if url.startswith("data:")]
    paths = [urlsplit(url).path for url in requests if url.startswith(live_page)]
    assert len(pictures) + len(paths) == len(requests)
    assert set(paths) == {"/", "/page.css", "/page.js", "/events"}


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
    found = re.fullmatch(r"Stored (\d+) s ago", text)
    assert found
    assert abs(int(found[1]) - (time.monotonic() - stored_at)) < 4


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


def test_the_keyboard_enlarges_a_code_and_keeps_its_place(job: Job, page: Page) -> None:
    for name in ("hotel", "bakery"):
        job.add(name)
    job.run()
    expect(state(page, "hotel")).to_have_text(LIVE)
    dialog = page.get_by_role("dialog")
    for name in ("bakery", "hotel"):
        page.keyboard.press("Tab")
        expect(card(page, name).get_by_role("button")).to_be_focused()
    focused = card(page, "hotel").get_by_role("button")
    assert focused.evaluate("element => parseFloat(getComputedStyle(element).outlineWidth)") >= 2
    assert focused.get_attribute("aria-label") == "Enlarge the QR code of hotel"

    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("heading")).to_have_text("hotel")
    wait_for_code(dialog, job.simulator.current_code("hotel"))

    # The enlarged code changes with its card, and neither change takes the keyboard's place.
    before = dialog.locator("img").get_attribute("src")
    assert before is not None
    job.simulator.clock.advance(ROTATION)
    job.run()
    expect(dialog.locator("img")).not_to_have_attribute("src", before)
    wait_for_code(dialog, job.simulator.current_code("hotel"))
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(focused).to_be_focused()

    # Once it is connected there is nothing to press: the place is kept at the card's name.
    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    set_status(job, "hotel", "connected")
    expect(dialog).to_be_hidden()
    expect(card(page, "hotel").get_by_role("heading")).to_be_focused()


def test_a_code_enlarged_again_at_once_changes_with_its_card(job: Job, page: Page) -> None:
    job.add("hotel")
    job.run()
    expect(state(page, "hotel")).to_have_text(LIVE)
    dialog = page.get_by_role("dialog")
    # In one turn of the browser, as two quick keys on a busy machine: it tells of the first close
    # after the second click.
    card(page, "hotel").get_by_role("button").evaluate("""async (button) => {
        const dialog = document.querySelector("dialog");
        const closed = new Promise((resolve) => dialog.addEventListener("close", resolve));
        button.click();
        dialog.close();
        button.click();
        await closed;
    }""")
    expect(dialog).to_be_visible()
    before = dialog.locator("img").get_attribute("src")
    assert before is not None
    job.simulator.clock.advance(ROTATION)
    job.run()
    expect(dialog.locator("img")).not_to_have_attribute("src", before)
    wait_for_code(dialog, job.simulator.current_code("hotel"))


def test_a_screen_reader_hears_of_states_and_not_of_each_new_code(
    job: Job, live_page: str, browser: Browser
) -> None:
    job.add("bakery")
    job.run()
    with opened(browser, live_page) as page:
        expect(state(page, "bakery")).to_have_text(LIVE)
        picture = card(page, "bakery").locator("img")
        before = picture.get_attribute("src")
        assert before is not None
        announcer = page.get_by_role("status")
        # Empty, or that the first code has come, if the page was sooner.
        heard = announcer.text_content() or ""
        job.simulator.clock.advance(ROTATION)
        job.run()
        expect(picture).not_to_have_attribute("src", before)
        expect(announcer).to_have_text(heard)
        # Nor that there was none for a moment, but that there is none.
        age(job, "bakery", timedelta(seconds=45.2))
        at_first = page.evaluate("""async () => {
            const state = document.querySelector("#cards .state");
            while (state.textContent !== "Expired") await new Promise((r) => setTimeout(r));
            return document.querySelector("#announcer").textContent;
        }""")
        assert at_first == heard
        expect(announcer).to_have_text("bakery: Expired", timeout=30_000)
        set_status(job, "bakery", "connected")
        expect(announcer).to_have_text("bakery: Connected")


# Contrast as WCAG 2.1 defines it, of each element that has text of its own, on what is behind it.
CONTRASTS = """() => {
  const channels = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = channels(colour).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (channels(colour)[3] !== 0) return colour;
    }
    throw new Error("no background");
  };
  // In the same turn of the browser, for the page itself draws it anew each second.
  const problem = document.getElementById("problem");
  problem.hidden = false;
  problem.textContent = "a problem";
  return [...document.querySelectorAll("h1, h2, p, button")]
    .filter((element) => element.checkVisibility() && element.textContent.trim())
    .map((element) => {
      const [light, dark] = [getComputedStyle(element).color, behind(element)]
        .map(luminance).sort((a, b) => b - a);
      return [element.textContent, (light + 0.05) / (dark + 0.05)];
    });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_in_light_and_dark(
    job: Job, live_page: str, browser: Browser, scheme: str
) -> None:
    for name in ("live", "old", "done"):
        add_with_code(job, name)
    job.add_row("none")
    age(job, "old", timedelta(hours=2))
    with opened(browser, live_page, color_scheme=scheme) as page:
        expect(state(page, "done")).to_have_text(LIVE)
        set_status(job, "done", "connected")
        expect(state(page, "done")).to_have_text(CONNECTED)
        contrasts = page.evaluate(CONTRASTS)
        assert {LIVE, EXPIRED, WAITING, CONNECTED, "a problem"} <= {text for text, _ in contrasts}
        assert [item for item in contrasts if item[1] < 4.5] == []
        background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        is_dark = sum(map(int, re.findall(r"\d+", background)[:3])) < 3 * 64
        assert is_dark == (scheme == "dark")
        wait_for_code(card(page, "live"), qr_text("live"))


def test_a_phone_shows_a_code_that_can_be_scanned_without_sideways_scrolling(
    job: Job, live_page: str, browser: Browser
) -> None:
    job.add("anamewithoutanybreak" * 6)
    job.run()
    phone = {"width": 360, "height": 740}
    with opened(browser, live_page, viewport=phone, device_scale_factor=2, has_touch=True) as page:
        picture = page.locator("#cards img")
        expect(picture).to_be_visible()
        width = page.evaluate("() => document.documentElement.scrollWidth")
        assert width <= phone["width"]
        only = job.simulator.instances[0].name
        wait_for_code(picture, job.simulator.current_code(only))
        picture.tap()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= phone["width"]
        wait_for_code(page.get_by_role("dialog"), job.simulator.current_code(only))
