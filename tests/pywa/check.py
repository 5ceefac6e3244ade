#!/usr/bin/env python3
"""Drives a running sandbox with pywa, a public client library for the Cloud API.

pywa parses every answer into typed objects and maps error codes to exception classes, so the checks
show whether the sandbox answers as Meta does. They also check the webhooks: their signatures, and
that pywa parses the statuses and messages in them.

    pip install -r tests/pywa/requirements.txt
    relevo sandbox --listen 127.0.0.1:9100 &
    python tests/pywa/check.py http://127.0.0.1:9100

The checks reset the sandbox and replace its webhook. Exits with 1 when a check fails.
"""

from __future__ import annotations

import http.server
import logging
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlparse

import httpx
from pywa import WhatsApp, errors, types
from pywa.types import templates

PHONE_ID = "106540352242922"
USER = "+16505551234"
WA_ID = "16505551234"
BSUID = "US.13491208655302741918"
API_VERSION = "23.0"
APP_SECRET = "pywa-app-secret"
VERIFY_TOKEN = "pywa-verify-token"
TIMEOUT = 20.0

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c626001000000050001a5f645400000000049454e44ae426082"
)
FILES = {
    "image": (PNG, "image/png", "dot.png"),
    "video": (b"\x00\x00\x00\x18ftypmp42", "video/mp4", "clip.mp4"),
    "audio": (b"OggS", "audio/ogg", "note.ogg"),
    "document": (b"%PDF-1.4\n", "application/pdf", "invoice.pdf"),
    "sticker": (b"RIFF\x0c\x00\x00\x00WEBPVP8 ", "image/webp", "hello.webp"),
}

ERRORS = {
    0: errors.AuthException,
    4: errors.ToManyAPICalls,
    10: errors.PermissionDenied,
    190: errors.ExpiredAccessToken,
    368: errors.TemporarilyBlocked,
    80007: errors.RateLimitIssues,
    130429: errors.RateLimitHit,
    131026: errors.MessageUndeliverable,
    131031: errors.AccountLocked,
    131047: errors.ReEngagementMessage,
    131048: errors.SpamRateLimitHit,
    131056: errors.TooManyMessages,
}


class Checks:
    """Runs checks one by one and remembers which failed."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []

    def run(self, name: str, check: Callable[[], object]) -> None:
        try:
            check()
        except Exception:  # Any exception is a failed check.
            self.failed.append(name)
            print(f"FAILED {name}\n{traceback.format_exc()}")
        else:
            self.passed += 1
            print(f"ok     {name}")


class Receiver:
    """A webhook receiver that records raw bodies with their signatures."""

    def __init__(self) -> None:
        self.webhooks: queue.Queue[tuple[bytes, str | None]] = queue.Queue(maxsize=1000)
        webhooks = self.webhooks

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                query = parse_qs(urlparse(self.path).query)
                right = query.get("hub.verify_token") == [VERIFY_TOKEN]
                self.answer(200 if right else 403, query["hub.challenge"][0].encode() if right else b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhooks.put((body, self.headers.get("X-Hub-Signature-256")))
                self.answer(200, b"")

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/webhook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def next(self) -> tuple[bytes, str | None]:
        return self.webhooks.get(timeout=TIMEOUT)

    def clear(self) -> None:
        while not self.webhooks.empty():
            self.webhooks.get_nowait()


class Sandbox:
    """A client for the control plane of the sandbox."""

    def __init__(self, base: str) -> None:
        self.http = httpx.Client(base_url=base, timeout=TIMEOUT, trust_env=False)

    def post(self, path: str, body: object) -> dict:
        return self.http.post(f"/_sandbox/{path}", json=body).raise_for_status().json()

    def last_message(self) -> dict:
        return self.http.get("/_sandbox/messages", params={"limit": 10_000}).raise_for_status().json()["messages"][-1]

    @contextmanager
    def fault(self, fault: dict) -> Iterator[None]:
        armed = self.post("faults", [fault])["ids"][0]
        try:
            yield
        finally:
            self.http.delete("/_sandbox/faults", params={"id": armed}).raise_for_status()


def connect(base: str) -> WhatsApp:
    session = httpx.Client(timeout=TIMEOUT, trust_env=False)
    client = WhatsApp(
        phone_id=PHONE_ID,
        token="any-token",
        session=session,
        server=None,
        api_version=API_VERSION,
        app_secret=APP_SECRET,
        verify_token=VERIFY_TOKEN,
    )
    # pywa has no option for the base URL, and its constructor sets that of Meta.
    session.base_url = f"{base}/v{API_VERSION}"
    return client


def check_messages(checks: Checks, wa: WhatsApp, sandbox: Sandbox) -> None:
    def sent(kind: str, what: str, send: Callable[[], types.SentMessage]) -> None:
        def check() -> None:
            message = send()
            assert message.id.startswith("wamid."), message
            assert message.chat.id == WA_ID, message
            seen = sandbox.last_message()
            assert (seen["wamid"], seen["type"], seen["outcome"]) == (message.id, kind, "accepted"), seen

        checks.run(f"send {kind}: {what}", check)

    name = types.Contact.Name(formatted_name="Ana Ruiz", first_name="Ana", last_name="Ruiz")
    phones = [types.Contact.Phone(phone=USER, type="CELL", wa_id=WA_ID)]
    emails = [types.Contact.Email(email="ana@example.com", type="WORK")]
    contact = types.Contact(name=name, phones=phones, emails=emails, birthday="1990-02-28")
    sent("text", "with a preview", lambda: wa.send_message(USER, "Hello", preview_url=True, tracker="my-id"))
    sent("text", "a reply", lambda: wa.send_message(USER, "Hello", reply_to_message_id="wamid.x"))
    sent("location", "a place", lambda: wa.send_location(USER, 40.4168, -3.7038, name="Sol", address="Madrid"))
    sent("contacts", "one", lambda: wa.send_contact(USER, contact))
    sent("reaction", "given", lambda: wa.send_reaction(USER, "👍", "wamid.x"))
    sent("reaction", "removed", lambda: wa.remove_reaction(USER, "wamid.x"))

    def interactive(what: str, send: Callable[[], types.SentMessage]) -> None:
        sent("interactive", what, send)

    buttons = [types.Button("Yes", "yes"), types.Button("No", "no")]
    first = types.Section("One", [types.SectionRow("First", "1", "the first")])
    second = types.Section("Two", [types.SectionRow("Second", "2")])
    options = types.SectionList("Open", [first, second])
    link = types.URLButton("Visit", "https://example.com/")
    flow = types.FlowButton(
        "Book",
        flow_id="1234",
        flow_token="t",
        flow_action_type=types.FlowActionType.NAVIGATE,
        flow_action_screen="START",
        flow_action_payload={"a": 1},
    )
    fruit = [types.ProductsSection("Fruit", ["apple", "pear"])]
    cards = [types.ImageCarouselCard(image=f"https://example.com/{n}.png", buttons=link) for n in range(2)]
    interactive("buttons", lambda: wa.send_message(USER, "Choose", header="Title", footer="relevo", buttons=buttons))
    interactive("a list", lambda: wa.send_message(USER, "Choose", header="Title", footer="relevo", buttons=options))
    interactive("a link", lambda: wa.send_message(USER, "Look", header="Title", footer="relevo", buttons=link))
    interactive("a flow", lambda: wa.send_message(USER, "Book", header="Title", footer="relevo", buttons=flow))
    interactive("a location request", lambda: wa.request_location(USER, "Where are you?"))
    interactive("a contact request", lambda: wa.send_message(USER, "Who?", buttons=types.ContactInfoRequestButton()))
    interactive("a call request", lambda: wa.send_message(USER, "May we?", buttons=types.CallPermissionRequestButton()))
    interactive("a catalogue", lambda: wa.send_catalog(USER, "Look", thumbnail_product_sku="1"))
    interactive("a product", lambda: wa.send_product(USER, "cat", "sku", body="This one"))
    interactive("products", lambda: wa.send_products(USER, "cat", fruit, title="Shop", body="All of it"))
    interactive("a carousel", lambda: wa.send_carousel(USER, body="Slide", cards=cards))


def check_templates(checks: Checks, wa: WhatsApp) -> None:
    def check() -> None:
        sent = wa.send_template(
            USER,
            "order_ready",
            templates.TemplateLanguage.SPANISH,
            [
                templates.HeaderImage.params(image="https://example.com/a.png"),
                templates.BodyText.params("Ana", "B-17"),
                templates.QuickReplyButton.params(callback_data="thanks", index=0),
            ],
        )
        assert sent.id.startswith("wamid.") and sent.status is not None, sent

    checks.run("send template", check)

    def named() -> None:
        body = templates.BodyText.params(name="Ana")
        assert wa.send_template(USER, "hello", templates.TemplateLanguage.SPANISH, [body]).id.startswith("wamid.")

    checks.run("send template: named parameters", named)


def check_media(checks: Checks, wa: WhatsApp) -> None:
    senders: dict[str, Callable[[str], types.SentMessage]] = {
        "image": lambda media: wa.send_image(USER, media, caption="A dot"),
        "video": lambda media: wa.send_video(USER, media, caption="A clip"),
        "audio": lambda media: wa.send_audio(USER, media),
        "document": lambda media: wa.send_document(USER, media, filename="invoice.pdf", caption="Yours"),
        "sticker": lambda media: wa.send_sticker(USER, media),
    }

    def round_trip(kind: str) -> None:
        content, mime_type, filename = FILES[kind]
        media = wa.upload_media(content, mime_type=mime_type, filename=filename)
        found = wa.get_media_url(media.id)
        assert (found.mime_type, found.file_size) == (mime_type, len(content)), found
        assert wa.get_media_bytes(found.url) == content
        assert senders[kind](media.id).id.startswith("wamid.")
        assert wa.delete_media(media.id, phone_id=PHONE_ID)
        try:
            wa.get_media_url(media.id)
        except errors.WhatsAppError as error:
            assert error.code == 100 and error.subcode == 33, error
        else:
            raise AssertionError("the sandbox returned a deleted file")

    for kind in senders:
        checks.run(f"upload, look up, fetch, send and delete: {kind}", lambda kind=kind: round_trip(kind))
        link = f"https://example.com/{FILES[kind][2]}"
        checks.run(f"send {kind} by link", lambda kind=kind, link=link: senders[kind](link))

    def voice() -> None:
        media = wa.upload_media(FILES["audio"][0], mime_type="audio/ogg", filename="note.ogg")
        assert wa.send_voice(USER, media.id).id.startswith("wamid.")

    checks.run("send audio: a voice note", voice)

    def headed() -> None:
        media = wa.upload_media(PNG, mime_type="image/png", filename="dot.png")
        assert wa.send_image(USER, media.id, caption="Choose", buttons=[types.Button("Yes", "yes")]).id

    checks.run("send interactive: buttons under an image", headed)

    def unknown() -> None:
        try:
            wa.send_image(USER, "4077000000000000")
        except errors.MediaUploadError as error:
            assert "4077000000000000" in error.details, error
        else:
            raise AssertionError("the sandbox accepted an unknown media id")

    checks.run("an unknown media id is refused", unknown)


def check_others(checks: Checks, wa: WhatsApp) -> None:
    def by_user_id() -> None:
        sent = wa.send_message(BSUID, "Hello")
        assert (sent.chat.id, sent.input) == (BSUID, BSUID), sent

    checks.run("send text: to a business-scoped user id", by_user_id)
    checks.run("mark as read", lambda: expect(wa.mark_message_as_read("wamid.x").success))
    checks.run("show typing", lambda: expect(wa.indicate_typing("wamid.x").success))

    def number() -> None:
        number = wa.get_business_phone_number()
        assert number.id == PHONE_ID and number.display_phone_number and number.verified_name, number

    checks.run("read the phone number", number)

    def too_long() -> None:
        try:
            wa.send_message(USER, "x" * 4097)
        except errors.WhatsAppError as error:
            assert error.code == 100 and "4096" in error.details, error
        else:
            raise AssertionError("the sandbox accepted a text of 4097 characters")

    checks.run("a text that is too long is refused", too_long)


def expect(condition: object) -> None:
    assert condition


def check_errors(checks: Checks, wa: WhatsApp, sandbox: Sandbox) -> None:
    def check(code: int, expected: type[errors.WhatsAppError]) -> None:
        with sandbox.fault({"action": {"error": {"code": code, "details": "on purpose"}}}):
            try:
                wa.send_message(USER, "Hello")
            except errors.WhatsAppError as error:
                assert type(error) is expected, f"{type(error)} instead of {expected}"
                assert (error.code, error.details) == (code, "on purpose"), error
                assert error.fbtrace_id and error.type == "OAuthException", error
            else:
                raise AssertionError("no error was raised")

    for code, expected in ERRORS.items():
        checks.run(f"error {code} is {expected.__name__}", lambda code=code, expected=expected: check(code, expected))


def check_webhooks(checks: Checks, wa: WhatsApp, sandbox: Sandbox) -> None:
    receiver = Receiver()
    seen: queue.Queue[object] = queue.Queue()
    wa.on_message()(lambda _, message: seen.put(message))
    wa.on_message_status()(lambda _, status: seen.put(status))
    subscription = {"url": receiver.url, "app_secret": APP_SECRET, "verify_token": VERIFY_TOKEN}
    checks.run("the receiver passes verification", lambda: expect(sandbox.post("webhook", subscription)["verified"]))

    def parsed() -> object:
        body, signature = receiver.next()
        assert wa.webhook_update_validator(body, signature) is None, "the signature is wrong"
        assert wa.webhook_update_validator(body + b" ", signature) is not None, "a wrong signature is accepted"
        wa.webhook_update_handler(body)
        return seen.get(timeout=TIMEOUT)

    def statuses() -> None:
        sent = wa.send_message(USER, "Hello", tracker="tracked")
        for expected in ("SENT", "DELIVERED", "READ"):
            status = parsed()
            assert isinstance(status, types.MessageStatus), status
            assert (status.id, status.status.name, status.tracker) == (sent.id, expected, "tracked"), status
            assert status.metadata.phone_number_id == PHONE_ID, status

    checks.run("statuses are signed, in order and parsed", statuses)

    def inbound(kind: str, body: dict) -> None:
        answer = sandbox.post("inbound", {"from": USER, "name": "Ana", "phone_number_id": PHONE_ID, "type": kind, **body})
        assert answer["delivered"], answer
        message = parsed()
        assert isinstance(message, types.Message), message
        assert (message.id, message.type.value, message.from_user.name) == (answer["wamid"], kind, "Ana"), message
        if kind in FILES:
            assert wa.get_media_bytes(wa.get_media_url(getattr(message, kind).id).url), message

    messages: dict[str, dict] = {
        "text": {"text": "Good morning"},
        "location": {"location": {"latitude": 40.4, "longitude": -3.7}},
        "reaction": {"reaction": {"message_id": "wamid.x", "emoji": "👍"}},
        "contacts": {"contacts": [{"name": {"formatted_name": "Ana", "first_name": "Ana"}}]},
        **{kind: {} for kind in FILES},
    }
    for kind, body in messages.items():
        checks.run(f"an inbound {kind} is parsed", lambda kind=kind, body=body: inbound(kind, body))


def main() -> int:
    if len(sys.argv) != 2:
        print(f"usage: {sys.argv[0]} http://127.0.0.1:PORT", file=sys.stderr)
        return 2
    # pywa logs the wrong signatures of the checks as errors.
    logging.getLogger("pywa").setLevel(logging.CRITICAL)
    base = sys.argv[1].rstrip("/")
    wa, sandbox, checks = connect(base), Sandbox(base), Checks()
    sandbox.post("webhook", {"url": None})
    sandbox.post("reset", {})
    check_messages(checks, wa, sandbox)
    check_templates(checks, wa)
    check_media(checks, wa)
    check_others(checks, wa)
    check_errors(checks, wa, sandbox)
    check_webhooks(checks, wa, sandbox)
    print(f"{checks.passed} passed, {len(checks.failed)} failed")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
