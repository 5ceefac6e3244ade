"""The node and the sandbox as processes, and a client for their HTTP interfaces."""

from __future__ import annotations

import http.client
import json
import random
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

KEY = "power-test-key-0123456789"
APP_SECRET = "power-test-secret"
# The sending instance and its number of workers.
WORKERS = 10
INSTANCE = "bench"

# Maximum time of a start in seconds.
START_WITHIN = 60.0


class Failure(Exception):
    """A guarantee does not hold."""


class Client:
    """One keep-alive connection. Not thread-safe."""

    def __init__(self, port: int, timeout: float = 30.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Sends a request. Returns status and JSON. Raises OSError or HTTPException when the answer is incomplete."""
        sent = {"X-API-Key": KEY, "Content-Type": "application/json", **(headers or {})}
        payload = None if body is None else json.dumps(body).encode()
        try:
            self._connection.request(method, path, payload, sent)
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        return response.status, json.loads(text) if text else None


class Process:
    """A process with a log file."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self._child = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def memory(self) -> float:
        """Resident memory in MiB."""
        try:
            status = Path(f"/proc/{self._child.pid}/status").read_text()
        except OSError:
            return 0.0
        return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)

    def kill(self) -> None:
        """Kills the process with SIGKILL and waits for its end. A no-op when it has ended."""
        self._child.kill()
        self._child.wait()

    def must_live(self) -> None:
        """Raises Failure when the process has ended or a thread has panicked."""
        text = self.log.read_text(errors="replace")
        code = self._child.poll()
        if code is not None:
            raise Failure(f"{self.log.name}: ended with {code}: {text[-2000:]}")
        if "panicked" in text:
            raise Failure(f"{self.log.name}: panicked: {text[-2000:]}")


def free_port() -> int:
    """A free port outside the range of ephemeral ports."""
    for _ in range(1000):
        port = random.randrange(18200, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


class Sandbox(Process):
    """The sandbox for WhatsApp. It survives every cut and records the arrivals."""

    def __init__(self, binary: Path, work: Path) -> None:
        self.port = free_port()
        command = [str(binary), "sandbox", "--listen", f"127.0.0.1:{self.port}"]
        super().__init__(command, {}, work / "sandbox.log")
        self._seen = 0
        self.arrived: list[str] = []
        wait_for_answer(self, self.port, "/")

    def report_to(self, node_port: int) -> None:
        """Sets the webhook of the sandbox to the node."""
        url = f"http://127.0.0.1:{node_port}/webhook"
        expect(200, Client(self.port).call("POST", "/_sandbox/webhook", {"url": url, "app_secret": APP_SECRET}))

    def read(self) -> None:
        """Appends the ids of new arrivals to `arrived`, in order of arrival."""
        client = Client(self.port)
        while True:
            page = expect(200, client.call("GET", f"/_sandbox/messages?after={self._seen}&limit=10000"))
            if page["forgotten"] > self._seen:
                raise RuntimeError("the sandbox evicted messages before they were read")
            accepted = (entry for entry in page["messages"] if entry["outcome"] == "accepted")
            self.arrived.extend(entry["biz_opaque_callback_data"] for entry in accepted)
            self._seen = page["last"]
            if not page["more"]:
                return


class Node:
    """The node: one address and one data folder, any number of processes in succession."""

    def __init__(self, binary: Path, data: Path, work: Path, env: dict[str, str]) -> None:
        self.port = free_port()
        self._command = [str(binary), "serve"]
        self._work, self._starts = work, 0
        self._process: Process | None = None
        self._env = {
            "RELEVO_HTTP__LISTEN": f"127.0.0.1:{self.port}",
            "RELEVO_DATA_DIR": str(data),
            "RELEVO_AUTH__API_KEY": KEY,
            "RELEVO_EGRESS__ALLOW_PRIVATE": "true",
            "RELEVO_RETRY__TRANSACTIONAL__AMBIGUOUS_WAIT": "2s",
            # These tests need long lanes. Meta's pair rate limit would stretch them over minutes.
            "RELEVO_INSTANCE__PAIR_INTERVAL": "1ms",
            "RELEVO_INSTANCE__PAIR_BURST": "1000",
            "RELEVO_LOG__LEVEL": "error",
            "RUST_BACKTRACE": "1",
            **env,
        }

    def begin(self) -> None:
        """Starts a process without waiting for it."""
        self._starts += 1
        self._process = Process(self._command, self._env, self._work / f"node-{self._starts}.log")

    def start(self) -> float:
        """Starts a process and waits until it answers. Returns the duration in seconds."""
        began = time.monotonic()
        self.begin()
        assert self._process
        wait_for_answer(self._process, self.port, "/health")
        return time.monotonic() - began

    def kill(self) -> None:
        if self._process:
            self._process.kill()

    def must_live(self) -> None:
        assert self._process
        self._process.must_live()

    def memory(self) -> float:
        """Resident memory in MiB; 0 when the node is not running."""
        return self._process.memory() if self._process else 0.0

    def create_instance(self, sandbox: Sandbox, per_second: int = 1000) -> None:
        cloud_api = {
            "phone_number_id": "100",
            "access_token": "token",
            "app_secret": APP_SECRET,
            "base_url": f"http://127.0.0.1:{sandbox.port}",
        }
        rate = {"per_second": per_second, "burst": per_second}
        body = {"instance_id": INSTANCE, "rate_limit": rate, "workers": WORKERS, "cloud_api": cloud_api}
        expect(201, Client(self.port).call("POST", "/instances", body))

    def command(self, what: str) -> None:
        """Sends `connect` or `disconnect` to the instance."""
        expect(200, Client(self.port).call("POST", f"/instances/{INSTANCE}/{what}"))

    def depth(self) -> int:
        return expect(200, Client(self.port).call("GET", f"/instances/{INSTANCE}"))["data"]["queue_depth"]

    def drain(self, within: float = 180.0) -> None:
        """Waits until the queue is empty. Raises Failure when its depth does not change for `within` seconds."""
        deadline, depth = time.monotonic() + within, -1
        while (now := self.depth()) > 0:
            self.must_live()
            if now != depth:
                depth, deadline = now, time.monotonic() + within
            if time.monotonic() > deadline:
                raise Failure(f"{depth} messages are queued, and the depth did not change for {within:.0f} s")
            time.sleep(0.2)


def expect(status: int, answer: tuple[int, Any]) -> Any:
    if answer[0] != status:
        raise Failure(f"{answer[0]} instead of {status}: {answer[1]}")
    return answer[1]


def wait_for_answer(process: Process, port: int, path: str) -> None:
    """Waits for an answer of any status: a node with a full disk runs and answers 503."""
    deadline = time.monotonic() + START_WITHIN
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            connection.getresponse().read()
            connection.close()
            return
        except (OSError, http.client.HTTPException):
            process.must_live()
            if time.monotonic() > deadline:
                raise Failure(f"{process.log.name}: no answer within {START_WITHIN:.0f} s of the start") from None
            time.sleep(0.005)
