#!/usr/bin/env python3
"""Fills the address book and times lookups and pages.

    tests/power/address_book.py --numbers 1000000

Needs Python 3.11. Only loopback traffic. Prints one line of JSON: latencies in milliseconds over one
keep-alive connection, and for comparison that of the cheapest request.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from inbound import quantiles
from node import Client, Failure, Node, expect

# Number of timed lookups and pages.
SAMPLES = 5000
PAGES = 200

# Number of processes that fill the address book.
PROCESSES = 4


def phone(n: int) -> str:
    return f"57{3_000_000_000 + n}"


def fill(port: int, first: int, last: int, connections: int) -> None:
    """Adds a range of numbers over several connections, so that the node commits concurrent requests together."""
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(lambda nth: enter(port, range(first + nth, last, connections)), range(connections)))


def enter(port: int, numbers: range) -> None:
    client = Client(port, timeout=120)
    for n in numbers:
        data = {"id": n, "rol": {"is_creator": n % 2 == 0}, "empresa_id": "6512bd43d9caa6e02c990b0a"}
        expect(201, client.call("POST", "/api/numbers", {"phone": phone(n), "name": f"Persona {n}", "data": data}))


def timed(calls: Any) -> dict[str, float]:
    took = []
    for call in calls:
        began = time.monotonic()
        call()
        took.append(time.monotonic() - began)
    return quantiles(took)


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    node = Node(options.binary, work / "data", work, {})
    node.start()
    try:
        began = time.monotonic()
        share = -(-options.numbers // PROCESSES)
        connections = -(-options.connections // PROCESSES)
        shares = [(node.port, first, min(first + share, options.numbers), connections) for first in range(0, options.numbers, share)]
        with multiprocessing.get_context("spawn").Pool(len(shares)) as pool:
            pool.starmap(fill, shares, chunksize=1)
        filled, client, chance = time.monotonic() - began, Client(node.port), random.Random(1)
        drawn = [chance.randrange(options.numbers) for _ in range(SAMPLES)]
        first_page = expect(200, client.call("GET", "/api/numbers?limit=100"))
        if first_page["total"] != options.numbers:
            raise Failure(f"the address book has {first_page['total']} of {options.numbers} numbers")
        # A cursor is a change number, so random cursors are spread over the whole address book.
        places = [chance.randrange(1, options.numbers + 1) for _ in range(PAGES)]
        result = {
            "numbers": options.numbers,
            "filled_per_second": round(options.numbers / filled),
            "memory_mib": round(node.memory()),
            "floor_ms": timed(lambda: client.call("GET", "/health") for _ in drawn),
            "lookup_ms": timed((lambda n=n: expect(200, client.call("GET", f"/api/numbers/{phone(n)}"))) for n in drawn),
            "miss_ms": timed((lambda n=n: expect(404, client.call("GET", f"/api/numbers/1{phone(n)}"))) for n in drawn),
            "page_of_100_ms": timed((lambda place=place: expect(200, client.call("GET", f"/api/numbers?limit=100&after={place}"))) for place in places),
        }
        node.kill()
        result["started_again_s"] = round(node.start(), 1)
        client = Client(node.port)
        result["lookup_after_start_ms"] = timed((lambda n=n: expect(200, client.call("GET", f"/api/numbers/{phone(n)}"))) for n in drawn[:500])
        node.must_live()
        return result
    finally:
        node.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=Path("target/release/relevo"))
    parser.add_argument("--numbers", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=256, help="number of connections that fill the address book")
    options = parser.parse_args()
    if not options.binary.is_file():
        parser.error(f"{options.binary} is not a file: cargo build --release, or --binary")
    options.binary = options.binary.resolve()
    work = Path(tempfile.mkdtemp(prefix="relevo-numbers-"))
    try:
        print(json.dumps(run(options, work)), flush=True)
    finally:
        shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
