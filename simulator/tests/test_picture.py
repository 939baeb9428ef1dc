"""The QR pictures: what a phone would read from them, and how large they are."""

import base64
import io

import zxingcpp
from PIL import Image

from simulator.picture import data_url, qr_png, qr_text


def test_the_decoder_reads_each_picture_to_its_code() -> None:
    for number in range(20):
        code = qr_text(f"picture {number}")
        [symbol] = zxingcpp.read_barcodes(Image.open(io.BytesIO(qr_png(code))))
        assert symbol.text == code


def test_a_picture_has_the_properties_of_the_real_ones() -> None:
    picture = Image.open(io.BytesIO(qr_png(qr_text("any"))))
    assert (picture.format, picture.size, picture.mode) == ("PNG", (348, 348), "RGBA")
    assert {colour for _, colour in picture.getcolors() or []} == {
        (255, 255, 255, 255),
        (25, 135, 84, 255),
    }


def test_data_urls_are_as_long_as_the_real_ones() -> None:
    lengths = [len(data_url(qr_text(f"length {number}"))) for number in range(40)]
    assert min(lengths) >= 13_100
    assert max(lengths) <= 13_900


def test_a_data_url_holds_the_picture() -> None:
    code = qr_text("any")
    prefix, _, encoded = data_url(code).partition(",")
    assert prefix == "data:image/png;base64"
    assert base64.b64decode(encoded, validate=True) == qr_png(code)


def test_texts_differ_by_seed_and_by_nothing_else() -> None:
    assert qr_text("a") == qr_text("a")
    assert qr_text("a") != qr_text("b")
