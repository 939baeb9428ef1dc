"""The simulated Evolution API: its HTTP side, and the handle by which tests hold it."""

import asyncio
import re
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

from aiohttp import web
from aiohttp.http import SERVER_SOFTWARE
from multidict import CIMultiDict

from simulator.answers import (
    LICENSE_REQUIRED,
    NOT_IN_MEMORY,
    UNAUTHORIZED,
    Answer,
    Trouble,
    compressed,
    error_answer,
    json_answer,
    qr_answer,
)
from simulator.background import in_background
from simulator.clock import Clock
from simulator.instance import (
    CONNECT_SLEEP,
    ROTATION,
    FlavourName,
    Instance,
    Reaction,
    StateName,
)
from simulator.picture import qr_text
from simulator.webhook import LOOK_EVERY, Webhook

# What 2.3.7 says of itself, but for its addresses.
GREETING = {
    "status": 200,
    "message": "Welcome to the Evolution API, it is working!",
    "version": "2.3.7",
    "whatsappWebVersion": "2.3000.1030831524",
}
_ROUTE = re.compile(r"/instance/(connect|connectionState)/([^/]+)")
_KEEP_ALIVE = 5  # seconds, Node's default
_KEPT_RECORDS = 20_000


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as it arrived.

    Attributes:
        time: When, in seconds of the simulator's clock.
        method: As sent.
        path: As sent, still percent-encoded, with its query.
        headers: By lower-case name.
        instance_name: The decoded name; None where the path is none of the two routes.
    """

    time: float
    method: str
    path: str
    headers: dict[str, str]
    instance_name: str | None


class Simulator:
    """A running simulated Evolution API; every method may be called from any thread.

    Attributes:
        base_url: Where it listens, without a slash at the end.
        clock: What QR codes, sleeps and records go by; `clock.advance` makes codes grow old.
        latency: Real seconds to wait before each answer.
        greeting: What GET / answers.
        is_activated: Whether it has its licence, which 2.4.0 needs.
        webhook: Where changes are posted to; None (the start): nowhere.
    """

    def __init__(
        self, *, clock: Clock, rotation: float, latency: float, global_key: str | None
    ) -> None:
        """Make a simulator that does not listen yet; `running_simulator` explains the options."""
        self.base_url = ""
        self.clock = clock
        self.latency = latency
        self._rotation = rotation
        self._global_key = global_key
        self._lock = threading.RLock()
        self._in_progress = 0
        self.reset()

    def reset(self) -> None:
        """Forget all instances, requests and figures; the latency and the clock stay."""
        with self._lock:
            self._instances: dict[str, Instance] = {}
            self.greeting = json_answer(GREETING)
            self.is_activated = True
            self.webhook: Webhook | None = None
            self._whatsapp_reachable = True
            self._requests: deque[RequestRecord] = deque(maxlen=_KEPT_RECORDS)
            self._total = 0
            self._peak = self._in_progress

    def add_instance(
        self,
        name: str,
        token: str,
        *,
        state: StateName = "connecting",
        flavour: FlavourName = "v2",
        qr_delay: float = 0.0,
        qr_age: float = 0.0,
        qr_texts: Callable[[int], str] | None = None,
    ) -> Instance:
        """Add an instance, or replace the one of that name.

        Args:
            name: Any text.
            token: What its `apikey` header must hold.
            state: The state to begin in; `connecting` has its first QR after `qr_delay`.
            flavour: `v2` sleeps 2 s where connect finds `close`, `v1` 5 s.
            qr_delay: Simulated seconds from a new socket to its first QR; `math.inf` for never.
            qr_age: Simulated seconds for which the first QR of `connecting` has been there.
            qr_texts: Returns the text of its nth QR; None for texts that no other instance has.

        Returns:
            The instance, whose attributes may be set.

        Raises:
            ValueError: If the state or the flavour is not a possible one.
        """
        instance = Instance(
            name,
            token,
            now=self.clock.now,
            qr_texts=qr_texts or (lambda number: qr_text(f"{name}/{number}")),
            state=state,
            flavour=flavour,
            rotation=self._rotation,
            qr_delay=qr_delay,
            qr_age=qr_age,
        )
        with self._lock:
            if not self._whatsapp_reachable:
                instance.lose_whatsapp()
            self._instances[name] = instance
        return instance

    def add_instances(
        self,
        count: int,
        *,
        prefix: str = "instance-",
        token_of: Callable[[str], str] = "token-{}".format,
        state: StateName = "connecting",
        flavour: FlavourName = "v2",
        pictures: int = 16,
        spread: bool = False,
    ) -> list[Instance]:
        """Add many cheap instances, `{prefix}1` to `{prefix}{count}`.

        Args:
            count: How many.
            prefix: How their names begin.
            token_of: Returns the token for a name.
            state: As in `add_instance`.
            flavour: As in `add_instance`.
            pictures: How many QR pictures they share; neighbours never show the same one.
            spread: Begin at different moments of the first QR's life, evenly, as instances that
                were started one after the other do; False starts all of them now.

        Returns:
            The instances in order.
        """

        def shared_texts(offset: int) -> Callable[[int], str]:
            return lambda number: qr_text(f"shared/{(offset + number) % pictures}")

        return [
            self.add_instance(
                f"{prefix}{number}",
                token_of(f"{prefix}{number}"),
                state=state,
                flavour=flavour,
                qr_age=self._rotation * (number - 1) / count if spread else 0.0,
                qr_texts=shared_texts(number),
            )
            for number in range(1, count + 1)
        ]

    def remove_instance(self, name: str) -> None:
        """Delete an instance: it is 404 from now on.

        Raises:
            KeyError: If there is none of that name.
        """
        with self._lock:
            del self._instances[name]

    def instance(self, name: str) -> Instance:
        """Return the instance of that name.

        Raises:
            KeyError: If there is none.
        """
        with self._lock:
            return self._instances[name]

    @property
    def instances(self) -> list[Instance]:
        """All instances, in the order in which they were added."""
        with self._lock:
            return list(self._instances.values())

    def state(self, name: str) -> StateName:
        """Return the state of an instance now."""
        with self._lock:
            return self._instances[name].state

    def current_code(self, name: str) -> str | None:
        """Return the text of the QR that connect hands out now; None without one, or if open."""
        with self._lock:
            instance = self._instances[name]
            if instance.state in ("open", "not_in_memory") or instance.qr is None:
                return None
            return instance.qr.code

    def scan(self, name: str) -> None:
        """Scan an instance's QR with a phone: it becomes `open`.

        Raises:
            ValueError: If it has no QR to scan.
        """
        with self._lock:
            self._instances[name].scan()

    def logout(self, name: str) -> None:
        """Log an instance out: it becomes `close`, and the next connect gets the used QR.

        Raises:
            ValueError: If it is neither open nor connecting.
        """
        with self._lock:
            self._instances[name].logout()

    def start_outage(self) -> None:
        """Make WhatsApp unreachable: all instances go to `close` and get no QR any more."""
        with self._lock:
            self._whatsapp_reachable = False
            for instance in self._instances.values():
                instance.lose_whatsapp()

    def end_outage(self) -> None:
        """Make WhatsApp reachable again; instances stay in `close` until somebody connects."""
        with self._lock:
            self._whatsapp_reachable = True
            for instance in self._instances.values():
                instance.find_whatsapp()

    def restart(self) -> None:
        """Start anew as 2.3.7 does: what is open or connecting comes back, what is closed stays."""
        with self._lock:
            for instance in self._instances.values():
                instance.restart()

    def sockets_opened(self, name: str) -> int:
        """Return how many WhatsApp sockets connect calls opened for an instance."""
        return self.instance(name).sockets_opened

    @property
    def requests(self) -> list[RequestRecord]:
        """The latest requests (up to 20,000), oldest first."""
        with self._lock:
            return list(self._requests)

    def requests_of(self, name: str) -> list[RequestRecord]:
        """Return the recorded requests for one instance, oldest first."""
        return [request for request in self.requests if request.instance_name == name]

    def routes_of(self, name: str) -> list[str]:
        """Return what was asked about one instance, such as `connectionState`, oldest first."""
        return [request.path.split("/")[2] for request in self.requests_of(name)]

    @property
    def total_requests(self) -> int:
        """How many requests arrived since the start or the last reset."""
        return self._total

    @property
    def peak_concurrency(self) -> int:
        """The largest number of requests that were in progress at the same time."""
        return self._peak

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one HTTP request."""
        path, _, query = request.raw_path.partition("?")
        route = _ROUTE.fullmatch(path)
        name = unquote(route[2]) if route else None
        self._record(request, name)
        try:
            if self.latency:
                await asyncio.sleep(self.latency)
            if path == "/" and request.method == "GET":
                return _response(request, self.greeting)
            if route is None or name is None or request.method != "GET":
                message = [f"Cannot {request.method} {request.raw_path}"]
                return _response(request, error_answer(404, "Not Found", message))
            if not self.is_activated:
                return _response(request, LICENSE_REQUIRED)
            reaction = await self._react(route[1], name, _api_key(request), query)
            if isinstance(reaction, Answer):
                return _response(request, reaction)
            if reaction is Trouble.RESET:
                _reset(request)
            # The server cancels this when the client has gone, or when it stops.
            return await asyncio.Future()
        finally:
            self._in_progress -= 1

    async def tell(self) -> None:
        """Post what changes, where there is a webhook, until it is cancelled."""
        while True:
            if self.webhook is None:
                await asyncio.sleep(LOOK_EVERY)
                continue
            with self._lock:
                events = [e for i in self._instances.values() for e in self.webhook.news(i)]
            await self.webhook.post(events)

    def _record(self, request: web.Request, name: str | None) -> None:
        headers = {field.lower(): value for field, value in request.headers.items()}
        now = self.clock.now()
        with self._lock:
            self._requests.append(
                RequestRecord(now, request.method, request.raw_path, headers, name)
            )
            self._total += 1
            self._in_progress += 1
            self._peak = max(self._peak, self._in_progress)

    async def _react(self, route: str, name: str, key: str | None, query: str) -> Answer | Trouble:
        instance = self._instances.get(name)
        if instance is None:
            return error_answer(404, "Not Found", [f'The "{name}" instance does not exist'])
        reaction = self._reaction(instance, route)
        if reaction is not None:
            return reaction
        if key is None or key not in (instance.token, self._global_key):
            return UNAUTHORIZED
        # After the check of the key, a name in the query takes the place of the one in the path.
        for override in parse_qs(query).get("instanceName", []):
            instance = self._instances.get(override)
            if instance is None:
                return NOT_IN_MEMORY["v2"]
        if route == "connect":
            return await self._connect(instance)
        return self._state_answer(instance)

    def _reaction(self, instance: Instance, route: str) -> Reaction:
        with self._lock:
            chosen = instance.answer_with if route == "connect" else instance.answer_state_with
            return chosen(instance) if callable(chosen) else chosen

    async def _connect(self, instance: Instance) -> Answer:
        with self._lock:
            found = instance.connect()
        if found == "not_in_memory":
            return NOT_IN_MEMORY[instance.flavour]
        if found == "open":
            return self._state_answer(instance)
        if found == "close":
            await self.clock.sleep(CONNECT_SLEEP[instance.flavour])
        with self._lock:
            qr = instance.qr
        return qr_answer(qr)

    def _state_answer(self, instance: Instance) -> Answer:
        with self._lock:
            state = instance.tell_state()
        described = {"instanceName": instance.name}
        if state != "not_in_memory":  # JSON.stringify leaves an undefined state out
            described["state"] = state
        return json_answer({"instance": described})


@contextmanager
def running_simulator(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    ssl_context: ssl.SSLContext | None = None,
    clock: Clock | None = None,
    rotation: float = ROTATION,
    latency: float = 0.0,
    global_key: str | None = None,
) -> Iterator[Simulator]:
    """Run a simulated Evolution API in a background thread.

    Args:
        host: The address to listen on.
        port: The port to listen on; 0 for a free one.
        ssl_context: Serve HTTPS with it; None for HTTP.
        clock: What QR codes and sleeps go by; None for real time.
        rotation: Simulated seconds that a QR lives.
        latency: Real seconds before each answer.
        global_key: A key that is good for every instance; None for none.

    Yields:
        The running simulator. It has stopped, with all its connections, when the block ends.

    Raises:
        OSError: If it cannot listen there.
    """
    simulator = Simulator(
        clock=clock or Clock(), rotation=rotation, latency=latency, global_key=global_key
    )
    with in_background(_serving(simulator, host, port, ssl_context)):
        yield simulator


@asynccontextmanager
async def _serving(
    simulator: Simulator, host: str, port: int, ssl_context: ssl.SSLContext | None
) -> AsyncIterator[None]:
    application = web.Application()
    # One route for all: aiohttp would tidy the paths that Express answers with 404.
    application.router.add_route("*", "/{path:.*}", simulator.handle)
    application.on_response_prepare.append(_finish_headers)
    runner = web.AppRunner(
        application,
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,
        keepalive_timeout=_KEEP_ALIVE,
        shutdown_timeout=0.01,  # hanging requests are cut off
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=ssl_context, backlog=4096).start()
        scheme = "https" if ssl_context else "http"
        shown_host = f"[{host}]" if ":" in host else host
        simulator.base_url = f"{scheme}://{shown_host}:{runner.addresses[0][1]}"
        telling = asyncio.create_task(simulator.tell())
        yield
        telling.cancel()
    finally:
        await runner.cleanup()


async def _finish_headers(request: web.Request, response: web.StreamResponse) -> None:
    headers = response.headers
    if headers.get("Server") == SERVER_SOFTWARE:
        del headers["Server"]
    if response.keep_alive:
        headers["Connection"] = "keep-alive"
        headers["Keep-Alive"] = f"timeout={_KEEP_ALIVE}"


def _response(request: web.Request, answer: Answer) -> web.Response:
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        answer = compressed(answer)
    headers = CIMultiDict(answer.headers)
    response = web.Response(status=answer.status, body=answer.body, headers=headers)
    if answer.chunked:
        response.enable_chunked_encoding()
    return response


def _api_key(request: web.Request) -> str | None:
    key = request.headers.get("apikey")
    # Node reads header bytes as Latin-1, aiohttp as UTF-8.
    return None if key is None else key.encode("utf-8", "surrogateescape").decode("latin-1")


def _reset(request: web.Request) -> None:
    transport = request.transport
    if transport is None:
        return
    # Closing with a linger time of 0 sends RST in place of FIN.
    linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()
