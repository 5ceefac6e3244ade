#!/usr/bin/env python3
"""Runs bulk jobs while the node is killed, and counts the arrivals.

    tests/power/jobs.py broadcast    10,000 recipients, one picture of 500 KB in base64
    tests/power/jobs.py file         a file of 1,000,000 rows, its progress, its results

Guarantees under test: every row is sent exactly once or reported as ambiguous; the number of ambiguous rows does not
exceed the number in flight at the kills; the picture is uploaded once; the job continues after each kill. Also reports
the speed and the memory of the node.

Needs Linux and Python 3.11. Only loopback traffic. Prints one line of JSON. Exits with 0 when all
guarantees hold, 1 when one does not, 2 when the test itself cannot run.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import csv
import http.client
import io
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from node import INSTANCE, KEY, WORKERS, Client, Failure, Node, Sandbox, expect

FIRST_PHONE = 573_000_000_000
DONE = {"completed", "failed", "cancelled"}
MUST_BE_ZERO = ("lost", "doubled", "denied")
# Maximum number of messages in flight at a kill: one for each worker, and up to three leased ahead.
IN_FLIGHT = WORKERS * 4


class Arrivals:
    """Counts arrivals at the sandbox by recipient, without keeping a million of its records."""

    def __init__(self, sandbox: Sandbox, rows: int) -> None:
        self._client, self._seen = Client(sandbox.port), 0
        self.times = bytearray(rows)
        self.unknown = 0

    def read(self) -> int:
        """Reads the new arrivals. Returns the number of recipients that received a message."""
        while True:
            page = expect(200, self._client.call("GET", f"/_sandbox/messages?after={self._seen}&limit=10000"))
            if page["forgotten"] > self._seen:
                raise RuntimeError("the sandbox evicted messages before they were read")
            for entry in page["messages"]:
                if entry["outcome"] != "accepted":
                    continue
                row = int(entry["to"].lstrip("+")) - FIRST_PHONE
                if 0 <= row < len(self.times):
                    self.times[row] += 1
                else:
                    self.unknown += 1
            self._seen = page["last"]
            if not page["more"]:
                return sum(map(bool, self.times)) if len(self.times) < 50_000 else len(self.times) - self.times.count(0)


class Memory(threading.Thread):
    """Samples the memory of the node and keeps the maximum."""

    def __init__(self, node: Node) -> None:
        super().__init__(daemon=True)
        self._node, self._stop_now = node, threading.Event()
        self.maximum = 0.0

    def run(self) -> None:
        while not self._stop_now.wait(0.1):
            self.maximum = max(self.maximum, self._node.memory())

    def stop(self) -> float:
        self._stop_now.set()
        return round(self.maximum, 1)


def broadcast(options: argparse.Namespace, node: Node, arrivals: Arrivals, sandbox: Sandbox) -> dict[str, Any]:
    rows = len(arrivals.times)
    picture = base64.b64encode(b"\x89PNG\r\n\x1a\n" + random.Random(1).randbytes(500_000)).decode()
    body = {
        "phones": [str(FIRST_PHONE + row) for row in range(rows)],
        "body_text": "hola",
        "header_type": "image",
        "header_content": picture,
        "button_text": "Ver",
        "button_url": "https://example.com",
        "use_queue": True,
        "instance_id": INSTANCE,
    }
    began = time.monotonic()
    task = expect(200, Client(node.port, 60).call("POST", "/api/send-broadcast-interactive", body))["task_id"]
    accepted = time.monotonic() - began
    for life in range(options.kills):
        goal = rows * (0.4 if options.kills == 1 else (life + 0.7) / (options.kills + 0.5))
        until(node, lambda: arrivals.read() >= goal, 300, f"{goal:.0f} arrivals")
        node.kill()
        node.start()

    def status() -> Any:
        return expect(200, Client(node.port).call("GET", f"/api/task-status/{task}"))

    until(node, lambda: status()["status"] in ("SUCCESS", "FAILURE"), 600, "the end of the task")
    took = time.monotonic() - began
    arrivals.read()
    end = status()
    uploads = expect(200, Client(sandbox.port).call("GET", "/_sandbox/stats"))
    errors = " ".join(map(str, end["result"]["errors"]))
    ambiguous = {row for row in range(rows) if str(FIRST_PHONE + row) in errors}
    times = arrivals.times
    return {
        "accepted_s": round(accepted, 2),
        "per_second": round(rows / took),
        "status": end["status"],
        "result": {name: end["result"][name] for name in ("total", "sent", "successful", "failed")},
        "lost": sum(not times[row] and row not in ambiguous for row in range(rows)),
        "doubled": sum(times[row] > 1 for row in range(rows)),
        "denied": 0,
        "reported": len(ambiguous),
        "sandbox": uploads,
    }


def file(options: argparse.Namespace, node: Node, arrivals: Arrivals, sandbox: Sandbox) -> dict[str, Any]:
    rows = len(arrivals.times)
    content = io.StringIO()
    content.write("phone|@valor1|@valor2\n")
    for row in range(rows):
        content.write(f"+{FIRST_PHONE + row}|nombre {row % 977}|pedido número {row:07} de la tienda\n")
    data = content.getvalue().encode()
    began = time.monotonic()
    job = upload(node.port, data, "Hola @valor1, tu @valor2 va en camino")["job"]
    accepted = time.monotonic() - began
    if job["total_numbers"] != rows:
        raise Failure(f"{job['total_numbers']} rows counted instead of {rows}")
    chance = random.Random(options.seed)
    for life in range(options.kills):
        goal = rows * (life + chance.uniform(0.2, 0.9)) / options.kills
        until(node, lambda: arrivals.read() >= goal, 1800, f"{goal:.0f} arrivals")
        node.kill()
        node.start()

    def status() -> Any:
        return expect(200, Client(node.port).call("GET", f"/jobs/{job['id']}"))

    def over() -> bool:
        arrivals.read()
        time.sleep(0.2)
        return status()["status"] in DONE

    until(node, over, 3600, "the end of the job")
    took = time.monotonic() - began
    arrivals.read()
    end, times = status(), arrivals.times
    asked = time.monotonic()
    words: Counter[str] = Counter()
    lost = denied = listed = 0
    for line in download(node.port, f"/jobs/{job['id']}/results?format=csv"):
        row = int(line["phone"].lstrip("+")) - FIRST_PHONE
        words[line["status"]] += 1
        listed += 1
        went = line["status"] in ("sent", "delivered", "read", "played")
        lost += not times[row] and line["status"] != "ambiguous"
        denied += bool(times[row]) and not went and line["status"] != "ambiguous"
    return {
        "bytes": len(data),
        "accepted_s": round(accepted, 2),
        "per_second": round(rows / took),
        "status": end["status"],
        "progress": end["progress"],
        "lost": lost + rows - listed,
        "doubled": sum(count > 1 for count in times),
        "denied": denied,
        "reported": words["ambiguous"],
        "never_arrived": sum(not count for count in times),
        "results": dict(words),
        "results_s": round(time.monotonic() - asked, 1),
    }


def upload(port: int, data: bytes, message: str) -> Any:
    edge = "------------------------relevo"
    parts = [("message", message), ("devices_limit", "5")]
    head = "".join(f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in parts)
    head += f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="clientes.csv"\r\nContent-Type: text/csv\r\n\r\n'
    body = head.encode() + data + f"\r\n--{edge}--\r\n".encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/messages/send-bulk-file", body, {"X-API-Key": KEY, "Content-Type": f"multipart/form-data; boundary={edge}"})
    response = connection.getresponse()
    return expect(200, (response.status, json.loads(response.read())))


def download(port: int, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("GET", path, headers={"X-API-Key": KEY})
    response = connection.getresponse()
    if response.status != 200:
        raise Failure(f"{response.status} for {path}")
    return csv.DictReader(io.TextIOWrapper(response, "utf-8", newline=""))


def until(node: Node, done: Any, within: float, what: str) -> None:
    deadline = time.monotonic() + within
    while not done():
        node.must_live()
        if time.monotonic() > deadline:
            raise Failure(f"waited {within:.0f} s for {what}")
        time.sleep(0.02)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["broadcast", "file"])
    parser.add_argument("--binary", type=Path, default=Path("target/release/relevo"))
    parser.add_argument("--rows", type=int, help="default: 10,000 (broadcast), 1,000,000 (file)")
    parser.add_argument("--kills", type=int, help="default: 1 (broadcast), 5 (file)")
    parser.add_argument("--per-second", type=int, default=100_000, help="rate limit of the instance; the default has no effect")
    parser.add_argument("--statuses", action="store_true", help="the sandbox reports sent, delivered and read as well")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if not options.binary.is_file():
        parser.error(f"{options.binary} is not a file: cargo build --release, or --binary")
    options.binary = options.binary.resolve()
    rows = options.rows or {"broadcast": 10_000, "file": 1_000_000}[options.mode]
    options.kills = {"broadcast": 1, "file": 5}[options.mode] if options.kills is None else options.kills
    work = Path(tempfile.mkdtemp(prefix=f"relevo-{options.mode}-"))
    result: dict[str, Any] = {"mode": options.mode, "rows": rows, "kills": options.kills, "seed": options.seed}
    began, code = time.monotonic(), 1
    try:
        with contextlib.ExitStack() as stack:
            sandbox = Sandbox(options.binary, work)
            stack.callback(sandbox.kill)
            node = Node(options.binary, work / "data", work, {"RELEVO_RETRY__BULK__AMBIGUOUS_WAIT": "2s", "RELEVO_HTTP__JSON_BODY_LIMIT": "4MiB"})
            stack.callback(node.kill)
            node.start()
            if options.statuses:
                sandbox.report_to(node.port)
            node.create_instance(sandbox, options.per_second)
            memory = Memory(node)
            memory.start()
            try:
                arrivals = Arrivals(sandbox, rows)
                result |= {"broadcast": broadcast, "file": file}[options.mode](options, node, arrivals, sandbox)
                result["failures"] = [f"{result[name]} {name}" for name in MUST_BE_ZERO if result[name]]
                if result["reported"] > options.kills * IN_FLIGHT:
                    result["failures"].append(f"{result['reported']} ambiguous after {options.kills} kills")
                if result["status"] not in ("SUCCESS", "completed"):
                    result["failures"].append(f"the job ended as {result['status']}")
            except Failure as failure:
                result["failures"] = [str(failure)]
            result["memory_mib"] = memory.stop()
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
