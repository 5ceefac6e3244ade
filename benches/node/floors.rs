//! Lower bounds: the speed of axum, of group commits and of reqwest without the node.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use relevo_store::floor::BareSled;

/// A server whose handler reads the body as text and answers 202 with a body like that of the node.
pub struct BareAxum {
    pub address: SocketAddr,
}

impl BareAxum {
    /// Starts the server on a separate thread.
    pub async fn start() -> Self {
        let answer = r#"{"success":true,"message_id":"msg_0123456789abcdef0123456789abcdef","correlation_id":"01234567-89ab-cdef-0123-456789abcdef","status":"queued"}"#;
        let handler = move |_body: String| async move {
            (StatusCode::ACCEPTED, [("content-type", "application/json")], answer)
        };
        let router = Router::new().route("/instances/{id}/messages/text", post(handler));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // A separate runtime, as in the node's process.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            let listener = listener.into_std().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, router).await.unwrap();
            });
        });
        Self { address }
    }
}

/// Durable puts a second of one 250-byte record each, by `callers` concurrent callers that share commits.
pub async fn group_commit(dir: &Path, callers: usize, time: Duration) -> f64 {
    type Put = ([u8; 16], oneshot::Sender<()>);
    let sled = BareSled::open(dir).unwrap();
    let (puts, mut queue) = mpsc::channel::<Put>(4096);
    let writer = std::thread::spawn(move || {
        let mut group = Vec::new();
        while queue.blocking_recv_many(&mut group, 1024) > 0 {
            sled.commit(group.iter().map(|(key, _)| &key[..]), &[b'x'; 250]).unwrap();
            group.drain(..).for_each(|(_, answer)| answer.send(()).unwrap());
        }
    });
    let (next, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let (puts, next) = (puts.clone(), next.clone());
        tasks.spawn(async move {
            let mut count = 0u64;
            while started.elapsed() < time {
                let mut key = [0u8; 16];
                key[..8].copy_from_slice(&next.fetch_add(1, Ordering::Relaxed).to_be_bytes());
                let (answer, answered) = oneshot::channel();
                puts.send((key, answer)).await.unwrap();
                answered.await.unwrap();
                count += 1;
            }
            count
        });
    }
    drop(puts);
    let count: u64 = tasks.join_all().await.into_iter().sum();
    let rate = count as f64 / started.elapsed().as_secs_f64();
    writer.join().unwrap();
    rate
}

/// Sends a second of `loops` concurrent loops, each of which sends a text when the previous one is answered.
pub async fn bare_reqwest(sandbox: SocketAddr, loops: usize, time: Duration) -> f64 {
    let client = reqwest::Client::builder().pool_max_idle_per_host(loops).build().unwrap();
    let url = format!("http://{sandbox}/v25.0/100/messages");
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..loops {
        let (client, url) = (client.clone(), url.clone());
        tasks.spawn(async move {
            let body = json!({ "messaging_product": "whatsapp", "to": "+573001234567", "type": "text", "text": { "body": "Hola" } });
            let mut count = 0u64;
            while started.elapsed() < time {
                let answer = client.post(&url).bearer_auth("token").json(&body).send().await.unwrap();
                assert!(answer.status().is_success());
                let _ = answer.bytes().await.unwrap();
                count += 1;
            }
            count
        });
    }
    let count: u64 = tasks.join_all().await.into_iter().sum();
    count as f64 / started.elapsed().as_secs_f64()
}
