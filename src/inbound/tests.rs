//! Ingestion of webhooks: from their bodies to the records in the store.

mod identity;

use std::sync::Arc;

use serde_json::{Value, json};

use super::commit::{CommitCounts, DeliveryPart, InboundDelivery};
use super::keywords::Keywords;
use super::{Options, message_event};
use crate::events;
use crate::queue::ReceiptResult;
use crate::relay::FrameQueue;
use relevo_cloud_api::{Update, parse_webhook};
use relevo_domain::{Class, InstanceId, InstanceNumber, MessageId, Timestamp};
use relevo_store::{Space, TestStore};

const SHOP: InstanceNumber = InstanceNumber::FIRST;
const ANA: &str = "573001234567";

fn name() -> InstanceId {
    "shop".parse().unwrap()
}

/// The id of a message in the ledger.
fn our_message_id() -> MessageId {
    MessageId::new(Timestamp(1), 0, SHOP, Class::Bulk, 1)
}

fn webhook(field: &str, mut value: Value) -> Vec<u8> {
    value["metadata"] = json!({ "display_phone_number": "15550001111", "phone_number_id": "1065" });
    let change = json!({ "field": field, "value": value });
    json!({ "object": "whatsapp_business_account", "entry": [{ "id": "W", "changes": [change] }] })
        .to_string()
        .into_bytes()
}

fn message(kind: &str, content: Value) -> Value {
    let mut message = json!({ "id": "wamid.I", "from": ANA, "timestamp": "1763800000", "type": kind });
    message[kind] = content;
    message
}

fn text(id: &str, body: &str) -> Value {
    let mut message = message("text", json!({ "body": body }));
    message["id"] = json!(id);
    message
}

fn messages_webhook(messages: &[Value]) -> Vec<u8> {
    let contact = json!({ "profile": { "name": "Ana" }, "wa_id": ANA, "user_id": "CO.1" });
    webhook("messages", json!({ "messages": messages, "contacts": [contact] }))
}

fn statuses_webhook(statuses: &[Value]) -> Vec<u8> {
    webhook("messages", json!({ "statuses": statuses }))
}

fn status(word: &str) -> Value {
    json!({ "id": "wamid.S", "status": word, "timestamp": "1763800000", "recipient_id": ANA })
}

/// The event `message` of one message.
fn event_data(message: Value) -> Value {
    let updates = parse_webhook(&messages_webhook(&[message])).unwrap();
    let [Update::Message(received)] = updates.as_slice() else { panic!("{updates:?}") };
    message_event::data(&received.message, &name()).unwrap()
}

/// The fields of every event of Ana, with `more`.
fn expected(kind: &str, more: Value) -> Value {
    let address = format!("{ANA}@s.whatsapp.net");
    let mut event = json!({
        "message_id": "wamid.I", "from": address, "to": address, "is_group": false, "message_type": kind,
        "timestamp": 1_763_800_000, "is_from_me": false, "sender_name": "Ana", "phone": ANA, "user_id": "CO.1",
    });
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event
}

/// A store that ingests webhooks; `recorded` is the result of the ledger for every status.
struct InboundFixture {
    store: TestStore,
    recorded: Option<ReceiptResult>,
    clock: u64,
}

impl InboundFixture {
    fn new() -> Self {
        Self { store: TestStore::new(), recorded: Some(ReceiptResult::Unknown), clock: 1_763_800_000_000 }
    }

    fn ingest(&mut self, body: &[u8]) -> CommitCounts {
        self.ingest_from(body, true)
    }

    /// Ingests a webhook to an account without a secret.
    fn ingest_unsigned(&mut self, body: &[u8]) -> CommitCounts {
        self.ingest_from(body, false)
    }

    fn ingest_from(&mut self, body: &[u8], signed: bool) -> CommitCounts {
        self.clock += 1;
        let parts = parse_webhook(body).unwrap().into_iter().map(|update| match update {
            Update::Message(received) => DeliveryPart::Message {
                instance: SHOP,
                name: name(),
                message: Box::new(received.message),
                signed,
            },
            Update::Status(received) => DeliveryPart::Status {
                instance: SHOP,
                status: Box::new(received.status),
                recorded: self.recorded,
            },
            Update::Change(change) => DeliveryPart::Change { instance: SHOP, change, signed },
            Update::Malformed(reason) => panic!("{reason}"),
        });
        let parts = parts.collect();
        self.commit(parts)
    }

    fn commit(&self, parts: Vec<DeliveryPart>) -> CommitCounts {
        let delivery = InboundDelivery {
            parts,
            quarantine: None,
            frames: None,
            relay: FrameQueue::disabled(),
            keywords: Arc::new(Keywords::new(&Options::default())),
            now: Timestamp(self.clock),
        };
        self.store.write(|tx| delivery.commit(tx)).unwrap()
    }

    fn count(&self, space: Space) -> usize {
        self.store.entries().iter().filter(|(key, _)| key[0] == space as u8).count()
    }

    /// All events, oldest first; each fits into one value of the store.
    fn events(&self) -> Vec<(String, Value)> {
        let entries = self.store.entries().into_iter();
        let events = entries.filter(|(key, _)| key[0] == Space::Event as u8).map(|(_, value)| {
            let event = events::decode(&value[2..]).unwrap();
            (event.kind.to_string(), event.data)
        });
        events.collect()
    }

    fn kinds(&self) -> Vec<String> {
        self.events().into_iter().map(|(kind, _)| kind).collect()
    }
}

#[test]
fn texts_and_files_have_the_documented_form() {
    assert_eq!(
        event_data(message("text", json!({ "body": "Hola" }))),
        expected("text", json!({ "text": "Hola" }))
    );
    let url = "/instances/shop/messages/wamid.I/media";
    for (kind, mime, placeholder, file) in
        [("image", "image/jpeg", "[Imagen]", "image.jpg"), ("video", "video/mp4", "[Video]", "video.mp4")]
    {
        let media = json!({ "id": "77", "mime_type": mime, "sha256": "abc=" });
        let bare = json!({
            "text": placeholder, "file_name": file, "mime_type": mime, "media_url": url, "media": media,
        });
        assert_eq!(event_data(message(kind, media.clone())), expected(kind, bare));
    }
    let media = json!({ "id": "77", "mime_type": "image/png", "caption": "Mira" });
    let captioned = json!({
        "text": "Mira", "caption": "Mira", "file_name": "image.jpg", "mime_type": "image/png", "media_url": url,
        "media": media,
    });
    assert_eq!(event_data(message("image", media)), expected("image", captioned));
    let media = json!({ "id": "77", "mime_type": "application/pdf", "filename": "carta.pdf" });
    let document = json!({
        "text": "[Documento]", "file_name": "carta.pdf", "mime_type": "application/pdf", "media_url": url,
        "media": media,
    });
    assert_eq!(event_data(message("document", media)), expected("document", document));
    let media = json!({ "id": "77", "mime_type": "audio/ogg; codecs=opus", "voice": true });
    let voice = json!({
        "text": "[Audio]", "file_name": "audio.ogg", "mime_type": "audio/ogg; codecs=opus", "media_url": url,
        "media": media,
    });
    assert_eq!(event_data(message("audio", media)), expected("audio", voice));
    let media = json!({ "id": "77", "mime_type": "image/webp", "animated": true });
    let sticker = json!({ "mime_type": "image/webp", "media_url": url, "media": media });
    assert_eq!(event_data(message("sticker", media)), expected("sticker", sticker));
}

#[test]
fn coordinates_have_six_decimals() {
    let place = json!({ "latitude": 19.4326, "longitude": -99.1332, "name": "Zócalo", "address": "Centro" });
    let expected_data = json!({
        "text": "[Ubicación]", "latitude": "19.432600", "longitude": "-99.133200", "location_name": "Zócalo",
        "location_address": "Centro",
    });
    assert_eq!(event_data(message("location", place)), expected("location", expected_data));
}

#[test]
fn replies_forms_and_orders_keep_whatsapps_form() {
    let form = json!({ "name": "flow", "body": "Sent", "response_json": "{\"a\":1}" });
    for (reply, text) in [
        (json!({ "type": "button_reply", "button_reply": { "id": "yes", "title": "Sí" } }), Some("Sí")),
        (
            json!({ "type": "list_reply", "list_reply": { "id": "1", "title": "Uno", "description": "El uno" } }),
            Some("Uno"),
        ),
        (json!({ "type": "nfm_reply", "nfm_reply": form }), Some("Sent")),
        (json!({ "type": "call_permission_reply", "call_permission_reply": { "response": "accept" } }), None),
    ] {
        let mut expected_data = json!({ "interactive": reply });
        if let Some(text) = text {
            expected_data["text"] = json!(text);
        }
        assert_eq!(event_data(message("interactive", reply)), expected("interactive", expected_data));
    }
    let button = json!({ "payload": "P", "text": "No" });
    let expected_data = json!({ "text": "No", "button": button });
    assert_eq!(event_data(message("button", button)), expected("button", expected_data));
    let item = json!({ "product_retailer_id": "r", "quantity": 2, "item_price": 9.5, "currency": "COP" });
    let order = json!({ "catalog_id": "c", "text": "Por favor", "product_items": [item] });
    let expected_data = json!({ "text": "Por favor", "order": order });
    assert_eq!(event_data(message("order", order)), expected("order", expected_data));
    let cards = json!([{ "name": { "formatted_name": "Eva" }, "origin": "other" }]);
    assert_eq!(
        event_data(message("contacts", cards.clone())),
        expected("contacts", json!({ "contacts": cards }))
    );
}

#[test]
fn reactions_edits_and_revokes_name_the_original_message() {
    for (reaction, expected_data) in [
        (
            json!({ "message_id": "wamid.O", "emoji": "👍" }),
            json!({ "message_id": "wamid.O", "emoji": "👍" }),
        ),
        (json!({ "message_id": "wamid.O" }), json!({ "message_id": "wamid.O" })),
        (json!({ "message_id": "wamid.O", "emoji": "" }), json!({ "message_id": "wamid.O" })),
    ] {
        assert_eq!(
            event_data(message("reaction", reaction)),
            expected("reaction", json!({ "reaction": expected_data }))
        );
    }
    let revoke = json!({ "original_message_id": "wamid.O" });
    assert_eq!(
        event_data(message("revoke", revoke.clone())),
        expected("revoke", json!({ "revoke": revoke }))
    );
    let now = json!({ "type": "text", "text": { "body": "Hola!" } });
    let edit = json!({ "original_message_id": "wamid.O", "message": now });
    let expected_data = json!({
        "text": "Hola!", "edit": { "original_message_id": "wamid.O", "message_type": "text" },
    });
    assert_eq!(event_data(message("edit", edit)), expected("edit", expected_data));
}

#[test]
fn notices_errors_and_unknown_types_are_in_the_event() {
    let notice = json!({ "type": "user_changed_number", "body": "Ana changed", "wa_id": "573009999999" });
    let expected_data = json!({ "text": "Ana changed", "system": notice });
    assert_eq!(event_data(message("system", notice)), expected("system", expected_data));
    let errors = json!([{ "code": 131_051, "title": "Unsupported", "error_data": { "details": "x" } }]);
    let mut unsupported = message("unsupported", Value::Null);
    unsupported["errors"] = errors.clone();
    assert_eq!(event_data(unsupported), expected("unsupported", json!({ "errors": errors })));
    let invented = message("hologram", json!({ "n": 1 }));
    assert_eq!(event_data(invented.clone()), expected("unknown", json!({ "raw": invented })));
}

#[test]
fn context_referral_group_and_hidden_number_are_in_the_event() {
    let mut full = message("text", json!({ "body": "Hola" }));
    let product = json!({ "catalog_id": "c", "product_retailer_id": "p" });
    full["context"] =
        json!({ "from": "1555", "id": "wamid.Q", "forwarded": true, "referred_product": product });
    full["referral"] = json!({ "source_type": "ad", "source_id": "9" });
    full["group_id"] = json!("120363025246125486");
    let expected_data = json!({
        "text": "Hola", "context": full["context"], "referral": full["referral"], "is_group": true,
        "to": "120363025246125486@g.us", "group_id": "120363025246125486",
    });
    assert_eq!(event_data(full), expected("text", expected_data));

    let mut hidden = message("text", json!({ "body": "Hola" }));
    hidden.as_object_mut().unwrap().remove("from");
    hidden["from_user_id"] = json!("CO.9");
    let body = webhook("messages", json!({ "messages": [hidden] }));
    let updates = parse_webhook(&body).unwrap();
    let [Update::Message(received)] = updates.as_slice() else { panic!("{updates:?}") };
    let expected_data = json!({
        "message_id": "wamid.I", "from": "CO.9", "to": "CO.9", "is_group": false, "message_type": "text",
        "timestamp": 1_763_800_000, "is_from_me": false, "text": "Hola", "user_id": "CO.9",
    });
    assert_eq!(message_event::data(&received.message, &name()).unwrap(), expected_data);
}

#[test]
fn media_url_escapes_the_message_id() {
    let mut image = message("image", json!({ "id": "77", "mime_type": "image/jpeg" }));
    image["id"] = json!("wamid.A/B+C?==");
    assert_eq!(event_data(image)["media_url"], "/instances/shop/messages/wamid.A%2FB%2BC%3F==/media");
}

#[test]
fn message_is_recorded_once_with_its_media() {
    let mut fixture = InboundFixture::new();
    let image = messages_webhook(&[message("image", json!({ "id": "77", "mime_type": "image/jpeg" }))]);
    assert_eq!(fixture.ingest(&image), CommitCounts { events: 1, duplicates: 0 });
    // The location, and its entry in the expiry index.
    assert_eq!(fixture.count(Space::InboundMedia), 2);
    let before = fixture.store.entries();
    assert_eq!(fixture.ingest(&image), CommitCounts { events: 0, duplicates: 1 });
    assert_eq!(fixture.store.entries(), before);
    let twice = [text("wamid.1", "a"), text("wamid.1", "a")];
    assert_eq!(fixture.ingest(&messages_webhook(&twice)), CommitCounts { events: 1, duplicates: 1 });
}

#[test]
fn a_thousand_messages_make_a_thousand_events_and_a_repeat_makes_none() {
    let mut fixture = InboundFixture::new();
    let batch: Vec<_> = (0..1000).map(|n| text(&format!("wamid.{n}"), &n.to_string())).collect();
    assert_eq!(fixture.ingest(&messages_webhook(&batch)), CommitCounts { events: 1000, duplicates: 0 });
    assert_eq!(fixture.ingest(&messages_webhook(&batch)), CommitCounts { events: 0, duplicates: 1000 });
    let texts: Vec<_> = fixture.events().iter().map(|(_, data)| data["text"].clone()).collect();
    assert_eq!(texts, (0..1000).map(|n| json!(n.to_string())).collect::<Vec<_>>());
}

#[test]
fn message_ids_are_deduplicated_within_their_scope() {
    let fixture = InboundFixture::new();
    let of = |scope: Option<&str>| {
        let Some(Update::Message(received)) =
            parse_webhook(&messages_webhook(&[text("A", "Hola")])).unwrap().pop()
        else {
            panic!("no message")
        };
        let mut message = Box::new(received.message);
        message.id_scope = scope.map(str::to_owned);
        DeliveryPart::Message { instance: SHOP, name: name(), message, signed: true }
    };
    let delivered =
        vec![of(Some("1@g.us 2@lid")), of(Some("1@g.us 3@lid")), of(None), of(Some("1@g.us 2@lid"))];
    assert_eq!(fixture.commit(delivered), CommitCounts { events: 3, duplicates: 1 });
}

#[test]
fn receipts_unknown_to_the_ledger_become_events_once() {
    let mut fixture = InboundFixture::new();
    let body = statuses_webhook(&[status("delivered"), status("read")]);
    assert_eq!(fixture.ingest(&body), CommitCounts { events: 2, duplicates: 0 });
    assert_eq!(fixture.ingest(&body), CommitCounts { events: 0, duplicates: 2 });
    let receipt = |kind: &str, status: &str| {
        json!({
            "message_id": "wamid.S", "ids": ["wamid.S"], "from": format!("{ANA}@s.whatsapp.net"), "type": kind,
            "status": status, "timestamp": 1_763_800_000,
        })
    };
    let expected_data: Vec<_> = fixture.events().into_iter().map(|(_, data)| data).collect();
    assert_eq!(expected_data, [receipt("", "delivered"), receipt("read", "read")]);
}

#[test]
fn group_participant_receipts_always_become_events() {
    let mut fixture = InboundFixture::new();
    fixture.recorded = Some(ReceiptResult::Unchanged(our_message_id()));
    let of = |participant: &str| {
        let mut status = status("read");
        status["recipient_id"] = json!("120363025246125486");
        status["recipient_participant_id"] = json!(participant);
        status
    };
    let (one, two) = (of("573000000001"), of("573000000002"));
    assert_eq!(
        fixture.ingest(&statuses_webhook(&[one.clone(), two, one])),
        CommitCounts { events: 2, duplicates: 1 }
    );
    let events = fixture.events();
    assert_eq!(events[0].1["participant"], "573000000001@s.whatsapp.net");
    assert_eq!(events[0].1["from"], "120363025246125486@g.us");
    assert_eq!(events[1].1["participant"], "573000000002@s.whatsapp.net");
    fixture.recorded = Some(ReceiptResult::Advanced(our_message_id()));
    assert_eq!(fixture.ingest(&statuses_webhook(&[status("read")])).events, 0);
}

#[test]
fn keywords_opt_out_and_opt_in() {
    let mut fixture = InboundFixture::new();
    fixture.ingest(&messages_webhook(&[text("wamid.1", "  Bajá ")]));
    assert_eq!(fixture.kinds(), ["message", "opt_out"]);
    assert_eq!(fixture.events()[1].1, json!({ "phone": ANA, "user_id": "CO.1", "why": "keyword" }));
    assert_eq!(fixture.count(Space::Suppressed), 2);
    fixture.ingest(&messages_webhook(&[text("wamid.2", "stop"), text("wamid.3", "baja por favor")]));
    assert_eq!(fixture.kinds()[2..], ["message", "message"]);
    fixture.ingest(&messages_webhook(&[text("wamid.4", "Alta")]));
    assert_eq!(fixture.kinds()[4..], ["message", "opt_in"]);
    assert_eq!(fixture.count(Space::Suppressed), 0);
    // A late repeated delivery changes nothing.
    fixture.ingest(&messages_webhook(&[text("wamid.1", "  Bajá ")]));
    assert_eq!(fixture.count(Space::Suppressed), 0);
    let mut in_group = text("wamid.5", "STOP");
    in_group["group_id"] = json!("120363025246125486");
    fixture.ingest(&messages_webhook(&[in_group]));
    assert_eq!(fixture.count(Space::Suppressed), 0);
}

#[test]
fn opt_out_errors_and_preferences_suppress_recipients() {
    let mut fixture = InboundFixture::new();
    fixture.recorded = Some(ReceiptResult::Advanced(MessageId::new(Timestamp(1), 0, SHOP, Class::Bulk, 1)));
    let mut failed = status("failed");
    failed["errors"] = json!([{ "code": 131_050, "title": "x" }]);
    fixture.ingest(&statuses_webhook(&[failed]));
    assert_eq!(fixture.events(), [("opt_out".to_owned(), json!({ "phone": ANA, "why": "opted_out" }))]);
    let preference = |value: &str| {
        let said = json!({ "wa_id": ANA, "category": "marketing_messages", "value": value });
        webhook("user_preferences", json!({ "user_preferences": [said] }))
    };
    fixture.ingest(&preference("resume"));
    assert_eq!(fixture.kinds()[1..], ["user_preferences", "opt_in"]);
    fixture.ingest(&preference("stop"));
    assert_eq!(fixture.events()[4], ("opt_out".to_owned(), json!({ "phone": ANA, "why": "preference" })));
}
