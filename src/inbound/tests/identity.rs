//! People under several names: ids in the place of numbers, changed numbers and ids, groups of the Cloud API.

use serde_json::{Value, json};

use super::{ANA, InboundFixture, event_data, message, messages_webhook, name, text, webhook};
use crate::inbound::{Options, message_event};
use relevo_cloud_api::{Update, parse_webhook};
use relevo_domain::Recipient;
use relevo_store::Space;

const NEW: &str = "573009999902";

fn is_suppressed(fixture: &InboundFixture, text: &str) -> bool {
    let recipient: Recipient = text.parse().unwrap();
    let keys: Vec<_> = recipient.spellings().map(|spelling| spelling.to_string().into_bytes()).collect();
    let entries = fixture.store.entries().into_iter();
    entries
        .filter(|(key, _)| key[0] == Space::Suppressed as u8)
        .any(|(key, _)| keys.iter().any(|text| key[1..] == *text))
}

fn notice(id: &str, from: Option<&str>, system: Value) -> Value {
    let mut message = message("system", system);
    message["id"] = json!(id);
    match from {
        Some(from) => message["from"] = json!(from),
        None => drop(message.as_object_mut().unwrap().remove("from")),
    }
    message
}

#[test]
fn opt_out_moves_with_a_changed_number() {
    let mut fixture = InboundFixture::new();
    fixture.ingest(&messages_webhook(&[text("wamid.1", "BAJA")]));
    let system = json!({ "type": "user_changed_number", "body": "…", "wa_id": NEW });
    fixture.ingest(&webhook("messages", json!({ "messages": [notice("wamid.2", Some(ANA), system)] })));
    assert!(is_suppressed(&fixture, NEW) && !is_suppressed(&fixture, ANA));
    assert_eq!(fixture.kinds(), ["message", "opt_out", "message", "opt_out"]);
    let moved = json!({ "phone": NEW, "why": "keyword", "previous": [ANA] });
    assert_eq!(fixture.events()[3].1, moved);
}

#[test]
fn opt_out_moves_with_a_changed_user_id() {
    let mut fixture = InboundFixture::new();
    fixture.ingest(&messages_webhook(&[text("wamid.1", "BAJA")]));
    let system =
        json!({ "type": "user_changed_user_id", "body": "…", "user_id": "CO.2", "previous_user_id": "CO.1" });
    let mut changed = notice("wamid.2", None, system.clone());
    changed["from_user_id"] = json!("CO.2");
    let body = webhook("messages", json!({ "messages": [changed] }));
    fixture.ingest(&body);
    assert!(
        is_suppressed(&fixture, "CO.2") && !is_suppressed(&fixture, "CO.1") && is_suppressed(&fixture, ANA)
    );
    let updates = parse_webhook(&body).unwrap();
    let [Update::Message(received)] = updates.as_slice() else { panic!("{updates:?}") };
    assert_eq!(message_event::data(&received.message, &name()).unwrap()["system"], system);

    let update = json!({ "wa_id": ANA, "user_id": { "previous": "CO.2", "current": "CO.3" } });
    fixture.ingest(&webhook("user_id_update", json!({ "user_id_update": [update] })));
    assert!(is_suppressed(&fixture, "CO.3") && !is_suppressed(&fixture, "CO.2"));
}

#[test]
fn person_who_did_not_opt_out_changes_silently() {
    let mut fixture = InboundFixture::new();
    let system = json!({ "type": "user_changed_number", "body": "…", "wa_id": NEW });
    fixture.ingest(&webhook("messages", json!({ "messages": [notice("wamid.2", Some(ANA), system)] })));
    assert_eq!((fixture.kinds(), fixture.count(Space::Suppressed)), (vec!["message".to_owned()], 0));
}

#[test]
fn unsigned_notice_removes_no_recipient_from_the_list() {
    let mut fixture = InboundFixture::new();
    fixture.ingest(&messages_webhook(&[text("wamid.1", "BAJA")]));
    let system = json!({ "type": "user_changed_number", "body": "…", "wa_id": NEW });
    fixture
        .ingest_unsigned(&webhook("messages", json!({ "messages": [notice("wamid.2", Some(ANA), system)] })));
    assert!(is_suppressed(&fixture, NEW) && is_suppressed(&fixture, ANA));
}

#[test]
fn user_id_in_the_place_of_the_number_names_the_author() {
    const ID: &str = "CO.60417733920855124472";
    let mut fixture = InboundFixture::new();
    let mut hidden = text("wamid.1", "STOP.");
    hidden["from"] = json!(ID);
    let contacts = json!([{ "profile": { "name": "Ana" }, "wa_id": ID }]);
    fixture.ingest(&webhook("messages", json!({ "contacts": contacts, "messages": [hidden] })));
    let (_, data) = &fixture.events()[0];
    assert_eq!(
        (&data["user_id"], &data["from"], &data["sender_name"]),
        (&json!(ID), &json!(ID), &json!("Ana"))
    );
    assert!(data.get("phone").is_none() && is_suppressed(&fixture, ID));
}

#[test]
fn parent_id_of_a_user_is_in_the_event_and_on_the_list() {
    let mut fixture = InboundFixture::new();
    let contact = json!({ "wa_id": ANA, "user_id": "CO.1", "parent_user_id": "CO.ENT.7" });
    let body = webhook("messages", json!({ "contacts": [contact], "messages": [text("wamid.1", "BAJA")] }));
    fixture.ingest(&body);
    assert_eq!(fixture.events()[0].1["parent_user_id"], "CO.ENT.7");
    assert!(["573001234567", "CO.1", "CO.ENT.7"].into_iter().all(|name| is_suppressed(&fixture, name)));
}

#[test]
fn event_names_a_group_in_a_form_that_can_be_sent_to() {
    const GROUP: &str = "Y2FwaV9ncm91cDoxNTU1MDAwMTE5OToxMjAzNjMwOTk4ODc3NjY1NTQZD";
    let mut in_group = text("wamid.1", "hola");
    in_group["group_id"] = json!(GROUP);
    let event = event_data(in_group);
    let recipient: Recipient = GROUP.parse().unwrap();
    for field in ["to", "group_id"] {
        assert_eq!(event[field].as_str().unwrap().parse::<Recipient>().unwrap(), recipient, "{field}");
    }
}

#[test]
fn keyword_counts_in_either_spelling_of_a_number() {
    let mut fixture = InboundFixture::new();
    let from = |id: &str, phone: &str, body: &str| {
        let mut message = text(id, body);
        message["from"] = json!(phone);
        webhook("messages", json!({ "messages": [message] }))
    };
    fixture.ingest(&from("wamid.1", "558587654321", "BAJA"));
    assert!(is_suppressed(&fixture, "5585987654321"));
    fixture.ingest(&from("wamid.2", "5585987654321", "ALTA"));
    assert_eq!(fixture.kinds(), ["message", "opt_out", "message", "opt_in"]);
    assert_eq!(fixture.count(Space::Suppressed), 0);
    fixture.ingest(&from("wamid.3", "376312346", "BAJA"));
    assert!(is_suppressed(&fixture, "376312346"));
}

#[test]
fn default_keywords_are_documented() {
    let Options { opt_out_keywords, opt_in_keywords } = Options::default();
    let manual = include_str!("../../../config/default.toml");
    for keyword in opt_out_keywords.iter().chain(&opt_in_keywords) {
        assert!(manual.contains(&format!("\"{keyword}\"")), "{keyword}");
    }
}
