//! Tests of the webhook parser.

use serde_json::json;

use super::*;
use relevo_domain::{
    Chat, Class, EventKind, FailureKind, InboundContent, InstanceNumber, MessageId, Receipt,
};

fn parse(body: &Value) -> Vec<Update> {
    parse_webhook(body.to_string().as_bytes()).unwrap()
}

fn webhook(changes: Value) -> Value {
    json!({ "object": "whatsapp_business_account", "entry": [{ "id": "WABA", "changes": changes }] })
}

fn messages(value: Value) -> Value {
    let mut value = value;
    value["messaging_product"] = json!("whatsapp");
    value["metadata"] = json!({ "display_phone_number": "15550001111", "phone_number_id": "1065" });
    json!({ "field": "messages", "value": value })
}

fn status(word: &str) -> Value {
    json!({ "id": "wamid.A", "status": word, "timestamp": "1763800000", "recipient_id": "573001234567" })
}

fn only_status(body: &Value) -> StatusUpdate {
    match parse(body).as_slice() {
        [Update::Status(received)] => received.status.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn status_becomes_an_update_of_our_message() {
    let instance = InstanceNumber::FIRST;
    let id = MessageId::new(Timestamp(1_763_800_000_000), 1, instance, Class::Bulk, 7);
    let mut delivered = status("delivered");
    delivered["biz_opaque_callback_data"] = json!(id.to_string());
    delivered["pricing"] = json!({ "billable": true });
    let found = only_status(&webhook(json!([messages(json!({ "statuses": [delivered] }))])));
    let expected = StatusUpdate {
        provider_id: "wamid.A".parse().unwrap(),
        our_id: Some(id),
        receipt: Receipt::Delivered,
        at: Timestamp(1_763_800_000_000),
        recipient: Some("573001234567".to_owned()),
        participant: None,
        failure: None,
    };
    assert_eq!(found, expected);
}

#[test]
fn status_names_hidden_user_and_group_participant() {
    let mut read = status("read");
    read["recipient_id"].take();
    read["recipient_user_id"] = json!("US.134");
    read["recipient_participant_id"] = json!("573009999999");
    let found = only_status(&webhook(json!([messages(json!({ "statuses": [read] }))])));
    assert_eq!(found.recipient.as_deref(), Some("US.134"));
    assert_eq!(found.participant.as_deref(), Some("573009999999"));
}

#[test]
fn failed_status_is_classified_like_a_failed_request() {
    let mut failed = status("failed");
    failed["errors"] = json!([{
        "code": 131_049, "title": "t", "message": "m", "error_data": { "details": "Kept back" },
    }]);
    let failure = only_status(&webhook(json!([messages(json!({ "statuses": [failed] }))]))).failure.unwrap();
    assert_eq!((failure.code, failure.message.as_str()), (Some(131_049), "Kept back"));
    assert!(matches!(failure.kind, FailureKind::Deferred { .. }));

    let bare = only_status(&webhook(json!([messages(json!({ "statuses": [status("failed")] }))])));
    assert_eq!(bare.failure.unwrap().kind, FailureKind::Permanent);
}

#[test]
fn other_fields_are_passed_through_unchanged() {
    let template = json!({ "field": "message_template_status_update", "value": { "event": "PAUSED" } });
    let invented =
        json!({ "field": "holograms", "value": { "metadata": { "phone_number_id": "1065" }, "n": 1 } });
    let mut body = webhook(json!([template, invented]));
    body["entry"][0]["time"] = json!(1_763_800_000);
    let updates = parse(&body);
    let [Update::Change(change), Update::Change(unknown)] = updates.as_slice() else { panic!("{updates:?}") };
    assert_eq!((change.phone_number_id.as_deref(), &change.kind), (None, &EventKind::TemplateStatus));
    assert_eq!((change.account.as_deref(), change.at), (Some("WABA"), Some(Timestamp(1_763_800_000_000))));
    let expected = json!({
        "event": "PAUSED", "field": "message_template_status_update", "account_id": "WABA",
        "timestamp": 1_763_800_000,
    });
    assert_eq!(change.data(), expected);
    assert_eq!((unknown.phone_number_id.as_deref(), &unknown.kind), (Some("1065"), &EventKind::Raw));
    assert_eq!(unknown.data(), invented);
}

#[test]
fn every_documented_field_has_a_kind() {
    for (field, kind) in [
        ("message_template_quality_update", "template_quality"),
        ("template_category_update", "template_category"),
        ("phone_number_quality_update", "number_quality"),
        ("account_update", "account_update"),
        ("account_alerts", "account_alert"),
        ("business_capability_update", "business_capability"),
        ("user_preferences", "user_preferences"),
        ("user_id_update", "user_id_update"),
        ("security", "security"),
        ("history", "history"),
    ] {
        let updates = parse(&webhook(json!([{ "field": field, "value": {} }])));
        let [Update::Change(change)] = updates.as_slice() else { panic!("{updates:?}") };
        assert_eq!(change.kind.as_str(), kind);
    }
}

#[test]
fn errors_without_a_message_become_account_errors() {
    let errors = json!({ "errors": [{ "code": 130_429, "title": "Rate limit hit" }] });
    let updates = parse(&webhook(json!([messages(errors.clone())])));
    let [Update::Change(change)] = updates.as_slice() else { panic!("{updates:?}") };
    assert_eq!((&change.kind, &change.value["errors"]), (&EventKind::AccountError, &errors["errors"]));
}

#[test]
fn marketing_preferences_are_parsed_when_valid() {
    let entry = |value: &str, category: &str| json!({ "wa_id": "573001234567", "user_id": "CO.1", "value": value, "category": category });
    let list = json!([
        entry("stop", "marketing_messages"),
        entry("resume", "marketing_messages"),
        entry("stop", "utility_messages"),
        entry("perhaps", "marketing_messages"),
        { "value": "stop" },
        7,
    ]);
    let change = json!({ "field": "user_preferences", "value": { "user_preferences": list } });
    let updates = parse(&webhook(json!([change])));
    let [Update::Change(change)] = updates.as_slice() else { panic!("{updates:?}") };
    let parsed: Vec<_> = change
        .preferences()
        .iter()
        .map(|preference| (preference.user.to_string(), preference.opted_out))
        .collect();
    let user = "573001234567@s.whatsapp.net".to_owned();
    assert_eq!(parsed, [(user.clone(), true), (user, false)]);
}

#[test]
fn statuses_and_messages_of_one_change_are_separated() {
    let both = messages(
        json!({ "statuses": [status("sent")], "messages": [message("text", json!({ "body": "a" }))] }),
    );
    let updates = parse(&webhook(json!([both])));
    assert!(matches!(updates.as_slice(), [Update::Status(_), Update::Message(_)]), "{updates:?}");
}

fn message(kind: &str, content: Value) -> Value {
    let mut message = json!({
        "id": "wamid.I", "from": "573001234567", "from_user_id": "CO.1", "timestamp": "1763800000", "type": kind,
    });
    message[kind] = content;
    message
}

fn only_message(body: &Value) -> InboundMessage {
    match parse(body).as_slice() {
        [Update::Message(received)] => received.message.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sender_is_found_in_message_and_contact() {
    let contact = json!({ "profile": { "name": "Ana", "username": "ana.b" }, "user_id": "CO.1" });
    let stranger = json!({ "profile": { "name": "Eva" }, "wa_id": "573009999999", "user_id": "CO.2" });
    let mut hidden = message("text", json!({ "body": "Hola" }));
    hidden.as_object_mut().unwrap().remove("from");
    let contacts = json!([stranger, contact]);
    let found =
        only_message(&webhook(json!([messages(json!({ "messages": [hidden], "contacts": contacts }))])));
    let identity = &found.sender.identity;
    assert_eq!((identity.phone(), identity.user_id()), (None, Some("CO.1")));
    assert_eq!(
        (found.sender.name.as_deref(), found.sender.username.as_deref()),
        (Some("Ana"), Some("ana.b"))
    );

    let mut bare = hidden.clone();
    bare.as_object_mut().unwrap().remove("from_user_id");
    let lone = json!({ "messages": [bare], "contacts": [stranger] });
    assert_eq!(only_message(&webhook(json!([messages(lone)]))).sender.identity.phone(), Some("573009999999"));
    let anonymous = parse(&webhook(json!([messages(json!({ "messages": [bare] }))])));
    assert!(matches!(anonymous.as_slice(), [Update::Malformed(_)]), "{anonymous:?}");
}

#[test]
fn echo_is_from_the_owner_to_its_recipient() {
    let mut echo = message("text", json!({ "body": "Ya va" }));
    echo["from"] = json!("15550001111");
    echo["to"] = json!("573001234567");
    let value = json!({ "metadata": { "phone_number_id": "1065" }, "message_echoes": [echo] });
    let found = only_message(&webhook(json!([{ "field": "smb_message_echoes", "value": value }])));
    let Chat::FromMe(to) = &found.chat else { panic!("{found:?}") };
    assert_eq!((to.phone(), found.sender.identity.phone()), (Some("573001234567"), Some("15550001111")));
}

#[test]
fn malformed_message_does_not_affect_others_and_unknown_content_is_kept() {
    let good = message("text", json!({ "body": "Hola" }));
    let without = |field: &str| {
        let mut message = good.clone();
        message.as_object_mut().unwrap().remove(field);
        message
    };
    let odd = message("text", json!({ "body": 7 }));
    let list =
        json!([without("id"), good, without("timestamp"), 7, odd, message("hologram", json!({ "n": 1 }))]);
    let updates = parse(&webhook(json!([messages(json!({ "messages": list }))])));
    let found: Vec<_> = updates
        .iter()
        .map(|update| match update {
            Update::Message(received) => received.message.content.kind().to_owned(),
            Update::Malformed(reason) => reason.rsplit_once("value.").unwrap().1.to_owned(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        found,
        [
            "messages[0]: has no id",
            "text",
            "messages[2]: has no timestamp",
            "messages[3]: has neither a phone number nor a user id in from",
            "unknown",
            "unknown",
        ]
    );
    let Update::Message(invented) = &updates[5] else { panic!() };
    assert_eq!(invented.message.content, InboundContent::Unknown(message("hologram", json!({ "n": 1 }))));
}

#[test]
fn nested_edit_is_not_parsed() {
    let mut text = message("text", json!({ "body": "x" }));
    for _ in 0..40 {
        text = message("edit", json!({ "original_message_id": "wamid.O", "message": text }));
    }
    let found = only_message(&webhook(json!([messages(json!({ "messages": [text] }))])));
    let InboundContent::Edit { now, .. } = found.content else { panic!("{found:?}") };
    assert!(matches!(*now, InboundContent::Unknown(_)));
}

#[test]
fn thousand_updates_keep_their_order() {
    let list: Vec<_> = (0..1000)
        .map(|n| {
            let mut message = message("text", json!({ "body": n.to_string() }));
            message["id"] = json!(format!("wamid.{n}"));
            message
        })
        .collect();
    let updates = parse(&webhook(json!([messages(json!({ "messages": list }))])));
    assert_eq!(updates.len(), 1000);
    for (n, update) in updates.iter().enumerate() {
        let Update::Message(received) = update else { panic!("{update:?}") };
        assert_eq!(received.message.id.as_str(), format!("wamid.{n}"));
    }
}

#[test]
fn unknown_status_is_passed_through() {
    let updates = parse(&webhook(json!([messages(json!({ "statuses": [status("warning")] }))])));
    let [Update::Change(raw)] = updates.as_slice() else { panic!("{updates:?}") };
    assert_eq!(raw.value["statuses"][0]["status"], "warning");
    assert_eq!(raw.value["metadata"]["phone_number_id"], "1065");
}

#[test]
fn malformed_part_does_not_affect_others() {
    let statuses = json!([
        status("sent"),
        { "status": "sent", "timestamp": "1" },
        { "status": "sent", "id": "wamid.B", "timestamp": "soon" },
        7,
        status("read"),
    ]);
    let body = json!({ "entry": [
        null,
        { "id": "WABA", "changes": [3, { "value": {} }, messages(json!({ "statuses": statuses }))] },
        { "changes": [{ "field": "messages", "value": { "statuses": [status("sent")] } }] },
    ]});
    let updates = parse(&body);
    let malformed: Vec<_> = updates
        .iter()
        .filter_map(|update| match update {
            Update::Malformed(reason) => Some(reason.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(
        malformed,
        [
            "entry[0]: has no list of changes",
            "entry[1].changes[0]: is not an object",
            "entry[1].changes[1]: names no field",
            "entry[1].changes[2].value.statuses[1]: has no id",
            "entry[1].changes[2].value.statuses[2]: has no timestamp",
            "entry[1].changes[2].value.statuses[3]: has no status",
            "entry[2].changes[0].value.statuses[0]: the change names no phone_number_id",
        ]
    );
    assert_eq!(updates.len() - malformed.len(), 2);
}

#[test]
fn body_that_is_no_webhook_is_rejected() {
    for body in ["", "{", "[]", "null", "{}", r#"{"entry":{}}"#] {
        assert!(parse_webhook(body.as_bytes()).is_err(), "{body}");
    }
}
