"""Readers of events: a webhook receiver and a WebSocket, both of which can be stopped and resumed."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """Records the sequences of webhooks in order of arrival. Answers each one after `delay` seconds."""

    def __init__(self, port: int, delay: float = 0.0) -> None:
        self.port, self._delay = port, delay
        self._delivered: list[int] = []
        self._last = 0
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Starts the server. A no-op when it runs."""
        if self._server:
            return
        receiver, delay = self, self._delay

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(delay)
                receiver._take(int(self.headers["webhook-id"].rsplit("_", 1)[1]))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """Ignores the error: the node was killed during a request."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _take(self, sequence: int) -> None:
        self._delivered.append(sequence)
        self._last = max(self._last, sequence)

    def count(self) -> int:
        return len(self._delivered)

    def last(self) -> int:
        """The highest sequence. Correct for one sender only, because `_take` does not lock."""
        return self._last

    def first_deliveries(self) -> list[int]:
        """The sequences in order of their first delivery."""
        return list(dict.fromkeys(self._delivered))


class Socket(threading.Thread):
    """A WebSocket (RFC 6455) that resumes after its last event whenever the connection ends."""

    def __init__(self, port: int, path: str, key: str) -> None:
        super().__init__(daemon=True)
        self._port, self._path, self._key = port, path, key
        self._stop_now = threading.Event()
        self._connection: socket.socket | None = None
        self.sequences: list[int] = []
        self.last = 0
        self.lives = 0

    def run(self) -> None:
        while not self._stop_now.is_set():
            try:
                self._live()
            except (OSError, EOFError, ValueError):
                time.sleep(0.05)

    def drop(self) -> None:
        """Closes the connection without a close frame."""
        if self._connection:
            self._connection.close()

    def stop(self) -> None:
        self._stop_now.set()
        self.drop()

    def _live(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as connection:
            self._connection = connection
            stream = connection.makefile("rb")
            nonce = base64.b64encode(os.urandom(16)).decode()
            connection.sendall(
                f"GET {self._path}?after={self.last} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {self._key}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {nonce}\r\n\r\n".encode()
            )
            if b"101" not in stream.readline():
                raise EOFError
            while stream.readline().strip():
                pass
            self.lives += 1
            while True:
                opcode, payload = frame(stream)
                if opcode == 8:
                    raise EOFError
                if opcode == 9:
                    connection.sendall(masked(10, payload))
                if opcode == 1:
                    sequence = json.loads(payload)["sequence"]
                    self.sequences.append(sequence)
                    self.last = sequence


def frame(stream: Any) -> tuple[int, bytes]:
    """Reads one frame of a server. Returns opcode and payload. Raises EOFError at the end."""
    first, second = read_exactly(stream, 2)
    size = second & 127
    if size == 126:
        (size,) = struct.unpack("!H", read_exactly(stream, 2))
    elif size == 127:
        (size,) = struct.unpack("!Q", read_exactly(stream, 8))
    return first & 15, read_exactly(stream, size)


def masked(opcode: int, payload: bytes) -> bytes:
    """A short, masked frame of a client. The mask of zeros leaves the payload unchanged."""
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload


def read_exactly(stream: Any, size: int) -> bytes:
    read = stream.read(size)
    if len(read) < size:
        raise EOFError
    return read
