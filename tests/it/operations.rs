//! Routes for operators: queues, dead letters, schedules, health, metrics, rate limit.

use std::num::NonZeroU32;

use relevo_clock::Clock;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, World, eventually};

fn text(phone: &str) -> Value {
    json!({ "phone": phone, "message": "Hola" })
}

/// The Unix time `seconds` from now.
fn ahead(seconds: u64) -> u64 {
    Clock::system().now().seconds() + seconds
}

async fn call(world: &World, method: Method, path: &str, body: Value) -> Answer {
    Answer::of(world.request(method, path).json(&body)).await
}

/// Queues messages that fail permanently, and waits until they are dead letters. Returns their ids.
async fn create_dead_letters(world: &World, count: usize) -> Vec<String> {
    world.faults(json!([{ "action": { "error": { "code": 131_047 } }, "times": count }])).await;
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(world.queue("/messages/text", text(&format!("5730012345{n:02}"))).await.id());
    }
    for id in &ids {
        world.until_status(id, &["dead_letter"]).await;
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn queue_view_shows_depth_lanes_and_oldest_message() {
    let world = World::new().await;
    world.post("/instances/shop/disconnect", json!({})).await;
    for phone in ["573001111111", "573002222222", "573002222222", "573002222222"] {
        world.queue("/messages/text", text(phone)).await;
    }
    let later = json!({ "phone": "573003333333", "message": "x", "send_at": ahead(3600) });
    assert_eq!(world.post("/messages/text", later).await.status, 202);
    let queue = world.get("/instances/shop/queue").await.body["data"].clone();
    assert_eq!(queue["depth"], json!({ "transactional": 5, "bulk": 0, "total": 5 }), "{queue}");
    assert_eq!((&queue["in_flight"], &queue["held"], &queue["due_later"]), (&json!(0), &json!(0), &json!(1)));
    assert!(queue["oldest_at"].is_string() && queue["oldest_age_seconds"].is_u64(), "{queue}");
    assert!(queue["lanes"].is_array(), "{queue}");
    let all = world.get("/queue").await.body;
    assert_eq!((&all["total"], &all["data"][0]["instance_id"]), (&json!(5), &json!("shop")), "{all}");
    assert_eq!(world.get("/instances/unknown/queue").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn dead_letters_can_be_listed_redriven_and_discarded() {
    let world = World::new().await;
    let ids = create_dead_letters(&world, 5).await;
    let path = "/instances/shop/dead-letters";
    let list = world.get(path).await.body;
    let data = list["data"].as_array().unwrap();
    let listed: Vec<_> = data.iter().map(|letter| letter["message_id"].as_str().unwrap()).collect();
    assert_eq!(listed, ids);
    let letter = &data[0];
    assert_eq!(
        (&letter["reason"], &letter["error"]["code"]),
        (&json!("permanent"), &json!(131_047)),
        "{letter}"
    );
    assert_eq!((&letter["attempts"], &letter["instance_id"]), (&json!(1), &json!("shop")));
    assert_eq!(letter["content"]["body"], "Hola", "{letter}");
    assert!(letter["buried_at"].is_string() && letter["history"].is_array());
    assert!(letter["advice"].as_str().unwrap().contains("WhatsApp refused"), "{letter}");

    for every in [path, "/dead-letters"] {
        let mut seen = Vec::new();
        let mut page = world.get(&format!("{every}?limit=2")).await.body;
        loop {
            seen.extend(page["data"].as_array().unwrap().iter().map(|letter| letter["message_id"].clone()));
            let Some(next) = page["next"].as_str() else { break };
            page = world.get(&format!("{every}?limit=2&after={next}")).await.body;
        }
        assert_eq!(seen, ids, "{every}");
    }
    for (query, count) in [
        ("reason=permanent", 5),
        ("reason=ambiguous", 0),
        ("since=2020-01-01T00:00:00Z", 5),
        ("until=2020-01-01T00:00:00Z", 0),
    ] {
        assert_eq!(world.get(&format!("{path}?{query}")).await.body["data"].as_array().unwrap().len(), count);
    }
    for query in ["reason=x", "since=x", "after=x", "limit=0", "limit=501"] {
        assert_eq!(world.get(&format!("{path}?{query}")).await.status, 400, "{query}");
    }

    let one = world.post(&format!("{path}/{}/redrive", ids[0]), json!({})).await;
    assert_eq!(one.status, 200, "{one:?}");
    world.until_status(&ids[0], &["sent", "delivered", "read"]).await;
    assert_eq!(world.post(&format!("{path}/{}/redrive", ids[0]), json!({})).await.status, 409);
    let gone = call(&world, Method::DELETE, &format!("{path}/{}", ids[1]), json!({})).await;
    assert_eq!(gone.body["data"], json!({ "discarded": 1 }), "{gone:?}");
    assert_eq!(
        world.post(&format!("{path}/redrive"), json!({ "reason": "ambiguous" })).await.body["data"]["redriven"],
        0
    );
    let some = call(&world, Method::DELETE, &format!("{path}?reason=exhausted"), json!({})).await;
    assert_eq!(some.body["data"], json!({ "discarded": 0 }));
    let rest = Answer::of(world.request(Method::POST, &format!("{path}/redrive"))).await;
    assert_eq!(rest.body["data"], json!({ "redriven": 3 }), "{rest:?}");
    for id in &ids[2..] {
        world.until_status(id, &["sent", "delivered", "read"]).await;
    }
    create_dead_letters(&world, 3).await;
    let all = call(&world, Method::DELETE, path, json!({})).await;
    assert_eq!(all.body["data"], json!({ "discarded": 3 }));
    assert_eq!(world.get("/dead-letters").await.body["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn scheduled_message_survives_a_restart_and_is_sent_on_time() {
    let mut world = World::new().await;
    let at = ahead(2);
    let body = json!({ "phone": "573001234567", "message": "Hola", "send_at": at, "expires_in": 60 });
    let scheduled = world.post("/messages/text", body).await;
    assert_eq!(
        (scheduled.status.as_u16(), &scheduled.body["status"]),
        (202, &json!("scheduled")),
        "{scheduled:?}"
    );
    world.restart_node().await;
    let sent = world.until_status(&scheduled.id(), &["sent", "delivered", "read"]).await;
    let steps = sent["history"].as_array().unwrap();
    assert_eq!(steps[0]["status"], "scheduled");
    let went = steps.iter().find(|step| step["status"] == "sending").unwrap()["at"].as_str().unwrap();
    let went: jiff::Timestamp = went.parse().unwrap();
    assert!(u64::try_from(went.as_second()).unwrap() >= at, "{sent}");
    assert_eq!(world.arrived().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn scheduled_messages_can_be_listed_moved_and_cancelled() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for hours in [3, 1, 2] {
        let body = json!({ "phone": "573001234567", "message": "Hola", "send_at": ahead(hours * 3600) });
        ids.push(world.post("/instances/shop/messages/text", body).await.id());
    }
    let list = async |query: &str| world.get(&format!("/instances/shop/scheduled{query}")).await.body;
    let names = |page: &Value| -> Vec<Value> {
        page["data"].as_array().unwrap().iter().map(|message| message["message_id"].clone()).collect()
    };
    let first = list("?limit=2").await;
    assert_eq!(names(&first), [ids[1].as_str(), ids[2].as_str()]);
    let second = list(&format!("?limit=2&after={}", first["next"].as_str().unwrap())).await;
    assert_eq!((names(&second), &second["next"]), (vec![json!(ids[0])], &Value::Null));

    let path = |id: &str| format!("/instances/shop/messages/{id}");
    let moved =
        call(&world, Method::PATCH, &path(&ids[0]), json!({ "send_at": "2020-01-01T00:00:00Z" })).await;
    assert_eq!(moved.status, 400, "{moved:?}");
    let moved =
        call(&world, Method::PATCH, &path(&ids[0]), json!({ "send_at": ahead(60).to_string() })).await;
    assert_eq!(moved.body["data"]["status"], "scheduled", "{moved:?}");
    assert_eq!(names(&list("").await)[0], ids[0]);

    let cancelled = world.post(&format!("{}/cancel", path(&ids[0])), json!({})).await;
    assert_eq!((cancelled.status.as_u16(), &cancelled.body["data"]["status"]), (200, &json!("cancelled")));
    let again = world.post(&format!("{}/cancel", path(&ids[0])), json!({})).await;
    assert_eq!((again.status.as_u16(), &again.body["status"]), (409, &json!("cancelled")), "{again:?}");
    let deleted = call(&world, Method::DELETE, &format!("/messages/{}", ids[1]), json!({})).await;
    assert_eq!(deleted.body["data"]["status"], "cancelled", "{deleted:?}");
    let soon = call(&world, Method::PATCH, &path(&ids[2]), json!({ "send_at": ahead(1) })).await;
    assert_eq!(soon.status, 200, "{soon:?}");
    world.until_status(&ids[2], &["sent", "delivered", "read"]).await;
    assert_eq!(call(&world, Method::DELETE, &path(&ids[2]), json!({})).await.status, 409);
    assert_eq!(call(&world, Method::PATCH, &path(&ids[2]), json!({ "send_at": ahead(9) })).await.status, 409);
    assert_eq!(world.arrived().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn send_at_must_be_in_the_next_year() {
    let world = World::new().await;
    for (moment, details) in [
        (json!(ahead(0)), "La fecha de ejecución debe ser futura"),
        (json!("2020-01-01T00:00:00Z"), "La fecha de ejecución debe ser futura"),
        (json!(ahead(400 * 24 * 3600)), "within a year"),
        (json!("tomorrow"), "RFC 3339"),
    ] {
        let body = json!({ "phone": "573001234567", "message": "x", "send_at": moment });
        let answer = world.post("/messages/text", body).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["error"]["field"]),
            (400, &json!("send_at")),
            "{answer:?}"
        );
        assert!(answer.body["error"]["details"].as_str().unwrap().contains(details), "{answer:?}");
    }
    assert_eq!(world.arrived().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn queued_message_can_be_cancelled_before_its_first_attempt() {
    let world = World::new().await;
    world.post("/instances/shop/disconnect", json!({})).await;
    let queued = world.queue("/messages/text", text("573001234567")).await;
    let cancelled = world.post(&format!("/messages/{}/cancel", queued.id()), json!({})).await;
    assert_eq!(cancelled.body["data"]["status"], "cancelled", "{cancelled:?}");
    assert_eq!(world.get("/instances/shop/queue").await.body["data"]["depth"]["total"], 0);
}

/// A rule over an unknown metric never fires, and a panel over one stays empty.
#[test]
fn alerts_and_dashboard_use_existing_metrics() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let given = read("crates/relevo-metrics/src/lib.rs") + &read("src/app/gauges.rs");
    let is_given = |name: &str| {
        let endings =
            ["", "_total", "_bucket", "_sum", "_count", "_seconds_bucket", "_seconds_sum", "_seconds_count"];
        let mut bare = endings.iter().filter_map(|ending| name.strip_suffix(ending));
        bare.any(|bare| given.contains(&format!("\"{bare}\"")))
    };
    for file in ["ops/alerts.yml", "ops/grafana.json"] {
        let text = read(file);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: Vec<_> = words.filter_map(|word| word.strip_prefix("relevo_")).collect();
        assert!(names.len() > 10, "{file}");
        for name in names {
            assert!(is_given(name), "{file}: relevo_{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn metrics_and_health_answer_scrapers_and_probes() {
    let world = World::new().await;
    world.post("/messages/text", text("573001234567")).await;
    let metrics = world.get("/metrics").await;
    assert_eq!(metrics.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text_format = metrics.body.as_str().unwrap();
    for series in
        ["instance_state", "queue_depth", "queue_oldest_seconds", "store_commits", "process_resident"]
    {
        assert!(text_format.contains(series), "{series} in {text_format}");
    }
    assert!(text_format.ends_with("# EOF\n"), "{text_format}");
    let stranger = reqwest::Client::new();
    for (path, status) in [("/health", "healthy"), ("/health/live", "alive"), ("/health/ready", "healthy")] {
        let url = format!("http://{}{path}", world.node.address);
        let answer = Answer::of(stranger.get(url)).await;
        assert_eq!((answer.status.as_u16(), &answer.body["status"]), (200, &json!(status)), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn node_with_a_full_disk_is_live_but_not_ready() {
    let world = World::empty(|settings| settings.store.min_free_space = u64::MAX / 2).await;
    eventually("the health check to report a full disk", async || {
        let ready = world.get("/health/ready").await;
        if ready.status == 503 { Ok(()) } else { Err(ready) }
    })
    .await;
    assert_eq!(world.get("/health/live").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rate_limit_of_the_key_applies_to_requests_but_not_to_probes() {
    let world = World::empty(|settings| settings.http.rate_limit = NonZeroU32::new(3)).await;
    let mut refused = None;
    for _ in 0..20 {
        let answer = world.get("/instances").await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("twenty requests at once are more than three a second");
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.body["error"]["type"], "throttled");
    for _ in 0..20 {
        assert_eq!(world.get("/health").await.status, 200);
        assert_eq!(world.get("/webhook").await.status, 403);
    }
}
