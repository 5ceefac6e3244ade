//! Failed attempts: retries, dead letters, ambiguous results, and paused instances.

use std::time::Duration;

use serde_json::json;

use crate::support::{World, eventually};

fn text(phone: &str) -> serde_json::Value {
    json!({ "phone": phone, "message": "Hola" })
}

/// A world with short retry delays.
async fn world_with_short_retries() -> World {
    World::with(|settings| {
        let policy = &mut settings.retry.transactional;
        policy.first_delay = Duration::from_millis(20);
        policy.ambiguous_wait = Duration::from_millis(400);
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn transient_failure_is_retried() {
    let world = world_with_short_retries().await;
    world.faults(json!([{ "action": { "error": { "code": 131016 } }, "times": 2 }])).await;
    let queued = world.queue("/instances/shop/messages/text", text("573001234567")).await;
    let sent = world.until_status(&queued.id(), &["sent", "delivered", "read"]).await;
    assert_eq!(sent["attempts"], 3);
    let codes: Vec<_> =
        sent["history"].as_array().unwrap().iter().filter_map(|step| step["code"].as_i64()).collect();
    assert_eq!(codes, [131_016, 131_016]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn permanent_failure_is_a_dead_letter_with_metas_error() {
    let world = world_with_short_retries().await;
    world.faults(json!([{ "action": { "error": { "code": 131047 } } }])).await;
    let queued = world.queue("/instances/shop/messages/text", text("573001234567")).await;
    let dead = world.until_status(&queued.id(), &["dead_letter"]).await;
    assert_eq!((&dead["reason"], &dead["attempts"]), (&json!("permanent"), &json!(1)));
    assert_eq!(dead["error"]["code"], 131_047);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn synchronous_send_is_not_retried() {
    let world = world_with_short_retries().await;
    world.faults(json!([{ "action": { "error": { "code": 131047 } }, "times": 1 }])).await;
    let refused = world.post("/instances/shop/messages/text", text("573001234567")).await;
    assert_eq!(refused.status, 422, "{refused:?}");
    assert_eq!(refused.body["success"], false);
    world.faults(json!([{ "action": { "error": { "code": 131016 } }, "times": 1 }])).await;
    let down = world.post("/instances/shop/messages/text", text("573001234567")).await;
    assert_eq!(down.status, 503, "{down:?}");
    let ok = world.post("/instances/shop/messages/text", text("573001234567")).await;
    assert_eq!(ok.status, 200, "{ok:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn status_with_callback_data_settles_a_lost_answer() {
    let world = world_with_short_retries().await;
    world.faults(json!([{ "action": { "close": "after" }, "times": 1 }])).await;
    let queued = world.queue("/instances/shop/messages/text", text("573001234567")).await;
    let read = world.until_status(&queued.id(), &["read"]).await;
    assert_eq!(read["attempts"], 1);
    assert_eq!(world.arrived().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn lost_answer_without_a_status_is_a_dead_letter_and_not_resent() {
    let world = world_with_short_retries().await;
    world.faults(json!([{ "action": { "close": "after", "drop_statuses": true }, "times": 1 }])).await;
    let queued = world.queue("/instances/shop/messages/text", text("573001234567")).await;
    world.until_status(&queued.id(), &["ambiguous"]).await;
    let dead = world.until_status(&queued.id(), &["dead_letter"]).await;
    assert_eq!(dead["reason"], "ambiguous");
    assert_eq!(world.arrived().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn failing_recipient_keeps_its_order_and_does_not_delay_others() {
    let world = world_with_short_retries().await;
    world.faults(json!([{ "match": { "to": "573001111111" }, "action": { "error": { "code": 131016 } }, "times": 2 }])).await;
    let mut slow = Vec::new();
    for n in 0..3 {
        let body = json!({ "phone": "573001111111", "message": format!("{n}") });
        slow.push(world.queue("/instances/shop/messages/text", body).await.id());
    }
    let other = world.queue("/instances/shop/messages/text", text("573002222222")).await;
    world.until_status(&other.id(), &["sent", "delivered", "read"]).await;
    for id in &slow {
        world.until_status(id, &["sent", "delivered", "read"]).await;
    }
    let arrived = world.arrived().await;
    let accepted =
        arrived.iter().filter(|message| message["outcome"] == "accepted" && message["to"] == "573001111111");
    let order: Vec<_> = accepted.map(|message| message["body"]["text"]["body"].clone()).collect();
    assert_eq!(order, ["0", "1", "2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn refused_token_pauses_the_instance_without_counting_attempts() {
    let world = world_with_short_retries().await;
    world.faults(json!([{ "action": { "error": { "code": 190 } } }, { "match": { "kind": "probe" }, "action": { "error": { "code": 190 } } }])).await;
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(world.queue("/instances/shop/messages/text", text(&format!("5730012345{n:02}"))).await.id());
    }
    let paused = world.until_state("shop", "paused").await;
    assert_eq!(paused["reason"]["code"], "auth_rejected", "{paused}");
    for id in &ids {
        world.until_status(id, &["queued"]).await;
    }
    world.control(reqwest::Method::DELETE, "/_sandbox/faults", None).await;
    let resumed = world.post("/instances/shop/resume", json!({})).await;
    assert_eq!(resumed.status, 200, "{resumed:?}");
    for id in &ids {
        world.until_status(id, &["sent", "delivered", "read"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn queued_messages_survive_a_restart_in_order() {
    let mut world = world_with_short_retries().await;
    world.post("/instances/shop/disconnect", json!({})).await;
    let mut ids = Vec::new();
    for n in 0..10 {
        let body = json!({ "phone": "573001234567", "message": format!("{n}") });
        ids.push(world.queue("/instances/shop/messages/text", body).await.id());
    }
    world.restart_node().await;
    let view = world.get("/instances/shop").await;
    assert_eq!(view.body["data"]["status"], "disconnected");
    assert_eq!(view.body["data"]["queue_depth"], 10);
    world.post("/instances/shop/connect", json!({})).await;
    for id in &ids {
        world.until_status(id, &["sent", "delivered", "read"]).await;
    }
    let order: Vec<_> = world.arrived().await.iter().map(|m| m["body"]["text"]["body"].clone()).collect();
    assert_eq!(order, (0..10).map(|n| json!(n.to_string())).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn idempotency_key_with_another_body_is_a_conflict() {
    let world = World::new().await;
    let send = async |message: &str, asynchronous: &str| {
        let request = world
            .request(reqwest::Method::POST, "/instances/shop/messages/text")
            .header("Idempotency-Key", "order-1")
            .header("X-Async", asynchronous)
            .json(&json!({ "phone": "573001234567", "message": message }));
        crate::support::Answer::of(request).await
    };
    let (first, second) = tokio::join!(send("Hola", "true"), send("Hola", "true"));
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (202, 202));
    assert_eq!(first.id(), second.id());
    assert_eq!(send("Adios", "true").await.status, 409);
    world.until_status(&first.id(), &["read"]).await;
    assert_eq!(send("Hola", "true").await.id(), first.id());
    assert_eq!(world.arrived().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn failing_and_hanging_instances_do_not_delay_others() {
    let world = World::with(|settings| settings.instance.send_timeout = Duration::from_secs(60)).await;
    let names: Vec<String> = (0..10).map(|n| format!("shop-{n}")).collect();
    for name in &names {
        world.create(name).await;
    }
    // The faults select by recipient: the first instance's sends fail, the second's never get an answer.
    world
        .faults(json!([
            { "match": { "to": "573009999999" }, "action": { "error": { "code": 131016 } } },
            { "match": { "to": "573008888888" }, "action": { "hang": "before" } },
        ]))
        .await;
    for n in 0..30 {
        for (k, name) in names.iter().enumerate() {
            let phone = match k {
                0 => "573009999999".to_owned(),
                1 => "573008888888".to_owned(),
                _ => format!("57300{k:03}{n:04}"),
            };
            assert_eq!(
                world.queue(&format!("/instances/{name}/messages/text"), text(&phone)).await.status,
                202
            );
        }
    }
    eventually("the queues of the other eight to be empty", async || {
        for name in names.iter().skip(2) {
            let view = world.get(&format!("/instances/{name}")).await;
            if view.body["data"]["queue_depth"] != 0 {
                return Err(view.body);
            }
        }
        Ok(())
    })
    .await;
    for name in names.iter().take(2) {
        let view = world.get(&format!("/instances/{name}")).await;
        assert_eq!(view.body["data"]["queue_depth"], 30, "{name} lost a message");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn expired_message_is_not_sent() {
    let world =
        World::with(|settings| settings.queue.transactional_expiry = Some(Duration::from_millis(1))).await;
    world.post("/instances/shop/disconnect", json!({})).await;
    let own = json!({ "phone": "573001234567", "message": "Hola", "expires_in": 3600 });
    let lasting = world.queue("/instances/shop/messages/text", own).await;
    let short_lived = world.queue("/instances/shop/messages/text", text("573001234568")).await;
    // Connecting takes a round trip, which is longer than the expiry of one millisecond.
    world.post("/instances/shop/connect", json!({})).await;
    world.until_status(&short_lived.id(), &["expired"]).await;
    world.until_status(&lasting.id(), &["sent", "delivered", "read"]).await;
    assert_eq!(world.arrived().await.len(), 1);
}
