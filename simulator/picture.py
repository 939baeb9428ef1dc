"""QR texts and QR pictures in the shape in which Evolution API serves them."""

import base64
import hashlib
import struct
import zlib
from functools import lru_cache

import segno

_MODULE = 4  # pixels
_QUIET_ZONE = 3  # modules; with version 16 (81 modules) this makes the 348 pixels of the captures
_DARK = bytes((25, 135, 84, 255))  # the green of the captures, RGBA
_LIGHT = bytes((255, 255, 255, 255))


def qr_text(seed: str) -> str:
    """Return a QR text shaped like WhatsApp's (`2@…,…,…,…`); the same seed gives the same text."""
    # 66 bytes become 88 base64 characters without padding and 32 become 44, as in the captures.
    noise = hashlib.shake_256(seed.encode()).digest(66 + 3 * 32)
    parts = [noise[:66], noise[66:98], noise[98:130], noise[130:]]
    return "2@" + ",".join(base64.b64encode(part).decode() for part in parts)


@lru_cache(maxsize=1024)
def data_url(code: str) -> str:
    """Return the picture of `code` as a `data:image/png;base64,…` URL, about 13,500 characters."""
    return "data:image/png;base64," + base64.b64encode(qr_png(code)).decode()


def qr_png(code: str) -> bytes:
    """Return `code` as a QR picture: an RGBA PNG of about 10 kB, 348 x 348 for a WhatsApp text."""
    # A fixed mask spares segno the trial of all eight, which is half the work.
    qr = segno.make_qr(code, error="h", boost_error=False, mask=5)
    modules = [[int(dark) for dark in row] for row in qr.matrix_iter(border=_QUIET_ZONE)]
    side = len(modules) * _MODULE
    # A real data URL is 13,100 to 13,900 characters, far more than a PNG of this picture needs.
    # Only the encoder's own choices give that size: filters per line, then run lengths alone.
    deflate = zlib.compressobj(9, zlib.DEFLATED, 15, 8, zlib.Z_RLE)
    pixels = deflate.compress(_filtered_lines(modules)) + deflate.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)  # 8 bits a channel, RGBA
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", pixels)
        + _chunk(b"IEND", b"")
    )


def _filtered_lines(modules: list[list[int]]) -> bytes:
    """Return the picture's lines under the PNG filters (1 Sub, 2 Up, 4 Paeth) that suit them."""
    bytes_per_module = _MODULE * len(_LIGHT)
    # What a filter leaves of a module: nothing where the neighbour predicts it, else one pixel.
    rest = {
        0: bytes(bytes_per_module),
        1: _difference(_DARK, _LIGHT).ljust(bytes_per_module, b"\0"),
        -1: _difference(_LIGHT, _DARK).ljust(bytes_per_module, b"\0"),
    }
    same_as_above = (b"\x02" + bytes(bytes_per_module * len(modules))) * (_MODULE - 1)
    above = [0] * len(modules)
    lines: list[bytes] = []
    for row in modules:
        from_left, from_paeth = [], []
        left = above_left = 0
        for here, up in zip(row, above, strict=True):
            from_left.append(here - left)
            # With two colours Paeth's predictor comes down to this.
            from_paeth.append(here - (up if left == above_left else left))
            left, above_left = here, up
        # Sub's first pixel has no neighbour; Paeth's has one above it, except in the first line.
        sub = b"\x01" + _LIGHT + b"".join(rest[step] for step in from_left)[len(_LIGHT) :]
        paeth = b"\x04" + b"".join(rest[step] for step in from_paeth)
        # The margin puts the sizes in the middle of the real range.
        sub_is_smaller = sum(map(abs, from_left)) + 8 < sum(map(abs, from_paeth))
        lines += [sub if sub_is_smaller or not lines else paeth, same_as_above]
        above = row
    return b"".join(lines)


def _difference(pixel: bytes, other: bytes) -> bytes:
    return bytes((a - b) & 255 for a, b in zip(pixel, other, strict=True))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
