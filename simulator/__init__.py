"""An Evolution API that behaves like the real one, for tests, demo and benchmark."""

from simulator.answers import (
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
from simulator.clock import Clock
from simulator.instance import Instance, QrCode
from simulator.server import RequestRecord, Simulator, running_simulator

__all__ = [
    "Answer",
    "Clock",
    "Instance",
    "QrCode",
    "RequestRecord",
    "Simulator",
    "Trouble",
    "bare_string_qr",
    "code_only_qr",
    "error_answer",
    "json_answer",
    "nested_qr",
    "running_simulator",
    "string_qr",
    "unprefixed_qr",
]
