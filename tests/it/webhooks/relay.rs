//! From Meta's webhook to the consumer behind the relay.

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

use super::guarantees::{is_suppressed, logged, messages};
use crate::relay::Consumer;
use crate::support::cloud_webhook::{ANA, counted, deliver, offer, text, text_from, webhook};
use crate::support::process::{Process, ask};
use crate::support::{World, eventually};

/// A user who is in no address book.
const EVA: &str = "573009876543";

fn words(frame: &Value) -> &str {
    let messages = frame["entry"][0]["changes"][0]["value"]["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 1, "one message a frame: {frame}");
    messages[0]["text"]["body"].as_str().unwrap()
}

#[tokio::test]
async fn messages_are_relayed_one_by_one_with_their_authors_in_order_over_a_restart() {
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
        assert_eq!(words(&frame), n.to_string());
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
                "beside that it is Meta's own"
            );
        }
    }
}

#[tokio::test]
async fn a_full_relay_refuses_deliveries_whole_until_there_is_room() {
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
    // There is room for one more, and this brings two.
    let news = json!({ "event": "FLAGGED", "display_phone_number": "1", "current_limit": "TIER_1K" });
    let news = webhook(&world, "shop", "phone_number_quality_update", news);
    let body = messages(&world, &json!([text("wamid.2", "2"), text("wamid.3", "BAJA")]));
    let refused = offer(&world, body.clone()).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!((logged(&world, "message").await.len(), is_suppressed(&world).await), (2, false));
    assert_eq!(world.get("/api/queue/lengths").await.body["queue_lengths"]["pending"], 2);
    assert_eq!((counted(&world, "refused").await, counted(&world, "event").await), (1, 2));

    let mut consumer = Consumer::at(address).await;
    eventually("room for both", async || {
        let answer = offer(&world, body.clone()).await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    eventually("room for more", async || {
        let answer = offer(&world, news.clone()).await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    for expected in ["0", "1", "2", "BAJA"] {
        assert_eq!(words(&consumer.frame().await), expected);
    }
    assert_eq!(consumer.frame().await["entry"][0]["changes"][0]["field"], "phone_number_quality_update");
    assert_eq!((logged(&world, "message").await.len(), is_suppressed(&world).await), (4, true));
}

/// A consumer behind TLS, whose certificate says that it is `localhost`; on threads of its own, because rustls itself
/// is synchronous.
fn consumer_behind_tls() -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("tls/cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/key.pem")).unwrap();
    // For this server and for the test's own HTTP client; a node in this process would have installed the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    let config = Arc::new(config.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, frames) = mpsc::unbounded_channel();
    let serve = move |tls: ServerConnection, stream: TcpStream, sender: mpsc::UnboundedSender<String>| {
        let Ok(mut socket) = tungstenite::accept(StreamOwned::new(tls, stream)) else { return };
        // Pings are answered while the next message is awaited.
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

#[tokio::test]
async fn a_consumer_behind_tls_gets_its_frames_when_its_certificate_is_trusted() {
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
    assert_eq!(status["status"]["websocket_available"], false, "nobody vouches for it: {status}");
    ask(&client, address, Method::POST, "/api/queue/test", None).await;
    node.kill();

    let _node = start("cert.pem");
    let waited = tokio::time::timeout(Duration::from_secs(20), frames.recv()).await;
    let frame: Value = serde_json::from_str(&waited.expect("no frame came").unwrap()).unwrap();
    assert_eq!(frame["save_number"], Value::Null, "a test message goes as it is: {frame}");
    assert!(frame["attempts"].is_number(), "{frame}");
    let status = ask(&client, address, Method::GET, "/api/queue/status", None).await;
    assert_eq!(status["status"]["websocket_available"], true, "{status}");
}
