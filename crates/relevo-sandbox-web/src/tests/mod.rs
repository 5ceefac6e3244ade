//! Unmodified clients against the server: pairing, both directions, faults.

mod client;
mod control;
mod conversation;
mod faults;
mod groups;
mod linking;

use std::sync::Arc;

use tokio::net::TcpListener;

use crate::tests::client::Client;
use crate::{Options, Phone, WebHandle, WebServer};
use relevo_clock::Clock;

const ALICE: &str = "15550000001";
const BOB: &str = "15550000002";

async fn web() -> WebHandle {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    WebServer::start(listener, Clock::machine(), Options::default()).unwrap()
}

/// A server, and Alice's phone with one linked device.
async fn alone() -> (WebHandle, Arc<Phone>, Client) {
    let web = web().await;
    let phone = web.phone(ALICE);
    let client = Client::paired(&web, &phone).await;
    (web, phone, client)
}

#[tokio::test]
async fn it_listens_on_loopback_alone() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refused = WebServer::start(listener, Clock::machine(), Options::default()).unwrap_err();
    assert!(refused.to_string().contains("for this machine alone"), "{refused}");
}
