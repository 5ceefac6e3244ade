//! Bulk requests with thousands of recipients: completeness, limits, and reports of many errors.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::{assert_fits, until_task};
use crate::support::{Answer, World};

fn phones(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("5731000{n:05}")).collect()
}

/// A data URL of `bytes` bytes that starts with the signature of a PNG.
fn picture(bytes: usize) -> String {
    // "iVBORw0KGgoA" is the signature of a PNG and one byte more, in base64.
    format!("data:image/png;base64,iVBORw0KGgoA{}", "AAAA".repeat(bytes / 3))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bulk_request_sends_two_thousand_texts_once() {
    // The default rate limit of 80 a second would take 25 seconds.
    let world = World::with(|settings| settings.instance.rate_limit.per_second = 1_000.0).await;
    let recipients: Vec<_> = phones(2_000)
        .iter()
        .map(|phone| json!({ "phone": phone, "message": format!("Hola {phone}") }))
        .collect();
    let answer = world.post("/api/send-bulk", json!({ "recipients": recipients })).await;
    let task = answer.body["task_id"].as_str().unwrap();
    let done = until_task(&world, task, "SUCCESS").await;
    assert_eq!((&done["result"]["sent"], &done["result"]["failed"]), (&json!(2_000), &json!(0)));
    let texts: HashSet<_> =
        world.arrived().await.iter().map(|message| message["body"]["text"]["body"].to_string()).collect();
    assert_eq!((texts.len(), world.arrived().await.len()), (2_000, 2_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn broadcast_accepts_ten_thousand_phones_and_a_large_image() {
    let world = World::new().await;
    let body = json!({
        "phones": phones(10_000), "body_text": "mira", "header_type": "image", "header_content": picture(500_000),
    });
    assert!(body.to_string().len() > 750_000);
    let answer = world.post("/api/send-broadcast-interactive", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let task = answer.body["task_id"].as_str().unwrap();
    let job = world.get(&format!("/jobs/{task}")).await;
    assert_eq!(job.status, 200, "{job:?}");
    let known = world.get(&format!("/api/task-status/{task}")).await;
    assert_ne!(known.body["status"], "FAILURE", "{known:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn request_with_too_many_rows_is_refused_and_sends_nothing() {
    let world = World::with(|settings| settings.bulk.max_rows = 10).await;
    let recipients: Vec<_> =
        phones(11).iter().map(|phone| json!({ "phone": phone, "body_text": "hola" })).collect();
    let common = json!({ "phones": phones(11), "body_text": "hola" });
    let own = json!({ "recipients": recipients });
    for (route, body) in [("send-broadcast-interactive", common), ("send-personalized-broadcast", own)] {
        let refused = world.post(&format!("/api/{route}"), body).await;
        assert_eq!(refused.status, 413, "{refused:?}");
    }
    assert!(world.arrived().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn answer_lists_the_first_thousand_errors_and_counts_all() {
    let world = World::new().await;
    let bad: Vec<_> = (0..1_001).map(|n| json!(format!("x{n}"))).collect();
    let answer = world
        .post(
            "/api/send-broadcast-interactive",
            json!({ "phones": bad, "body_text": "hola", "use_queue": false }),
        )
        .await;
    let result = &answer.body["result"];
    assert_eq!((&result["failed"], &result["errors_truncated"]), (&json!(1_001), &json!(true)), "{result}");
    let errors = result["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 1_000);
    let named = |n: usize| errors[n].as_str().unwrap().starts_with(&format!("Error para x{n}: "));
    assert!(named(0) && named(500) && named(999), "the errors are not in the order of the request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn idempotency_key_is_scoped_to_instance_and_body() {
    let world = World::new().await;
    assert_eq!(world.create("other").await.status, 201);
    let ask = async |instance: Option<&str>, text: &str| -> Value {
        let body = json!({ "recipients": [{ "phone": "573123456789", "message": text }] });
        let request =
            world.request(Method::POST, "/api/send-bulk").header("Idempotency-Key", "k").json(&body);
        let request = match instance {
            Some(name) => request.header("X-Instance-Id", name),
            None => request,
        };
        let answer = Answer::of(request).await;
        let expected =
            json!({ "success": true, "message": "Envío masivo enviado a cola", "task_id": "<uuid>" });
        assert_fits(&answer, 200, &expected);
        answer.body["task_id"].clone()
    };
    let first = ask(None, "uno").await;
    assert_eq!(ask(None, "uno").await, first);
    let (other, second) = (ask(Some("other"), "uno").await, ask(None, "dos").await);
    assert!(other != first && second != first && other != second);
    for task in [&first, &other, &second] {
        until_task(&world, task.as_str().unwrap(), "SUCCESS").await;
    }
    assert_eq!(world.arrived().await.len(), 3);
}
