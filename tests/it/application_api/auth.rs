//! Authentication, service status, and errors that occur before a route of the application API runs.

use relevo::config::Settings;
use serde_json::json;

use super::{PHONE, assert_fits};
use crate::support::{Answer, KEY, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn status_route_shows_the_state_of_the_services() {
    let world = World::new().await;
    let unauthenticated = reqwest::Client::new();
    let ask = async |path: &str| {
        Answer::of(unauthenticated.get(format!("http://{}{path}", world.node.address))).await
    };
    assert_fits(&ask("/api/health").await, 200, &json!({ "status": "ok" }));
    assert_eq!(ask("/health").await.status, 200);
    let services = |whatsapp: bool| json!({ "webhook": true, "whatsapp_service": whatsapp, "queue_service": true, "websocket_service": true });
    assert_eq!(ask("/api/status").await.status, 401);
    assert_fits(
        &world.get("/api/status").await,
        200,
        &json!({ "status": "healthy", "services": services(true) }),
    );
    world.post("/instances/shop/disconnect", json!({})).await;
    assert_fits(
        &world.get("/api/status").await,
        503,
        &json!({ "status": "degraded", "services": services(false) }),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn errors_outside_the_routes_have_the_documented_form() {
    let world = World::with(|settings| settings.http.json_body_limit = 64 << 10).await;
    for path in ["/api", "/api/", "/api/nothing", "/api/messages/nothing"] {
        assert_fits(&world.get(path).await, 404, &json!({ "error": "Endpoint no encontrado" }));
    }
    let wrong = world.get("/api/send-message").await;
    assert_eq!(
        (wrong.status.as_u16(), &wrong.body["error"]),
        (405, &json!("Método no permitido")),
        "{wrong:?}"
    );
    assert!(wrong.headers["allow"].to_str().unwrap().contains("POST"));
    let large = world.post("/api/send-message", json!({ "message": "x".repeat(100 << 10) })).await;
    assert_eq!((large.status.as_u16(), &large.body["error"]), (413, &json!("Solicitud demasiado grande")));
    let unauthenticated =
        reqwest::Client::new().post(format!("http://{}/api/send-message", world.node.address));
    let unauthenticated = Answer::of(unauthenticated.json(&json!({}))).await;
    assert_eq!(
        (unauthenticated.status.as_u16(), &unauthenticated.body["error"]),
        (401, &json!("No autorizado"))
    );
    assert_eq!(unauthenticated.headers["www-authenticate"], "Bearer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn query_key_is_accepted_only_when_enabled() {
    let ask = async |world: &World, path: &str| {
        let url = format!("http://{}{path}", world.node.address);
        reqwest::Client::new().get(url).send().await.unwrap().status().as_u16()
    };
    let closed = World::empty(|_| {}).await;
    let path = "/api/task-status/x";
    assert_eq!(ask(&closed, &format!("{path}?api_key={KEY}")).await, 401);
    let open = World::empty(|settings| settings.http.query_key = true).await;
    assert_eq!(ask(&open, &format!("{path}?a=b&api_key={}", KEY.replace('-', "%2D"))).await, 404);
    for path in ["/api/task-status/x?api_key=wrong", "/api/task-status/x?api_key=", "/api/task-status/x"] {
        assert_eq!(ask(&open, path).await, 401, "{path}");
    }
    assert_eq!(ask(&open, &format!("/instances?api_key={KEY}")).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn loopback_requests_need_no_key_when_open_api_on_loopback_is_set() {
    let open = |settings: &mut Settings| settings.http.open_api_on_loopback = true;
    let world = World::with(open).await;
    let ask = |path: &str| {
        let url = format!("http://{}{path}", world.node.address);
        reqwest::Client::new().post(url).json(&json!({ "phone": PHONE, "message": "x" }))
    };
    assert_eq!(Answer::of(ask("/api/send-message")).await.status, 200);
    assert_eq!(Answer::of(ask("/messages/text")).await.status, 401);
    for (name, value) in [
        ("X-Forwarded-For", "203.0.113.7"),
        ("Forwarded", "for=203.0.113.7"),
        ("Via", "1.1 proxy"),
        ("Origin", "https://evil.example"),
        ("Host", "evil.example"),
    ] {
        let answer = Answer::of(ask("/api/send-message").header(name, value)).await;
        assert_eq!(answer.status, 401, "{name}: {answer:?}");
    }
    assert_eq!(world.arrived().await.len(), 1);
}
