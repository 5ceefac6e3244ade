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

fn read(info: &MessageInfo, message: &wa::Message) -> Option<InboundMessage> {
    super::message(info, message, &Names::default(), |_| None)
}

const PHONE: &str = "573001234567:2@s.whatsapp.net";
const HIDDEN: &str = "123456789012345@lid";
const GROUP: &str = "120363025246125486@g.us";

#[test]
fn a_message_says_who_wrote_it_by_every_name() {
    let mut info = info(HIDDEN, HIDDEN, false);
    info.source.sender_alt = Some(jid(PHONE));
    let message = read(&info, &hello()).unwrap();
    assert_eq!(message.chat, Chat::Direct);
    assert_eq!(message.sender.identity.phone(), Some("573001234567"));
    assert_eq!(message.sender.identity.user_id(), Some(HIDDEN));
    assert_eq!(message.sender.name.as_deref(), Some("Ana"));
    assert_eq!(message.at.seconds(), 1_763_800_000);
    assert_eq!(message.content, InboundContent::Text("hola".to_owned()));
    assert_eq!(
        addresses(&info, &Names::default()).collect::<Vec<_>>(),
        [HIDDEN, "573001234567@s.whatsapp.net"]
    );
}

#[test]
fn a_number_that_was_learnt_earlier_is_told_with_the_hidden_id() {
    let (info, names) = (info(HIDDEN, HIDDEN, false), Names::of(HIDDEN, "573001234567@s.whatsapp.net"));
    let message = super::message(&info, &hello(), &names, |_| None).unwrap();
    assert_eq!(message.sender.identity.phone(), Some("573001234567"));
    assert_eq!(addresses(&info, &names).last().as_deref(), Some("573001234567@s.whatsapp.net"));
}

#[test]
fn a_business_that_shows_no_name_is_named_by_its_certificate() {
    let mut info = info(PHONE, PHONE, false);
    let certificate = |name: &str| VerifiedName {
        name: Some(name.to_owned()),
        serial: None,
        issuer: None,
        certificate: None,
    };
    info.verified_name = Some(Box::new(certificate("Tienda Sur")));
    let name = |info: &MessageInfo| read(info, &hello()).unwrap().sender.name;
    assert_eq!(name(&info).as_deref(), Some("Ana"));
    info.push_name = String::new();
    assert_eq!(name(&info).as_deref(), Some("Tienda Sur"));
}

#[test]
fn every_place_has_its_kind_of_chat() {
    let newsletter = "120363025246125486@newsletter";
    let own = "573009999999:5@s.whatsapp.net";
    let chat = |chat, sender, from_me| read(&info(chat, sender, from_me), &hello()).unwrap().chat;
    assert_eq!(chat(GROUP, PHONE, false), Chat::Group(GROUP.to_owned()));
    assert_eq!(chat(GROUP, own, true), Chat::GroupFromMe(GROUP.to_owned()));
    assert_eq!(chat(newsletter, newsletter, false), Chat::Newsletter(newsletter.to_owned()));
    let Chat::FromMe(to) = chat("573001234567@s.whatsapp.net", own, true) else { panic!() };
    assert_eq!(to.phone(), Some("573001234567"));
}

#[test]
fn only_those_who_wrote_to_us_are_met() {
    let met = |chat, sender, from_me| {
        addresses(&info(chat, sender, from_me), &Names::default()).collect::<Vec<_>>()
    };
    assert_eq!(met(GROUP, PHONE, false), [""; 0]);
    assert_eq!(met("status@broadcast", PHONE, false), [""; 0]);
    assert_eq!(
        met("573001234567@s.whatsapp.net", "573009999999@s.whatsapp.net", true),
        ["573001234567@s.whatsapp.net"]
    );
}

#[test]
fn a_status_update_is_an_event_and_no_message() {
    let info = info("status@broadcast", PHONE, false);
    assert_eq!(read(&info, &hello()), None);
    let Some(Happening::News { kind, data, .. }) = status_update(&info, &hello(), &Names::default()) else {
        panic!()
    };
    assert_eq!(kind, "status_update");
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
    assert!(status_update(&self::info(PHONE, PHONE, false), &hello(), &Names::default()).is_none());
}

#[test]
fn what_the_phone_alone_shows_is_reported_as_such() {
    let placeholder = wa::Message {
        placeholder_message: MessageField::some(wa::message::PlaceholderMessage::default()),
        ..Default::default()
    };
    let message = read(&info(PHONE, PHONE, false), &placeholder).unwrap();
    assert_eq!(message.content, InboundContent::Unsupported);
    assert_eq!(message.errors, [only_on_the_phone()]);
}

#[test]
fn a_file_without_a_place_is_told_of_with_the_reason() {
    let image = wa::Message {
        image_message: MessageField::some(wa::message::ImageMessage::default()),
        ..Default::default()
    };
    let message = read(&info(PHONE, PHONE, false), &image).unwrap();
    assert_eq!(message.media().unwrap().id, "");
    assert_eq!(message.errors, [cannot_be_fetched()]);
}
