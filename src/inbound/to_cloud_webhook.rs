//! Converts a message of a linked device to the form of Meta's webhooks, which the consumer of the relay reads.
//!
//! `phone_number_id` is the name of the instance, because only numbers on the Cloud API have such an id. Content without
//! a form in Meta's webhooks has the type `unsupported`.

use serde::Serialize;
use serde_json::{Map, Value, json};

use relevo_domain::{Chat, InboundContent, InboundMessage};

use super::ReceivingDevice;

/// The webhook of one message.
pub(super) fn build_webhook(device: &ReceivingDevice, message: &InboundMessage) -> Value {
    let identity = &message.sender.identity;
    let mut contact = Map::from_iter([("profile".to_owned(), json!({ "name": message.sender.name }))]);
    insert_if_some(&mut contact, "wa_id", identity.phone());
    insert_if_some(&mut contact, "user_id", identity.user_id());
    insert_if_some(&mut contact, "parent_user_id", identity.parent_user_id());
    let value = json!({
        "messaging_product": "whatsapp",
        "metadata": { "display_phone_number": device.phone, "phone_number_id": device.name },
        "contacts": [contact],
        "messages": [message_json(message)],
    });
    let change = json!({ "field": "messages", "value": value });
    let entry = json!({ "id": device.name, "changes": [change] });
    json!({ "object": "whatsapp_business_account", "entry": [entry] })
}

fn message_json(message: &InboundMessage) -> Map<String, Value> {
    let identity = &message.sender.identity;
    let mut json = content_json(&message.content);
    json.insert("id".to_owned(), json!(message.id));
    json.insert("timestamp".to_owned(), json!(message.at.seconds().to_string()));
    insert_if_some(&mut json, "from", identity.phone());
    insert_if_some(&mut json, "from_user_id", identity.user_id());
    insert_if_some(&mut json, "context", message.context.as_ref());
    insert_if_some(&mut json, "referral", message.referral.as_ref());
    if let Chat::Group(id) = &message.chat {
        json.insert("group_id".to_owned(), json!(id));
    }
    json
}

/// The member `type`, and the content in the member of that name.
fn content_json(content: &InboundContent) -> Map<String, Value> {
    let body = match content {
        InboundContent::Text(body) => Some(json!({ "body": body })),
        InboundContent::Media(_, media) => Some(json!(media)),
        InboundContent::Location(location) => {
            let degrees = [("latitude", location.latitude), ("longitude", location.longitude)];
            let mut body = Map::from_iter(degrees.map(|(name, degrees)| (name.to_owned(), json!(degrees))));
            insert_if_some(&mut body, "name", location.name.as_ref());
            insert_if_some(&mut body, "address", location.address.as_ref());
            insert_if_some(&mut body, "url", location.url.as_ref());
            Some(body.into())
        }
        InboundContent::Contacts(cards) => Some(json!(cards)),
        InboundContent::Interactive(reply) => Some(json!(reply)),
        InboundContent::Button(button) => Some(json!(button)),
        InboundContent::Order(order) => Some(json!(order)),
        InboundContent::Reaction(reaction) => Some(json!(reaction)),
        InboundContent::System(notice) => Some(json!(notice)),
        InboundContent::Edit { original, now } => {
            Some(json!({ "original_message_id": original, "message": self::content_json(now) }))
        }
        InboundContent::Revoke { original } => Some(json!({ "original_message_id": original })),
        _ => None,
    };
    let kind = if body.is_some() { content.kind() } else { "unsupported" };
    let mut json = Map::from_iter([("type".to_owned(), json!(kind))]);
    insert_if_some(&mut json, kind, body);
    json
}

fn insert_if_some(object: &mut Map<String, Value>, name: &str, value: Option<impl Serialize>) {
    if let Some(value) = value {
        object.insert(name.to_owned(), json!(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_cloud_api::{Update, parse_webhook};
    use relevo_domain::{
        Identity, InboundLocation, InboundMedia, InboundMediaKind, InstanceNumber, MessageContext, Reaction,
        Sender, Timestamp,
    };

    fn device() -> ReceivingDevice {
        let (instance, phone) = (InstanceNumber::FIRST, Some("573009999999".to_owned()));
        ReceivingDevice { instance, name: "shop".parse().unwrap(), phone }
    }

    fn message(content: InboundContent, chat: Chat) -> InboundMessage {
        InboundMessage {
            id_scope: None,
            id: "3EB0AA".parse().unwrap(),
            sender: Sender {
                identity: Identity::new(Some("573001234567"), Some("1234@lid")).unwrap(),
                name: Some("Ana".to_owned()),
                username: None,
            },
            chat,
            at: Timestamp(1_763_800_000_000),
            context: Some(MessageContext { id: Some("3EB0BB".to_owned()), ..MessageContext::default() }),
            referral: None,
            content,
            errors: Vec::new(),
        }
    }

    /// Parses the webhook of a message.
    fn read_back(message: &InboundMessage) -> InboundMessage {
        let body = build_webhook(&device(), message).to_string();
        let mut updates = parse_webhook(body.as_bytes()).unwrap();
        match updates.pop() {
            Some(Update::Message(received)) if updates.is_empty() => {
                assert_eq!(received.phone_number_id, "shop");
                received.message
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn webhook_parser_reads_back_every_message_that_meta_can_express() {
        let text = || InboundContent::Text("hola".to_owned());
        let media = InboundMedia {
            id: "abc".to_owned(),
            mime_type: "image/jpeg".to_owned(),
            sha256: Some("c2hh".to_owned()),
            caption: Some("mira".to_owned()),
            filename: None,
            voice: None,
            animated: None,
        };
        let place = InboundLocation {
            latitude: 4.711,
            longitude: -74.0721,
            name: Some("Casa".to_owned()),
            address: None,
            url: None,
        };
        let reaction = Reaction { message_id: "3EB0CC".to_owned(), emoji: Some("👍".to_owned()) };
        for content in [
            text(),
            InboundContent::Media(InboundMediaKind::Image, media),
            InboundContent::Location(place),
            InboundContent::Contacts(vec![json!({ "name": { "formatted_name": "Eva" } })]),
            InboundContent::Reaction(reaction),
            InboundContent::Edit { original: "3EB0DD".to_owned(), now: Box::new(text()) },
            InboundContent::Revoke { original: "3EB0EE".to_owned() },
        ] {
            let message = message(content, Chat::Direct);
            assert_eq!(read_back(&message), message);
        }
        let in_group = message(text(), Chat::Group("120363025246125486@g.us".to_owned()));
        assert_eq!(read_back(&in_group), in_group);
    }

    #[test]
    fn content_without_a_meta_form_is_unsupported() {
        let message = message(InboundContent::Unknown(json!({ "a": 1 })), Chat::Direct);
        assert_eq!(read_back(&message).content, InboundContent::Unsupported);
    }
}
