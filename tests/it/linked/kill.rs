//! Kills the real binary repeatedly with `kill -9` while two linked devices exchange messages and WhatsApp cuts, mutes and
//! restarts their connections.
//!
//! Every accepted message must then have been sent once, and each device must have received and decrypted all messages of
//! the other one once and in the order of acceptance.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use relevo_sandbox_web::{Disconnection, Fault, FaultRule, Phone, WebHandle};
use reqwest::header::ACCEPT;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::whatsapp;
use crate::support::process::{Process, ask};
use crate::support::{KEY, eventually};

/// Number of messages in each direction.
const MESSAGES: usize = 500;

/// Number of kills, spread over the conversation.
const KILLS: usize = 5;

/// The two devices: instance id and phone number.
const SHOP: (&str, &str) = ("shop", "573001112233");
const ANA: (&str, &str) = ("ana", "573004445566");

/// Longest wait for the conversation.
const TIMEOUT: Duration = Duration::from_secs(120);

fn start(address: SocketAddr, data: &std::path::Path, web: &WebHandle) -> Process {
    let server = web.url().to_string();
    Process::start_with(
        address,
        data,
        &[
            ("RELEVO_LINKED_DEVICE__SERVER", server.as_str()),
            ("RELEVO_LINKED_DEVICE__VERSION", "2.3000.1"),
            ("RELEVO_LINKED_DEVICE__RATE_PER_MINUTE", "6000"),
            ("RELEVO_LINKED_DEVICE__RATE_BURST", "1000"),
            ("RELEVO_LINKED_DEVICE__ACK_TIMEOUT", "2s"),
            ("RELEVO_LINKED_DEVICE__RECONNECT_MAX_DELAY", "1s"),
            ("RELEVO_LINKED_DEVICE__PROBE_INTERVAL", "3s"),
            ("RELEVO_LINKED_DEVICE__PROBE_TIMEOUT", "2s"),
        ],
    )
}

async fn pair(
    client: &Client,
    address: SocketAddr,
    web: &WebHandle,
    (id, number): (&str, &str),
) -> Arc<Phone> {
    ask(client, address, Method::POST, "/instances", Some(json!({ "instance_id": id }))).await;
    let asked = client
        .get(format!("http://{address}/instances/{id}/qr"))
        .header("X-API-Key", KEY)
        .header(ACCEPT, "text/plain");
    let code = asked.send().await.unwrap().text().await.unwrap();
    let phone = web.phone(number);
    phone.scan(&code).unwrap();
    eventually("a connection", async || {
        let view = ask(client, address, Method::GET, &format!("/instances/{id}"), None).await;
        if view["data"]["status"] == "connected" { Ok(()) } else { Err(view) }
    })
    .await;
    phone
}

/// Route and body of the n-th message: mostly texts, sometimes a picture or a location.
fn message(n: usize, to: &str) -> (&'static str, Value) {
    let text = format!("{n}");
    match n % 25 {
        24 => ("location", json!({ "phone": to, "latitude": 4.6, "longitude": -74.1, "name": text })),
        23 => {
            // The signature of a PNG and the number of the message.
            let picture = [b"\x89PNG\r\n\x1a\n".as_slice(), text.as_bytes(), &[7; 2000]].concat();
            use base64::Engine as _;
            let picture = base64::engine::general_purpose::STANDARD.encode(picture);
            let link = format!("data:image/png;base64,{picture}");
            ("image", json!({ "phone": to, "media_url": link, "caption": text }))
        }
        _ => ("text", json!({ "phone": to, "message": text })),
    }
}

/// Queues all messages, one after the other. Returns their ids.
async fn send_all(client: Client, address: SocketAddr, from: &'static str, to: &'static str) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..MESSAGES {
        let (kind, body) = message(n, to);
        loop {
            let request = client
                .post(format!("http://{address}/instances/{from}/messages/{kind}"))
                .header("X-API-Key", KEY)
                .header("X-Async", "true")
                .header("Idempotency-Key", format!("{from}-{n}"))
                .json(&body);
            match request.send().await {
                Ok(answer) if answer.status() == 202 => {
                    // A truncated answer is requested again with the same idempotency key.
                    let Ok(answer) = answer.json::<Value>().await else { continue };
                    ids.push(answer["message_id"].as_str().unwrap().to_owned());
                    break;
                }
                // The node is down or starting.
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
    ids
}

/// Messages that an instance has received from a phone: WhatsApp's id and the number of each.
async fn received_from(
    client: &Client,
    address: SocketAddr,
    instance: &str,
    from: &str,
) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/instances/{instance}/events?types=message&limit=500&after={after}");
        let page = ask(client, address, Method::GET, &path, None).await;
        let events = page["data"].as_array().unwrap();
        let messages = events.iter().map(|event| &event["data"]);
        let messages = messages
            .filter(|data| data["from"] == format!("{from}@s.whatsapp.net") && data["is_from_me"] == false);
        found.extend(messages.map(|data| {
            let what =
                if data["message_type"] == "location" { &data["location_name"] } else { &data["text"] };
            (data["message_id"].as_str().unwrap().to_owned(), what.as_str().unwrap().parse().unwrap())
        }));
        match &page["next"] {
            Value::String(next) if !events.is_empty() => after.clone_from(next),
            Value::Number(next) if !events.is_empty() => after = next.to_string(),
            _ => return found,
        }
    }
}

/// Messages that did not arrive, each with the sender's view of it.
async fn missing(
    client: &Client,
    address: SocketAddr,
    from: &str,
    ids: &[String],
    arrived: &[(String, usize)],
) -> Vec<(usize, Value)> {
    let mut missing = Vec::new();
    for (n, id) in ids.iter().enumerate().filter(|(n, _)| arrived.iter().all(|(_, other)| other != n)) {
        let path = format!("/instances/{from}/messages/{id}");
        missing.push((n, ask(client, address, Method::GET, &path, None).await));
    }
    missing
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_and_network_faults_lose_reorder_and_duplicate_no_message() {
    // The clients need a provider, and no node of this process may have installed it yet. All callers install the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let web = whatsapp().await;
    let data = tempfile::tempdir().unwrap();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = Client::new();
    let mut node = start(address, data.path(), &web);
    ask(&client, address, Method::GET, "/health", None).await;
    let phones = [pair(&client, address, &web, SHOP).await, pair(&client, address, &web, ANA).await];

    let senders = [
        tokio::spawn(send_all(client.clone(), address, SHOP.0, ANA.1)),
        tokio::spawn(send_all(client.clone(), address, ANA.0, SHOP.1)),
    ];
    let mut trouble = 0..;
    for round in 1..=KILLS {
        // The kill depends on the number of messages at WhatsApp, not on time.
        let goal = round * 2 * MESSAGES / (KILLS + 2);
        let reached = web.wait_until(|web| web.journal().len() >= goal);
        tokio::time::timeout(TIMEOUT, reached).await.expect("the conversation to proceed");
        let phone = &phones[round % 2];
        match trouble.next().unwrap_or_default() {
            0 => drop(web.disconnect(phone, None, Disconnection::Cut)),
            1 => drop(web.mute(phone, None, true)),
            2 => web.restart(Duration::from_millis(300)),
            3 => drop(web.arm(FaultRule::once(phone.phone_number(), Fault::CutUnacked))),
            _ => drop(web.arm(FaultRule::once(phone.phone_number(), Fault::LoseAck))),
        }
        node.kill();
        node = start(address, data.path(), &web);
        ask(&client, address, Method::GET, "/health", None).await;
    }
    let mut said = Vec::new();
    for sender in senders {
        said.push(tokio::time::timeout(TIMEOUT, sender).await.expect("everything to be accepted").unwrap());
    }

    for (((from, sender), (receiver, _)), ids) in [(SHOP, ANA), (ANA, SHOP)].into_iter().zip(said) {
        let mut arrived = Vec::new();
        let arriving = async {
            let mut polls = tokio::time::interval(Duration::from_millis(200));
            while arrived.len() < MESSAGES {
                polls.tick().await;
                arrived = received_from(&client, address, receiver, sender).await;
            }
        };
        if tokio::time::timeout(TIMEOUT, arriving).await.is_err() {
            panic!(
                "{receiver} did not receive: {:#?}",
                missing(&client, address, from, &ids, &arrived).await
            );
        }
        let order: Vec<_> = arrived.iter().map(|(_, n)| *n).collect();
        assert_eq!(
            order,
            (0..MESSAGES).collect::<Vec<_>>(),
            "{receiver} received duplicates or another order"
        );
        let numbers: HashMap<_, _> = arrived.into_iter().collect();
        // Linked devices have the ids 1 and up. Copies that the phone (device 0) sends to them do not count.
        let device = format!("{sender}:1@s.whatsapp.net");
        let journal = web.journal();
        let left =
            journal.iter().filter(|entry| entry.from == device).filter_map(|entry| numbers.get(&entry.id));
        let left: Vec<_> = left.copied().collect();
        assert_eq!(left, (0..MESSAGES).collect::<Vec<_>>(), "{sender} sent another order");
    }
    node.kill();
}
