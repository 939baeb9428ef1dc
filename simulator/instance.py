"""One WhatsApp instance of the simulated Evolution API: its states and its QR codes in time."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from simulator.answers import Answer, Trouble

StateName = Literal["close", "connecting", "open", "not_in_memory"]
FlavourName = Literal["v1", "v2"]
Reaction: TypeAlias = Answer | Trouble | None

ROTATION = 45.0  # seconds that a QR lives
QRS_PER_SOCKET = 6  # after so many WhatsApp ends the socket and Evolution opens the next
QR_LIMIT = 30  # after so many Evolution gives up
CLOSED_WHILE_RECONNECTING = 0.03  # seconds in state `close`
RECONNECT = 0.2  # seconds from the end of a socket's last QR to the first of the next socket
JUST_BEFORE = 1.0  # seconds from the answer about the state to the connect that follows from it
CONNECT_SLEEP = {"v1": 5.0, "v2": 2.0}  # seconds that connect sleeps where it found `close`


@dataclass(frozen=True, slots=True)
class QrCode:
    """A QR code: its text, and the how manieth of its cycle it is (from 1)."""

    code: str
    count: int


class Instance:
    """The state of one instance; everything in it follows from the clock and from what is called.

    Not safe for threads by itself: the server guards it with its lock.

    Attributes:
        name: The name, in any characters.
        token: What the header `apikey` must hold.
        flavour: `v1` (1.8.6) or `v2` (2.3.6).
        connect_calls: How often connect was called with the right key.
        state_calls: The same for connectionState.
        sockets_opened: How many WhatsApp sockets connect calls have opened.
        second_sockets: How many of them beside the one that Evolution was about to open itself.
        careless_connects: Connect calls in state `close` that opened a second socket or broke a
            pairing, and that came from a caller who was not told `connecting` in the second before.
        is_broken: A connect call came between scan and `open`: two logins replace each other for
            ever.
        close_window: Seconds in state `close` before Evolution opens its next socket: 0.03 to 0.3
            up to 2.3.x, 3 in 2.4.0.
        pairing_window: Seconds in state `close` between a scan and `open`, of the same length.
        reconnects: Whether Evolution opens the next socket itself after the last QR of one. Not in
            2.4.0, which waits for a connect call.
        qr_delay: Seconds from a new socket to its first QR; `math.inf` for never.
        stale_for: Seconds for which a used QR is handed out after logout and connect, until
            WhatsApp gives a new one.
        answer_with: Answers connect in place of the simulation, before any check of the key: an
            Answer, a Trouble, or a function of this instance that returns one of them or None for
            the ordinary answer. None (the start): the simulation answers.
        answer_state_with: The same for connectionState.
    """

    def __init__(
        self,
        name: str,
        token: str,
        *,
        now: Callable[[], float],
        qr_texts: Callable[[int], str],
        state: StateName = "connecting",
        flavour: FlavourName = "v2",
        rotation: float = ROTATION,
        qr_delay: float = 0.0,
        qr_age: float = 0.0,
    ) -> None:
        """Make an instance.

        Args:
            name: As the attribute.
            token: As the attribute.
            now: Returns the time in seconds.
            qr_texts: Returns the text of the instance's QR number n, from 1 over its whole life.
            state: The state to begin in. In `connecting` the first QR comes after `qr_delay`.
            flavour: As the attribute.
            rotation: Seconds that a QR lives.
            qr_delay: As the attribute.
            qr_age: Seconds that the first QR has been there already, in state `connecting`.

        Raises:
            ValueError: If the state, the flavour or the rotation is not a possible one.
        """
        if state not in get_args(StateName):
            raise ValueError(f"unknown state {state!r}; use one of {get_args(StateName)}")
        if flavour not in get_args(FlavourName):
            raise ValueError(f"unknown flavour {flavour!r}; use one of {get_args(FlavourName)}")
        if rotation <= 0:
            raise ValueError(f"a QR cannot live {rotation} seconds")
        self.name = name
        self.token = token
        self.flavour: FlavourName = flavour
        self.connect_calls = 0
        self.state_calls = 0
        self.sockets_opened = 0
        self.second_sockets = 0
        self.careless_connects = 0
        self.is_broken = False
        self.close_window = CLOSED_WHILE_RECONNECTING
        self.pairing_window = 0.0
        self.reconnects = True
        self.qr_delay = qr_delay
        self.stale_for = math.inf
        self.answer_with: Reaction | Callable[[Instance], Reaction] = None
        self.answer_state_with: Reaction | Callable[[Instance], Reaction] = None
        self._now = now
        self._qr_texts = qr_texts
        self._rotation = rotation
        self._whatsapp_reachable = True
        self._texts_used = 0
        # The last QR of the cycle before, which Evolution hands out until a new one arrives.
        self._left_over: QrCode | None = None
        self._left_over_is_used = False
        # While a QR cycle runs the state follows from its start; `_idle_state` counts otherwise.
        self._first_qr_at: float | None = None
        self._idle_state: StateName = state
        self._paired_at = -math.inf
        self._told_connecting_at = -math.inf
        if state == "connecting":
            self._first_qr_at = now() + qr_delay - qr_age

    @property
    def state(self) -> StateName:
        """The state now."""
        return self._look()[0]

    @property
    def qr(self) -> QrCode | None:
        """The QR that Evolution holds now, whether it still works or not; None without one."""
        return self._look()[1]

    def connect(self) -> StateName:
        """Do what a connect call does at once, and return the state that it found.

        In `close` this opens a WhatsApp socket, and the caller must sleep before it answers with
        `qr`.
        """
        self.connect_calls += 1
        found = self.state
        if found == "close":
            self.sockets_opened += 1
            is_pairing = self._idle_state == "open" and not self.is_broken
            is_harmful = is_pairing or self._first_qr_at is not None
            was_told = self._now() <= self._told_connecting_at + JUST_BEFORE
            self.careless_connects += is_harmful and not was_told
            if self._idle_state == "open":
                self.is_broken = True  # it is pairing
            elif self._first_qr_at is not None:
                self.second_sockets += 1
            elif self._whatsapp_reachable:
                delay = self.stale_for if self._left_over_is_used else self.qr_delay
                self._first_qr_at = self._now() + delay
                self._left_over_is_used = False
        return found

    def tell_state(self) -> StateName:
        """Return the state for an answer of connectionState."""
        self.state_calls += 1
        state = self.state
        self._told_connecting_at = self._now() if state == "connecting" else -math.inf
        return state

    def scan(self) -> None:
        """Scan the current QR with a phone: the state becomes `open`, after `pairing_window`.

        Raises:
            ValueError: If the instance is not connecting or has no QR.
        """
        state, qr = self._look()
        if state != "connecting" or qr is None:
            raise ValueError(f"instance {self.name!r} has no QR code to scan (state {state})")
        self._end_cycle("open", qr)
        self._left_over_is_used = True
        self._paired_at = self._now() + self.pairing_window

    def logout(self) -> None:
        """End the session: the state becomes `close`, and the last QR stays behind.

        Raises:
            ValueError: If the instance is neither open nor connecting.
        """
        state, qr = self._look()
        if state not in ("open", "connecting"):
            raise ValueError(f"instance {self.name!r} is not connected (state {state})")
        self._end_cycle("close", qr)

    def lose_whatsapp(self) -> None:
        """Make WhatsApp unreachable: every socket ends, and connect gets no QR any more."""
        self._whatsapp_reachable = False
        state, qr = self._look()
        if state != "not_in_memory":
            self._end_cycle("close", qr)
            self._left_over = None

    def restart(self) -> None:
        """Start with the server: a new socket in `connecting`; the QR codes of before are gone."""
        state, qr = self._look()
        if state == "connecting":
            self._end_cycle(state, qr)
            self._first_qr_at = self._now() + self.qr_delay
        self._left_over = None

    def find_whatsapp(self) -> None:
        """Make WhatsApp reachable again: the next connect call begins a QR cycle."""
        self._whatsapp_reachable = True

    def _look(self) -> tuple[StateName, QrCode | None]:
        """Return the state and the QR of this moment; a cycle that has run out ends here."""
        if self._first_qr_at is None:
            is_pairing = self._idle_state == "open" and self._now() < self._paired_at
            state: StateName = "close" if is_pairing or self.is_broken else self._idle_state
            return state, self._left_over
        elapsed = self._now() - self._first_qr_at
        if elapsed < 0:
            return "connecting", self._left_over
        socket_life = QRS_PER_SOCKET * self._rotation
        if not self.reconnects and elapsed >= socket_life:
            self._end_cycle("close", self._nth_qr(QRS_PER_SOCKET))
            return self._idle_state, self._left_over
        reconnect = max(RECONNECT, self.close_window + RECONNECT - CLOSED_WHILE_RECONNECTING)
        socket, on_socket = divmod(elapsed, socket_life + reconnect)
        nth_of_socket = min(int(on_socket // self._rotation), QRS_PER_SOCKET - 1) + 1
        count = int(socket) * QRS_PER_SOCKET + nth_of_socket
        reconnecting_since = on_socket - socket_life
        if count > QR_LIMIT or (count == QR_LIMIT and reconnecting_since >= 0):
            self._end_cycle("close", self._nth_qr(QR_LIMIT))
            return self._idle_state, self._left_over
        state = "connecting"
        if 0 <= reconnecting_since < self.close_window:
            state = "close"
        return state, self._nth_qr(count)

    def _nth_qr(self, count: int) -> QrCode:
        return QrCode(self._qr_texts(self._texts_used + count), count)

    def _end_cycle(self, state: StateName, left_over: QrCode | None) -> None:
        if self._first_qr_at is not None and left_over is not None:
            self._texts_used += left_over.count
        self._first_qr_at = None
        self._idle_state = state
        self._left_over = left_over
