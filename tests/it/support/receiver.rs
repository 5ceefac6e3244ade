//! A webhook receiver on loopback: it keeps what it takes, and answers as it is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bytes::Bytes;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::eventually;

/// One delivery, as it arrived.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub headers: HeaderMap,
    pub raw: Bytes,
    pub body: Value,
}

struct Inside {
    status: StatusCode,
    taken: Vec<Delivery>,
    refused: usize,
}

pub struct Receiver {
    pub address: SocketAddr,
    inside: Arc<Mutex<Inside>>,
    serving: JoinHandle<()>,
}

impl Receiver {
    pub async fn start() -> Self {
        let inside = Inside { status: StatusCode::OK, taken: Vec::new(), refused: 0 };
        let inside = Arc::new(Mutex::new(inside));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/events", post(take)).with_state(inside.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, inside, serving }
    }

    pub fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    /// Answers with this from now on; what is not answered with success is not kept.
    pub fn answer(&self, status: u16) {
        self.inside.lock().unwrap().status = StatusCode::from_u16(status).unwrap();
    }

    /// What was taken, of events with this name.
    pub fn taken(&self, event: &str) -> Vec<Delivery> {
        let inside = self.inside.lock().unwrap();
        inside.taken.iter().filter(|delivery| delivery.body["event"] == event).cloned().collect()
    }

    /// What was taken of events with this name, once there are so many.
    /// Is patient with every one of them: many take a while on a busy machine.
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

    pub async fn until_refused(&self, count: usize) {
        eventually(&format!("{count} refused deliveries"), async || {
            let refused = self.inside.lock().unwrap().refused;
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

async fn take(State(inside): State<Arc<Mutex<Inside>>>, headers: HeaderMap, raw: Bytes) -> StatusCode {
    let mut inside = inside.lock().unwrap();
    if inside.status.is_success() {
        let body = serde_json::from_slice(&raw).unwrap();
        inside.taken.push(Delivery { headers, raw, body });
    } else {
        inside.refused += 1;
    }
    inside.status
}
