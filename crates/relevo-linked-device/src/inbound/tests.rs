//! Tests of the translation of messages.

use serde_json::json;
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::chrono::DateTime;
use whatsapp_rust::types::message::MessageSource;
use whatsapp_rust::wacore::stanza::business::VerifiedName;

use super::*;

fn jid(text: &str) -> Jid {
    text.parse().unwrap()
}

fn info(chat: &str, sender: &str, from_me: bool) -> MessageInfo {
    let source = MessageSource {
        chat: jid(chat),
        sender: jid(sender),
        is_from_me: from_me,
        ..MessageSource::default()
    };
    MessageInfo {
        id: "3EB0C2FE7A4B5C8D9E0F12".to_owned(),
        source,
        push_name: "Ana".to_owned(),
        timestamp: DateTime::from_timestamp(1_763_800_000, 0).unwrap(),
        ..MessageInfo::default()
    }
}

fn hello() -> wa::Message {
    wa::Message { conversation: Some("hola".to_owned()), ..Default::default() }
}

fn parse(info: &MessageInfo, message: &wa::Message) -> Option<InboundMessage> {
    super::parse_message(info, message, &LidMapping::default(), |_| None)
}

const PHONE: &str = "573001234567:2@s.whatsapp.net";
const HIDDEN: &str = "123456789012345@lid";
const GROUP: &str = "120363025246125486@g.us";

#[test]
fn message_names_sender_by_phone_and_lid() {
    let mut info = info(HIDDEN, HIDDEN, false);
    info.source.sender_alt = Some(jid(PHONE));
    let message = parse(&info, &hello()).unwrap();
    assert_eq!(message.chat, Chat::Direct);
    assert_eq!(message.sender.identity.phone(), Some("573001234567"));
    assert_eq!(message.sender.identity.user_id(), Some(HIDDEN));
    assert_eq!(message.sender.name.as_deref(), Some("Ana"));
    assert_eq!(message.at.seconds(), 1_763_800_000);
    assert_eq!(message.content, InboundContent::Text("hola".to_owned()));
    assert_eq!(
        contact_addresses(&info, &LidMapping::default()).collect::<Vec<_>>(),
        [HIDDEN, "573001234567@s.whatsapp.net"]
    );
}

#[test]
fn known_phone_is_added_to_the_lid() {
    let (info, names) =
        (info(HIDDEN, HIDDEN, false), LidMapping::from_pair(HIDDEN, "573001234567@s.whatsapp.net"));
    let message = super::parse_message(&info, &hello(), &names, |_| None).unwrap();
    assert_eq!(message.sender.identity.phone(), Some("573001234567"));
    assert_eq!(contact_addresses(&info, &names).last().as_deref(), Some("573001234567@s.whatsapp.net"));
}

#[test]
fn business_without_push_name_is_named_by_its_certificate() {
    let mut info = info(PHONE, PHONE, false);
    let certificate = |name: &str| VerifiedName {
        name: Some(name.to_owned()),
        serial: None,
        issuer: None,
        certificate: None,
    };
    info.verified_name = Some(Box::new(certificate("Tienda Sur")));
    let name = |info: &MessageInfo| parse(info, &hello()).unwrap().sender.name;
    assert_eq!(name(&info).as_deref(), Some("Ana"));
    info.push_name = String::new();
    assert_eq!(name(&info).as_deref(), Some("Tienda Sur"));
}

#[test]
fn chat_kind_follows_the_jid() {
    let newsletter = "120363025246125486@newsletter";
    let own = "573009999999:5@s.whatsapp.net";
    let chat = |chat, sender, from_me| parse(&info(chat, sender, from_me), &hello()).unwrap().chat;
    assert_eq!(chat(GROUP, PHONE, false), Chat::Group(GROUP.to_owned()));
    assert_eq!(chat(GROUP, own, true), Chat::GroupFromMe(GROUP.to_owned()));
    assert_eq!(chat(newsletter, newsletter, false), Chat::Newsletter(newsletter.to_owned()));
    let Chat::FromMe(to) = chat("573001234567@s.whatsapp.net", own, true) else { panic!() };
    assert_eq!(to.phone(), Some("573001234567"));
}

#[test]
fn only_direct_senders_become_contacts() {
    let contacts = |chat, sender, from_me| {
        contact_addresses(&info(chat, sender, from_me), &LidMapping::default()).collect::<Vec<_>>()
    };
    assert_eq!(contacts(GROUP, PHONE, false), [""; 0]);
    assert_eq!(contacts("status@broadcast", PHONE, false), [""; 0]);
    assert_eq!(
        contacts("573001234567@s.whatsapp.net", "573009999999@s.whatsapp.net", true),
        ["573001234567@s.whatsapp.net"]
    );
}

#[test]
fn status_update_becomes_an_event() {
    let info = info("status@broadcast", PHONE, false);
    assert_eq!(parse(&info, &hello()), None);
    let Some(ConnectionEvent::Other { kind, data, .. }) =
        status_update(&info, &hello(), &LidMapping::default())
    else {
        panic!()
    };
    assert_eq!(kind, EventKind::StatusUpdate);
    let expected = json!({
        "message_id": "3EB0C2FE7A4B5C8D9E0F12",
        "from": "573001234567@s.whatsapp.net",
        "phone": "573001234567",
        "sender_name": "Ana",
        "message_type": "text",
        "timestamp": 1_763_800_000,
        "text": "hola",
    });
    assert_eq!(data, expected);
    assert!(status_update(&self::info(PHONE, PHONE, false), &hello(), &LidMapping::default()).is_none());
}

#[test]
fn phone_only_message_is_reported_as_unsupported() {
    let placeholder = wa::Message {
        placeholder_message: MessageField::some(wa::message::PlaceholderMessage::default()),
        ..Default::default()
    };
    let message = parse(&info(PHONE, PHONE, false), &placeholder).unwrap();
    assert_eq!(message.content, InboundContent::Unsupported);
    assert_eq!(message.errors, [unsupported_error()]);
}

#[test]
fn media_without_a_path_is_reported_with_an_error() {
    let image = wa::Message {
        image_message: MessageField::some(wa::message::ImageMessage::default()),
        ..Default::default()
    };
    let message = parse(&info(PHONE, PHONE, false), &image).unwrap();
    assert_eq!(message.media().unwrap().id, "");
    assert_eq!(message.errors, [missing_media_error()]);
}
