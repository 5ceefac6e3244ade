//! Tests of the content of messages.

use whatsapp_rust::waproto::whatsapp::message::ProtocolMessage;

use super::*;
use relevo_domain::MediaKind;

fn parse(message: &wa::Message) -> Option<InboundContent> {
    content(message, |_| None)
}

fn field<T: Default>(value: T) -> MessageField<T> {
    MessageField::some(value)
}

fn text(body: &str) -> wa::Message {
    wa::Message { conversation: Some(body.to_owned()), ..Default::default() }
}

fn key(id: &str) -> MessageField<wa::MessageKey> {
    field(wa::MessageKey { id: Some(id.to_owned()), ..Default::default() })
}

#[test]
fn wrapped_text_is_parsed_as_text() {
    let extended = wa::message::ExtendedTextMessage { text: Some("hola".to_owned()), ..Default::default() };
    let extended = wa::Message { extended_text_message: field(extended), ..Default::default() };
    let wrapper = wa::message::FutureProofMessage { message: field(extended.clone()) };
    let ephemeral = wa::Message { ephemeral_message: field(wrapper), ..Default::default() };
    for message in [text("hola"), extended, ephemeral] {
        assert_eq!(parse(&message), Some(InboundContent::Text("hola".to_owned())));
    }
}

#[test]
fn context_names_quote_and_mentions() {
    let info = wa::ContextInfo {
        stanza_id: Some("A".to_owned()),
        participant: Some("573001234567:4@s.whatsapp.net".to_owned()),
        mentioned_jid: vec!["1234567890@lid".to_owned()],
        forwarding_score: Some(7),
        ..Default::default()
    };
    let quoting = wa::message::ExtendedTextMessage {
        text: Some("hola".to_owned()),
        context_info: field(info),
        ..Default::default()
    };
    let message = wa::Message { extended_text_message: field(quoting), ..Default::default() };
    let expected = MessageContext {
        from: Some("573001234567@s.whatsapp.net".to_owned()),
        id: Some("A".to_owned()),
        forwarded: true,
        frequently_forwarded: true,
        mentions: vec!["1234567890@lid".to_owned()],
        referred_product: None,
    };
    assert_eq!(context(&message), Some(expected));
    assert_eq!(context(&text("hola")), None);
}

#[test]
fn media_id_round_trips_for_every_kind() {
    macro_rules! holds {
        ($type:ident, $field:ident, $kind:ident, $mime:literal, { $($more:ident: $value:expr),* }) => {{
            let file = wa::message::$type {
                direct_path: Some("/v/1.enc?oe=1".to_owned()),
                media_key: Some(vec![1; 32]),
                file_enc_sha256: Some(vec![2; 32]),
                file_sha256: Some(vec![3; 32]),
                file_length: Some(4096),
                mimetype: Some($mime.to_owned()),
                media_key_timestamp: Some(5),
                $($more: $value,)*
                ..Default::default()
            };
            let message = wa::Message { $field: field(file), ..Default::default() };
            let Some(InboundContent::Media(InboundMediaKind::$kind, media)) = parse(&message) else { panic!() };
            let reference = MediaReference {
                kind: MediaKind::$kind,
                path: "/v/1.enc?oe=1".to_owned(),
                key: Some(vec![1; 32]),
                encrypted_sha256: Some(vec![2; 32]),
                sha256: vec![3; 32],
                length: 4096,
                mime: $mime.to_owned(),
                key_timestamp: Some(5),
            };
            assert_eq!(MediaReference::parse(&media.id), Ok(reference));
            assert_eq!(media.sha256.as_deref(), Some("AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM="));
            assert_eq!(media.mime_type, $mime);
            media
        }};
    }
    let caption = || Some("pie".to_owned());
    let media = holds!(ImageMessage, image_message, Image, "image/jpeg", { caption: caption() });
    assert_eq!(media.caption, caption());
    let media = holds!(VideoMessage, video_message, Video, "video/mp4", { caption: caption() });
    assert_eq!(media.caption, caption());
    holds!(VideoMessage, ptv_message, Video, "video/mp4", {});
    let media = holds!(AudioMessage, audio_message, Audio, "audio/ogg; codecs=opus", { ptt: Some(true) });
    assert_eq!(media.voice, Some(true));
    let name = Some("informe.pdf".to_owned());
    let media =
        holds!(DocumentMessage, document_message, Document, "application/pdf", { file_name: name.clone() });
    assert_eq!(media.filename, name);
    let media = holds!(StickerMessage, sticker_message, Sticker, "image/webp", { is_animated: Some(true) });
    assert_eq!(media.animated, Some(true));
}

#[test]
fn locations_and_contacts_are_parsed() {
    let place = wa::message::LocationMessage {
        degrees_latitude: Some(4.6),
        degrees_longitude: Some(-74.1),
        name: Some("Casa".to_owned()),
        address: Some(String::new()),
        ..Default::default()
    };
    let read_place = parse(&wa::Message { location_message: field(place), ..Default::default() });
    let expected = InboundLocation {
        latitude: 4.6,
        longitude: -74.1,
        name: Some("Casa".to_owned()),
        address: None,
        url: None,
    };
    assert_eq!(read_place, Some(InboundContent::Location(expected)));
    let live = wa::message::LiveLocationMessage {
        degrees_latitude: Some(1.0),
        degrees_longitude: Some(2.0),
        ..Default::default()
    };
    let live = parse(&wa::Message { live_location_message: field(live), ..Default::default() });
    assert!(matches!(live, Some(InboundContent::Location(_))), "{live:?}");
    let card = wa::message::ContactMessage {
        display_name: Some("Ana".to_owned()),
        vcard: Some("BEGIN:VCARD".to_owned()),
        ..Default::default()
    };
    let expected = json!({ "name": { "formatted_name": "Ana" }, "vcard": "BEGIN:VCARD" });
    let one = wa::Message { contact_message: field(card.clone()), ..Default::default() };
    assert_eq!(parse(&one), Some(InboundContent::Contacts(vec![expected.clone()])));
    let list = wa::message::ContactsArrayMessage { contacts: vec![card.clone(), card], ..Default::default() };
    let list = wa::Message { contacts_array_message: field(list), ..Default::default() };
    assert_eq!(parse(&list), Some(InboundContent::Contacts(vec![expected.clone(), expected])));
}

#[test]
fn button_and_list_replies_are_parsed() {
    let pressed = wa::message::ButtonsResponseMessage {
        selected_button_id: Some("si".to_owned()),
        response: Some(wa::message::buttons_response_message::Response::SelectedDisplayText("Sí".to_owned())),
        ..Default::default()
    };
    let choice =
        |id: &str, title: &str| Choice { id: id.to_owned(), title: title.to_owned(), description: None };
    assert_eq!(
        parse(&wa::Message { buttons_response_message: field(pressed), ..Default::default() }),
        Some(InboundContent::Interactive(InteractiveReply::ButtonReply {
            button_reply: choice("si", "Sí")
        }))
    );
    let row = wa::message::list_response_message::SingleSelectReply { selected_row_id: Some("1".to_owned()) };
    let picked = wa::message::ListResponseMessage {
        title: Some("Uno".to_owned()),
        single_select_reply: field(row),
        ..Default::default()
    };
    assert_eq!(
        parse(&wa::Message { list_response_message: field(picked), ..Default::default() }),
        Some(InboundContent::Interactive(InteractiveReply::ListReply { list_reply: choice("1", "Uno") }))
    );
    let tapped = wa::message::TemplateButtonReplyMessage {
        selected_id: Some("baja".to_owned()),
        selected_display_text: Some("BAJA".to_owned()),
        ..Default::default()
    };
    assert_eq!(
        parse(&wa::Message { template_button_reply_message: field(tapped), ..Default::default() }),
        Some(InboundContent::Button(ButtonReply { payload: "baja".to_owned(), text: "BAJA".to_owned() }))
    );
}

#[test]
fn reactions_polls_and_votes_are_parsed() {
    let reaction = |emoji: &str| {
        let reaction = wa::message::ReactionMessage {
            key: key("A"),
            text: Some(emoji.to_owned()),
            ..Default::default()
        };
        parse(&wa::Message { reaction_message: field(reaction), ..Default::default() })
    };
    let emoji = |emoji: Option<&str>| {
        Some(InboundContent::Reaction(Reaction {
            message_id: "A".to_owned(),
            emoji: emoji.map(str::to_owned),
        }))
    };
    assert_eq!((reaction("👍"), reaction("")), (emoji(Some("👍")), emoji(None)));
    let option = |name: &str| wa::message::poll_creation_message::Option {
        option_name: Some(name.to_owned()),
        ..Default::default()
    };
    let poll = wa::message::PollCreationMessage {
        name: Some("¿Sí?".to_owned()),
        options: vec![option("sí"), option("no")],
        selectable_options_count: Some(1),
        ..Default::default()
    };
    let expected = InboundPoll {
        question: "¿Sí?".to_owned(),
        options: vec!["sí".to_owned(), "no".to_owned()],
        selectable: 1,
    };
    let poll = wa::Message { poll_creation_message_v3: field(poll), ..Default::default() };
    assert_eq!(parse(&poll), Some(InboundContent::Poll(expected)));
    let vote =
        wa::message::PollUpdateMessage { poll_creation_message_key: key("POLL"), ..Default::default() };
    let vote = wa::Message { poll_update_message: field(vote), ..Default::default() };
    for options in [None, Some(vec!["sí".to_owned()])] {
        let parsed = content(&vote, |_| options.clone());
        let poll_message_id = "POLL".to_owned();
        assert_eq!(parsed, Some(InboundContent::PollVote(PollVote { poll_message_id, options })));
    }
}

#[test]
fn edits_and_revocations_name_their_message() {
    let protocol = |protocol| parse(&wa::Message { protocol_message: field(protocol), ..Default::default() });
    let edit = ProtocolMessage {
        key: key("A"),
        r#type: Some(ProtocolType::MESSAGE_EDIT),
        edited_message: field(text("ahora")),
        ..Default::default()
    };
    let now = Box::new(InboundContent::Text("ahora".to_owned()));
    assert_eq!(protocol(edit.clone()), Some(InboundContent::Edit { original: "A".to_owned(), now }));
    let revoke = ProtocolMessage { key: key("A"), r#type: Some(ProtocolType::REVOKE), ..Default::default() };
    assert_eq!(protocol(revoke), Some(InboundContent::Revoke { original: "A".to_owned() }));
    let empty = ProtocolMessage { key: MessageField::none(), ..edit };
    assert_eq!(protocol(empty), None);
}

#[test]
fn device_to_device_message_is_ignored() {
    let keys = wa::message::SenderKeyDistributionMessage::default();
    let context = wa::MessageContextInfo { message_secret: Some(vec![1; 32]), ..Default::default() };
    let settings = ProtocolMessage { r#type: Some(ProtocolType::EPHEMERAL_SETTING), ..Default::default() };
    for message in [
        wa::Message::default(),
        wa::Message {
            sender_key_distribution_message: field(keys),
            message_context_info: field(context),
            ..Default::default()
        },
        wa::Message { protocol_message: field(settings), ..Default::default() },
    ] {
        assert_eq!(parse(&message), None);
    }
}

#[test]
fn unknown_message_is_kept_unless_large() {
    let invite = |name: &str| {
        let invite = wa::message::GroupInviteMessage {
            group_jid: Some("120363025246125486@g.us".to_owned()),
            group_name: Some(name.to_owned()),
            ..Default::default()
        };
        parse(&wa::Message { group_invite_message: field(invite), ..Default::default() })
    };
    let Some(InboundContent::Unknown(raw)) = invite("Grupo") else { panic!() };
    let expected = json!({ "group_jid": "120363025246125486@g.us", "group_name": "Grupo" });
    assert_eq!(raw, json!({ "group_invite_message": expected }));
    let Some(InboundContent::Unknown(raw)) = invite(&"x".repeat(5000)) else { panic!() };
    assert!(raw["bytes"].as_u64().unwrap() > 5000, "{raw}");
}
