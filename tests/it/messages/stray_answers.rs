//! Answers of other servers than WhatsApp, such as proxies: they stop no instance, and show in its state and in `/health`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Answer, World, eventually};

const TEXT: &str = "/instances/shop/messages/text";

fn text() -> Value {
    json!({ "phone": "573001234567", "message": "Hola" })
}

async fn world() -> World {
    World::with(|settings| {
        settings.retry.transactional.first_delay = Duration::from_millis(20);
        settings.retry.transactional.ambiguous_wait = Duration::from_millis(400);
        settings.instance.probe_interval = Duration::from_millis(200);
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn stray_answer_stops_no_instance() {
    let world = world().await;
    for status in [302, 400, 401, 403, 404, 405, 407, 413] {
        world.faults(json!([{ "action": { "foreign": { "status": status } }, "times": 1 }])).await;
        let queued = world.queue(TEXT, text()).await;
        let sent = world.until_status(&queued.id(), &["sent", "delivered", "read"]).await;
        assert_eq!(sent["attempts"], 2, "{status}");
    }
    let view = world.until_state("shop", "connected").await;
    assert_eq!(view["reason"]["code"], "ok");
    // A synchronous send is told that it was not sent.
    world.faults(json!([{ "action": { "foreign": { "status": 404 } }, "times": 1 }])).await;
    assert_eq!(world.post(TEXT, text()).await.status, 503);
    assert_eq!(world.post(TEXT, text()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn instance_behind_a_stray_server_connects_again_by_itself() {
    let world = world().await;
    let foreign = json!({ "foreign": { "status": 401 } });
    world.faults(json!([{ "action": foreign }, { "match": { "kind": "probe" }, "action": foreign }])).await;
    let queued = world.queue(TEXT, text()).await;
    let view = world.until_state("shop", "connecting").await;
    assert_eq!(view["reason"]["code"], "unreachable");
    let disarmed = world.control(reqwest::Method::DELETE, "/_sandbox/faults", None).await;
    assert!(disarmed.status.is_success(), "{disarmed:?}");
    world.until_state("shop", "connected").await;
    world.until_status(&queued.id(), &["sent", "delivered", "read"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bare_request_timeout_is_ambiguous() {
    let world = world().await;
    world.faults(json!([{ "action": { "foreign": { "status": 408 } } }])).await;
    let queued = world.queue(TEXT, text()).await;
    let dead = world.until_status(&queued.id(), &["dead_letter"]).await;
    assert_eq!((&dead["reason"], &dead["attempts"]), (&json!("ambiguous"), &json!(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn retry_after_of_years_is_a_bounded_and_visible_pause() {
    let world = world().await;
    let foreign = json!({ "foreign": { "status": 429, "retry_after": 315_360_000 } });
    world.faults(json!([{ "action": foreign, "times": 1 }])).await;
    let queued = world.queue(TEXT, text()).await;
    let view = eventually("the pause to show", async || {
        let view = world.get("/instances/shop").await.body["data"].clone();
        if view["reason"]["code"] == "throttled" { Ok(view) } else { Err(view) }
    })
    .await;
    assert_eq!(view["status"], "connected");
    assert!(view["next_attempt_at"].is_string(), "{view}");
    let waiting = world.get(&format!("/instances/shop/messages/{}", queued.id())).await;
    assert_eq!(waiting.body["data"]["status"], "queued");
    let metrics = world.get("/metrics").await;
    assert!(metrics.body.as_str().unwrap().contains("instance_unable_seconds"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn health_is_degraded_while_an_instance_cannot_send() {
    // The clock of the node stands still until the test moves it.
    let mut world = World::of_folder(
        tempfile::tempdir().unwrap(),
        relevo_domain::Timestamp(1_763_800_000_000),
        |settings| settings.instance.probe_interval = Duration::from_secs(3600),
    )
    .await;
    world.create("shop").await;
    world.create("away").await;
    world.post("/instances/away/disconnect", json!({})).await;
    world.until_state("away", "disconnected").await;
    world.faults(json!([{ "action": { "error": { "code": 190, "status": 401 } }, "times": 1 }])).await;
    world.queue(TEXT, text()).await;
    world.until_state("shop", "paused").await;
    assert_eq!(world.get("/health").await.body["status"], "healthy", "not for more than a minute yet");

    world.advance(Duration::from_secs(61)).await;
    let health = world.get("/health").await;
    assert_eq!((health.status.as_u16(), &health.body["status"]), (200, &json!("degraded")), "{health:?}");
    assert_eq!(health.body["instances"]["unable_to_send"], 1);
    let unable = &health.body["unable_to_send"];
    assert_eq!((&unable[0]["instance_id"], unable.as_array().unwrap().len()), (&json!("shop"), 1));
    assert_eq!(unable[0]["reason"]["code"], "auth_rejected");
    // Strangers learn the number and no names.
    let stranger = reqwest::Client::new().get(format!("http://{}/health", world.node.address));
    let seen = Answer::of(stranger).await;
    assert_eq!(seen.body["instances"]["unable_to_send"], 1);
    assert!(seen.body.get("unable_to_send").is_none(), "{seen:?}");

    world.post("/instances/shop/resume", json!({})).await;
    world.until_state("shop", "connected").await;
    assert_eq!(world.get("/health").await.body["status"], "healthy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn link_that_cannot_be_resolved_now_refuses_no_message() {
    let world = world().await;
    let link = "http://no-such-host.invalid/a.jpg";
    let queued = world
        .queue("/instances/shop/messages/image", json!({ "phone": "573001234567", "media_url": link }))
        .await;
    assert_eq!(queued.status, 202, "{queued:?}");
    world.until_status(&queued.id(), &["sent", "delivered", "read"]).await;
    let broadcast = json!({
        "phones": ["573001234567"], "body_text": "Hola", "header_type": "image", "header_content": link,
    });
    let answer = world.post("/api/send-broadcast-interactive", broadcast).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}
