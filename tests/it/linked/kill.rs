//! The real binary with two linked devices that talk to each other, killed with `kill -9` again and again, while
//! WhatsApp cuts, mutes and restarts.
//!
//! What must hold afterwards: everything that was accepted left once, and each of the two has got all of it once, could
//! read it, and has it in the order in which it was accepted.

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

/// Messages in each direction.
const MESSAGES: usize = 500;

/// Kills in the course of them.
const KILLS: usize = 5;

/// The two who talk: instance, and the phone that it belongs to.
const SHOP: (&str, &str) = ("shop", "573001112233");
const ANA: (&str, &str) = ("ana", "573004445566");

/// Longer than the whole conversation takes.
const PATIENCE: Duration = Duration::from_secs(120);

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

/// What is said: texts for the most part, now and then something about an earlier one.
fn said(n: usize, to: &str) -> (&'static str, Value) {
    let text = format!("{n}");
    match n % 25 {
        24 => ("location", json!({ "phone": to, "latitude": 4.6, "longitude": -74.1, "name": text })),
        23 => {
            // A PNG's first bytes, and its number.
            let picture = [b"\x89PNG\r\n\x1a\n".as_slice(), text.as_bytes(), &[7; 2000]].concat();
            use base64::Engine as _;
            let picture = base64::engine::general_purpose::STANDARD.encode(picture);
            let link = format!("data:image/png;base64,{picture}");
            ("image", json!({ "phone": to, "media_url": link, "caption": text }))
        }
        _ => ("text", json!({ "phone": to, "message": text })),
    }
}

/// Says everything, each when the one before was accepted. Answers with the messages' ids.
async fn say(client: Client, address: SocketAddr, from: &'static str, to: &'static str) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..MESSAGES {
        let (kind, body) = said(n, to);
        loop {
            let request = client
                .post(format!("http://{address}/instances/{from}/messages/{kind}"))
                .header("X-API-Key", KEY)
                .header("X-Async", "true")
                .header("Idempotency-Key", format!("{from}-{n}"))
                .json(&body);
            match request.send().await {
                Ok(answer) if answer.status() == 202 => {
                    // Cut off in mid-answer it is asked for again, by its key.
                    let Ok(answer) = answer.json::<Value>().await else { continue };
                    ids.push(answer["message_id"].as_str().unwrap().to_owned());
                    break;
                }
                // The node is down, or busy starting: wait for a moment, as a client does.
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
    ids
}

/// What an instance has got so far from somebody: WhatsApp's id of each message, and its number.
async fn got(client: &Client, address: SocketAddr, instance: &str, from: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/instances/{instance}/events?types=message&limit=500&after={after}");
        let page = ask(client, address, Method::GET, &path, None).await;
        let events = page["data"].as_array().unwrap();
        let theirs = events.iter().map(|event| &event["data"]);
        let theirs = theirs
            .filter(|data| data["from"] == format!("{from}@s.whatsapp.net") && data["is_from_me"] == false);
        found.extend(theirs.map(|data| {
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

/// What did not arrive, and what its sender knows of it.
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
async fn two_devices_talk_through_kills_and_a_bad_network() {
    // Nothing else in this process may have done it. Every caller installs the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let web = whatsapp().await;
    let data = tempfile::tempdir().unwrap();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = Client::new();
    let mut node = start(address, data.path(), &web);
    ask(&client, address, Method::GET, "/health", None).await;
    let phones = [pair(&client, address, &web, SHOP).await, pair(&client, address, &web, ANA).await];

    let talking = [
        tokio::spawn(say(client.clone(), address, SHOP.0, ANA.1)),
        tokio::spawn(say(client.clone(), address, ANA.0, SHOP.1)),
    ];
    let mut trouble = 0..;
    for round in 1..=KILLS {
        // After so many more messages have reached WhatsApp, not after a time.
        let goal = round * 2 * MESSAGES / (KILLS + 2);
        let reached = web.wait_until(|web| web.journal().len() >= goal);
        tokio::time::timeout(PATIENCE, reached).await.expect("the conversation to go on");
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
    for talk in talking {
        said.push(tokio::time::timeout(PATIENCE, talk).await.expect("everything to be accepted").unwrap());
    }

    for (((from, sender), (receiver, _)), ids) in [(SHOP, ANA), (ANA, SHOP)].into_iter().zip(said) {
        let mut arrived = Vec::new();
        let arriving = async {
            let mut looks = tokio::time::interval(Duration::from_millis(200));
            while arrived.len() < MESSAGES {
                looks.tick().await;
                arrived = got(&client, address, receiver, sender).await;
            }
        };
        if tokio::time::timeout(PATIENCE, arriving).await.is_err() {
            panic!("{receiver} did not get: {:#?}", missing(&client, address, from, &ids, &arrived).await);
        }
        let order: Vec<_> = arrived.iter().map(|(_, n)| *n).collect();
        assert_eq!(order, (0..MESSAGES).collect::<Vec<_>>(), "{receiver} got it in another order, or twice");
        let numbers: HashMap<_, _> = arrived.into_iter().collect();
        // The devices of the account that sent it are 1 and up; what its phone tells them is not counted.
        let device = format!("{sender}:1@s.whatsapp.net");
        let journal = web.journal();
        let left =
            journal.iter().filter(|entry| entry.from == device).filter_map(|entry| numbers.get(&entry.id));
        let left: Vec<_> = left.copied().collect();
        assert_eq!(left, (0..MESSAGES).collect::<Vec<_>>(), "{sender} sent it in another order");
    }
    node.kill();
}
