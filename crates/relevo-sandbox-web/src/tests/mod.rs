//! Unmodified clients against the server: pairing, both directions, faults.

mod client;
mod control;
mod faults;
mod groups;
mod messages;
mod pairing;

use std::sync::Arc;

use tokio::net::TcpListener;

use crate::tests::client::TestClient;
use crate::{Options, Phone, WebHandle, WebServer};
use relevo_clock::{Clock, Random};

const ALICE: &str = "15550000001";
const BOB: &str = "15550000002";

async fn start_web() -> WebHandle {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    WebServer::start(listener, Clock::system(), Random::system(), Options::default()).unwrap()
}

/// A server, and Alice's phone with one linked device.
async fn start_with_linked_device() -> (WebHandle, Arc<Phone>, TestClient) {
    let web = start_web().await;
    let phone = web.phone(ALICE);
    let client = TestClient::paired(&web, &phone).await;
    (web, phone, client)
}

#[tokio::test]
async fn server_refuses_non_loopback_addresses() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refused =
        WebServer::start(listener, Clock::system(), Random::system(), Options::default()).unwrap_err();
    assert!(refused.to_string().contains("for this machine alone"), "{refused}");
}
