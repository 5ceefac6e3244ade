//! Instances that are linked devices of virtual phones at the sandbox's WhatsApp Web, with real pairing and encryption.

mod cloud_api;
mod failures;
mod kill;
mod messages;
mod pairing;
mod proxy;
mod restart;

use std::sync::Arc;
use std::time::Duration;

use relevo::config::Settings;
use relevo_clock::{Clock, Random};
use relevo_sandbox_web::{Options, Phone, WebHandle, WebServer};
use reqwest::Method;
use reqwest::header::ACCEPT;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{World, eventually};

/// A fixed version of WhatsApp Web, so that no test requests the current one from WhatsApp.
pub const VERSION: (u32, u32, u32) = (2, 3000, 1);

/// Starts a WhatsApp Web on loopback.
pub async fn whatsapp() -> WebHandle {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    WebServer::start(listener, Clock::system(), Random::system(), Options::default()).unwrap()
}

/// A node and the WhatsApp Web that its linked devices connect to.
pub struct Linked {
    /// Ends first: its devices are connected to `web`.
    pub world: World,
    pub web: WebHandle,
}

impl Linked {
    /// A node without instances.
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// The same, with changed settings.
    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let web = whatsapp().await;
        let url = web.url();
        let world = World::empty(|settings| {
            settings.linked.server = url;
            settings.linked.version = Some(VERSION);
            // Shorter delays and higher rate limits than in production.
            settings.linked.reconnect_max_delay = Duration::from_secs(1);
            settings.linked.ack_timeout = Duration::from_secs(3);
            settings.instance.linked.rate_limit.per_second = 1000.0;
            settings.instance.linked.rate_limit.burst = 1000.try_into().unwrap();
            change(settings);
        })
        .await;
        Self { world, web }
    }

    /// Creates an instance, links it to the phone and waits until it is connected.
    pub async fn pair(&self, id: &str, phone_number: &str) -> Arc<Phone> {
        let created = self.world.post("/instances", json!({ "instance_id": id })).await;
        assert_eq!(created.status, 201, "{created:?}");
        let phone = self.web.phone(phone_number);
        phone.scan(&self.code(id).await).unwrap();
        self.world.until_state(id, "connected").await;
        phone
    }

    /// The text of the instance's QR code.
    pub async fn code(&self, id: &str) -> String {
        let asked =
            self.world.request(Method::GET, &format!("/instances/{id}/qr")).header(ACCEPT, "text/plain");
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
        answer.text().await.unwrap()
    }

    /// Waits until the instance has `count` events of a kind, and returns all of them.
    pub async fn events(&self, id: &str, kind: &str, count: usize) -> Vec<Value> {
        let path = format!("/instances/{id}/events?limit=1000&types={kind}");
        eventually(&format!("{count} events {kind} of {id}"), async || {
            let page = self.world.get(&path).await.body;
            let events = page["data"].as_array().unwrap();
            if events.len() >= count { Ok(events.clone()) } else { Err(page) }
        })
        .await
    }
}

/// Longest wait for an event at a phone.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Waits for an event at a phone. Fails the test after `TIMEOUT`.
pub async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(TIMEOUT, wait).await {
        Ok(found) => found,
        Err(_) => panic!("waited for {what}"),
    }
}
