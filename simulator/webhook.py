"""What the simulated Evolution API posts: QRCODE_UPDATED and CONNECTION_UPDATE, as 2.3.7 does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import aiohttp

from simulator.instance import QR_LIMIT, Instance, StateName
from simulator.picture import data_url

LOOK_EVERY = 0.02  # real seconds
STATUS_REASON = {"open": 200, "connecting": 200, "close": 428}


class Webhook:
    """Posts what changes of the instances, from the first look at each of them on."""

    def __init__(self, url: str) -> None:
        """Post to this URL."""
        self.url = url
        self.looks = 0
        # Of each instance: state, text and number of its QR code.
        self._told: dict[str, tuple[StateName, str | None, int]] = {}

    def news(self, instance: Instance) -> Iterator[dict[str, Any]]:
        """Yield the events about what has changed of an instance since the last look."""
        qr = instance.qr
        present = (instance.state, qr.code if qr else None, qr.count if qr else 0)
        state, code, count = self._told.setdefault(instance.name, present)
        self._told[instance.name] = present
        if present[0] != state and present[0] in STATUS_REASON:
            if present[0] == "close" and count == QR_LIMIT:
                ended = {"message": "QR code limit reached, please login again", "statusCode": 500}
                yield self._event(instance, "qrcode.updated", ended)
            change: dict[str, Any] = {"instance": instance.name, "state": present[0]}
            change["statusReason"] = STATUS_REASON[present[0]]
            yield self._event(instance, "connection.update", change)
        # One that is left over of a socket that ended is not told again.
        if qr is not None and present[0] == "connecting" and qr.code != code:
            told = {"instance": instance.name, "pairingCode": None, "code": qr.code}
            told["base64"] = data_url(qr.code)
            yield self._event(instance, "qrcode.updated", {"qrcode": told})

    def _event(self, instance: Instance, name: str, data: dict[str, Any]) -> dict[str, Any]:
        return {
            "event": name,
            "instance": instance.name,
            "data": data,
            "destination": self.url,
            "apikey": instance.token,
        }

    async def post(self, events: list[dict[str, Any]]) -> None:
        """Post events one after the other; who does not answer misses them, as in the real one."""
        async with aiohttp.ClientSession() as session:
            for event in events:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.post(
                        self.url, json=event, timeout=aiohttp.ClientTimeout(total=5)
                    ):
                        pass
        self.looks += 1
        await asyncio.sleep(LOOK_EVERY)
