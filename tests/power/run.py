#!/usr/bin/env python3
"""Kills the node or cuts the power of its disk repeatedly, and checks what became of the accepted messages.

    tests/power/run.py kill    SIGKILL at random moments under load
    tests/power/run.py power   the disk stops first, then the node: writes that were not synced are lost
    tests/power/run.py full    the disk has less free space than store.min_free_space
    tests/power/run.py brim    the disk has no free space at all

Guarantees under test: a message that was answered with 202 arrives, or is an ambiguous dead letter; no message arrives
twice; messages of one sender to one recipient arrive in order; the node starts again.

Needs Linux and Python 3.11; all modes but `kill` also root, ext4 and loop devices. Only loopback traffic. Prints one
line of JSON. Exits with 0 when all guarantees hold, 1 when one does not (then the working folder is kept), 2 when the
test itself cannot run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from disk import Folder, Image, copy
from load import Cut, Load, judge
from node import Client, Failure, Node, Sandbox

MIB = 1 << 20
MIN_FREE = 64 * MIB
MUST_BE_ZERO = ("accepted_without_power", "lost", "denied", "doubled", "disordered")


class World:
    """The programs of a run: a sandbox that survives all cuts, the node, and the disk of the node."""

    def __init__(self, options: argparse.Namespace, work: Path, stack: contextlib.ExitStack, size: int) -> None:
        self.options, self.work = options, work
        self.random = random.Random(options.seed)
        self.cuts: list[Cut] = []
        self.starts: list[float] = []
        self.disk: Folder | Image = Folder(work) if options.mode == "kill" else Image(work, size)
        stack.callback(self.disk.close)
        self.sandbox = Sandbox(options.binary, work)
        stack.callback(self.sandbox.kill)
        self.node = Node(options.binary, self.disk.data, work, {"RELEVO_STORE__MIN_FREE_SPACE": str(MIN_FREE)})
        stack.callback(self.node.kill)
        self.start()
        self.sandbox.report_to(self.node.port)
        self.node.create_instance(self.sandbox)
        self.load: Load | None = None

    def start(self) -> None:
        self.starts.append(self.node.start())

    def send(self, long: float = 0.2) -> Load:
        self.load = Load(self.node.port, self.options.senders, self.options.seed, long)
        return self.load

    def cut(self) -> None:
        """Cuts the power and restores the disk. Does not start the node."""
        self.node.must_live()
        began = time.monotonic()
        self.disk.cut()
        gone = time.monotonic()
        if isinstance(self.disk, Image):
            # The node may notice the cut. It must not accept messages after it, because it cannot store them.
            time.sleep(self.random.uniform(0, 0.05))
        self.node.kill()
        # SIGKILL loses no writes, so in mode `kill` every answer before the kill counts.
        if isinstance(self.disk, Image):
            self.cuts.append(Cut(began, gone, time.monotonic()))
        self.disk.restore()
        copy(self.disk.data, self.work / "before-last-start")

    def verdict(self) -> dict[str, Any]:
        """Stops the load, waits until the queue is empty, and judges."""
        assert self.load
        self.load.stop()
        self.node.drain()
        self.node.must_live()
        self.sandbox.read()
        result = judge(self.load, self.cuts, self.sandbox.arrived, self.node.port)
        starts = [round(seconds * 1000) for seconds in self.starts]
        return result | {"starts": len(starts), "start_ms": [statistics.median(starts), max(starts)]}


def rounds(world: World) -> dict[str, Any]:
    """Modes `kill` and `power`: cuts after random numbers of messages."""
    options, interrupted = world.options, 0
    load = world.send()
    for number in range(options.rounds):
        world.random.seed(f"{options.seed}-{number}")
        share = options.messages / options.rounds
        load.wait_for(round(share * world.random.uniform(0.6, 1.4)))
        time.sleep(world.random.uniform(0, 0.03))
        world.cut()
        while world.random.random() < 0.25:
            # Another cut during the start.
            interrupted += 1
            world.node.begin()
            time.sleep(world.random.uniform(0, 0.3))
            world.cut()
        world.start()
    if load.count() < options.messages:
        load.wait_for(options.messages - load.count())
    return world.verdict() | {"rounds": options.rounds, "interrupted_starts": interrupted}


def full(world: World) -> dict[str, Any]:
    """Mode `full`: the node refuses new messages and sends the accepted ones, also after a power cut."""
    disk, node = world.disk, world.node
    assert isinstance(disk, Image)
    node.command("disconnect")
    disk.fill(leave=MIN_FREE + 24 * MIB)
    load = world.send(long=1.0)
    await_refusal(load)
    accepted, waiting = load.count(), node.depth()
    if Client(node.port).call("GET", "/health")[0] != 503:
        raise Failure("the health check does not report the full disk")
    world.cut()
    world.start()
    node.command("connect")
    node.drain()
    # Wait for the last receipts: the node must notice the freed space even when it writes nothing.
    time.sleep(5)
    after_drain = disk.free()
    disk.relieve()
    freed = time.monotonic()
    load.wait_for(1)
    noticed = time.monotonic() - freed
    load.wait_for(500)
    result = world.verdict()
    return result | {
        "accepted_until_full": accepted,
        "waiting_when_full": waiting,
        "refused": dict(load.refused()),
        "free_mib_after_drain": after_drain // MIB,
        "accepts_again_within_s": round(noticed, 1),
    }


def brim(world: World) -> dict[str, Any]:
    """Mode `brim`: another program fills the disk to the last byte. The node may stop but must not lose a message."""
    disk, options = world.disk, world.options
    assert isinstance(disk, Image)
    load = world.send(long=1.0)
    for number in range(options.rounds):
        load.wait_for(200)
        disk.brim()
        time.sleep(world.random.uniform(0.2, 1.5))
        world.node.kill()
        if number % 2:
            # A start without free space may fail but must not lose a message.
            world.node.begin()
            time.sleep(world.random.uniform(0.2, 1))
            world.node.kill()
        disk.relieve()
        copy(disk.data, world.work / "before-last-start")
        world.start()
    panics = sum("panicked" in log.read_text(errors="replace") for log in world.work.glob("node-*.log"))
    return world.verdict() | {"rounds": options.rounds, "refused": dict(load.refused()), "lives_with_panics": panics}


def await_refusal(load: Load) -> None:
    deadline = time.monotonic() + 180
    while not load.refused()[503]:
        if time.monotonic() > deadline:
            raise Failure(f"{load.count()} messages accepted and none refused with 503: {load.refused()}")
        time.sleep(0.05)


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    work = Path(tempfile.mkdtemp(prefix=f"relevo-{options.mode}-", dir=options.work))
    result: dict[str, Any] = {"mode": options.mode, "seed": options.seed}
    began, code = time.monotonic(), 1
    try:
        with contextlib.ExitStack() as stack:
            size = 200 * MIB if options.mode in ("full", "brim") else 3072 * MIB
            world = World(options, work, stack, size)
            # The senders stop before the node.
            stack.callback(lambda: world.load and world.load.stop())
            try:
                result |= {"full": full, "brim": brim}.get(options.mode, rounds)(world)
                wrong = [f"{result[name]} {name}" for name in MUST_BE_ZERO if result[name]]
                result["failures"] = wrong
            except Failure as failure:
                result["failures"] = [str(failure)]
            if result["failures"]:
                world.node.kill()
                copy(world.disk.data, work / "at-the-end")
        code = 1 if result["failures"] else 0
    finally:
        if code == 0:
            shutil.rmtree(work)
        else:
            result["kept"] = str(work)
        result["seconds"] = round(time.monotonic() - began)
        print(json.dumps(result), flush=True)
    return code


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["kill", "power", "full", "brim"])
    parser.add_argument("--binary", type=Path, default=Path("target/release/relevo"))
    parser.add_argument("--rounds", type=int, default=20, help="number of cuts (kill, power, brim)")
    parser.add_argument("--messages", type=int, default=10_000, help="number of accepted messages (kill, power)")
    parser.add_argument("--senders", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments, recipients and texts")
    parser.add_argument("--work", type=Path, help="working folder; default: the temporary folder of the system")
    options = parser.parse_args()
    if not options.binary.is_file():
        parser.error(f"{options.binary} is not a file: cargo build --release, or --binary")
    options.binary = options.binary.resolve()
    return options


if __name__ == "__main__":
    sys.exit(main())
