//! The relay: ordered delivery of frames to a WebSocket server, and its `/api/queue` routes.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Answer, World, eventually};

/// Longest wait for a frame; reaching it fails the test.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A consumer as documented: a WebSocket server that reads frames on any path and does not answer.
pub struct Consumer {
    pub address: SocketAddr,
    frames: mpsc::UnboundedReceiver<String>,
    serving: JoinHandle<()>,
}

impl Consumer {
    pub async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, frames) = mpsc::unbounded_channel();
        let serving = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let sender = sender.clone();
                open.spawn(async move {
                    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                    while let Some(Ok(message)) = socket.next().await {
                        if let Message::Text(text) = message {
                            let _ = sender.send(text.to_string());
                        }
                    }
                });
            }
        });
        Self { address, frames, serving }
    }

    pub async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn frame(&mut self) -> Value {
        let text = tokio::time::timeout(TIMEOUT, self.frames.recv()).await.expect("a frame in time").unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub async fn stop(self) {
        self.serving.abort();
        let _ = self.serving.await;
    }
}

async fn world(address: SocketAddr) -> World {
    World::empty(|settings| {
        settings.relay.url = Some(format!("ws://{address}/ws").parse().unwrap());
        settings.relay.retry_delay = Duration::from_millis(50);
        settings.relay.timeout = Duration::from_secs(5);
    })
    .await
}

async fn post(world: &World, path: &str) -> Answer {
    Answer::of(world.request(Method::POST, path)).await
}

fn status(available: bool, running: bool, pending: u64, healthy: bool) -> Value {
    json!({
        "success": true,
        "status": {
            "websocket_available": available,
            "processor_running": running,
            "processor_thread_alive": running,
            "processor_thread_name": "FIFOProcessor",
            "queue_size": pending,
            "queue_healthy": healthy,
        },
        "queue_lengths": { "pending": pending },
    })
}

async fn until_pending(world: &World, pending: u64) {
    let wanted = json!({ "success": true, "queue_lengths": { "pending": pending } });
    eventually(&format!("{pending} to be pending"), async || {
        let body = world.get("/api/queue/lengths").await.body;
        if body == wanted { Ok(()) } else { Err(body) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn test_message_is_relayed_and_routes_answer_as_documented() {
    let mut consumer = Consumer::start().await;
    let world = world(consumer.address).await;
    let tested = post(&world, "/api/queue/test").await;
    let message = tested.body["test_message"].clone();
    let result = json!({ "success": true, "method": "fifo_queue" });
    let expected = json!({ "success": true, "result": result, "test_message": message });
    assert_eq!((tested.status.as_u16(), tested.body), (200, expected));
    assert_eq!(
        (&message["from"], &message["type"], &message["text"]),
        (&json!("test_user"), &json!("text"), &json!("Mensaje de prueba del sistema de colas"))
    );
    let mut frame = consumer.frame().await;
    let object = frame.as_object_mut().unwrap();
    assert_eq!(object.remove("attempts"), Some(json!(0)));
    let queued_at = object.remove("queued_at").unwrap().as_f64().unwrap();
    let seconds: f64 = message["timestamp"].as_str().unwrap().parse().unwrap();
    assert!((queued_at - seconds).abs() < 5.0, "{queued_at} {seconds}");
    assert_eq!(frame, message);
    until_pending(&world, 0).await;
    assert_eq!(world.get("/api/queue/status").await.body, status(true, true, 0, true));

    let retried = post(&world, "/api/queue/retry_failed").await;
    let result = json!({ "success": true, "message": "FIFO queue reintenta automáticamente" });
    assert_eq!((retried.status.as_u16(), retried.body), (200, json!({ "success": true, "result": result })));
    let restarted = post(&world, "/api/queue/restart").await;
    let expected = json!({ "success": true, "message": "Procesador en funcionamiento" });
    assert_eq!((restarted.status.as_u16(), restarted.body), (200, expected));
    post(&world, "/api/queue/test").await;
    assert_eq!(consumer.frame().await["from"], "test_user");
    let metrics = world.get("/metrics").await.body.as_str().unwrap().to_owned();
    assert!(metrics.contains("relevo_relayed_total{outcome=\"sent\"}"), "{metrics}");
    assert!(metrics.contains("relevo_relay_depth"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn relay_queue_survives_a_restart_in_order() {
    let consumer = Consumer::start().await;
    let address = consumer.address;
    consumer.stop().await;
    let mut world = world(address).await;
    for _ in 0..5 {
        assert_eq!(post(&world, "/api/queue/test").await.status, 200);
    }
    assert_eq!(world.get("/api/queue/status").await.body, status(false, true, 5, true));
    world.restart_node().await;
    post(&world, "/api/queue/test").await;
    until_pending(&world, 6).await;
    let mut consumer = Consumer::at(address).await;
    let mut before = 0.0;
    for n in 0..6 {
        let frame = consumer.frame().await;
        let queued_at = frame["queued_at"].as_f64().unwrap();
        assert!(queued_at >= before, "{queued_at} after {before}");
        before = queued_at;
        assert_eq!(frame["attempts"].as_u64().unwrap() > 0, n == 0, "{frame}");
    }
    until_pending(&world, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn relay_queue_can_be_cleared() {
    let consumer = Consumer::start().await;
    let address = consumer.address;
    consumer.stop().await;
    let world = world(address).await;
    for _ in 0..5 {
        post(&world, "/api/queue/test").await;
    }
    let cleared = Answer::of(world.request(Method::DELETE, "/api/queue/clear")).await;
    assert_eq!(cleared.body, json!({ "success": true, "result": { "cleared": 5 } }));
    until_pending(&world, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn routes_report_a_disabled_relay() {
    let world = World::empty(|_| {}).await;
    assert_eq!(world.get("/api/queue/status").await.body, status(false, false, 0, false));
    until_pending(&world, 0).await;
    let cleared = Answer::of(world.request(Method::DELETE, "/api/queue/clear")).await;
    assert_eq!(cleared.body, json!({ "success": true, "result": { "cleared": 0 } }));
    for path in ["/api/queue/test", "/api/queue/retry_failed", "/api/queue/restart"] {
        let refused = post(&world, path).await;
        assert_eq!(refused.status, 503, "{refused:?}");
        assert_eq!(refused.body["details"], "nothing is relayed: relay.url is not set");
    }
}
