//! Kills the real binary repeatedly with `kill -9` while it sends messages.
//!
//! Every accepted message must then have arrived at WhatsApp, or be a dead letter with the reason `ambiguous`. No message
//! arrives twice.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use relevo_domain::Secret;
use relevo_sandbox as sandbox;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::process::{Process, ask};
use crate::support::{APP_SECRET, KEY, SandboxRunning, eventually};

/// Number of kills, spread over the load.
const ROUNDS: u64 = 5;

/// Number of concurrent senders.
const SENDERS: usize = 16;

/// Sends until `stop` is true. Returns the ids of the accepted messages.
async fn send_until_stopped(
    address: SocketAddr,
    next: Arc<AtomicU64>,
    stop: tokio::sync::watch::Receiver<bool>,
) -> Vec<String> {
    let client = reqwest::Client::new();
    let mut accepted = Vec::new();
    while !*stop.borrow() {
        let n = next.fetch_add(1, Ordering::Relaxed);
        // Eight recipients get a quarter of the messages, the others get one each: lanes of different lengths.
        let phone = if n.is_multiple_of(4) { 573_000_000_000 + n % 8 } else { 573_100_000_000 + n };
        let request = client
            .post(format!("http://{address}/instances/shop/messages/text"))
            .header("X-API-Key", KEY)
            .header("X-Async", "true")
            .json(&json!({ "phone": phone.to_string(), "message": format!("{n}") }));
        match request.send().await {
            Ok(answer) if answer.status() == 202 => {
                // A truncated answer does not count as accepted.
                if let Ok(body) = answer.json::<Value>().await {
                    accepted.push(body["message_id"].as_str().unwrap().to_owned());
                }
            }
            // The node is down.
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    accepted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_and_duplicate_no_message() {
    let data = tempfile::tempdir().unwrap();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sandbox = SandboxRunning::start(sandbox::Options {
        app_secret: Some(Secret::new(APP_SECRET)),
        webhook_url: Some(format!("http://{address}/webhook").parse().unwrap()),
        delivered_after: Duration::from_millis(5),
        read_after: Duration::from_millis(10),
        webhook_attempts: 30,
        ..sandbox::Options::default()
    })
    .await;
    let client = reqwest::Client::new();
    let mut node = Process::start(address, data.path());
    let instance = json!({
        "instance_id": "shop",
        "rate_limit": { "per_second": 1000, "burst": 1000 },
        "cloud_api": {
            "phone_number_id": "100", "access_token": "token", "app_secret": APP_SECRET,
            "base_url": format!("http://{}", sandbox.address),
        }
    });
    ask(&client, address, Method::POST, "/instances", Some(instance)).await;

    let (stop, stopped) = tokio::sync::watch::channel(false);
    let next = Arc::new(AtomicU64::new(0));
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| tokio::spawn(send_until_stopped(address, next.clone(), stopped.clone())))
        .collect();
    for round in 0..ROUNDS {
        // The kill depends on the number of messages, not on time, so that the speed of the machine does not matter.
        let goal = next.load(Ordering::Relaxed) + 150 + 97 * round;
        eventually("the load to proceed", async || {
            if next.load(Ordering::Relaxed) >= goal { Ok(()) } else { Err(goal) }
        })
        .await;
        node.kill();
        node = Process::start(address, data.path());
        ask(&client, address, Method::GET, "/health", None).await;
    }
    stop.send(true).unwrap();
    let mut accepted = HashSet::new();
    for sender in senders {
        accepted.extend(sender.await.unwrap());
    }
    assert!(accepted.len() > 300, "only {} messages were accepted", accepted.len());
    eventually("the queue to be empty", async || {
        let view = ask(&client, node.address, Method::GET, "/instances/shop", None).await;
        if view["data"]["queue_depth"] == 0 { Ok(()) } else { Err(view) }
    })
    .await;

    let journal = client.get(format!("http://{}/_sandbox/messages?limit=100000", sandbox.address));
    let journal: Value = journal.send().await.unwrap().json().await.unwrap();
    let arrived: Vec<&str> = journal["messages"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|m| m["biz_opaque_callback_data"].as_str())
        .collect();
    let distinct: HashSet<&str> = arrived.iter().copied().collect();
    assert_eq!(arrived.len(), distinct.len(), "a message arrived twice");
    let (mut lost, mut ambiguous) = (Vec::new(), 0);
    for id in &accepted {
        let view = ask(&client, address, Method::GET, &format!("/instances/shop/messages/{id}"), None).await;
        let (status, reason) = (view["data"]["status"].as_str(), view["data"]["reason"].as_str());
        match (status, reason) {
            (Some("sent" | "delivered" | "read"), _) if distinct.contains(id.as_str()) => {}
            (Some("dead_letter"), Some("ambiguous")) => ambiguous += 1,
            _ => lost.push(view.to_string()),
        }
    }
    assert!(lost.is_empty(), "{} of {} lost: {lost:#?}", lost.len(), accepted.len());
    // Upper bound: each kill hits ten workers, each with one attempt in flight and up to three messages leased ahead
    // (when the disk is slower than the network).
    assert!(ambiguous <= 10 * 4 * ROUNDS, "{ambiguous} of {} are ambiguous", accepted.len());
    node.kill();
}
