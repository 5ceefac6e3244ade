//! A shutdown whose parts all have work that does not end.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::{KEY, World, eventually};

/// How long the closing of the database and a busy machine may add.
const CLOSING: Duration = Duration::from_secs(3);

/// A server that accepts connections and never answers.
async fn silent_server() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.push(stream);
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn shutdown_has_one_deadline_for_all_parts() {
    let drain = Duration::from_secs(4);
    let mut world = World::with(|settings| settings.shutdown_drain = drain).await;
    // A delivery that hangs, an attempt that hangs, and a request that does not arrive.
    let url = format!("http://{}/", silent_server().await);
    let endpoint = json!({ "url": url, "events": ["message_ack"] });
    assert_eq!(world.post("/webhooks", endpoint).await.status, 201);
    world.faults(json!([{ "action": { "hang": "before" }, "match": { "to": "573001234567" } }])).await;
    let text = |phone: &str| json!({ "phone": phone, "message": "x" });
    assert_eq!(world.post("/messages/text", text("573001234568")).await.status, 200);
    let hanging = world.queue("/messages/text", text("573001234567")).await;
    let path = format!("/messages/{}", hanging.id());
    eventually("the attempt to begin", async || {
        let message = world.get(&path).await.body;
        if message["data"]["status"] == "sending" { Ok(()) } else { Err(message) }
    })
    .await;
    let mut request = TcpStream::connect(world.node.address).await.unwrap();
    let head =
        format!("POST /instances HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: 9\r\n\r\n{{");
    request.write_all(head.as_bytes()).await.unwrap();

    let began = Instant::now();
    world.stop_node().await;
    let took = began.elapsed();
    assert!(took < drain + CLOSING, "the shutdown took {took:?}");
    assert!(took > drain / 2, "nothing was in flight: the shutdown took {took:?}");
}
