"""show_qr(): psql prints a QR code that a decoder reads from a picture of the text."""

from __future__ import annotations

import base64
import io
import itertools

import psycopg
import pytest
import segno
import zxingcpp
from PIL import Image, ImageDraw

from tools.engines import Server
from tools.job import PNG_URL, Job, refusal

CELL = 6  # pixels a module


def photograph(text: str, ink: str, paper: str) -> Image.Image:
    """Draw text as a terminal does whose characters are twice as high as wide; only blocks."""
    lines = text.splitlines()
    picture = Image.new("RGB", (CELL * max(map(len, lines)), 2 * CELL * len(lines)), paper)
    draw = ImageDraw.Draw(picture)
    for row, line in enumerate(lines):
        for column, character in enumerate(line):
            left, top = column * CELL, 2 * row * CELL
            if character in "█▀":
                draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), ink)
            if character in "█▄":
                draw.rectangle((left, top + CELL, left + CELL - 1, top + 2 * CELL - 1), ink)
    return picture


def scan(text: str, ink: str = "white", paper: str = "black") -> str:
    # A phone's scanner may not read an inverted code, so this one must not either.
    found = zxingcpp.read_barcodes(photograph(text, ink, paper), try_invert=False)
    assert len(found) == 1
    return found[0].text


def printed(server: Server, job: Job, arguments: str) -> str:
    """What psql prints, with its frame around it."""
    code, output = server.run_client(
        ["psql", "-X", "-c", f"select qr_refresh.show_qr({arguments})"],
        dbname=job.connection.info.dbname,
    )
    assert code == 0, output
    return output


def test_a_scanner_reads_what_psql_prints(job: Job, server: Server) -> None:
    job.add("shop")
    job.run()
    code = job.simulator.current_code("shop")
    assert scan(printed(server, job, "'shop'")) == code
    assert scan(printed(server, job, "'shop', true"), ink="black", paper="white") == code


def test_pictures_of_every_size_are_read(job: Job) -> None:
    for length, scale in itertools.product((1, 200, 1000), (1, 3, 4, 10)):
        name = f"{length} characters, {scale} pixels a module"
        picture = io.BytesIO()
        qr = segno.make("x" * length, micro=False)
        # Transparent where it is light, as some servers draw them.
        qr.save(picture, "png", scale=scale, border=2, light=None)
        job.add_row(name, qr_code=PNG_URL + base64.b64encode(picture.getvalue()).decode())
        assert scan(job.value("select qr_refresh.show_qr(%s)", name)) == "x" * length, name


def why_not(job: Job, name: str = "shop") -> psycopg.Error:
    """Return the error with which show_qr() refuses, which says what to do."""
    error = refusal(job.connection, "select qr_refresh.show_qr(%s)", name)
    assert error.diag.message_detail and error.diag.message_hint
    return error


def test_without_a_row_or_a_qr_code_the_error_says_so(job: Job) -> None:
    job.add_row("shop")
    assert why_not(job, "Shop").sqlstate == "QR001"
    assert why_not(job).sqlstate == "QR006"


def png(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return PNG_URL + base64.b64encode(file.getvalue()).decode()


def test_what_is_not_a_picture_of_a_qr_code_is_refused(job: Job) -> None:
    stored = {
        "text": "no data URL",
        "not base64": PNG_URL + "!!!",
        "only a signature": PNG_URL + "iVBORw0KGgo=",
        "white": png(Image.new("RGB", (300, 300), "white")),
        "black": png(Image.new("RGB", (300, 300), "black")),
        "gradient": png(Image.linear_gradient("L")),
        "too large": png(Image.new("1", (2001, 2001), 0)),
    }
    for name, data_url in stored.items():
        job.add_row(name, qr_code=data_url)
        assert why_not(job, name).sqlstate == "QR007", name


def test_without_pillow_the_error_names_the_package(job: Job) -> None:
    job.add_row("shop")
    job.connection.execute("do language plpython3u $$ import sys; sys.modules['PIL'] = None $$")
    error = why_not(job)
    assert error.sqlstate == "QR005"
    assert "apt install python3-pil" in (error.diag.message_hint or "")


def test_only_who_may_see_qr_codes_may_call_it(job: Job) -> None:
    job.add("shop")
    job.run()
    job.connection.execute("set role service_role")
    assert "▀" in job.value("select qr_refresh.show_qr('shop')")
    job.connection.execute("set role pg_monitor")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        job.connection.execute("select qr_refresh.show_qr('shop')")
