//! Download of inbound media through the node, and its cache.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{CONTENT_DISPOSITION, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RANGE};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, World};

/// Sends an inbound picture to `shop`. Returns its media id.
async fn receive(world: &World, bytes: &[u8]) -> String {
    let inbound = json!({
        "phone_number_id": world.instance("shop")["cloud_api"]["phone_number_id"],
        "from": "573001234567",
        "type": "image",
        "mime_type": "image/png",
        "data": STANDARD.encode(bytes),
    });
    let sent = world.control(Method::POST, "/_sandbox/inbound", Some(inbound)).await;
    assert_eq!(sent.body["delivered"], true, "{sent:?}");
    sent.body["media_id"].as_str().unwrap().to_owned()
}

fn download(world: &World, media_id: &str) -> reqwest::RequestBuilder {
    world.request(Method::GET, &format!("/api/media/{media_id}/download"))
}

/// Number of downloads from the sandbox.
async fn sandbox_downloads(world: &World) -> u64 {
    world.control(Method::GET, "/_sandbox/stats", None).await.body["media_downloads"].as_u64().unwrap()
}

/// Arms a fault for every `every`-th media request.
async fn break_media(world: &World, every: u64, times: Option<u64>, action: Value) {
    let matching = json!({ "kind": "media", "every": every });
    world.faults(json!([{ "match": matching, "action": action, "times": times }])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn media_is_fetched_once_and_then_served_from_disk() {
    let world = World::new().await;
    let picture: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let id = receive(&world, &picture).await;
    let got = download(&world, &id).send().await.unwrap();
    assert_eq!(got.status(), StatusCode::OK);
    assert_eq!(got.headers()[CONTENT_TYPE], "image/png");
    assert_eq!(got.headers()[CONTENT_DISPOSITION], "attachment");
    assert_eq!(got.headers()["x-content-type-options"], "nosniff");
    assert_eq!(got.content_length(), Some(1_200_000));
    let etag = got.headers()[ETAG].clone();
    assert_eq!(got.bytes().await.unwrap(), picture);
    assert_eq!(sandbox_downloads(&world).await, 1);

    // WhatsApp fails all later media requests.
    break_media(&world, 1, None, json!({ "close": "before" })).await;
    let again = download(&world, &id).send().await.unwrap();
    assert_eq!(again.bytes().await.unwrap(), picture);
    let part = download(&world, &id).header(RANGE, "bytes=1000000-1000003").send().await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], "bytes 1000000-1000003/1200000");
    assert_eq!(part.bytes().await.unwrap(), picture[1_000_000..1_000_004]);
    let beyond = download(&world, &id).header(RANGE, "bytes=1200000-").send().await.unwrap();
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let same = download(&world, &id).header(IF_NONE_MATCH, etag).send().await.unwrap();
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn cached_media_survives_a_restart() {
    let mut world = World::new().await;
    let id = receive(&world, b"picture").await;
    assert_eq!(download(&world, &id).send().await.unwrap().bytes().await.unwrap(), "picture");
    world.restart_node().await;
    break_media(&world, 1, None, json!({ "close": "before" })).await;
    assert_eq!(download(&world, &id).send().await.unwrap().bytes().await.unwrap(), "picture");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn media_route_returns_both_urls() {
    let world = World::new().await;
    let id = receive(&world, b"picture").await;
    let answer = world.get(&format!("/api/media/{id}")).await;
    assert_eq!((answer.status, &answer.body["success"]), (StatusCode::OK, &json!(true)), "{answer:?}");
    let at_whatsapp = answer.body["media_url"].as_str().unwrap();
    assert!(at_whatsapp.starts_with(&format!("http://{}/", world.sandbox.address)), "{at_whatsapp}");
    let here = answer.body["download_url"].as_str().unwrap();
    let got = world.request(Method::GET, here).send().await.unwrap();
    assert_eq!(got.bytes().await.unwrap(), "picture");

    for id in ["999", "..%2F1", "a%20b"] {
        let missing = world.get(&format!("/api/media/{id}")).await;
        let said = json!({ "success": false, "error": "No se pudo obtener la URL del archivo" });
        assert_eq!((missing.status, missing.body), (StatusCode::NOT_FOUND, said), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn media_belongs_to_the_instance_that_received_it() {
    let world = World::new().await;
    world.create("other").await;
    let id = receive(&world, b"picture").await;
    let path = format!("/api/media/{id}/download");
    assert_eq!(world.get(&path).await.status, StatusCode::OK);
    assert_eq!(world.get(&format!("{path}?instance_id=shop")).await.status, StatusCode::OK);
    assert_eq!(world.get(&format!("{path}?instance_id=other")).await.status, StatusCode::GONE);
    assert_eq!(world.get(&format!("{path}?instance_id=unknown")).await.status, StatusCode::NOT_FOUND);
    let asked = world.request(Method::GET, &format!("{path}?instance_id=other"));
    let header_wins = Answer::of(asked.header("X-Instance-Id", "shop")).await;
    assert_eq!(header_wins.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn expired_media_url_is_requested_again() {
    let world = World::new().await;
    let id = receive(&world, b"picture").await;
    // The first request asks for the URL, the second for the file.
    break_media(&world, 2, Some(1), json!({ "error": { "code": 100, "status": 404 } })).await;
    assert_eq!(download(&world, &id).send().await.unwrap().bytes().await.unwrap(), "picture");
    assert_eq!(sandbox_downloads(&world).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn failed_download_is_answered_with_its_reason() {
    let world = World::new().await;
    let path = "/api/media/999/download";
    let gone = world.get(path).await;
    assert_eq!((gone.status, &gone.body["type"]), (StatusCode::GONE, &json!("gone")), "{gone:?}");

    let id = receive(&world, b"picture").await;
    let path = format!("/api/media/{id}/download");
    for (code, status) in [(190, 424), (130_429, 429), (131_000, 503)] {
        break_media(&world, 1, Some(1), json!({ "error": { "code": code } })).await;
        assert_eq!(world.get(&path).await.status.as_u16(), status, "{code}");
    }
    break_media(&world, 1, Some(1), json!({ "close": "before" })).await;
    assert_eq!(world.get(&path).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(world.get(&path).await.status, StatusCode::OK);

    let unknown = world.get("/instances/shop/messages/wamid.unknown/media").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND, "{unknown:?}");
    assert_eq!(world.get("/messages/wamid.unknown/media").await.status, StatusCode::NOT_FOUND);
}
