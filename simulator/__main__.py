"""Runs the simulated Evolution API alone, until Ctrl-C or SIGTERM."""

import argparse
import signal
import threading
from typing import get_args

from simulator.instance import ROTATION, FlavourName, StateName
from simulator.server import running_simulator


def main() -> None:
    """Run the command line."""
    options = _parser().parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with running_simulator(
            options.host, options.port, rotation=options.rotation, latency=options.latency
        ) as simulator:
            for name, token, state in options.instance:
                simulator.add_instance(name, token, state=state, flavour=options.flavour)
            simulator.add_instances(options.instances, flavour=options.flavour, spread=True)
            print(f"Evolution API simulator on {simulator.base_url}")
            for instance in simulator.instances:
                print(f"  {instance.name}  apikey: {instance.token}  {instance.state}")
            print("Stop it with Ctrl-C.", flush=True)
            stop.wait()
    except OSError as error:
        raise SystemExit(f"Cannot listen on {options.host}:{options.port}: {error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator",
        description="An Evolution API with make-believe WhatsApp instances, whose QR codes are "
        "real pictures that change as WhatsApp's do. It serves GET /instance/connect/NAME and "
        "GET /instance/connectionState/NAME.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=_port, default=8080, help="port; 0 for a free one")
    parser.add_argument(
        "--rotation", type=_seconds, default=ROTATION, help="seconds that a QR code lives"
    )
    parser.add_argument(
        "--latency", type=_delay, default=0.0, help="seconds to wait before each answer"
    )
    parser.add_argument(
        "--flavour",
        choices=get_args(FlavourName),
        default="v2",
        help="Evolution API 1.8.6 or 2.3.6",
    )
    parser.add_argument(
        "--instances",
        type=_count,
        default=0,
        metavar="N",
        help="add N connecting instances, instance-1 with the token token-instance-1 and so on",
    )
    parser.add_argument(
        "--instance",
        type=_instance,
        action="append",
        default=[],
        metavar="NAME:TOKEN:STATE",
        help=f"add one instance; may be repeated; STATE is one of {', '.join(_STATES)}",
    )
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of instances")
    return int(text)


def _delay(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def _seconds(text: str) -> float:
    seconds = _delay(text)
    if seconds == 0:
        raise argparse.ArgumentTypeError("must be more than 0 seconds")
    return seconds


def _instance(text: str) -> tuple[str, str, str]:
    # From the right, so that a name may hold colons.
    name, token, state = (["", ""] + text.rsplit(":", 2))[-3:]
    if not name or not token or state not in _STATES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME:TOKEN:STATE with STATE one of {', '.join(_STATES)}"
        )
    return name, token, state


_STATES = get_args(StateName)

if __name__ == "__main__":
    main()
