//! Instances that are linked devices, with a WhatsApp Web of our own at the other end: real pairing, real encryption.

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
use relevo_clock::Clock;
use relevo_sandbox_web::{Options, Phone, WebHandle, WebServer};
use reqwest::Method;
use reqwest::header::ACCEPT;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{World, eventually};

/// A version of WhatsApp Web, so that nobody asks WhatsApp for it.
pub const VERSION: (u32, u32, u32) = (2, 3000, 1);

/// A WhatsApp Web on loopback.
pub async fn whatsapp() -> WebHandle {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    WebServer::start(listener, Clock::system(), Options::default()).unwrap()
}

/// A node whose linked devices belong to phones of that WhatsApp.
pub struct Linked {
    pub web: WebHandle,
    pub world: World,
}

impl Linked {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let web = whatsapp().await;
        let url = web.url();
        let world = World::empty(|settings| {
            settings.linked.server = url;
            settings.linked.version = Some(VERSION);
            // Tests are in a hurry; people are not.
            settings.linked.reconnect_max_delay = Duration::from_secs(1);
            settings.linked.ack_timeout = Duration::from_secs(3);
            settings.instance.linked.rate_limit.per_second = 1000.0;
            settings.instance.linked.rate_limit.burst = 1000.try_into().unwrap();
            change(settings);
        })
        .await;
        Self { web, world }
    }

    /// An instance of this name, linked to the phone of this number and connected.
    pub async fn pair(&self, id: &str, phone_number: &str) -> Arc<Phone> {
        let created = self.world.post("/instances", json!({ "instance_id": id })).await;
        assert_eq!(created.status, 201, "{created:?}");
        let phone = self.web.phone(phone_number);
        phone.scan(&self.code(id).await).unwrap();
        self.world.until_state(id, "connected").await;
        phone
    }

    /// The text of the code that an instance shows.
    pub async fn code(&self, id: &str) -> String {
        let asked =
            self.world.request(Method::GET, &format!("/instances/{id}/qr")).header(ACCEPT, "text/plain");
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
        answer.text().await.unwrap()
    }

    /// The events of one type of an instance, once there are so many.
    pub async fn events(&self, id: &str, kind: &str, count: usize) -> Vec<Value> {
        let path = format!("/instances/{id}/events?limit=1000&types={kind}");
        eventually(&format!("{count} events {kind} of {id}"), async || {
            let told = self.world.get(&path).await.body;
            let events = told["data"].as_array().unwrap();
            if events.len() >= count { Ok(events.clone()) } else { Err(told) }
        })
        .await
    }
}

/// Longer than anything that a phone should see takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What comes of a wait for a phone; fails the test when nothing does.
pub async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(found) => found,
        Err(_) => panic!("waited for {what}"),
    }
}
