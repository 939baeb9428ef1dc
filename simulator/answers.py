"""Answers on the wire: Express's headers, Evolution API's bodies, and older shapes of them."""

import base64
import enum
import gzip
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from simulator.picture import data_url

if TYPE_CHECKING:
    from simulator.instance import Instance, QrCode

# Express's `compression` leaves smaller bodies alone.
_SMALLEST_COMPRESSED = 1024  # bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, sent as it stands.

    `Date`, `Connection` and `Keep-Alive` are added on the way out. `chunked` sends the body with
    `Transfer-Encoding: chunked`; otherwise `Content-Length` is added where `headers` lacks it.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    chunked: bool = False


class Trouble(enum.Enum):
    """What an instance can do in place of an answer."""

    HANG = "never answer"
    RESET = "reset the connection"


def etag(body: bytes) -> str:
    """Return the weak ETag that Express computes for `body`."""
    digest = base64.b64encode(hashlib.sha1(body, usedforsecurity=False).digest()).decode()
    return f'W/"{len(body):x}-{digest[:27]}"'


def json_answer(value: object, status: int = 200) -> Answer:
    """Return `value` as Express answers JSON."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    headers = (
        *_EXPRESS_HEADERS,
        ("Content-Type", _JSON),
        ("Content-Length", str(len(body))),
        ("ETag", etag(body)),
    )
    return Answer(status, body, headers)


def error_answer(status: int, error: str, message: str | list[str]) -> Answer:
    """Return Evolution API's error envelope: `error` is the status's name."""
    envelope = {"status": status, "error": error, "response": {"message": message}}
    return json_answer(envelope, status)


@lru_cache(maxsize=1024)
def qr_answer(qr: "QrCode | None") -> Answer:
    """Return what Evolution API answers while `qr` is the current one (None: no QR yet)."""
    if qr is None:
        return json_answer({"count": 0})
    picture = data_url(qr.code)
    return json_answer({"pairingCode": None, "code": qr.code, "base64": picture, "count": qr.count})


@lru_cache(maxsize=1024)
def compressed(answer: Answer) -> Answer:
    """Return `answer` as Express sends it to a client that accepts gzip."""
    if len(answer.body) < _SMALLEST_COMPRESSED:
        return answer
    headers = [field for field in answer.headers if field[0] != "Content-Length"]
    headers.append(("Content-Encoding", "gzip"))
    body = gzip.compress(answer.body, 6, mtime=0)
    return Answer(answer.status, body, tuple(headers), chunked=True)


def nested_qr(instance: "Instance") -> Answer:
    """Answer with the instance's picture under `qrcode.base64`."""
    return json_answer({"qrcode": {"base64": _picture(instance)}})


def string_qr(instance: "Instance") -> Answer:
    """Answer with the instance's picture as the string `qrcode`."""
    return json_answer({"qrcode": _picture(instance)})


def bare_string_qr(instance: "Instance") -> Answer:
    """Answer with the instance's picture as a bare JSON string."""
    return json_answer(_picture(instance))


def unprefixed_qr(instance: "Instance") -> Answer:
    """Answer with the instance's picture as plain base64, without `data:image/png;base64,`."""
    return json_answer({"base64": _picture(instance).partition(",")[2], "count": 1})


def code_only_qr(instance: "Instance") -> Answer:
    """Answer with the QR's text and no picture."""
    return json_answer({"pairingCode": None, "code": _code(instance), "count": 1})


def _picture(instance: "Instance") -> str:
    return data_url(_code(instance))


def _code(instance: "Instance") -> str:
    if instance.qr is None:
        raise ValueError(f"instance {instance.name!r} has no QR code to answer with")
    return instance.qr.code


_JSON = "application/json; charset=utf-8"
_EXPRESS_HEADERS = (
    ("X-Powered-By", "Express"),
    ("Vary", "Origin, Accept-Encoding"),
    ("Access-Control-Allow-Credentials", "true"),
)
# What 2.4.0 answers to every route of an instance before it is activated.
LICENSE_REQUIRED = json_answer(
    {
        "error": "service not activated",
        "code": "LICENSE_REQUIRED",
        "register_url": "http://127.0.0.1:8080/manager/login",
        "instance_id": "00000000-0000-0000-0000-000000000000",
        "docs_url": "https://docs.evolutionfoundation.com.br/licensing",
        "message": "This Evolution API instance is not activated.",
    },
    503,
)
UNAUTHORIZED = error_answer(401, "Unauthorized", "Unauthorized")
# 1.x leaves the body undefined, and Express then sends a chunked body without a chunk.
NOT_IN_MEMORY = {
    "v1": Answer(200, b"", (*_EXPRESS_HEADERS, ("Content-Type", _JSON)), chunked=True),
    "v2": json_answer({"error": True, "message": "[object Object]"}),
}
