//! Tests of the Cloud API's limits.

use super::*;
use relevo_domain::{BlobRef, ListRow, Location, MessageOptions};

fn rejected_field(content: Content) -> String {
    check_content(&content).err().map(|invalid| invalid.field).unwrap_or_default()
}

fn text(length: usize) -> Content {
    Content::Text { body: "ñ".repeat(length), preview_url: false }
}

fn blob(mime: &str, size: u64) -> MediaSource {
    MediaSource::Blob(BlobRef { sha256: "00".repeat(32), size, mime: mime.to_owned() })
}

fn media(kind: MediaKind, source: MediaSource) -> Media {
    Media { kind, source, caption: None, file_name: None, voice: false }
}

fn list(sections: Vec<ListSection>) -> Content {
    Content::Interactive(Interactive::List {
        header: None,
        body: "b".to_owned(),
        footer: None,
        button: "open".to_owned(),
        sections,
    })
}

fn rows(section: usize, count: usize) -> Vec<ListRow> {
    let row = |n| ListRow { id: format!("{section}.{n}"), title: "t".to_owned(), description: None };
    (0..count).map(row).collect()
}

fn section(title: &str, rows: Vec<ListRow>) -> ListSection {
    ListSection { title: Some(title.to_owned()), rows }
}

fn buttons(titles: &[&str]) -> Content {
    let button = |(n, title): (usize, &&str)| Button { id: n.to_string(), title: (*title).to_owned() };
    Content::Interactive(Interactive::Buttons {
        header: None,
        body: "b".to_owned(),
        footer: None,
        buttons: titles.iter().enumerate().map(button).collect(),
    })
}

#[test]
fn text_limit_counts_characters() {
    assert_eq!(rejected_field(text(4096)), "");
    assert_eq!(rejected_field(text(4097)), "body");
    assert_eq!(rejected_field(text(0)), "body");
    let error = check_content(&text(4097)).unwrap_err();
    assert_eq!(error.reason, "has 4097 characters; WhatsApp accepts at most 4096");
}

#[test]
fn media_format_and_size_are_limited_by_kind() {
    use MediaKind::*;
    for (kind, mime, size, field) in [
        (Image, "image/png", 5 * MB, ""),
        (Image, "image/png", 5 * MB + 1, "media"),
        (Image, "image/gif", 10, "media"),
        (Image, "image/png", 0, "media"),
        (Video, "video/mp4", 16 * MB, ""),
        (Audio, "audio/ogg; codecs=opus", 16 * MB, ""),
        (Audio, "audio/wav", 10, "media"),
        (Document, "application/pdf", 100 * MB, ""),
        (Document, "application/zip", 10, "media"),
        (Sticker, "image/webp", 500 << 10, ""),
        (Sticker, "image/png", 10, "media"),
    ] {
        assert_eq!(rejected_field(Content::Media(media(kind, blob(mime, size)))), field, "{mime} {size}");
    }
}

#[test]
fn captions_and_voice_notes_are_checked() {
    let caption = |kind, length: usize| {
        let source = MediaSource::ProviderId("1".to_owned());
        rejected_field(Content::Media(Media { caption: Some("c".repeat(length)), ..media(kind, source) }))
    };
    assert_eq!(caption(MediaKind::Image, 1024), "");
    assert_eq!(caption(MediaKind::Image, 1025), "caption");
    assert_eq!(caption(MediaKind::Audio, 1), "caption");
    assert_eq!(caption(MediaKind::Audio, 0), "");
    let voice = |mime| Content::Media(Media { voice: true, ..media(MediaKind::Audio, blob(mime, 9)) });
    assert_eq!(rejected_field(voice("audio/ogg")), "");
    assert_eq!(rejected_field(voice("audio/mpeg")), "media");
}

#[test]
fn location_has_valid_coordinates() {
    let location = |latitude, longitude| {
        rejected_field(Content::Location(Location { latitude, longitude, name: None, address: None }))
    };
    assert_eq!(location(90.0, -180.0), "");
    assert_eq!(location(90.1, 0.0), "latitude");
    assert_eq!(location(0.0, 181.0), "longitude");
    assert_eq!(location(f64::NAN, 0.0), "latitude");
}

#[test]
fn buttons_are_limited_and_unique() {
    assert_eq!(rejected_field(buttons(&["a", "b", "c"])), "");
    assert_eq!(rejected_field(buttons(&[])), "buttons");
    assert_eq!(rejected_field(buttons(&["a", "b", "c", "d"])), "buttons");
    assert_eq!(rejected_field(buttons(&["a", &"t".repeat(21)])), "buttons[1].title");
    assert_eq!(rejected_field(buttons(&["a", "a"])), "buttons[1].title");
    assert_eq!(rejected_field(buttons(&[" "])), "buttons[0].title");
}

#[test]
fn list_has_at_most_ten_rows_in_all_sections() {
    assert_eq!(rejected_field(list(vec![section("", rows(0, 10))])), "");
    assert_eq!(rejected_field(list(vec![section("a", rows(0, 5)), section("b", rows(1, 5))])), "");
    assert_eq!(
        rejected_field(list(vec![section("a", rows(0, 5)), section("b", rows(1, 6))])),
        "sections[1].rows[5]"
    );
    assert_eq!(rejected_field(list(vec![])), "sections");
    assert_eq!(rejected_field(list(vec![section("a", vec![])])), "sections[0].rows");
    assert_eq!(
        rejected_field(list(vec![section("a", rows(0, 1)), section("", rows(1, 1))])),
        "sections[1].title"
    );
    assert_eq!(
        rejected_field(list(vec![section("a", rows(0, 1)), section("b", rows(0, 1))])),
        "sections[1].rows[0].id"
    );
    let mut long = rows(0, 4);
    long[3].title = "t".repeat(25);
    assert_eq!(rejected_field(list(vec![section("a", long)])), "sections[0].rows[3].title");
    let mut long = rows(0, 1);
    long[0].description = Some("d".repeat(73));
    assert_eq!(rejected_field(list(vec![section("a", long)])), "sections[0].rows[0].description");
}

#[test]
fn headers_and_footers_are_checked() {
    let cta = |header, footer: &str, display_text: &str, url: &str| {
        rejected_field(Content::Interactive(Interactive::CtaUrl {
            header,
            body: "b".to_owned(),
            footer: Some(footer.to_owned()),
            display_text: display_text.to_owned(),
            url: url.to_owned(),
        }))
    };
    let image = |mime| Some(Header::Media { kind: MediaKind::Image, source: blob(mime, 9) });
    let good = "https://example.com";
    assert_eq!(cta(image("image/png"), "", "Ver más", good), "");
    assert_eq!(cta(image("image/gif"), "", "Ver más", good), "header");
    assert_eq!(cta(Some(Header::Text("h".repeat(61))), "", "Ver más", good), "header");
    let audio = Header::Media { kind: MediaKind::Audio, source: blob("audio/ogg", 9) };
    assert_eq!(cta(Some(audio), "", "Ver más", good), "header");
    assert_eq!(cta(None, &"f".repeat(61), "Ver más", good), "footer");
    assert_eq!(cta(None, "", &"d".repeat(21), good), "display_text");
    assert_eq!(cta(None, "", "Ver más", "javascript:alert(1)"), "url");
}

#[test]
fn contacts_and_templates_require_names() {
    let contacts = |contacts: serde_json::Value| {
        rejected_field(Content::Contacts { contacts: contacts.as_array().unwrap().clone() })
    };
    assert_eq!(contacts(serde_json::json!([{ "name": { "formatted_name": "Ana" } }])), "");
    assert_eq!(contacts(serde_json::json!([])), "contacts");
    assert_eq!(contacts(serde_json::json!([{ "name": "Ana" }])), "contacts[0].name.formatted_name");
    let template = |name: &str, components: Vec<Value>| {
        rejected_field(Content::Template(Template {
            name: name.to_owned(),
            language: "es".to_owned(),
            components,
        }))
    };
    assert_eq!(template("hello_world", vec![]), "");
    assert_eq!(template("", vec![]), "template.name");
    assert_eq!(template("x", vec![Value::Null]), "template.components[0]");
}

#[test]
fn unknown_recipient_kinds_are_unsupported() {
    let to = |to: &str| {
        check(&OutboundMessage {
            to: to.parse().unwrap(),
            content: text(1),
            quote: None,
            options: MessageOptions::default(),
        })
    };
    for good in ["573001234567", "US.13491208655302741918", "120363025246125486@g.us"] {
        assert_eq!(to(good), Ok(()), "{good}");
    }
    let error = to("120363025246125486@newsletter").unwrap_err();
    assert_eq!(error.to_string(), "cloud_api cannot send to newsletters");
    assert!(matches!(to("123456789012345@lid"), Err(CheckError::Unsupported { .. })));
}
