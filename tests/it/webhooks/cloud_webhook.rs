//! Meta's webhook: from a signed body to the event at a webhook receiver.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::cloud_webhook::{
    ANA, deliver, deliver_to, inbound_count, number_of, send_inbound, signature, text, webhook,
};
use crate::support::receiver::Receiver;
use crate::support::{Answer, World, eventually};

/// An instance `shop` with a webhook for all events.
async fn shop() -> (World, Receiver) {
    let world = World::with(|settings| settings.webhook.first_delay = Duration::from_millis(20)).await;
    let receiver = Receiver::start().await;
    let set = world.post("/instances/shop/webhook", json!({ "url": receiver.url() })).await;
    assert_eq!(set.status, 200, "{set:?}");
    (world, receiver)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_type_of_inbound_message_becomes_an_event() {
    let (world, receiver) = shop().await;
    let reply = json!({ "type": "button_reply", "button_reply": { "id": "yes", "title": "Sí" } });
    let place = json!({ "latitude": 4.6, "longitude": -74.08 });
    let card = json!([{ "name": { "formatted_name": "Eva" } }]);
    let mut ids = Vec::new();
    for message in [
        json!({ "text": "Hola" }),
        json!({ "type": "image", "caption": "Mira" }),
        json!({ "type": "audio" }),
        json!({ "type": "sticker" }),
        json!({ "type": "document", "filename": "carta.txt" }),
        json!({ "type": "location", "location": place }),
        json!({ "type": "interactive", "interactive": reply, "context": { "id": "wamid.Q" } }),
        json!({ "type": "reaction", "reaction": { "message_id": "wamid.O", "emoji": "👍" } }),
        json!({ "type": "contacts", "contacts": card }),
        json!({ "type": "hologram", "hologram": { "n": 1 } }),
    ] {
        ids.push(send_inbound(&world, message).await);
    }
    let taken = receiver.until_taken("message", ids.len()).await;
    let events: Vec<_> = taken.iter().map(|delivery| delivery.body["data"].clone()).collect();
    assert!(taken.iter().all(|delivery| delivery.body["instance_id"] == "shop"));
    let names = |field: &str| events.iter().map(|event| event[field].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(names("message_id"), ids);
    assert_eq!(
        names("message_type"),
        [
            "text",
            "image",
            "audio",
            "sticker",
            "document",
            "location",
            "interactive",
            "reaction",
            "contacts",
            "unknown",
        ]
    );
    let address = format!("{ANA}@s.whatsapp.net");
    for event in &events {
        assert_eq!((&event["from"], &event["to"]), (&json!(address), &json!(address)));
        assert_eq!((&event["phone"], &event["sender_name"]), (&json!(ANA), &json!("Ana")));
        assert_eq!((&event["is_group"], &event["is_from_me"]), (&json!(false), &json!(false)));
    }
    assert_eq!(events[0]["text"], "Hola");
    assert_eq!((&events[1]["text"], &events[1]["file_name"]), (&json!("Mira"), &json!("image.jpg")));
    assert!(events[1]["media_url"].as_str().unwrap().starts_with("/instances/shop/messages/wamid."));
    assert!(events[1]["media"]["id"].is_string() && events[1]["media"]["sha256"].is_string());
    assert_eq!(events[2]["media"]["voice"], true);
    assert_eq!((&events[5]["latitude"], &events[5]["longitude"]), (&json!("4.600000"), &json!("-74.080000")));
    assert_eq!((&events[6]["interactive"], &events[6]["context"]), (&reply, &json!({ "id": "wamid.Q" })));
    assert_eq!(events[7]["reaction"]["emoji"], "👍");
    assert_eq!(events[9]["raw"]["hologram"], json!({ "n": 1 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn repeated_delivery_is_deduped_also_after_a_restart() {
    let (mut world, receiver) = shop().await;
    let batch: Vec<_> = (0..1000).map(|n| text(&format!("wamid.{n}"), &n.to_string())).collect();
    let body = webhook(&world, "shop", "messages", json!({ "messages": batch }));
    deliver(&world, body.clone()).await;
    deliver(&world, body.clone()).await;
    assert_eq!(
        (inbound_count(&world, "event").await, inbound_count(&world, "duplicate").await),
        (1000, 1000)
    );
    world.restart_node().await;
    deliver(&world, body).await;
    assert_eq!((inbound_count(&world, "event").await, inbound_count(&world, "duplicate").await), (0, 1000));
    deliver(&world, webhook(&world, "shop", "messages", json!({ "messages": [text("wamid.last", "fin")] })))
        .await;
    let taken = receiver.until_taken("message", 1001).await;
    let texts: Vec<_> = taken.iter().map(|delivery| delivery.body["data"]["text"].clone()).collect();
    let expected: Vec<_> = (0..1000).map(|n| json!(n.to_string())).chain([json!("fin")]).collect();
    assert_eq!(texts, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn statuses_become_receipts_and_late_ones_do_not_lower_the_status() {
    let (world, receiver) = shop().await;
    let sent = world.queue("/messages/text", json!({ "phone": ANA, "message": "Hola" })).await;
    let wamid = world.until_status(&sent.id(), &["read"]).await["provider_message_id"].clone();
    let read = receiver.until_taken("receipt", 2).await[1].body["data"].clone();
    let expected = json!({
        "message_id": wamid, "ids": [wamid], "from": format!("{ANA}@s.whatsapp.net"), "type": "read",
        "status": "read", "timestamp": read["timestamp"], "id": sent.id(),
        "correlation_id": sent.body["correlation_id"],
    });
    assert_eq!(read, expected);
    let delivered = receiver.taken("receipt")[0].body["data"].clone();
    assert_eq!((&delivered["type"], &delivered["status"]), (&json!(""), &json!("delivered")));

    let status = |id: &Value, word: &str| json!({ "id": id, "status": word, "timestamp": "1763800000", "recipient_id": ANA });
    let foreign = json!("wamid.of-another-system");
    let late = json!([status(&wamid, "sent"), status(&wamid, "delivered"), status(&foreign, "played")]);
    let body = webhook(&world, "shop", "messages", json!({ "statuses": late }));
    deliver(&world, body.clone()).await;
    deliver(&world, body).await;
    deliver(&world, webhook(&world, "shop", "messages", json!({ "messages": [text("wamid.1", "fin")] })))
        .await;
    receiver.until_taken("message", 1).await;
    let receipts = receiver.taken("receipt");
    assert_eq!(receipts.len(), 3, "{receipts:?}");
    let of_foreign = &receipts[2].body["data"];
    assert_eq!((&of_foreign["message_id"], &of_foreign["type"]), (&foreign, &json!("played")));
    assert_eq!(world.until_status(&sent.id(), &["read"]).await["status"], "read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn opt_out_and_opt_in_become_events() {
    let (world, receiver) = shop().await;
    send_inbound(&world, json!({ "text": " bajá " })).await;
    let out = receiver.until_taken("opt_out", 1).await[0].body["data"].clone();
    assert_eq!((&out["phone"], &out["why"]), (&json!(ANA), &json!("keyword")));
    let resume = json!([{ "wa_id": ANA, "category": "marketing_messages", "value": "resume" }]);
    let body = webhook(&world, "shop", "user_preferences", json!({ "user_preferences": resume }));
    deliver(&world, body).await;
    let back = receiver.until_taken("opt_in", 1).await[0].body["data"].clone();
    assert_eq!(back, json!({ "phone": ANA, "why": "preference" }));
    let preferences = receiver.taken("user_preferences")[0].body["data"].clone();
    assert_eq!(
        (&preferences["field"], &preferences["account_id"]),
        (&json!("user_preferences"), &json!("WABA"))
    );
    assert_eq!(preferences["user_preferences"], resume);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn unreadable_body_is_kept_for_inspection() {
    let world = World::new().await;
    let broken = b"{\"object\":\"whatsapp_business_account\",\"entry\":[{".to_vec();
    let odd = [b"[]".to_vec(), b"{}".to_vec(), b"hola".to_vec(), broken, vec![0xff, 0xfe]];
    for body in odd.clone() {
        for forged in ["", "sha256=00", &signature(b"something else"), &signature(&body)[..20]] {
            let answer = deliver_to(&world, "/webhook", body.clone(), forged).await;
            assert_eq!(answer.status, 403, "{answer:?}");
        }
        deliver(&world, body).await;
    }
    let half = json!([text("wamid.1", "Hola"), { "type": "text" }]);
    deliver(&world, webhook(&world, "shop", "messages", json!({ "messages": half }))).await;
    assert_eq!((inbound_count(&world, "odd").await, inbound_count(&world, "event").await), (6, 1));
    assert_eq!(inbound_count(&world, "forged").await, 20);

    let first = world.get("/webhook/kept?limit=2").await.body;
    let reason = first["data"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("value.messages[1]"), "{first}");
    assert_eq!((&first["data"][1]["body_base64"], &first["data"][1]["bytes"]), (&json!("//4="), &json!(2)));
    let next = first["next"].as_str().unwrap();
    let rest = world.get(&format!("/webhook/kept?after={next}")).await.body;
    let bodies: Vec<_> = rest["data"].as_array().unwrap().iter().map(|kept| kept["body"].clone()).collect();
    let expected: Vec<_> =
        odd[..4].iter().rev().map(|body| json!(std::str::from_utf8(body).unwrap())).collect();
    assert_eq!(bodies, expected);
    assert_eq!(world.get("/webhook/kept?after=x").await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn webhook_body_limit_admits_the_largest_webhooks_of_meta() {
    let world = World::new().await;
    let largest = json!({ "messages": [text("wamid.1", &"x".repeat(3_000_000))] });
    deliver(&world, webhook(&world, "shop", "messages", largest)).await;
    // Less than the node discards: a client that still sends when the node closes the connection may miss the answer.
    let over = vec![b' '; 12_000_000];
    let answer = deliver_to(&world, "/webhook", over, "sha256=00").await;
    assert_eq!(answer.status, 413, "{answer:?}");
    let counts = eventually("the refusal to be inbound_count", async || {
        match inbound_count(&world, "too_large").await {
            0 => Err(0),
            count => Ok(count),
        }
    });
    assert_eq!(counts.await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn instance_webhook_accepts_only_its_own_number() {
    let (world, receiver) = shop().await;
    world.create("annex").await;
    let path = "/instances/annex/cloud-webhook";
    let ask = async |path: &str, token: &str| {
        let query = format!("hub.mode=subscribe&hub.verify_token={token}&hub.challenge=42");
        world.get(&format!("{path}?{query}")).await.status.as_u16()
    };
    assert_eq!((ask(path, "hola").await, ask(path, "adios").await), (200, 403));
    assert_eq!(
        ask("/instances/unknown/cloud-webhook", "hola").await,
        403,
        "the answer reveals whether an instance exists"
    );

    let of_shop = webhook(&world, "shop", "messages", json!({ "messages": [text("wamid.1", "Hola")] }));
    let signed = signature(&of_shop);
    assert_eq!(deliver_to(&world, path, of_shop.clone(), "sha256=00").await.status, 403);
    assert_eq!(deliver_to(&world, path, of_shop.clone(), &signed).await.status, 200);
    assert_eq!((inbound_count(&world, "odd").await, inbound_count(&world, "event").await), (1, 0));
    let kept = world.get("/webhook/kept").await.body;
    assert!(kept["data"][0]["reason"].as_str().unwrap().contains(&number_of(&world, "shop")), "{kept}");

    let own = "/instances/shop/cloud-webhook";
    assert_eq!(deliver_to(&world, own, of_shop, &signed).await.status, 200);
    assert_eq!(receiver.until_taken("message", 1).await[0].body["data"]["text"], "Hola");
    let body = b"{}".to_vec();
    let signed = signature(&body);
    let at_unknown = deliver_to(&world, "/instances/unknown/cloud-webhook", body.clone(), &signed).await;
    let at_shop = deliver_to(&world, own, body, "sha256=00").await;
    assert_eq!((at_unknown.status, at_unknown.body), (at_shop.status, at_shop.body));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn unsigned_body_is_truncated_and_kept_while_no_secret_is_set() {
    let world = World::empty(|_| {}).await;
    let garbage = vec![b'x'; 100_000];
    let answer = Answer::of(world.request(Method::POST, "/webhook").body(garbage)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let kept = world.get("/webhook/kept").await.body["data"][0].clone();
    assert_eq!((&kept["bytes"], kept["body"].as_str().unwrap().len()), (&json!(100_000), 64 << 10));

    let mut open = world.instance("open");
    open["cloud_api"].as_object_mut().unwrap().remove("app_secret");
    assert_eq!(world.post("/instances", open).await.status, 201);
    let body = webhook(&world, "open", "messages", json!({ "messages": [text("wamid.1", "Hola")] }));
    let answer = Answer::of(world.request(Method::POST, "/webhook").body(body)).await;
    assert_eq!((answer.status.as_u16(), inbound_count(&world, "event").await), (200, 1));

    world.create("shop").await;
    let answer = Answer::of(world.request(Method::POST, "/webhook").body("garbage")).await;
    assert_eq!(answer.status, 403, "{answer:?}");
}
