//! The memory of large bodies: announced bytes and senders without a key do not take it from others.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::cloud_webhook::{post_webhook, text, webhook};
use crate::support::{KEY, World};

/// Clients of each attack. Each announces as much as its route permits.
const SLOW_CLIENTS: usize = 75;

/// Sends a head that announces `announced` bytes, and `sent` bytes of the body.
async fn begin(world: &World, path: &str, headers: &str, announced: usize, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(world.node.address).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {announced}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // The node may have no room for it yet.
    let body = vec![b' '; sent];
    let _ = tokio::time::timeout(Duration::from_millis(50), stream.write_all(&body)).await;
    stream
}

async fn assert_large_requests_are_served(world: &World) {
    let began = Instant::now();
    let file = [b"\x89PNG\r\n\x1a\n".as_slice(), &vec![0; 3 << 20]].concat();
    let image = json!({ "phone": "573001234567", "media_url": STANDARD.encode(&file) });
    let sent = world.post("/messages/image", image).await;
    assert_eq!(sent.status, 200, "{sent:?}");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "an image was sent after {took:?}");
    let began = Instant::now();
    let mut body = webhook(world, "shop", "messages", json!({ "messages": [text("wamid.1", "hola")] }));
    body.resize(3 << 20, b' ');
    let delivered = post_webhook(world, body).await;
    assert_eq!(delivered.status, 200, "{delivered:?}");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "a webhook was received after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announced_bytes_take_no_memory() {
    let world = World::new().await;
    let signature = format!("X-Hub-Signature-256: sha256={}\r\n", "0".repeat(64));
    let mut held = Vec::new();
    for _ in 0..SLOW_CLIENTS {
        held.push(begin(&world, "/webhook", &signature, 4 << 20, 1).await);
        let key = format!("X-API-Key: {KEY}\r\n");
        held.push(begin(&world, "/messages/image", &key, 70 << 20, 1).await);
    }
    assert_large_requests_are_served(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_without_a_key_give_way_to_newer_ones() {
    let world = World::new().await;
    let signature = format!("X-Hub-Signature-256: sha256={}\r\n", "0".repeat(64));
    let mut held = Vec::new();
    for _ in 0..SLOW_CLIENTS {
        held.push(begin(&world, "/webhook", &signature, 4 << 20, 1 << 20).await);
    }
    assert_large_requests_are_served(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn unsigned_delivery_is_refused_before_its_body() {
    let world = World::new().await;
    let took = |path: &'static str, headers: &'static str| {
        let world = &world;
        async move {
            let mut stream = begin(world, path, headers, 4 << 20, 1).await;
            let mut answer = [0; 12];
            let reading = tokio::io::AsyncReadExt::read_exact(&mut stream, &mut answer);
            tokio::time::timeout(Duration::from_secs(1), reading).await.map(|_| answer)
        }
    };
    // The names of instances cannot be probed: one that does not exist is answered like one that does.
    for path in ["/webhook", "/instances/shop/cloud-webhook", "/instances/other/cloud-webhook"] {
        for headers in ["", "X-Hub-Signature-256: sha256=00\r\n"] {
            assert_eq!(&took(path, headers).await.unwrap(), b"HTTP/1.1 403", "{path} {headers}");
        }
        let claimed = "X-Hub-Signature-256: sha256=0000000000000000000000000000000000000000000000000000000000000000\r\n";
        assert!(took(path, claimed).await.is_err(), "{path} was answered before its body");
    }
}
