//! The open connections: executes the decisions of [`admission`](super::admission), and counts and logs them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use relevo_metrics::Metrics;

use super::admission::{Admission, ConnectionId, Expiry, Limits, Opening, PeerNetwork, RequestAdmission};
use super::proxies::TrustedProxies;

/// Interval at which connections whose time is over are closed.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// Minimum time between two log lines about connections that found no place.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// All open connections. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connections(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Signalled when a waiting connection may find a place.
    changed: Notify,
    proxies: TrustedProxies,
    metrics: Metrics,
}

struct State {
    admission: Admission,
    abort_tokens: HashMap<ConnectionId, CancellationToken>,
    shortage: PlaceShortage,
}

/// What happened for lack of places since the last log line.
#[derive(Default)]
struct PlaceShortage {
    replaced: u64,
    refused: u64,
    unserved: u64,
    last_logged: Option<Instant>,
}

impl PlaceShortage {
    /// Logs what happened, at most once in [`LOG_INTERVAL`].
    fn log(&mut self, now: Instant) {
        let Self { replaced, refused, unserved, last_logged } = *self;
        let logged_recently = last_logged.is_some_and(|last| now < last + LOG_INTERVAL);
        if replaced + refused + unserved == 0 || logged_recently {
            return;
        }
        tracing::warn!(
            replaced,
            refused,
            unserved,
            "connections found no place; the longest waiting ones were closed (replaced), those of peers at \
             http.max_connections_per_peer refused, and requests beyond http.max_connections answered with 503 (unserved)"
        );
        *self = Self { last_logged: Some(now), ..Self::default() };
    }
}

impl Connections {
    /// No connections.
    pub fn new(limits: Limits, proxies: TrustedProxies, metrics: Metrics) -> Self {
        let state = State {
            admission: Admission::new(limits),
            abort_tokens: HashMap::new(),
            shortage: PlaceShortage::default(),
        };
        Self(Arc::new(Inner { state: Mutex::new(state), changed: Notify::new(), proxies, metrics }))
    }

    /// Waits for a place for a connection from `peer`, which also ends when `abort` is cancelled. `None`: the peer has
    /// its share; drop the socket.
    pub async fn open(&self, peer: SocketAddr, abort: &CancellationToken) -> Option<Connection> {
        let limited = self.0.proxies.limited_peer(peer.ip());
        loop {
            let changed = self.0.changed.notified();
            let until = match self.try_open(limited, abort) {
                Ok(connection) => return connection,
                Err(until) => until,
            };
            match until {
                Some(until) => {
                    let _ = tokio::time::timeout_at(until, changed).await;
                }
                None => changed.await,
            }
        }
    }

    /// Opens or refuses a connection. `Err`: no place is free; when to ask again.
    fn try_open(
        &self,
        peer: Option<PeerNetwork>,
        abort: &CancellationToken,
    ) -> Result<Option<Connection>, Option<Instant>> {
        let mut state = self.lock();
        match state.admission.open(peer, Instant::now()) {
            Opening::Serve { id, closes } => {
                let abort_token = abort.child_token();
                state.abort_tokens.insert(id, abort_token.clone());
                self.replace(&mut state, closes);
                drop(state);
                let connections = self.clone();
                Ok(Some(Connection(Arc::new(ConnectionInner { id, abort_token, connections }))))
            }
            Opening::Wait { until } => Err(until),
            Opening::Refuse => {
                state.shortage.refused += 1;
                self.0.metrics.record_connection_limit("refused");
                Ok(None)
            }
        }
    }

    /// Closes connections whose time is over, and logs shortages. Never returns.
    pub async fn enforce_timeouts(&self) {
        let mut sweeps = tokio::time::interval(SWEEP_INTERVAL);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.sweep(sweeps.tick().await);
        }
    }

    fn sweep(&self, now: Instant) {
        let mut state = self.lock();
        for (id, expiry) in state.admission.remove_expired(now) {
            self.0.metrics.record_connection_limit(match expiry {
                Expiry::Head => "head_timeout",
                Expiry::Idle => "idle_timeout",
                Expiry::Write => "write_timeout",
            });
            abort(&mut state, id);
            self.0.changed.notify_one();
        }
        state.shortage.log(now);
    }

    /// Closes a connection whose place another one has.
    fn replace(&self, state: &mut State, closed: Option<ConnectionId>) {
        if let Some(id) = closed {
            abort(state, id);
            state.shortage.replaced += 1;
            self.0.metrics.record_connection_limit("replaced");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn abort(state: &mut State, id: ConnectionId) {
    if let Some(token) = state.abort_tokens.remove(&id) {
        token.cancel();
    }
}

/// One connection; an extension of each of its requests. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connection(Arc<ConnectionInner>);

struct ConnectionInner {
    id: ConnectionId,
    abort_token: CancellationToken,
    connections: Connections,
}

impl Connection {
    /// Releases the place. The connection continues as a stream, which
    /// [`StreamSlots`](super::stream::slots::StreamSlots) counts.
    pub fn release_place(&self) {
        self.0.release_place();
    }

    /// Aborts the connection, even in the middle of a response.
    pub fn abort(&self) {
        self.0.abort_token.cancel();
    }

    /// Runs `work` until it ends or the connection is aborted.
    pub async fn run_until_aborted<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.abort_token.run_until_cancelled(work).await
    }

    /// The head of a request is complete. Whether every route is open to it; otherwise only probes and webhooks are.
    pub fn begin_request(&self) -> bool {
        let connections = &self.0.connections;
        let mut state = connections.lock();
        match state.admission.request_began(self.0.id, Instant::now()) {
            RequestAdmission::Any { closes } => {
                connections.replace(&mut state, closes);
                true
            }
            RequestAdmission::ReserveOnly => false,
        }
    }

    /// A request was answered with 503 because the connection is in the reserve.
    pub fn count_unserved(&self) {
        let connections = &self.0.connections;
        connections.0.metrics.record_connection_limit("unserved");
        connections.lock().shortage.unserved += 1;
    }

    /// The request in progress has a valid key or signature: the connection is not closed for another one.
    pub fn prove_request(&self) {
        self.0.connections.lock().admission.request_proven(self.0.id);
    }

    /// The request was read and its response produced.
    pub fn end_request(&self) {
        self.0.connections.lock().admission.request_ended(self.0.id, Instant::now());
        self.0.connections.0.changed.notify_one();
    }

    /// Bytes of the client arrived.
    pub fn bytes_received(&self) {
        self.0.connections.lock().admission.bytes_received(self.0.id, Instant::now());
    }

    /// The client takes no bytes of the response.
    pub fn write_blocked(&self) {
        self.0.connections.lock().admission.write_blocked(self.0.id, Instant::now());
    }

    /// The client took bytes of the response.
    pub fn bytes_written(&self) {
        self.0.connections.lock().admission.bytes_written(self.0.id, Instant::now());
    }

    /// A proxy forwarded the request in progress for `client`. `Err`: the client has its share of requests.
    pub fn begin_forwarded(&self, client: IpAddr) -> Result<Option<ForwardedRequest>, AtLimit> {
        let connections = self.0.connections.clone();
        let Some(client) = connections.0.proxies.limited_peer(client) else { return Ok(None) };
        let mut state = connections.lock();
        let admitted = state.admission.forwarded_request_began(client);
        if !admitted {
            state.shortage.refused += 1;
            connections.0.metrics.record_connection_limit("refused");
        }
        drop(state);
        if admitted { Ok(Some(ForwardedRequest { client, connections })) } else { Err(AtLimit) }
    }
}

impl ConnectionInner {
    fn release_place(&self) {
        let mut state = self.connections.lock();
        state.admission.close(self.id);
        state.abort_tokens.remove(&self.id);
        drop(state);
        self.connections.0.changed.notify_one();
    }
}

/// The last clone of a connection frees its place.
impl Drop for ConnectionInner {
    fn drop(&mut self) {
        self.release_place();
    }
}

/// The client has as many requests in progress as `http.max_connections_per_peer` permits.
#[derive(Debug)]
pub(super) struct AtLimit;

/// A request of a proxy's client, counted until it is dropped.
pub(super) struct ForwardedRequest {
    client: PeerNetwork,
    connections: Connections,
}

impl Drop for ForwardedRequest {
    fn drop(&mut self) {
        self.connections.lock().admission.release(self.client);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::http::admission::GRACE;

    fn connections(places: usize, per_peer: usize) -> (Connections, Metrics) {
        let limits = Limits {
            places,
            reserve: 0,
            per_peer: NonZeroUsize::new(per_peer),
            head_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(30),
        };
        let metrics = Metrics::default();
        (Connections::new(limits, TrustedProxies::default(), metrics.clone()), metrics)
    }

    fn peer(number: u8) -> SocketAddr {
        ([192, 0, 2, number], 4711).into()
    }

    async fn is_aborted(connection: &Connection) -> bool {
        connection.run_until_aborted(tokio::task::yield_now()).await.is_none()
    }

    #[tokio::test(start_paused = true)]
    async fn peer_at_its_limit_replaces_its_own_idle_connection() {
        let ((connections, metrics), abort) = (connections(10, 2), CancellationToken::new());
        let first = connections.open(peer(1), &abort).await.unwrap();
        let second = connections.open(peer(1), &abort).await.unwrap();
        for connection in [&first, &second] {
            connection.begin_request();
            connection.prove_request();
        }
        tokio::time::advance(GRACE).await;
        assert!(connections.open(peer(1), &abort).await.is_none());
        let other = connections.open(peer(2), &abort).await.unwrap();
        second.end_request();
        tokio::time::advance(GRACE).await;
        let third = connections.open(peer(1), &abort).await.unwrap();
        assert!(is_aborted(&second).await);
        for kept in [&first, &other, &third] {
            assert!(!is_aborted(kept).await);
        }
        let text = metrics.encode(Vec::new());
        for limit in ["refused", "replaced"] {
            let line = format!("relevo_connection_limits_total{{limit=\"{limit}\"}} 1");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connection_waits_for_a_place_until_one_is_free() {
        let ((connections, _), abort) = (connections(1, 0), CancellationToken::new());
        let first = connections.open(peer(1), &abort).await.unwrap();
        first.begin_request();
        first.prove_request();
        let opening = connections.open(peer(2), &abort);
        tokio::pin!(opening);
        assert!(tokio::time::timeout(Duration::from_secs(60), opening.as_mut()).await.is_err());
        drop(first);
        assert!(opening.await.is_some());
        // The place of a connection that only waits for its client is free after the grace.
        let began = Instant::now();
        let silent = connections.open(peer(1), &abort).await.unwrap();
        let replacing = connections.open(peer(2), &abort).await.unwrap();
        assert!(is_aborted(&silent).await && !is_aborted(&replacing).await);
        assert!((GRACE..GRACE * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    }
}
