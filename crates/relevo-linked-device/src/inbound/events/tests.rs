//! Tests of the translation of events.

use std::sync::Arc;

use whatsapp_rust::types::events::{
    ChatPresenceUpdate, Connected, ContactUpdate, DecryptFailMode, PairPasskeyRequest, PresenceUpdate,
    PushNameUpdate, UnavailableType,
};
use whatsapp_rust::types::message::MessageInfo;
use whatsapp_rust::waproto::whatsapp as wa;

use super::*;
use relevo_domain::{Class, InstanceNumber};

const NOW: Timestamp = Timestamp(1_763_800_000_500);
const ANA: &str = "573001234567@s.whatsapp.net";
const GROUP: &str = "120363025246125486@g.us";

fn jid(text: &str) -> Jid {
    text.parse().unwrap()
}

fn at() -> DateTime<Utc> {
    DateTime::from_timestamp(1_763_800_000, 0).unwrap()
}

fn source(chat: &str, sender: &str, other: Option<&str>) -> MessageSource {
    let sender_alt = other.map(jid);
    MessageSource { chat: jid(chat), sender: jid(sender), sender_alt, ..MessageSource::default() }
}

fn ours() -> MessageId {
    MessageId::new(NOW, 1, InstanceNumber::FIRST, Class::Transactional, 0)
}

fn events_of(event: &Event) -> Vec<ConnectionEvent> {
    connection_events(event, NOW, &LidMapping::default(), |stanza| (stanza == "OURS").then(ours))
}

fn single_event(event: &Event) -> (EventKind, Value) {
    match events_of(event).pop() {
        Some(ConnectionEvent::Other { kind, data, .. }) => (kind, data),
        other => panic!("{other:?}"),
    }
}

fn receipt(source: MessageSource, r#type: ReceiptType) -> Event {
    let ids = vec!["OURS".to_owned(), "THEIRS".to_owned()];
    let receipt =
        Receipt::builder().source(source).message_ids(ids).timestamp(at()).r#type(r#type).offline(false);
    Event::Receipt(receipt.build())
}

#[test]
fn receipt_becomes_one_status_update_per_message() {
    let event = receipt(source(ANA, "573001234567:3@s.whatsapp.net", None), ReceiptType::Read);
    let Some(ConnectionEvent::Statuses(updates)) = events_of(&event).pop() else { panic!() };
    let [first, second] = updates.as_slice() else { panic!("{updates:?}") };
    assert_eq!((first.our_id, second.our_id), (Some(ours()), None));
    assert_eq!((first.provider_id.as_str(), second.provider_id.as_str()), ("OURS", "THEIRS"));
    assert_eq!((first.receipt, first.at.seconds()), (domain::Receipt::Read, 1_763_800_000));
    assert_eq!((first.recipient.as_deref(), first.participant.as_deref()), (Some(ANA), None));
}

#[test]
fn group_receipt_names_participant_by_phone() {
    let event = receipt(source(GROUP, "1234567890@lid", Some(ANA)), ReceiptType::Delivered);
    let Some(ConnectionEvent::Statuses(updates)) = events_of(&event).pop() else { panic!() };
    assert_eq!(updates[0].recipient.as_deref(), Some(GROUP));
    assert_eq!(updates[0].participant.as_deref(), Some(ANA));
}

#[test]
fn receipts_of_own_devices_are_ignored() {
    for r#type in [ReceiptType::Sender, ReceiptType::ReadSelf, ReceiptType::Retry, ReceiptType::PeerMsg] {
        assert!(events_of(&receipt(source(ANA, ANA, None), r#type.clone())).is_empty(), "{type:?}");
    }
}

#[test]
fn presence_event_has_documented_fields() {
    let presence = ChatPresenceUpdate::builder()
        .source(source("1234567890@lid", "1234567890@lid", Some(ANA)))
        .state(ChatPresence::Composing)
        .media(ChatPresenceMedia::Audio)
        .build();
    let expected = json!({
        "from": "1234567890@lid",
        "state": "composing",
        "media": "audio",
        "phone": "573001234567",
        "user_id": "1234567890@lid",
    });
    assert_eq!(single_event(&Event::ChatPresence(presence)), (EventKind::Presence, expected));
    let presence = PresenceUpdate::builder().from(jid(ANA)).unavailable(true).last_seen(at()).build();
    let expected = json!({
        "from": ANA, "state": "unavailable", "media": "", "last_seen": 1_763_800_000, "phone": "573001234567",
    });
    assert_eq!(single_event(&Event::Presence(presence)), (EventKind::Presence, expected));
}

#[test]
fn call_event_has_documented_fields() {
    let offer = CallAction::Offer {
        call_id: "CALL".to_owned(),
        call_creator: jid(ANA),
        caller_pn: None,
        caller_country_code: None,
        device_class: None,
        joinable: false,
        is_video: true,
        audio: Vec::new(),
        group_jid: None,
    };
    let call = IncomingCall::new_for_test(jid(ANA), "S".to_owned(), at(), offer);
    let expected = json!({
        "from": ANA,
        "call_id": "CALL",
        "timestamp": 1_763_800_000,
        "is_video": true,
        "status": "incoming",
        "group_id": null,
        "phone": "573001234567",
    });
    assert_eq!(single_event(&Event::IncomingCall(call)), (EventKind::Call, expected));
    let relay = CallAction::RelayLatency { call_id: "CALL".to_owned(), call_creator: jid(ANA) };
    let relay = IncomingCall::new_for_test(jid(ANA), "S".to_owned(), at(), relay);
    assert!(events_of(&Event::IncomingCall(relay)).is_empty());
}

#[test]
fn group_event_names_its_author() {
    let update = GroupUpdate::builder()
        .group_jid(jid(GROUP))
        .participant(jid("1234567890@lid"))
        .participant_pn(jid(ANA))
        .timestamp(at())
        .is_lid_addressing_mode(true)
        .action(whatsapp_rust::wacore::stanza::groups::GroupNotificationAction::Announce)
        .build();
    let (kind, data) = single_event(&Event::GroupUpdate(update));
    assert_eq!((kind, &data["group_id"], &data["author"]), (EventKind::Group, &json!(GROUP), &json!(ANA)));
    assert_eq!(data["action"], "announcement");
}

#[test]
fn undecryptable_message_is_reported() {
    let mut info = MessageInfo { id: "A".to_owned(), timestamp: at(), ..MessageInfo::default() };
    info.source = source(ANA, ANA, None);
    let message = UndecryptableMessage::builder()
        .info(Arc::new(info))
        .is_unavailable(false)
        .unavailable_type(UnavailableType::Unknown)
        .decrypt_fail_mode(DecryptFailMode::Show)
        .build();
    let expected = json!({
        "message_id": "A",
        "from": ANA,
        "to": ANA,
        "is_group": false,
        "is_from_me": false,
        "timestamp": 1_763_800_000,
        "reason": "keys",
        "unavailable": null,
        "phone": "573001234567",
    });
    assert_eq!(single_event(&Event::UndecryptableMessage(message)), (EventKind::Undecryptable, expected));
}

#[test]
fn contact_change_is_reported_except_during_full_sync() {
    let name = PushNameUpdate::builder()
        .jid(jid(ANA))
        .message(Box::default())
        .old_push_name("Ana".to_owned())
        .new_push_name("Ana P.".to_owned())
        .build();
    let expected = json!({
        "contact": ANA, "change": "name", "details": { "old": "Ana", "new": "Ana P." }, "phone": "573001234567",
    });
    assert_eq!(single_event(&Event::PushNameUpdate(name)), (EventKind::Contact, expected));
    let saved = |from_full_sync| {
        let action =
            wa::sync_action_value::ContactAction { full_name: Some("Ana".to_owned()), ..Default::default() };
        let update = ContactUpdate::builder().jid(jid(ANA)).timestamp(at()).action(Box::new(action));
        events_of(&Event::ContactUpdate(update.from_full_sync(from_full_sync).build())).len()
    };
    assert_eq!((saved(false), saved(true)), (1, 0));
}

#[test]
fn passkey_request_carries_its_options() {
    let request_options_json = r#"{"challenge":"abc"}"#.to_owned();
    let request = PairPasskeyRequest::builder().request_options_json(request_options_json).build();
    let expected = json!({ "stage": "request", "options": { "challenge": "abc" } });
    assert_eq!(single_event(&Event::PairPasskeyRequest(request)), (EventKind::Passkey, expected));
}

#[test]
fn connection_state_events_are_ignored() {
    assert!(events_of(&Event::Connected(Connected::builder().build())).is_empty());
}
