//! A webhook receiver on loopback that records deliveries and answers with a chosen status.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bytes::Bytes;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::eventually;

/// One received delivery.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub headers: HeaderMap,
    pub raw: Bytes,
    pub body: Value,
}

struct State {
    status: StatusCode,
    accepted: Vec<Delivery>,
    refused: usize,
}

/// A running receiver. Dropping it stops the server.
pub struct Receiver {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

impl Receiver {
    /// Starts a receiver that answers with 200.
    pub async fn start() -> Self {
        let state = State { status: StatusCode::OK, accepted: Vec::new(), refused: 0 };
        let state = Arc::new(Mutex::new(state));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/events", post(receive)).with_state(state.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, state, serving }
    }

    /// The URL for endpoints.
    pub fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    /// Sets the status of later answers. The receiver records only deliveries that it answers with success.
    pub fn answer(&self, status: u16) {
        self.state.lock().unwrap().status = StatusCode::from_u16(status).unwrap();
    }

    /// Accepted deliveries of an event kind.
    pub fn taken(&self, event: &str) -> Vec<Delivery> {
        let state = self.state.lock().unwrap();
        state.accepted.iter().filter(|delivery| delivery.body["event"] == event).cloned().collect()
    }

    /// Waits until `count` deliveries of an event kind are accepted. The timeout applies to each delivery, because many
    /// deliveries take long on a busy machine.
    pub async fn until_taken(&self, event: &str, count: usize) -> Vec<Delivery> {
        let mut seen = 0;
        loop {
            let more = async || {
                let taken = self.taken(event);
                if taken.len() >= count || taken.len() > seen { Ok(taken) } else { Err(taken.len()) }
            };
            let taken = eventually(&format!("{count} of {event}"), more).await;
            if taken.len() >= count {
                return taken;
            }
            seen = taken.len();
        }
    }

    /// Waits until `count` deliveries are refused.
    pub async fn until_refused(&self, count: usize) {
        eventually(&format!("{count} refused deliveries"), async || {
            let refused = self.state.lock().unwrap().refused;
            if refused >= count { Ok(()) } else { Err(refused) }
        })
        .await;
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn receive(
    extract::State(state): extract::State<Arc<Mutex<State>>>,
    headers: HeaderMap,
    raw: Bytes,
) -> StatusCode {
    let mut state = state.lock().unwrap();
    if state.status.is_success() {
        let body = serde_json::from_slice(&raw).unwrap();
        state.accepted.push(Delivery { headers, raw, body });
    } else {
        state.refused += 1;
    }
    state.status
}
