#!/usr/bin/env python3
"""Links many devices in one node, and restarts WhatsApp and the node.

    cargo build --features linked-sandbox
    tests/power/linked.py --binary target/debug/relevo --devices 500

Guarantees under test: an idle device uses at most 500 KiB of the node's memory; after a restart of WhatsApp or of the
node, all devices are online within a minute; after a restart of WhatsApp, at most a third of the devices log in within
one second. (After a start of the node, a few devices log in at a time, and a login takes almost no time on loopback.)
Reports the measurements.

Needs Linux and Python 3.11, and a binary with the feature linked-sandbox. Only loopback traffic. Prints one line of JSON.
Exits with 0 when all guarantees hold, 1 when one does not, 2 when the test itself cannot run.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from node import KEY, Client, Failure, Node, Sandbox, expect

FIRST_PHONE = 573_000_000_000
MAX_KIB = 500
BACK_WITHIN = 60.0
# Seconds after which the work that follows a pairing (keys, settings) is done.
REST = 20.0


class Web:
    """The WhatsApp Web of the sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        found = re.search(r"ws://127\.0\.0\.1:(\d+)/\S*", sandbox.log.read_text())
        if not found:
            raise RuntimeError("the sandbox has no WhatsApp Web: build with --features linked-sandbox")
        self.url = found[0]
        self._client = Client(int(found[1]))

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return expect(200, self._client.call(method, f"/_web{path}", body))

    def online(self) -> int:
        return self.call("GET", "/stats")["online"]

    def logins(self) -> list[int]:
        """Times of all logins, in milliseconds."""
        moments = self.call("GET", "/stats")["connections"]
        return [moment["at_ms"] for moment in moments if moment["turn"] == "logged_in"]


def link(node: Node, web: Web, number: int) -> None:
    name = f"device-{number}"
    expect(201, Client(node.port).call("POST", "/instances", {"instance_id": name}))
    request = urllib.request.Request(f"http://127.0.0.1:{node.port}/instances/{name}/qr")
    request.add_header("X-API-Key", KEY)
    request.add_header("Accept", "text/plain")
    with urllib.request.urlopen(request, timeout=60) as answer:
        code = answer.read().decode()
    web.call("POST", f"/phones/{FIRST_PHONE + number}/scan", {"code": code})


def until_online(web: Web, node: Node, count: int, within: float) -> float:
    """Waits until `count` devices are online. Returns the duration in seconds."""
    began = time.monotonic()
    while (online := web.online()) < count:
        node.must_live()
        if time.monotonic() - began > within:
            raise Failure(f"{online} of {count} devices are online after {within:.0f} s")
        time.sleep(0.1)
    return time.monotonic() - began


def busiest(logins: list[int], before: int) -> int:
    """The maximum number of logins in one second, without the first `before` logins."""
    return max(Counter(at // 1000 for at in logins[before:]).values(), default=0)


def run(binary: Path, devices: int, work: Path) -> dict[str, Any]:
    sandbox = Sandbox(binary, work)
    web = Web(sandbox)
    environment = {"RELEVO_LINKED_DEVICE__SERVER": web.url, "RELEVO_LINKED_DEVICE__VERSION": "2.3000.1"}
    node = Node(binary, work / "data", work, environment)
    try:
        node.start()
        link(node, web, 0)
        until_online(web, node, 1, BACK_WITHIN)
        time.sleep(REST)
        empty = node.memory()
        for number in range(1, devices):
            link(node, web, number)
        until_online(web, node, devices, BACK_WITHIN)
        time.sleep(REST)
        full = node.memory()
        result: dict[str, Any] = {"devices": devices, "mib_with_one": round(empty, 1), "mib_with_all": round(full, 1)}
        result["kib_each"] = round((full - empty) * 1024 / max(devices - 1, 1))

        before = len(web.logins())
        web.call("POST", "/restart", {"rest_ms": 2000})
        result["back_after_whatsapp_s"] = round(until_online(web, node, devices, 4 * BACK_WITHIN), 1)
        result["most_logins_in_a_second"] = busiest(web.logins(), before)

        before = len(web.logins())
        node.kill()
        node.start()
        while len(web.logins()) == before:
            time.sleep(0.05)
        result["back_after_node_s"] = round(until_online(web, node, devices, 4 * BACK_WITHIN), 1)
        result["most_logins_in_a_second_after_node"] = busiest(web.logins(), before)
        time.sleep(REST)
        result["mib_after_node"] = round(node.memory(), 1)
        node.must_live()
    finally:
        node.kill()
        sandbox.kill()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=Path("target/debug/relevo"))
    parser.add_argument("--devices", type=int, default=500)
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="relevo-linked-"))
    try:
        result = run(arguments.binary.resolve(), arguments.devices, work)
    except Failure as failure:
        print(json.dumps({"failed": str(failure), "logs": str(work)}))
        return 1
    except (OSError, RuntimeError) as error:
        print(json.dumps({"not run": str(error), "logs": str(work)}))
        return 2
    held = result["kib_each"] <= MAX_KIB
    held &= max(result["back_after_whatsapp_s"], result["back_after_node_s"]) <= BACK_WITHIN
    held &= result["most_logins_in_a_second"] <= max(result["devices"] // 3, 10)
    print(json.dumps({**result, "held": held}))
    if held:
        shutil.rmtree(work)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
