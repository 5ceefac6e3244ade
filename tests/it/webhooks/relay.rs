//! The path from Meta's webhook to the consumer of the relay.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{self, Message};

use super::guarantees::{is_suppressed, logged_events, messages};
use crate::relay::Consumer;
use crate::support::cloud_webhook::{ANA, deliver, inbound_count, post_webhook, text, text_from, webhook};
use crate::support::process::{Process, ask};
use crate::support::{World, eventually};

/// A user who is not in the address book.
const EVA: &str = "573009876543";

fn text_of(frame: &Value) -> &str {
    let messages = frame["entry"][0]["changes"][0]["value"]["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 1, "a frame holds more than one message: {frame}");
    messages[0]["text"]["body"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn messages_are_relayed_singly_in_order_with_their_contacts() {
    let consumer = Consumer::start().await;
    let address = consumer.address;
    consumer.stop().await;
    let mut world = World::with(|settings| {
        settings.relay.url = Some(format!("ws://{address}/ws").parse().unwrap());
        settings.relay.retry_delay = Duration::from_millis(20);
    })
    .await;
    let ana = json!({ "phone": ANA, "name": "Ana", "data": { "plan": "oro" } });
    assert_eq!(world.post("/api/numbers", ana).await.status, 201);
    let known = world.get(&format!("/api/numbers/{ANA}")).await.body["number"].clone();

    let batch = json!([text("wamid.0", "0"), text_from(EVA, "wamid.1", "1"), text("wamid.2", "2")]);
    let batch = messages(&world, &batch);
    deliver(&world, batch.clone()).await;
    let single = messages(&world, &json!([text("wamid.3", "3")]));
    deliver(&world, single.clone()).await;
    world.restart_node().await;
    deliver(&world, batch).await;
    deliver(&world, messages(&world, &json!([text_from(EVA, "wamid.4", "4")]))).await;

    let mut consumer = Consumer::at(address).await;
    for n in 0..5 {
        let mut frame = consumer.frame().await;
        assert_eq!(text_of(&frame), n.to_string());
        let is_known = !matches!(n, 1 | 4);
        let expected = if is_known { known.clone() } else { Value::Null };
        assert_eq!((&frame["save_number"], &frame["cached_info"]), (&json!(is_known), &expected), "{frame}");
        if n == 3 {
            let object = frame.as_object_mut().unwrap();
            assert!(object.remove("queued_at").unwrap().as_f64() > Some(1.7e9));
            assert_eq!(object.remove("attempts"), Some(json!(0)));
            object.retain(|name, _| !matches!(name.as_str(), "save_number" | "cached_info"));
            assert_eq!(
                frame,
                serde_json::from_slice::<Value>(&single).unwrap(),
                "the frame changed other fields of Meta's body"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn full_relay_refuses_deliveries_completely_until_it_has_capacity() {
    let consumer = Consumer::start().await;
    let address = consumer.address;
    consumer.stop().await;
    let world = World::with(|settings| {
        settings.relay.url = Some(format!("ws://{address}/ws").parse().unwrap());
        settings.relay.retry_delay = Duration::from_millis(20);
        settings.relay.capacity = 3;
    })
    .await;
    deliver(&world, messages(&world, &json!([text("wamid.0", "0"), text("wamid.1", "1")]))).await;
    // The relay has capacity for one frame; this delivery needs two.
    let quality = json!({ "event": "FLAGGED", "display_phone_number": "1", "current_limit": "TIER_1K" });
    let quality = webhook(&world, "shop", "phone_number_quality_update", quality);
    let body = messages(&world, &json!([text("wamid.2", "2"), text("wamid.3", "BAJA")]));
    let refused = post_webhook(&world, body.clone()).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!((logged_events(&world, "message").await.len(), is_suppressed(&world).await), (2, false));
    assert_eq!(world.get("/api/queue/lengths").await.body["queue_lengths"]["pending"], 2);
    assert_eq!((inbound_count(&world, "refused").await, inbound_count(&world, "event").await), (1, 2));

    let mut consumer = Consumer::at(address).await;
    eventually("capacity for both messages", async || {
        let answer = post_webhook(&world, body.clone()).await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    eventually("capacity for another frame", async || {
        let answer = post_webhook(&world, quality.clone()).await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    for expected in ["0", "1", "2", "BAJA"] {
        assert_eq!(text_of(&consumer.frame().await), expected);
    }
    assert_eq!(consumer.frame().await["entry"][0]["changes"][0]["field"], "phone_number_quality_update");
    assert_eq!((logged_events(&world, "message").await.len(), is_suppressed(&world).await), (4, true));
}

/// A consumer behind TLS with a certificate for `localhost`. It runs on separate threads, because rustls is synchronous.
fn consumer_behind_tls() -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("tls/cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/key.pem")).unwrap();
    // This server and the HTTP client of the test need a provider. A node in this process would install the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    let config = Arc::new(config.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, frames) = mpsc::unbounded_channel();
    let serve = move |tls: ServerConnection, stream: TcpStream, sender: mpsc::UnboundedSender<String>| {
        let Ok(mut socket) = tungstenite::accept(StreamOwned::new(tls, stream)) else { return };
        // `read` also answers pings.
        while let Ok(message) = socket.read() {
            if let Message::Text(text) = message {
                let _ = sender.send(text.to_string());
            }
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (tls, sender) = (ServerConnection::new(config.clone()).unwrap(), sender.clone());
            std::thread::spawn(move || serve(tls, stream.unwrap(), sender));
        }
    });
    (address, frames)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn consumer_behind_tls_receives_frames_only_with_a_trusted_certificate() {
    let (consumer, mut frames) = consumer_behind_tls();
    let data = tempfile::tempdir().unwrap();
    let url = format!("wss://localhost:{}/ws", consumer.port());
    let certificate = |name: &str| format!("{}/tests/it/webhooks/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = reqwest::Client::new();
    let start = |trusted: &str| {
        let environment = [("RELEVO_RELAY__URL", url.as_str()), ("SSL_CERT_FILE", &certificate(trusted))];
        Process::start_with(address, data.path(), &environment)
    };

    let node = start("stranger.pem");
    let status = ask(&client, address, Method::GET, "/api/queue/status", None).await;
    assert_eq!(
        status["status"]["websocket_available"], false,
        "the node trusted an unknown certificate: {status}"
    );
    ask(&client, address, Method::POST, "/api/queue/test", None).await;
    node.kill();

    let _node = start("cert.pem");
    let waited = tokio::time::timeout(Duration::from_secs(20), frames.recv()).await;
    let frame: Value = serde_json::from_str(&waited.expect("a frame in time").unwrap()).unwrap();
    assert_eq!(
        frame["save_number"],
        Value::Null,
        "the relay looked up the contact of a test message: {frame}"
    );
    assert!(frame["attempts"].is_number(), "{frame}");
    let status = ask(&client, address, Method::GET, "/api/queue/status", None).await;
    assert_eq!(status["status"]["websocket_available"], true, "{status}");
}
