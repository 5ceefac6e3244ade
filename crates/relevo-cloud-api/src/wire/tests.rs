//! Tests of the JSON format of messages.

use serde_json::json;

use super::*;
use relevo_domain::{BlobRef, Class, InstanceNumber, MessageOptions, Timestamp};

fn id() -> MessageId {
    MessageId::new(Timestamp(1_763_800_000_123), 0, InstanceNumber::FIRST, Class::Transactional, 0)
}

fn serialize(to: &str, content: Content, uploaded: Option<&str>) -> Value {
    let message =
        OutboundMessage { to: to.parse().unwrap(), content, quote: None, options: MessageOptions::default() };
    serde_json::to_value(MessageRequest::new(id(), &message, uploaded)).unwrap()
}

/// The JSON of a content, without the common envelope.
fn body(content: Content) -> Value {
    let kind = content.kind();
    let mut whole = serialize("573001234567", content, Some("MEDIA-1"));
    assert_eq!(whole["type"], kind);
    whole[kind].take()
}

fn link() -> MediaSource {
    MediaSource::Link("https://example.com/a.png".parse().unwrap())
}

fn blob() -> MediaSource {
    MediaSource::Blob(BlobRef { sha256: "ab".repeat(32), size: 1, mime: "image/png".to_owned() })
}

fn text() -> Content {
    Content::Text { body: "Hola".to_owned(), preview_url: true }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn text_message_is_serialized_as_documented() {
    let message = OutboundMessage {
        to: "573001234567".parse().unwrap(),
        content: text(),
        quote: Some("wamid.Q".parse().unwrap()),
        options: MessageOptions::default(),
    };
    let expected = format!(
        r#"{{"messaging_product":"whatsapp","recipient_type":"individual","to":"+573001234567","context":{{"message_id":"wamid.Q"}},"biz_opaque_callback_data":"{}","type":"text","text":{{"body":"Hola","preview_url":true}}}}"#,
        id()
    );
    assert_eq!(serde_json::to_string(&MessageRequest::new(id(), &message, None)).unwrap(), expected);
}

#[test]
fn recipient_kind_selects_its_field() {
    let user = serialize("US.13491208655302741918", text(), None);
    assert_eq!(
        (&user["recipient"], &user["recipient_type"]),
        (&json!("US.13491208655302741918"), &json!("individual"))
    );
    assert!(user.get("to").is_none());
    let group = serialize("120363025246125486@g.us", text(), None);
    assert_eq!((&group["to"], &group["recipient_type"]), (&json!("120363025246125486"), &json!("group")));
    assert!(group.get("recipient").is_none());
}

#[test]
fn media_is_a_link_or_an_id() {
    let media =
        |kind, source| Media { kind, source, caption: some("c"), file_name: some("a.pdf"), voice: true };
    assert_eq!(
        body(Content::Media(media(MediaKind::Document, blob()))),
        json!({ "id": "MEDIA-1", "caption": "c", "filename": "a.pdf" })
    );
    assert_eq!(
        body(Content::Media(media(MediaKind::Image, link()))),
        json!({ "link": "https://example.com/a.png", "caption": "c" })
    );
    let voice =
        Media { caption: some(""), ..media(MediaKind::Audio, MediaSource::ProviderId("7".to_owned())) };
    assert_eq!(body(Content::Media(voice)), json!({ "id": "7", "voice": true }));
}

#[test]
fn plain_contents_are_serialized_as_documented() {
    let location = Location { latitude: 4.6, longitude: -74.1, name: some("Bogotá"), address: None };
    assert_eq!(
        body(Content::Location(location)),
        json!({ "latitude": 4.6, "longitude": -74.1, "name": "Bogotá" })
    );
    let contact = json!({ "name": { "formatted_name": "Ana" } });
    assert_eq!(body(Content::Contacts { contacts: vec![contact.clone()] }), json!([contact]));
    assert_eq!(
        body(Content::Reaction { message_id: "wamid.X".to_owned(), emoji: String::new() }),
        json!({ "message_id": "wamid.X", "emoji": "" })
    );
    let template = |components| {
        body(Content::Template(Template { name: "hi".to_owned(), language: "es".to_owned(), components }))
    };
    assert_eq!(template(vec![]), json!({ "name": "hi", "language": { "code": "es" } }));
    let component = json!({ "type": "body", "parameters": [{ "type": "text", "text": "Juan" }] });
    assert_eq!(template(vec![component.clone()])["components"], json!([component]));
}

#[test]
fn interactive_messages_are_serialized_as_documented() {
    let buttons = Interactive::Buttons {
        header: Some(Header::Media { kind: MediaKind::Image, source: blob() }),
        body: "B".to_owned(),
        footer: some("F"),
        buttons: vec![Button { id: "a".to_owned(), title: "A".to_owned() }],
    };
    assert_eq!(
        body(Content::Interactive(buttons)),
        json!({
            "type": "button", "header": { "type": "image", "image": { "id": "MEDIA-1" } },
            "body": { "text": "B" }, "footer": { "text": "F" },
            "action": { "buttons": [{ "type": "reply", "reply": { "id": "a", "title": "A" } }] },
        })
    );
    let cta = Interactive::CtaUrl {
        header: Some(Header::Text("H".to_owned())),
        body: "B".to_owned(),
        footer: some(""),
        display_text: "Ver más".to_owned(),
        url: "https://example.com".to_owned(),
    };
    assert_eq!(
        body(Content::Interactive(cta)),
        json!({
            "type": "cta_url", "header": { "type": "text", "text": "H" }, "body": { "text": "B" },
            "action": {
                "name": "cta_url",
                "parameters": { "display_text": "Ver más", "url": "https://example.com" },
            },
        })
    );
    let request = Interactive::LocationRequest { body: "B".to_owned() };
    assert_eq!(
        body(Content::Interactive(request)),
        json!({
            "type": "location_request_message", "body": { "text": "B" }, "action": { "name": "send_location" },
        })
    );
}

#[test]
fn lists_and_flows_are_serialized_as_documented() {
    let row = |id: &str, description| ListRow { id: id.to_owned(), title: "T".to_owned(), description };
    let list = Interactive::List {
        header: some("H"),
        body: "B".to_owned(),
        footer: None,
        button: "Open".to_owned(),
        sections: vec![ListSection { title: None, rows: vec![row("1", None), row("2", some("D"))] }],
    };
    assert_eq!(
        body(Content::Interactive(list)),
        json!({
            "type": "list", "header": { "type": "text", "text": "H" }, "body": { "text": "B" },
            "action": {
                "button": "Open",
                "sections": [
                    { "rows": [{ "id": "1", "title": "T" }, { "id": "2", "title": "T", "description": "D" }] },
                ],
            },
        })
    );
    let flow = Interactive::Flow {
        header: None,
        body: "B".to_owned(),
        footer: None,
        parameters: json!({ "flow_id": "9" }),
    };
    assert_eq!(
        body(Content::Interactive(flow)),
        json!({
            "type": "flow", "body": { "text": "B" },
            "action": { "name": "flow", "parameters": { "flow_id": "9" } },
        })
    );
}

#[test]
fn blob_is_found_in_bodies_and_headers() {
    let media = |source| {
        Content::Media(Media { kind: MediaKind::Image, source, caption: None, file_name: None, voice: false })
    };
    assert!(media(blob()).blob().is_some());
    assert!(media(link()).blob().is_none());
    assert!(text().blob().is_none());
    let flow = Content::Interactive(Interactive::Flow {
        header: Some(Header::Media { kind: MediaKind::Video, source: blob() }),
        body: "B".to_owned(),
        footer: None,
        parameters: json!({}),
    });
    assert!(flow.blob().is_some());
}

#[test]
fn mark_read_object_may_carry_a_typing_indicator() {
    let message = "wamid.R".parse().unwrap();
    let mark = |typing| serde_json::to_value(MarkReadObject::new(&message, typing)).unwrap();
    let plain = json!({ "messaging_product": "whatsapp", "status": "read", "message_id": "wamid.R" });
    assert_eq!(mark(false), plain);
    assert_eq!(mark(true)["typing_indicator"], json!({ "type": "text" }));
}
