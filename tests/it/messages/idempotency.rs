//! Repeated requests with the same `Idempotency-Key` are answered like the first, whatever has changed since.

use relevo_clock::Clock;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, World, eventually};

async fn send(world: &World, path: &str, key: &str, asynchronous: bool, body: &Value) -> Answer {
    let request = world.request(Method::POST, path).header("Idempotency-Key", key);
    Answer::of(request.header("X-Async", asynchronous.to_string()).json(body)).await
}

fn text(message: &str) -> Value {
    json!({ "phone": "573001234567", "message": message })
}

const TEXT: &str = "/instances/shop/messages/text";

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn scheduled_message_is_found_after_its_time() {
    let world = World::new().await;
    let at = Clock::system().now().seconds() + 2;
    let body = json!({ "phone": "573001234567", "message": "Hola", "send_at": at });
    let first = send(&world, TEXT, "k1", false, &body).await;
    assert_eq!(first.status, 202, "{first:?}");
    world.until_status(&first.id(), &["sent", "delivered", "read"]).await;
    for asynchronous in [false, true] {
        let again = send(&world, TEXT, "k1", asynchronous, &body).await;
        assert_eq!((again.status.as_u16(), again.body), (202, first.body.clone()));
    }
    let other = json!({ "phone": "573001234567", "message": "Adios", "send_at": at });
    assert_eq!(send(&world, TEXT, "k1", false, &other).await.status, 409);
    assert_eq!(world.arrived().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sent_message_is_found_while_the_instance_is_disconnected() {
    let world = World::new().await;
    let first = send(&world, TEXT, "k1", false, &text("Hola")).await;
    assert_eq!(first.status, 200, "{first:?}");
    let reaction = json!({ "phone": "573001234567", "message_id": first.id(), "emoji": "👍" });
    let react = "/instances/shop/messages/react";
    assert_eq!(send(&world, react, "k2", false, &reaction).await.status, 200);
    let image = json!({ "phone": "573001234567", "media_url": "data:image/png;base64,iVBORw0KGgo=" });
    let image_path = "/instances/shop/messages/image";
    let sent_image = send(&world, image_path, "k3", false, &image).await;
    let api = send(&world, "/api/send-message", "k4", false, &text("Hola")).await;
    assert_eq!(api.status, 200, "{api:?}");
    let arrived = world.arrived().await.len();
    world.post("/instances/shop/disconnect", json!({})).await;
    world.until_state("shop", "disconnected").await;

    for (path, key, body, expected) in [
        (TEXT, "k1", text("Hola"), &first),
        (image_path, "k3", image, &sent_image),
        ("/api/send-message", "k4", text("Hola"), &api),
    ] {
        let again = send(&world, path, key, false, &body).await;
        assert_eq!((again.status, &again.body), (expected.status, &expected.body), "{path}");
    }
    assert_eq!(send(&world, react, "k2", false, &reaction).await.status, 200);
    // A key that was used for another request is a conflict, also if the new request is invalid or cannot be sent.
    assert_eq!(send(&world, TEXT, "k1", false, &text("Adios")).await.status, 409);
    let invalid = send(&world, TEXT, "k1", false, &json!({ "phone": "x" })).await;
    assert_eq!((invalid.status.as_u16(), &invalid.body["error"]["type"]), (409, &json!("conflict")));
    assert_eq!(send(&world, TEXT, "new", false, &text("Hola")).await.status, 409);
    assert_eq!(world.arrived().await.len(), arrived);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bulk_job_is_found_while_the_instance_is_disconnected() {
    let world = World::new().await;
    let path = "/api/messages/send-broadcast-interactive";
    let body = json!({ "phones": ["573001234567"], "body_text": "Hola" });
    let first = send(&world, path, "k1", false, &body).await;
    assert_eq!(first.status, 200, "{first:?}");
    world.post("/instances/shop/disconnect", json!({})).await;
    world.until_state("shop", "disconnected").await;
    let again = send(&world, path, "k1", false, &body).await;
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(send(&world, path, "k2", false, &body).await.status, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn uploaded_file_is_found_after_its_send_at() {
    let world = World::new().await;
    let at = Clock::system().now().seconds() + 2;
    let upload = async || {
        let form = reqwest::multipart::Form::new()
            .part("file", reqwest::multipart::Part::bytes(&b"573001234567"[..]).file_name("a.csv"))
            .text("message", "Hola")
            .text("send_at", at.to_string());
        let request = world.request(Method::POST, "/messages/send-bulk-file").header("Idempotency-Key", "k1");
        Answer::of(request.multipart(form)).await
    };
    let first = upload().await;
    assert_eq!(first.status, 200, "{first:?}");
    let job = first.body["job"]["id"].clone();
    eventually("the job to end", async || {
        let job = world.get(&format!("/jobs/{}", job.as_str().unwrap())).await;
        if job.body["status"] == "completed" || job.body["data"]["status"] == "completed" {
            Ok(())
        } else {
            Err(job.body)
        }
    })
    .await;
    let again = upload().await;
    assert_eq!((again.status.as_u16(), &again.body["job"]["id"]), (200, &job), "{again:?}");
    assert_eq!(world.arrived().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn repetition_waits_for_the_first_request() {
    let world = World::new().await;
    world.faults(json!([{ "action": { "delay_ms": 1000 }, "times": 1 }])).await;
    let body = text("Hola");
    let (first, second) = tokio::join!(send(&world, TEXT, "k1", false, &body), async {
        eventually("the first request to be sent", async || {
            let queue = world.get("/instances/shop/queue").await.body;
            if queue["data"]["in_flight"] == 1 { Ok(()) } else { Err(queue) }
        })
        .await;
        send(&world, TEXT, "k1", false, &body).await
    });
    assert_eq!((first.status, &first.body), (second.status, &second.body));
    assert_eq!(world.arrived().await.len(), 1);
}
