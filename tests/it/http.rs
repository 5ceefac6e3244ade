//! The HTTP server: authentication, limits, timeouts, CORS, and the form of every answer.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Answer, KEY, World};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Fills the parameters of a documented path with ids that do not exist.
fn filled(path: &str) -> String {
    let path = path.replace("{id}", "unknown").replace("{message_id}", "wamid.none");
    // An invalid cursor, because a valid one opens a stream that does not end.
    path.replace("/events/stream", "/events/stream?after=~")
}

/// Checks that the documented path parameters are those of the path, and that no parameter is documented twice.
fn assert_parameters(path: &str, operation: &Value) {
    let parameters = operation["parameters"].as_array().map_or([].as_slice(), Vec::as_slice);
    let mut seen = BTreeSet::new();
    for parameter in parameters {
        let (name, place) = (parameter["name"].as_str().unwrap(), parameter["in"].as_str().unwrap());
        assert!(seen.insert((place, name.to_lowercase())), "{path}: {name} is documented twice");
        assert!(place != "path" || parameter["required"] == true, "{path}: {name} must be required");
    }
    let documented: BTreeSet<_> =
        seen.iter().filter(|(place, _)| *place == "path").map(|(_, name)| name.as_str()).collect();
    let named: BTreeSet<_> = path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
    assert_eq!(documented, named, "{path}");
}

async fn raw(world: &World, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(world.node.address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn openapi_document_and_router_have_the_same_routes() {
    let world = World::empty(|_| {}).await;
    let document = world.get("/openapi.json").await.body;
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let documented: BTreeSet<_> =
            METHODS.into_iter().filter(|method| item.get(method).is_some()).collect();
        for method in METHODS {
            let verb: Method = method.to_uppercase().parse().unwrap();
            let answer = Answer::of(world.request(verb, &filled(path))).await;
            if let Some(operation) = item.get(method) {
                assert_parameters(path, operation);
                assert!(
                    ids.insert(operation["operationId"].as_str().unwrap().to_owned()),
                    "{path}: {operation}"
                );
                let details = answer.body["error"]["details"].as_str().unwrap_or_default();
                assert!(
                    answer.status != 405 && !details.contains("no such route"),
                    "{method} {path}: {answer:?}"
                );
            } else {
                // The path of a message is also that of a send, whose last segment is the type.
                if method == "post" && path.ends_with("/messages/{message_id}") {
                    assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
                    continue;
                }
                assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
                let named = if path.starts_with("/api/") { &answer.body } else { &answer.body["error"] };
                assert_eq!(named["type"], "method_not_allowed", "{method} {path}: {answer:?}");
                let allow = answer.headers["allow"].to_str().unwrap().to_lowercase();
                let allowed: BTreeSet<_> = allow.split(',').filter(|method| *method != "head").collect();
                assert_eq!(allowed, documented, "{path}");
            }
        }
    }
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let schemas = names(&document["components"]["schemas"]);
    for reference in document.to_string().split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains(name), "the document refers to the schema {name} and does not define it");
    }
    // The loop above does not see a route that is added to the router without the document.
    let router = std::fs::read_to_string("src/http/router.rs").unwrap();
    assert!(!router.contains(".route(") && !router.contains(".nest("));
}

/// The properties that the JSON requests of all `POST` routes with this prefix share, where they have the property `mark`.
fn shared_properties(document: &Value, prefix: &str, mark: &str) -> BTreeSet<String> {
    let schema = |operation: &Value| {
        let name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str()?;
        let properties = document.pointer(&format!("{}/properties", name.trim_start_matches('#')))?;
        Some(properties.as_object()?.keys().cloned().collect::<BTreeSet<_>>())
    };
    let paths = document["paths"].as_object().unwrap().iter().filter(|(path, _)| path.starts_with(prefix));
    let sends = paths.filter_map(|(_, item)| schema(&item["post"])).filter(|names| names.contains(mark));
    sends.reduce(|left, right| &left & &right).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn shared_fields_of_a_send_are_decided_for_the_application_api() {
    // A new field of every send is listed here with the field of the application's API that has its meaning, if any.
    const FIELDS: [(&str, Option<&str>); 3] =
        [("phone", Some("phone")), ("expires_in", None), ("send_at", None)];
    let world = World::empty(|_| {}).await;
    let document = world.get("/openapi.json").await.body;
    let gateway = shared_properties(&document, "/instances/{id}/messages/", "send_at");
    let listed: BTreeSet<_> = FIELDS.iter().map(|(field, _)| (*field).to_owned()).collect();
    assert_eq!(gateway, listed);
    let application = shared_properties(&document, "/api/send-", "phone");
    for field in FIELDS.iter().filter_map(|(_, field)| *field) {
        assert!(application.contains(field), "not every send of /api has {field}: {application:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn routes_require_the_key_exactly_where_documented() {
    let world = World::empty(|_| {}).await;
    let document = world.get("/openapi.json").await.body;
    let unauthenticated = reqwest::Client::new();
    let mut open = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in METHODS.into_iter().filter(|method| item.get(method).is_some()) {
            let url = format!("http://{}{}", world.node.address, filled(path));
            let verb: Method = method.to_uppercase().parse().unwrap();
            let answer = Answer::of(unauthenticated.request(verb, url).body("{}")).await;
            if item[method].get("security").is_some() {
                assert_eq!(answer.status, 401, "{method} {path}");
                let named = if path.starts_with("/api/") { "/error" } else { "/error/message" };
                assert_eq!(answer.body.pointer(named), Some(&json!("No autorizado")), "{method} {path}");
            } else {
                assert_ne!(answer.status, 401, "{method} {path}");
                open.insert(path.as_str());
            }
        }
    }
    assert_eq!(
        open,
        BTreeSet::from([
            "/",
            "/api/health",
            "/health",
            "/health/live",
            "/health/ready",
            "/instances/{id}/cloud-webhook",
            "/openapi.json",
            "/webhook",
        ])
    );
    let url = format!("http://{}/instances", world.node.address);
    for (name, value) in [("Authorization", format!("Bearer {KEY}")), ("authorization", KEY.to_owned())] {
        assert_eq!(unauthenticated.get(&url).header(name, value).send().await.unwrap().status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn invalid_request_is_refused_with_its_field() {
    let world = World::new().await;
    for (path, body, status, field) in [
        ("/messages/text", "", 400, "body"),
        ("/messages/text", "[1]", 400, "body"),
        ("/messages/text", "{", 400, "body"),
        ("/messages/text", r#"{"phone":573001234567.5,"message":"x"}"#, 400, "phone"),
        ("/messages/text", r#"{"phone":true,"message":"x"}"#, 400, "phone"),
        ("/messages/text", r#"{"phone":"12","message":"x"}"#, 400, "phone"),
        ("/messages/text", r#"{"phone":"573001234567","message":" "}"#, 400, "message"),
        ("/messages/image", r#"{"phone":"573001234567"}"#, 400, "media_url"),
        ("/messages/image", r#"{"phone":"573001234567","media_url":"http://"}"#, 400, "media_url"),
        ("/messages/location", r#"{"phone":"573001234567","latitude":91,"longitude":0}"#, 400, "latitude"),
        ("/messages/contact", r#"{"phone":"573001234567"}"#, 400, "vcard"),
        ("/messages/react", r#"{"phone":"573001234567","emoji":"x"}"#, 400, "message_id"),
        ("/instances", r#"{"name":"x"}"#, 400, "instance_id"),
        ("/instances", r#"{"id":"a","cloud_api":{"phone_number_id":"1"}}"#, 400, "cloud_api.access_token"),
        ("/instances", r#"{"id":"a","cloud_api":{"phone_number_id":1}}"#, 400, "cloud_api.phone_number_id"),
    ] {
        let request = world.request(Method::POST, path).header("Content-Type", "text/plain").body(body);
        let answer = Answer::of(request).await;
        assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
        assert_eq!(answer.body["success"], false);
        assert_eq!(answer.body["error"]["code"], status);
        assert_eq!(answer.body["error"]["field"], field, "{path} {body}: {answer:?}");
    }
    let long = json!({ "phone": "573001234567", "message": "x".repeat(4097) });
    let answer = world.post("/messages/text", long).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body["error"]["field"]),
        (400, &json!("message")),
        "{answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn missing_resource_is_404() {
    let world = World::new().await;
    let text = json!({ "phone": "573001234567", "message": "x" });
    for name in ["unknown", "a%20b", "%C3%B1"] {
        let answer = world.post(&format!("/instances/{name}/messages/text"), text.clone()).await;
        assert_eq!(answer.status, 404, "{answer:?}");
        assert_eq!(answer.body["error"]["message"], "Instancia no encontrada");
    }
    for path in ["/instances/shop/messages/wamid.none", "/messages/%20", "/nothing/here"] {
        let answer = world.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["error"]["message"]),
            (404, &json!("No encontrado"))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn instance_routes_manage_an_instance_and_hide_its_secrets() {
    let world = World::empty(|_| {}).await;
    assert_eq!(world.get("/instances").await.body, json!({ "success": true, "data": [], "total": 0 }));
    let mut wanted = world.instance("shop");
    wanted["cloud_api"]["access_token"] = json!("EAAG-secret");
    wanted["rate_limit"] = json!({ "per_second": 7.5, "burst": 3 });
    let created = world.post("/instances", wanted.clone()).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(world.post("/instances", wanted).await.body["error"]["message"], "La instancia ya existe");

    let changed =
        world.request(Method::PUT, "/instances/shop").json(&json!({ "name": "Tienda", "workers": 4 }));
    let changed = Answer::of(changed).await.body["data"].clone();
    assert_eq!((&changed["name"], &changed["workers"]), (&json!("Tienda"), &json!(4)));
    assert_eq!(changed["rate_limit"], json!({ "per_second": 7.5, "burst": 3 }));
    assert_eq!(changed["cloud_api"]["has_app_secret"], true);

    let disconnected = world.post("/instances/shop/disconnect", json!({})).await;
    assert_eq!(disconnected.body["data"]["status"], "disconnected", "{disconnected:?}");
    let refused = world.post("/messages/text", json!({ "phone": "573001234567", "message": "x" })).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    let queued = world.queue("/messages/text", json!({ "phone": "573001234567", "message": "x" })).await;
    assert_eq!(queued.status, 202, "{queued:?}");
    assert_eq!(world.get("/instances/shop/status").await.body["queue"]["total"], 1);
    for action in ["connect", "restart", "resume"] {
        assert_eq!(world.post(&format!("/instances/shop/{action}"), json!({})).await.status, 200);
    }
    world.until_state("shop", "connected").await;
    let all = world.get("/instances").await.body;
    assert_eq!(all["total"], 1);
    for secret in ["EAAG-secret", crate::support::APP_SECRET, "hola"] {
        assert!(!all.to_string().contains(secret) && !created.body.to_string().contains(secret));
    }
    let gone = Answer::of(world.request(Method::DELETE, "/instances/shop")).await;
    assert_eq!(gone.body, json!({ "success": true, "message": "Instancia eliminada exitosamente" }));
    assert_eq!(world.get("/instances/shop").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn synchronous_send_has_a_status_code_for_each_outcome() {
    let world = World::new().await;
    let fault = |to: &str, action: Value| json!({ "match": { "to": to, "kind": "text" }, "action": action });
    world
        .faults(json!([
            fault("573000000001", json!({ "error": { "code": 131026 } })),
            fault("573000000002", json!({ "error": { "code": 130429 } })),
            fault("573000000003", json!({ "error": { "code": 131016 } })),
            fault("573000000004", json!({ "close": "after", "drop_statuses": true })),
            fault("573000000005", json!({ "error": { "code": 190 } })),
        ]))
        .await;
    for (to, status, message_status, kind) in [
        ("573000000001", 422, "failed", "rejected"),
        ("573000000002", 429, "failed", "throttled"),
        ("573000000003", 503, "failed", "unavailable"),
        ("573000000004", 504, "ambiguous", "ambiguous"),
        ("573000000005", 424, "failed", "logged_out"),
    ] {
        let answer = world.post("/messages/text", json!({ "phone": to, "message": "x" })).await;
        assert_eq!(answer.status, status, "{to}: {answer:?}");
        assert_eq!(answer.body["error"]["type"], kind, "{answer:?}");
        assert_eq!(answer.body["status"], message_status, "{answer:?}");
        assert_eq!(answer.headers.contains_key("retry-after"), status == 429);
        world.until_status(&answer.id(), &[message_status]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn idempotency_key_prevents_a_second_send() {
    let world = World::new().await;
    let send = async |path: &str, text: &str, asynchronous: &str| {
        let request = world.request(Method::POST, path).header("Idempotency-Key", "order-7");
        Answer::of(
            request
                .header("X-Async", asynchronous)
                .json(&json!({ "phone": "573001234567", "message": text })),
        )
        .await
    };
    let first = send("/messages/text", "Hola", "true").await;
    assert_eq!(first.status, 202, "{first:?}");
    let again = send("/instances/shop/messages/text", "Hola", "1").await;
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    world.until_status(&first.id(), &["read"]).await;
    let waited = send("/messages/text", "Hola", "false").await;
    assert_eq!(
        (waited.status.as_u16(), &waited.body["correlation_id"]),
        (200, &first.body["correlation_id"])
    );
    assert_eq!(send("/messages/text", "Adiós", "true").await.status, 409);
    assert_eq!(world.arrived().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn media_of_a_request_is_uploaded_and_sent() {
    let world = World::new().await;
    let mut picture = b"\x89PNG\r\n\x1a\n".to_vec();
    picture.resize(400_000, 7);
    let encoded = STANDARD.encode(&picture);
    for media_url in [encoded.clone(), format!("data:image/png;base64,{encoded}")] {
        let body = json!({ "to": "573001234567", "url": media_url, "caption": "Foto" });
        let sent = world.post("/messages/image", body).await;
        assert_eq!(sent.status, 200, "{sent:?}");
    }
    let arrived = world.arrived().await;
    assert_eq!(arrived.len(), 2);
    assert!(arrived.iter().all(|message| message["type"] == "image"), "{arrived:?}");
    let wrong = json!({ "phone": "573001234567", "media_url": STANDARD.encode("hola") });
    assert_eq!(world.post("/messages/image", wrong).await.body["error"]["field"], "media_url");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn oversized_body_is_answered_with_413() {
    let world = World::empty(|settings| settings.http.json_body_limit = 64 << 10).await;
    let head = format!("POST /instances HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nConnection: close\r\n");
    let large = vec![b' '; 200 << 10];
    let announced = [format!("{head}Content-Length: {}\r\n\r\n", large.len()).as_bytes(), &large].concat();
    let chunk = [format!("{:x}\r\n", large.len()).as_bytes(), &large, b"\r\n0\r\n\r\n"].concat();
    let chunked = [format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes(), &chunk].concat();
    let unauthenticated = String::from_utf8(announced.clone()).unwrap().replace(KEY, "wrong").into_bytes();
    for (request, status) in [(announced, "413"), (chunked, "413"), (unauthenticated, "401")] {
        let answer = raw(&world, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains(r#""success":false"#), "{answer}");
    }
    // A client that sends `Expect: 100-continue` gets the answer before it sends the body.
    let expecting = format!("{head}Expect: 100-continue\r\nContent-Length: 9999999\r\n\r\n");
    let answer = raw(&world, expecting.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn slow_request_times_out() {
    let world = World::empty(|settings| settings.http.read_timeout = Duration::from_millis(200)).await;
    let head = format!("POST /instances HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n");
    let body = raw(&world, format!("{head}Content-Length: 10\r\n\r\n{{").as_bytes()).await;
    assert!(body.starts_with("HTTP/1.1 408 "), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn request_has_one_host() {
    let world = World::empty(|_| {}).await;
    for (version, hosts, status) in [
        ("1.1", "Host: a\r\n", "200"),
        ("1.1", "Host: my_node.example:8080\r\n", "200"),
        ("1.1", "", "400"),
        ("1.1", "Host: a\r\nHost: a\r\n", "400"),
        ("1.1", "Host: a\r\nhost: b\r\n", "400"),
        ("1.0", "Host: a\r\nHost: b\r\n", "400"),
        ("1.0", "", "200"),
    ] {
        let request = format!("GET /health HTTP/{version}\r\n{hosts}Connection: close\r\n\r\n");
        let answer = raw(&world, request.as_bytes()).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{version} {hosts:?}: {answer}");
        assert!(status == "200" || answer.contains(r#""field":"Host""#), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn trailing_slash_is_ignored_where_nothing_is_deleted() {
    let world = World::new().await;
    assert_eq!(world.get("/instances/?limit=5").await.body["total"], 1);
    assert_eq!(world.get("/instances/shop/events/").await.status, 200);
    let text = json!({ "phone": "573001234567", "message": "x" });
    assert_eq!(world.post("/instances/shop/messages/text/", text).await.status, 200);
    assert_eq!(world.post("/instances/", world.instance("other")).await.status, 201);
    // A client that deletes one number, and has none, must not delete all of them.
    let answer = Answer::of(world.request(Method::DELETE, "/numbers/")).await;
    assert_eq!(answer.status, 404, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn unknown_type_of_message_is_404() {
    let world = World::new().await;
    for path in ["/instances/shop/messages/nothing", "/messages/nothing"] {
        let answer = world.post(path, json!({})).await;
        assert_eq!(answer.status, 404, "{answer:?}");
        assert!(answer.body["error"]["details"].as_str().unwrap().contains("nothing"), "{answer:?}");
    }
    let wrong = Answer::of(world.request(Method::PUT, "/instances/shop/messages/nothing")).await;
    assert_eq!(wrong.status, 405, "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn empty_cursor_is_the_beginning_of_every_list() {
    let world = World::new().await;
    let document = world.get("/openapi.json").await.body;
    let mut lists = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let parameters = item["get"]["parameters"].as_array().map_or([].as_slice(), Vec::as_slice);
        // A stream does not end.
        let streams = path.contains("/stream") || path.contains("/ws");
        if streams || !parameters.iter().any(|parameter| parameter["name"] == "after") {
            continue;
        }
        lists += 1;
        let path = path.replace("{id}", "shop");
        let answer = world.get(&format!("{path}?after=")).await;
        let without = world.get(&path).await;
        assert_eq!((answer.status, &answer.body), (without.status, &without.body), "{path}");
        let named = answer.body["error"]["field"].as_str().unwrap_or_default();
        assert!(!["after", "query"].contains(&named), "{path}: {answer:?}");
    }
    assert!(lists >= 10, "{lists}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn webhook_verification_requires_the_verify_token() {
    let world = World::new().await;
    let ask = async |query: &str| world.get(&format!("/webhook?{query}")).await;
    let right = "hub.mode=subscribe&hub.verify_token=hola";
    let known = ask(&format!("{right}&hub.challenge=123456")).await;
    assert_eq!((known.status.as_u16(), known.body), (200, json!(123456)));
    assert!(known.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    assert_eq!(ask(right).await.status, 400);
    for wrong in ["hub.mode=subscribe&hub.verify_token=x&hub.challenge=1", "hub.challenge=1", ""] {
        let answer = ask(wrong).await;
        assert_eq!((answer.status.as_u16(), answer.body), (403, json!("Error de verificación")));
    }
    let forged = world.request(Method::POST, "/webhook").header("X-Hub-Signature-256", "sha256=00");
    let body = json!({ "object": "whatsapp_business_account", "entry": [] });
    let forged = Answer::of(forged.json(&body)).await;
    assert_eq!(forged.status, 403, "{forged:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn cors_permits_configured_origins_only() {
    let world =
        World::empty(|settings| settings.http.cors_origins = vec!["https://app.example".to_owned()]).await;
    let preflight = async |origin: &str| {
        let request = world.request(Method::OPTIONS, "/instances").header("Origin", origin);
        let request = request.header("Access-Control-Request-Method", "PATCH");
        Answer::of(request.header("Access-Control-Request-Headers", "x-async,idempotency-key")).await.headers
    };
    let permitted = preflight("https://app.example").await;
    assert_eq!(permitted["access-control-allow-origin"], "https://app.example");
    let headers = permitted["access-control-allow-headers"].to_str().unwrap();
    assert!(
        ["x-api-key", "x-async", "idempotency-key"].iter().all(|name| headers.contains(name)),
        "{headers}"
    );
    assert!(permitted["access-control-allow-methods"].to_str().unwrap().contains("PATCH"));
    assert!(!preflight("https://evil.example").await.contains_key("access-control-allow-origin"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn cors_for_any_origin_permits_no_credentials() {
    let world = World::empty(|settings| settings.http.cors_origins = vec!["*".to_owned()]).await;
    let headers = async |origin: &str| {
        Answer::of(world.request(Method::GET, "/instances").header("Origin", origin)).await.headers
    };
    let any = headers("https://any.example").await;
    assert_eq!(any["access-control-allow-origin"], "https://any.example");
    assert!(!any.contains_key("access-control-allow-credentials"), "{any:?}");
    // Sandboxed frames and local files of any site have this origin.
    let null = headers("null").await;
    assert!(!null.contains_key("access-control-allow-origin"), "{null:?}");
}
