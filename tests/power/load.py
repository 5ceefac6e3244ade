"""Continuous senders, and the evaluation of their messages."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from node import INSTANCE, Client, Failure

# Shorter than WhatsApp's limit of 4096 characters.
LONG_TEXT = 3500
ARRIVED = {"sent", "delivered", "read", "played"}


@dataclass(frozen=True)
class Accepted:
    """A message that was answered with 202. The times are those of `time.monotonic`."""

    id: str
    phone: str
    asked: float
    answered: float


@dataclass(frozen=True)
class Cut:
    """Times of a cut: its begin, the end of the disk, and the end of the node."""

    began: float
    gone: float
    dead: float


class Sender(threading.Thread):
    """Sends one message after the other."""

    def __init__(self, name: int, port: int, seed: int, stop: threading.Event, long: float) -> None:
        super().__init__(daemon=True)
        self.accepted: list[Accepted] = []
        self.refused: Counter[int] = Counter()
        self._number, self._port, self._stop_now = name, port, stop
        self._random, self._long = random.Random(f"{seed}-{name}"), long

    def run(self) -> None:
        client, n = Client(self._port), 0
        path, headers = f"/instances/{INSTANCE}/messages/text", {"X-Async": "true"}
        while not self._stop_now.is_set():
            n += 1
            # A quarter of the messages goes to eight shared recipients, which creates long lanes. The others have one each.
            shared = self._random.random() < 0.25
            phone = str(573000000000 + self._random.randrange(8) if shared else 573100000000 + self._number * 10**6 + n)
            text = f"{self._number}-{n} "
            if self._random.random() < self._long:
                text += "x" * self._random.randrange(LONG_TEXT)
            asked = time.monotonic()
            try:
                status, body = client.call("POST", path, {"phone": phone, "message": text}, headers)
            except (OSError, http.client.HTTPException, ValueError):
                # The node is down.
                time.sleep(0.02)
                continue
            if status == 202:
                self.accepted.append(Accepted(body["message_id"], phone, asked, time.monotonic()))
            else:
                self.refused[status] += 1
                time.sleep(0.02)


class Load:
    """Concurrent senders."""

    def __init__(self, port: int, senders: int, seed: int, long: float = 0.2) -> None:
        self._stop = threading.Event()
        self.senders = [Sender(number, port, seed, self._stop, long) for number in range(senders)]
        for sender in self.senders:
            sender.start()

    def count(self) -> int:
        return sum(len(sender.accepted) for sender in self.senders)

    def refused(self) -> Counter[int]:
        return sum((sender.refused for sender in self.senders), Counter())

    def wait_for(self, count: int, within: float = 120.0) -> None:
        """Waits until `count` more messages are accepted, so that the speed of the machine does not matter."""
        goal, deadline = self.count() + count, time.monotonic() + within
        while self.count() < goal:
            if time.monotonic() > deadline:
                raise Failure(f"{goal - self.count()} of {count} messages not accepted within {within:.0f} s: {self.refused()}")
            time.sleep(0.002)

    def stop(self) -> None:
        self._stop.set()
        for sender in self.senders:
            sender.join(timeout=60)


def judge(load: Load, cuts: list[Cut], arrived: list[str], port: int) -> dict[str, Any]:
    """Counts the outcomes of all messages that were accepted before a cut began."""

    def when(message: Accepted) -> str:
        for cut in cuts:
            if cut.began <= message.answered <= cut.dead:
                return "false" if message.asked >= cut.gone else "unconfirmed"
        return "confirmed"

    kinds = Counter(when(message) for sender in load.senders for message in sender.accepted)
    confirmed = {m.id: m for sender in load.senders for m in sender.accepted if when(m) == "confirmed"}
    place = {id: n for n, id in reversed(list(enumerate(arrived)))}
    states = dict(zip(confirmed, states_of(confirmed, port), strict=True))
    ambiguous = {id for id, state in states.items() if state == ("dead_letter", "ambiguous")}
    lost = [id for id in confirmed if id not in ambiguous and id not in place]
    # Messages that arrived although the node reports another status.
    denied = [id for id in confirmed if id in place and id not in ambiguous and states[id][0] not in ARRIVED]
    doubled = [id for id, times in Counter(arrived).items() if times > 1]
    disordered = 0
    for sender in load.senders:
        last: dict[str, int] = {}
        for message in sender.accepted:
            if message.id in confirmed and message.id in place:
                disordered += place[message.id] < last.get(message.phone, -1)
                last[message.phone] = place[message.id]
    return {
        "accepted": len(confirmed),
        "unconfirmed": kinds["unconfirmed"],
        "accepted_without_power": kinds["false"],
        "arrived": sum(id in place for id in confirmed),
        "ambiguous": len(ambiguous),
        "lost": len(lost),
        "denied": len(denied),
        "doubled": len(doubled),
        "disordered": disordered,
        "examples": [(id, states.get(id)) for id in (lost + denied + doubled)[:5]],
    }


def states_of(ids: Iterable[str], port: int) -> list[tuple[Any, Any]]:
    """Status and reason of each message."""
    local = threading.local()

    def ask(id: str) -> tuple[Any, Any]:
        if not hasattr(local, "client"):
            local.client = Client(port)
        status, body = local.client.call("GET", f"/instances/{INSTANCE}/messages/{id}")
        return (body["data"]["status"], body["data"].get("reason")) if status == 200 else (status, None)

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(ask, ids))
