//! Messages of a linked device in both directions, with receipts, media and groups.

use std::sync::Arc;

use relevo_sandbox_web::{Phone, PhoneEventStream, PhoneMessage};
use serde_json::{Value, json};

use super::{Linked, soon};

const SHOP: &str = "573001112233";
const ANA: &str = "573004445566";

struct Talk {
    linked: Linked,
    shop: Arc<Phone>,
    ana: Arc<Phone>,
    /// Events at Ana's phone.
    seen: PhoneEventStream,
}

impl Talk {
    async fn new() -> Self {
        let linked = Linked::new().await;
        let shop = linked.pair("shop", SHOP).await;
        let ana = linked.web.phone(ANA);
        let seen = ana.watch();
        Self { linked, shop, ana, seen }
    }

    /// Sends a message to Ana. Returns its id, and the message that her phone received.
    async fn send(&mut self, kind: &str, mut body: Value) -> (String, PhoneMessage) {
        body["phone"] = json!(ANA);
        let sent = self.linked.world.post(&format!("/instances/shop/messages/{kind}"), body).await;
        assert_eq!(sent.status, 200, "{kind}: {sent:?}");
        let received = soon(kind, self.seen.message()).await;
        (sent.id(), received)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_is_delivered_and_read() {
    let mut talk = Talk::new().await;
    let (id, received) = talk.send("text", json!({ "message": "Hola" })).await;
    assert_eq!(received.text(), Some("Hola"));
    assert_eq!(received.id, id, "the stanza id differs from the message id");
    talk.linked.world.until_status(&id, &["delivered"]).await;
    talk.ana.mark_read(&[&received]).unwrap();
    let view = talk.linked.world.until_status(&id, &["read"]).await;
    assert!(view["history"].as_array().is_some_and(|history| history.len() >= 3), "{view}");
    talk.linked.events("shop", "receipt", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inbound_messages_become_events_once_and_in_order() {
    let talk = Talk::new().await;
    for n in 0..20 {
        talk.ana.send_text(&talk.shop.jid(), &format!("{n}")).unwrap();
    }
    let events = talk.linked.events("shop", "message", 20).await;
    let texts: Vec<_> = events.iter().map(|event| event["data"]["text"].as_str().unwrap()).collect();
    assert_eq!(texts, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    let first = &events[0]["data"];
    assert_eq!(first["from"], format!("{ANA}@s.whatsapp.net"), "{first}");
    assert_eq!((&first["is_from_me"], &first["is_group"]), (&json!(false), &json!(false)), "{first}");
    assert_eq!(first["phone"], ANA, "{first}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_message_arrives() {
    let mut talk = Talk::new().await;
    let (id, _) = talk.send("text", json!({ "message": "antes" })).await;

    let (_, edited) = talk.send("edit", json!({ "message_id": id, "new_text": "después" })).await;
    assert_eq!(edited.edit, "1", "{edited:?}");
    let (_, reacted) = talk.send("react", json!({ "message_id": id, "emoji": "👍" })).await;
    assert_eq!(reacted.message.reaction_message.as_option().unwrap().text.as_deref(), Some("👍"));
    let (_, quoting) = talk.send("text", json!({ "message": "eso", "reply_to": id })).await;
    let extended = quoting.message.extended_text_message.as_option().unwrap();
    assert_eq!(extended.context_info.as_option().unwrap().stanza_id.as_deref(), Some(id.as_str()));
    let (_, located) =
        talk.send("location", json!({ "latitude": 4.6, "longitude": -74.1, "name": "Bogotá" })).await;
    assert_eq!(located.message.location_message.as_option().unwrap().name.as_deref(), Some("Bogotá"));
    let vcard = "BEGIN:VCARD\nVERSION:3.0\nFN:Ana\nTEL;waid=573004445566:+57 300 444 5566\nEND:VCARD";
    let (_, card) = talk.send("contact", json!({ "display_name": "Ana", "vcard": vcard })).await;
    assert!(card.message.contact_message.as_option().unwrap().vcard.as_deref().unwrap().contains("TEL"));
    let (_, asked) = talk.send("poll", json!({ "question": "¿Cuándo?", "options": ["hoy", "mañana"] })).await;
    let poll = [&asked.message.poll_creation_message_v3, &asked.message.poll_creation_message];
    let poll = poll.into_iter().find_map(|poll| poll.as_option()).unwrap();
    assert_eq!(poll.name.as_deref(), Some("¿Cuándo?"));
    let (_, revoked) = talk.send("revoke", json!({ "message_id": id })).await;
    assert_eq!(revoked.edit, "7", "{revoked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn media_is_sent_and_received() {
    let mut talk = Talk::new().await;
    // Content that does not start with the signature of its type is refused. The rest is not checked.
    let picture = [b"\x89PNG\r\n\x1a\n".as_slice(), &[7; 5000]].concat();
    let link = {
        use base64::Engine as _;
        format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(&picture))
    };
    let (_, received) = talk.send("image", json!({ "media_url": link, "caption": "foto" })).await;
    let image = received.message.image_message.as_option().unwrap();
    assert_eq!(image.caption.as_deref(), Some("foto"));
    assert_eq!(talk.ana.download_media(image).unwrap(), picture);

    let id = talk.ana.send_image(&talk.shop.jid(), &picture, "otra").unwrap();
    let events = talk.linked.events("shop", "message", 1).await;
    assert_eq!(events[0]["data"]["caption"], "otra", "{events:?}");
    let path = format!("/instances/shop/messages/{id}/media");
    let asked = talk.linked.world.request(reqwest::Method::GET, &path).send().await.unwrap();
    assert_eq!(asked.status(), 200, "{path}");
    assert_eq!(asked.bytes().await.unwrap(), picture);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_messages_are_sent_and_received() {
    let mut talk = Talk::new().await;
    let group = talk.linked.web.create_group("Vecinos", &talk.ana, &[&talk.ana, &talk.shop]);
    let body = json!({ "phone": group.to_string(), "message": "a todos" });
    let sent = talk.linked.world.post("/instances/shop/messages/text", body).await;
    assert_eq!(sent.status, 200, "{sent:?}");
    let received = soon("the group's message", talk.seen.message()).await;
    assert_eq!((received.text(), &received.chat), (Some("a todos"), &group));

    talk.ana.send_text(&group, "gracias").unwrap();
    let events = talk.linked.events("shop", "message", 1).await;
    let data = &events[0]["data"];
    assert_eq!((&data["is_group"], &data["text"]), (&json!(true), &json!("gracias")), "{data}");
    assert_eq!(data["to"], group.to_string(), "{data}");
}
