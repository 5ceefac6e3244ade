#!/usr/bin/env python3
"""Delivers Meta's webhooks at full speed, with repeats and out of order, while the node is killed.

    tests/power/inbound.py
    tests/power/inbound.py --kills 0 --rate 500 --posts 15000              at a fixed rate instead of full speed
    tests/power/inbound.py --kills 0 --rate 500 --posts 15000 --sleeper    beside a receiver that takes 30 s for each call
    tests/power/inbound.py --kills 0 --rate 100 --posts 3000 --accounts 200 --forgers 2    beside forged bodies of 4 MB

Guarantees under test: the event log contains every delivered message and status exactly once; all readers receive the
same order; a WebSocket that resumes and a webhook receiver that restarts miss no event.

Needs Python 3.11. Only loopback traffic. Prints one line of JSON. Exits with 0 when all guarantees hold, 1 when
one does not, 2 when the test itself cannot run.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import hmac
import http.client
import itertools
import json
import multiprocessing
import random
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

from node import APP_SECRET, INSTANCE, KEY, Client, Failure, Node, Sandbox, expect, free_port
from readers import Receiver, Socket

Update = tuple[str, str]  # ("message", id) or ("receipt", id and status)


class Wire:
    """One keep-alive connection with minimal overhead, so that the measured time is that of the node."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    @staticmethod
    def request(body: bytes, signature: str) -> bytes:
        head = f"POST /webhook HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nX-Hub-Signature-256: sha256={signature}\r\n\r\n"
        return head.encode() + body

    def post(self, request: bytes) -> str:
        """Posts a request. Returns the status, or `none` when the answer is incomplete."""
        try:
            if not self._socket:
                self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=30)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(request)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += self._more()
            head, body = answer.split(b"\r\n\r\n", 1)
            size = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
            while len(body) < size:
                body += self._more()
            return head.split(b" ", 2)[1].decode()
        except (OSError, EOFError):
            if self._socket:
                self._socket.close()
            self._socket = None
            return "none"

    def _more(self) -> bytes:
        assert self._socket
        return self._socket.recv(1 << 16) or raise_end()


def raise_end() -> bytes:
    raise EOFError


class Meta:
    """Meta: repeats each delivery until it is answered with 200, and repeats 30 % of them after that."""

    def __init__(self, port: int, options: argparse.Namespace) -> None:
        self._port, self._random = port, random.Random(options.seed)
        self._lock = threading.Lock()
        self.unique: set[Update] = set()
        # For deliveries that were answered with 200: seconds since the request, and since it was due.
        self.answered: list[float] = []
        self.behind: list[float] = []
        # Duration of all deliveries in seconds, when there is a rate.
        self.took = 0.0
        self.posts = Counter[str]()
        self._waiting: deque[bytes] = deque()
        bodies = [Wire.request(body, sign(body)) for body in self._bodies(options.posts)]
        repeats = self._random.sample(bodies, round(len(bodies) * 0.3))
        bodies += repeats
        # Out of order, like parallel deliveries of Meta.
        self._waiting.extend(sorted(bodies, key=lambda body: self._random.random()) if options.shuffle else bodies)
        self._goal = len(self._waiting)

    def _bodies(self, posts: int) -> Any:
        for n in range(round(posts / 1.3)):
            updates = self._random.choice([1, 1, 1, 2, 5])
            value: dict[str, Any] = {
                "messaging_product": "whatsapp",
                "metadata": {"display_phone_number": "15550001111", "phone_number_id": "100"},
            }
            if self._random.random() < 0.5:
                phone = f"57300{self._random.randrange(10**7):07}"
                value["contacts"] = [{"profile": {"name": "Ana"}, "wa_id": phone}]
                value["messages"] = [
                    {"from": phone, "id": f"wamid.in-{n}-{k}", "timestamp": "1763800000", "type": "text", "text": {"body": f"hola {n}"}}
                    for k in range(updates)
                ]
                self.unique.update(("message", message["id"]) for message in value["messages"])
            else:
                value["statuses"] = [
                    {"id": f"wamid.out-{n}-{k}", "status": status, "timestamp": "1763800000", "recipient_id": "573001234567"}
                    for k in range(updates)
                    for status in self._random.sample(["sent", "delivered", "read"], 2)
                ]
                self.unique.update(("receipt", f"{status['id']} {status['status']}") for status in value["statuses"])
            yield json.dumps({"object": "whatsapp_business_account", "entry": [{"id": "W", "changes": [{"field": "messages", "value": value}]}]}).encode()

    def count(self) -> int:
        return self.posts["200"]

    def done(self) -> bool:
        return self.posts["200"] >= self._goal

    def work(self) -> None:
        """Delivers over one connection until everything is answered with 200."""
        wire = Wire(self._port)
        while not self.done():
            with self._lock:
                request = self._waiting.popleft() if self._waiting else None
            if request is None:
                time.sleep(0.005)
                continue
            began = time.monotonic()
            outcome = wire.post(request)
            ended = time.monotonic()
            if outcome == "none":
                time.sleep(0.02)
            with self._lock:
                self.posts[outcome] += 1
                if outcome == "200":
                    self.answered.append(ended - began)
                else:
                    self._waiting.append(request)


    def work_at(self, rate: float, connections: int) -> None:
        """Delivers `rate` webhooks a second. Each connection has a separate process, so that readers do not delay it."""
        requests = list(self._waiting)
        shares = [(self._port, requests[n::connections], connections / rate, n / rate) for n in range(connections)]
        with multiprocessing.get_context("spawn").Pool(connections) as pool:
            results = list(itertools.chain(*pool.starmap(pace, shares, chunksize=1)))
        self.posts.update(status for status, *_ in results)
        self.answered = [ended - began for _, _, began, ended in results]
        self.behind = [ended - due for _, due, _, ended in results]
        self.took = max(ended for *_, ended in results) - min(due for _, due, *_ in results)
        if not self.done():
            raise Failure(f"not all deliveries were answered with 200: {self.posts}")


def pace(port: int, requests: list[bytes], interval: float, offset: float) -> list[tuple[str, float, float, float]]:
    """Delivers each request when it is due. Returns the status and the due, send and answer time of each."""
    wire, results = Wire(port), []
    wire.post(requests[0])
    first = time.monotonic() + offset
    for n, request in enumerate(requests):
        due = first + n * interval
        time.sleep(max(0.0, due - time.monotonic()))
        began = time.monotonic()
        status = wire.post(request)
        ended = time.monotonic()
        results.append((status, due, began, ended))
    return results


def sign(body: bytes) -> str:
    return hmac.new(APP_SECRET.encode(), body, hashlib.sha256).hexdigest()


class Beside:
    """Additional load until the deliveries end: forged bodies and synchronous sends."""

    def __init__(self, port: int, meta: Meta) -> None:
        self._port, self._meta = port, meta
        self.refused = Counter[str]()
        self.sent: list[float] = []
        self.failed = 0

    def forge(self) -> None:
        """Posts bodies of almost the maximum size with a well-formed but wrong signature."""
        body = json.dumps({"object": "whatsapp_business_account", "entry": [{"id": "x" * 4_000_000}]}).encode()
        wire, request = Wire(self._port), Wire.request(body, "0" * 64)
        while not self._meta.done():
            self.refused[wire.post(request)] += 1

    def send(self) -> None:
        client = Client(self._port, timeout=60)
        while not self._meta.done():
            began = time.monotonic()
            status, _ = client.call("POST", f"/instances/{INSTANCE}/messages/text", {"phone": "573001234567", "message": "hola"})
            self.sent.append(time.monotonic() - began)
            self.failed += status != 200
            time.sleep(0.02)


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Median and 99th percentile in milliseconds."""
    ordered = sorted(seconds)
    return {name: round(ordered[int(len(ordered) * at)] * 1000, 1) for name, at in (("p50", 0.5), ("p99", 0.99))} if ordered else {}


def key_of(event: dict[str, Any]) -> Update | None:
    kind = event["type"]
    if kind == "message":
        return "message", event["data"]["message_id"]
    if kind == "receipt":
        return "receipt", f"{event['data']['message_id']} {event['data']['status']}"
    return None


def log_of(port: int) -> list[dict[str, Any]]:
    """Reads the whole event log page by page."""
    client, after, events = Client(port), "", []
    while True:
        page = expect(200, client.call("GET", f"/instances/{INSTANCE}/events?limit=1000&after={after}"))
        events += page["data"]
        if not page["data"]:
            return events
        after = page["next"]


def run(options: argparse.Namespace, work: Path, stack: contextlib.ExitStack) -> dict[str, Any]:
    chance = random.Random(options.seed)
    sandbox = Sandbox(options.binary, work)
    stack.callback(sandbox.kill)
    node = Node(options.binary, work / "data", work, {"RELEVO_WEBHOOK__FIRST_DELAY": "200ms"})
    stack.callback(node.kill)
    node.start()
    node.create_instance(sandbox)
    receiver = Receiver(free_port())
    stack.callback(receiver.stop)
    receiver.start()
    wait(lambda: expect(200, Client(node.port).call("GET", f"/instances/{INSTANCE}"))["data"]["status"] == "connected", 30, "the connection")
    # An endpoint receives only events after its creation.
    before = {event["sequence"] for event in log_of(node.port)}
    hook = {"url": f"http://127.0.0.1:{receiver.port}/", "events": ["all"]}
    expect(200, Client(node.port).call("POST", f"/instances/{INSTANCE}/webhook", hook))
    if options.sleeper:
        sleeper = Receiver(free_port(), delay=30.0)
        sleeper.start()
        hook = {"url": f"http://127.0.0.1:{sleeper.port}/", "events": ["all"]}
        expect(201, Client(node.port).call("POST", f"/instances/{INSTANCE}/webhooks", hook))
    for n in range(1, options.accounts):
        account = {"phone_number_id": str(1000 + n), "access_token": "token", "app_secret": f"secret-{n}", "base_url": f"http://127.0.0.1:{sandbox.port}"}
        expect(201, Client(node.port).call("POST", "/instances", {"instance_id": f"account-{n}", "cloud_api": account}))
    listener = Socket(node.port, f"/instances/{INSTANCE}/ws", KEY)
    stack.callback(listener.stop)
    listener.start()

    meta = Meta(node.port, options)
    beside = Beside(node.port, meta)
    began = time.monotonic()
    connections = [threading.Thread(target=meta.work, daemon=True) for _ in range(0 if options.rate else options.connections)]
    connections += [threading.Thread(target=beside.forge, daemon=True) for _ in range(options.forgers)]
    if options.sleeper:
        connections.append(threading.Thread(target=beside.send, daemon=True))
    for connection in connections:
        connection.start()
    if options.rate:
        meta.work_at(options.rate, options.connections)
    for life in range(options.kills):
        goal = round(meta._goal * (life + chance.uniform(0.2, 0.9)) / options.kills)
        wait(lambda: meta.count() >= goal, 300, f"{meta.posts} of {goal}")
        node.must_live()
        node.kill()
        if life % 2:
            receiver.stop()
            listener.drop()
        time.sleep(chance.uniform(0, 0.3))
        node.start()
        receiver.start()
    wait(meta.done, 600, "deliveries")
    took = meta.took or time.monotonic() - began
    node.must_live()

    log = log_of(node.port)
    last = max(event["sequence"] for event in log)
    catch_up(lambda: listener.last, last, "the WebSocket")
    catch_up(receiver.last, last, "the receiver")
    found = Counter(key for event in log if (key := key_of(event)))
    metrics = metric_lines(node.port)
    order = [event["sequence"] for event in log]
    delivered = receiver.first_deliveries()
    return {
        "posts": dict(meta.posts),
        "unique": len(meta.unique),
        "posts_per_second": round(meta.count() / took),
        "answer_ms": quantiles(meta.answered),
        "behind_ms": quantiles(meta.behind) if options.rate else {},
        "forged": dict(beside.refused),
        "sends": len(beside.sent),
        "send_ms": quantiles(beside.sent),
        "sends_failed": beside.failed,
        "missing": len(meta.unique - found.keys()),
        "invented": len(found.keys() - meta.unique),
        "repeated": sum(times > 1 for times in found.values()),
        "disordered": sum(earlier >= later for earlier, later in zip(order, order[1:])),
        "socket_missed": len(set(order) - set(listener.sequences)),
        "socket_repeated": len(listener.sequences) - len(set(listener.sequences)),
        "socket_disordered": sum(earlier >= later for earlier, later in zip(listener.sequences, listener.sequences[1:])),
        "receiver_missed": len(set(order) - set(delivered) - before),
        "receiver_disordered": sum(earlier >= later for earlier, later in zip(delivered, delivered[1:])),
        "receiver_repeats": receiver.count() - len(delivered),
        "socket_lives": listener.lives,
        "counted": metrics,
    }


def metric_lines(port: int) -> dict[str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics", headers={"X-API-Key": KEY})
    text = connection.getresponse().read().decode()
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if "inbound" in line and not line.startswith("#"))
    return {name: value for name, value in lines}


def wait(done: Any, within: float, what: str) -> None:
    deadline = time.monotonic() + within
    while not done():
        if time.monotonic() > deadline:
            raise Failure(f"waited {within:.0f} s for {what}")
        time.sleep(0.01)


def catch_up(place: Any, goal: int, who: str) -> None:
    """Waits until `place()` reaches `goal`. Raises when it does not change for 30 s."""
    before = -1
    while (now := place()) < goal:
        if now == before:
            raise Failure(f"{who} made no progress for 30 s at {now} of {goal}")
        before, deadline = now, time.monotonic() + 30
        while place() == before and time.monotonic() < deadline:
            time.sleep(0.01)


MUST_BE_ZERO = (
    "missing", "invented", "repeated", "disordered", "socket_missed", "socket_repeated", "socket_disordered", "receiver_missed", "receiver_disordered",
    "sends_failed",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=Path("target/release/relevo"))
    parser.add_argument("--posts", type=int, default=100_000, help="deliveries in all, repeats included")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--shuffle", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--rate", type=float, default=0.0, help="deliveries a second; 0 for no limit")
    parser.add_argument("--accounts", type=int, default=1, help="number of instances, each with a separate secret")
    parser.add_argument("--forgers", type=int, default=0, help="number of connections that send forged bodies of 4 MB")
    parser.add_argument("--sleeper", action="store_true", help="add a receiver that takes 30 s for each call, and synchronous sends")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.kills and (options.rate or options.forgers or options.sleeper):
        parser.error("--rate, --forgers and --sleeper are for runs with --kills 0")
    if not options.binary.is_file():
        parser.error(f"{options.binary} is not a file: cargo build --release, or --binary")
    options.binary = options.binary.resolve()
    work = Path(tempfile.mkdtemp(prefix="relevo-inbound-"))
    result: dict[str, Any] = {"seed": options.seed}
    began, code = time.monotonic(), 1
    try:
        with contextlib.ExitStack() as stack:
            try:
                result |= run(options, work, stack)
                result["failures"] = [f"{result[name]} {name}" for name in MUST_BE_ZERO if result[name]]
            except Failure as failure:
                result["failures"] = [str(failure)]
        code = 1 if result["failures"] else 0
    finally:
        if code == 0:
            shutil.rmtree(work)
        else:
            result["kept"] = str(work)
        result["seconds"] = round(time.monotonic() - began)
        print(json.dumps(result), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
