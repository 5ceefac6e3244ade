"""A node as a process, a stand-in for the Graph API, and what users and Meta do with them. Standard library only."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import http.server
import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

KEY = "field-test-key-0123456789"
APP_SECRET = "field-test-secret"
PHONE_NUMBER_ID = "111"
INSTANCE = "shop"

# Maximum times of a start and of a wait, in seconds.
START_WITHIN = 30.0
WAIT = 20.0
POLL = 0.02

JSON = dict[str, Any]


class Failure(Exception):
    """A case does not hold; the text is the evidence."""


def require(condition: object, evidence: object) -> None:
    """Fails with the evidence unless the condition holds."""
    if not condition:
        text = evidence if isinstance(evidence, str) else json.dumps(evidence, ensure_ascii=False, default=str)
        raise Failure(text[:600])


def wait_for(condition: Callable[[], Any], evidence: Callable[[], object]) -> Any:
    """Waits until the condition returns something true, and returns it."""
    end = time.monotonic() + WAIT
    while not (found := condition()):
        require(time.monotonic() < end, f"after {WAIT} s: {evidence()}")
        time.sleep(POLL)
    return found


class GraphApi:
    """A server that accepts every message, and keeps its body."""

    def __init__(self) -> None:
        self._bodies: list[JSON] = []
        self._lock = threading.Lock()
        graph = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._answer({"id": self.path.split("?")[0].rsplit("/", 1)[-1]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(graph._accept(body))

            def _answer(self, answer: JSON) -> None:
                payload = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _accept(self, body: JSON) -> JSON:
        to = body.get("to") or body.get("recipient") or ""
        with self._lock:
            self._bodies.append(body)
            number = len(self._bodies)
        contact = {"input": to, "wa_id": to.lstrip("+")}
        message = {"id": f"wamid.FIELD{number:06}"}
        return {"messaging_product": "whatsapp", "contacts": [contact], "messages": [message]}

    def sent_to(self, recipient: str) -> list[JSON]:
        """The messages to the digits of a number, a user id or a group."""
        with self._lock:
            return [body for body in self._bodies if recipient in (body.get("to", "").lstrip("+"), body.get("recipient"))]

    def addresses(self) -> list[str]:
        """The recipients of all messages, in the order of arrival."""
        with self._lock:
            return [body.get("to") or body.get("recipient") or "" for body in self._bodies]

    def close(self) -> None:
        self._server.shutdown()


class World:
    """A node with the connected instance `shop` on the stand-in."""

    _ids = itertools.count(1)

    def __init__(self, binary: Path, folder: Path, settings: dict[str, str]) -> None:
        self.graph = GraphApi()
        self._port = free_port()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELEVO_")}
        own = {
            "RELEVO_HTTP__LISTEN": f"127.0.0.1:{self._port}",
            "RELEVO_DATA_DIR": str(folder / "data"),
            "RELEVO_AUTH__API_KEY": KEY,
            "RELEVO_DEFAULT_INSTANCE": INSTANCE,
            "RELEVO_EGRESS__ALLOW_PRIVATE": "true",
            "RELEVO_INSTANCE__PAIR_INTERVAL": "10ms",
        }
        self._log = folder / "node.log"
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                [binary, "serve"], env={**inherited, **own, **settings}, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        try:
            wait_for(self._is_serving, self._last_lines)
            self._create_instance()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(START_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.graph.close()

    def _is_serving(self) -> bool:
        require(self._process.poll() is None, f"the node ended: {self._last_lines()}")
        try:
            return self.get("/health")[0] == 200
        except OSError:
            return False

    def _last_lines(self) -> str:
        return self._log.read_text(errors="replace")[-500:]

    def _create_instance(self) -> None:
        account = {
            "phone_number_id": PHONE_NUMBER_ID,
            "access_token": "token",
            "app_secret": APP_SECRET,
            "verify_token": "word",
            "base_url": self.graph.url,
        }
        rate = {"per_second": 1000, "burst": 1000}
        created = self.post("/instances", {"instance_id": INSTANCE, "cloud_api": account, "rate_limit": rate})
        require(created[0] == 201, created)
        status = f"/instances/{INSTANCE}/status"
        wait_for(lambda: self.get(status)[1]["status"] == "connected", lambda: self.get(status))

    # What callers of the API do.

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Sends a request. Returns the status and the JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, path, body, {"X-API-Key": KEY, **(headers or {})})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        return response.status, json.loads(text) if text else None

    def get(self, path: str) -> tuple[int, Any]:
        return self.call("GET", path)

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        return self.call("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def text(self, phone: Any, message: str = "Hola") -> tuple[int, Any]:
        """Sends a text."""
        return self.post(f"/instances/{INSTANCE}/messages/text", {"phone": phone, "message": message})

    def upload(self, rows: str, **fields: str) -> tuple[int, Any]:
        """Uploads a file of recipients; the file is the first field of the form."""
        boundary = uuid.uuid4().hex
        file = 'Content-Disposition: form-data; name="file"; filename="clientes.csv"\r\nContent-Type: text/csv'
        parts = [f"{file}\r\n\r\n{rows}"]
        for name, value in {"message": "Hola", **fields}.items():
            parts.append(f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}')
        form = "".join(f"--{boundary}\r\n{part}\r\n" for part in parts) + f"--{boundary}--\r\n"
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return self.call("POST", "/messages/send-bulk-file", form.encode(), headers)

    def run_job(self, rows: str, **fields: str) -> tuple[JSON, list[JSON]]:
        """Uploads a file of recipients and waits for its end. Returns the answer and the results of the rows."""
        status, answer = self.upload(rows, **fields)
        require(status == 200, answer)
        return answer, self.finish_job(answer["job"]["id"])

    def finish_job(self, job: str) -> list[JSON]:
        """Waits for the end of a job. Returns the results of its rows."""
        ended = ("completed", "failed", "cancelled")
        wait_for(lambda: self.get(f"/jobs/{job}")[1]["status"] in ended, lambda: self.get(f"/jobs/{job}"))
        return self.get(f"/jobs/{job}/results?limit=500")[1]["data"]

    def is_suppressed(self, name: str) -> bool:
        """Whether a person is on the suppression list."""
        return self.get(f"/suppressions/{quote(name, safe='')}")[0] == 200

    def events(self, kind: str) -> list[JSON]:
        """The data of all events of a kind."""
        found, after = [], ""
        while True:
            _, page = self.get(f"/instances/{INSTANCE}/events?limit=1000&types={kind}&after={after}")
            found += [event["data"] for event in page["data"]]
            after = quote(str(page["next"]))
            if not page["more"]:
                return found

    # What Meta does.

    def deliver(self, value: JSON, field: str = "messages") -> None:
        """Delivers a signed webhook; when it is answered, everything in it is durable."""
        metadata = {"display_phone_number": "15550001199", "phone_number_id": PHONE_NUMBER_ID}
        change = {"field": field, "value": {"messaging_product": "whatsapp", "metadata": metadata, **value}}
        body = {"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [change]}]}
        payload = json.dumps(body).encode()
        signature = hmac.new(APP_SECRET.encode(), payload, hashlib.sha256).hexdigest()
        answer = self.call("POST", "/webhook", payload, {"X-Hub-Signature-256": f"sha256={signature}"})
        require(answer[0] == 200, answer)

    def receive(self, message: JSON, sender: str | None = "573001234567", contact: JSON | None = None) -> JSON:
        """Delivers a message of a user. Returns the event about it."""
        message_id = f"wamid.IN{next(self._ids):06}"
        author = {} if sender is None else {"from": sender}
        message = {**author, "id": message_id, "timestamp": "1764412800", **message}
        contacts = [contact or {"profile": {"name": "Ana"}, "wa_id": sender}]
        self.deliver({"contacts": contacts, "messages": [message]})
        events = [event for event in self.events("message") if event["message_id"] == message_id]
        require(events, f"no event about {message}")
        return events[0]

    def receive_text(self, text: str, sender: str) -> JSON:
        """Delivers a text of a user."""
        return self.receive({"type": "text", "text": {"body": text}}, sender)

    def change_names(self, system: JSON, **author: str) -> JSON:
        """Delivers a notice of a changed number or id; such notices have no contact."""
        message_id = f"wamid.IN{next(self._ids):06}"
        message = {"id": message_id, "timestamp": "1764412800", "type": "system", "system": system, **author}
        self.deliver({"messages": [message]})
        return next(event for event in self.events("message") if event["message_id"] == message_id)


def is_accepted(answer: tuple[int, Any]) -> bool:
    return answer[0] in (200, 201, 202)


def reason_of(answer: tuple[int, Any]) -> str:
    """The text of a refusal."""
    return json.dumps(answer[1], ensure_ascii=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def new_world(binary: Path, settings: dict[str, str] | None = None) -> Iterator[World]:
    """A world of its own; its folder is deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="relevo-field-"))
    try:
        world = World(binary, folder, settings or {})
        try:
            yield world
        finally:
            world.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
