//! Which connections are served, closed and refused: a pure state machine, which [`connection`](super::connection)
//! executes.
//!
//! A connection is *proven* while it serves a request with a valid key or signature; until then it costs its client
//! nothing to hold it. Guarantees:
//!
//! - At most `places` connections serve every route, and at most `reserve` more serve the public probes and webhooks.
//! - A new connection finds a place while any other connection has been unproven for longer than [`GRACE`]: the one that
//!   has waited longest for its client is closed. A proven connection is never closed for another one.
//! - A peer at its limit replaces its own connections only.
//! - A request's head, the pause between two requests, and a response that its client does not read are bounded in time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::time::Instant;

/// A connection that began to wait for its client this recently is not closed for another one: the next bytes of an
/// honest client are probably on their way.
pub(super) const GRACE: Duration = Duration::from_millis(100);

/// The prefix of an IPv6 address that one customer has (RFC 6177): the first 64 bits.
const IPV6_NETWORK: u128 = u128::MAX << 64;

/// The limits of all connections together.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Connections that serve every route. At least 1.
    pub places: usize,
    /// Connections beyond these, for probes and webhooks.
    pub reserve: usize,
    /// Connections, and forwarded requests in progress, of one peer.
    pub per_peer: Option<NonZeroUsize>,
    /// Maximum time from the first byte of a request, or from the start of the connection, to the end of the head.
    pub head_timeout: Duration,
    /// Maximum time from a response to the first byte of the next request.
    pub idle_timeout: Duration,
    /// Maximum time in which the client takes no byte of a response.
    pub write_timeout: Duration,
}

/// The clients that share one limit: those of an IPv4 address or of an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PeerNetwork(IpAddr);

impl From<IpAddr> for PeerNetwork {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & IPV6_NETWORK).into(),
            address => address,
        })
    }
}

/// A connection. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ConnectionId(u64);

/// What a connection may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlaceKind {
    Regular,
    /// Beyond the limit: probes and webhooks only.
    Reserve,
}

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The head of a request is arriving.
    Head,
    /// A request without a proven key or signature is in progress.
    Request,
    /// A request with one is in progress.
    Proven,
    /// No request is in progress.
    Idle,
}

#[derive(Debug)]
struct ConnectionEntry {
    /// `None`: not limited.
    peer: Option<PeerNetwork>,
    place: PlaceKind,
    phase: Phase,
    /// When the phase began. Of an idle connection: when its client last took a byte of the response.
    since: Instant,
    /// Since when the client has taken no byte of the response.
    blocked_since: Option<Instant>,
}

impl ConnectionEntry {
    fn may_be_replaced(&self, now: Instant) -> bool {
        self.phase != Phase::Proven && self.since + GRACE <= now
    }
}

/// What to do with a new connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// Serve it, and close the other one.
    Serve { id: ConnectionId, closes: Option<ConnectionId> },
    /// Ask again when a connection changes, and at this time.
    Wait { until: Option<Instant> },
    /// Close it: its peer has its share, and all of it is in use.
    Refuse,
}

/// What to do with a request whose head is complete.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RequestAdmission {
    /// Serve it, and close the other connection.
    Any { closes: Option<ConnectionId> },
    /// Serve it if it is for a probe or a webhook.
    ReserveOnly,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    Head,
    Idle,
    Write,
}

/// The state of all connections.
#[derive(Debug)]
pub(super) struct Admission {
    limits: Limits,
    connections: HashMap<ConnectionId, ConnectionEntry>,
    /// Connections in regular places; the others are in the reserve.
    regular: usize,
    /// Connections and forwarded requests of each limited peer.
    peers: HashMap<PeerNetwork, usize>,
    next_id: u64,
}

impl Admission {
    /// No connections.
    pub fn new(limits: Limits) -> Self {
        Self { limits, connections: HashMap::new(), regular: 0, peers: HashMap::new(), next_id: 0 }
    }

    /// A connection was accepted. `peer`: whose limit applies, if any.
    pub fn open(&mut self, peer: Option<PeerNetwork>, now: Instant) -> Opening {
        if peer.is_some_and(|peer| self.is_at_its_limit(peer)) {
            return match self.longest_waiting(now, |entry| entry.peer == peer) {
                Some((victim, place)) => self.replace(victim, peer, place, now),
                None => Opening::Refuse,
            };
        }
        if self.regular < self.limits.places {
            return Opening::Serve { id: self.insert(peer, PlaceKind::Regular, now), closes: None };
        }
        if let Some((victim, place)) = self.longest_waiting(now, |entry| entry.place == PlaceKind::Regular) {
            return self.replace(victim, peer, place, now);
        }
        if self.connections.len() - self.regular < self.limits.reserve {
            return Opening::Serve { id: self.insert(peer, PlaceKind::Reserve, now), closes: None };
        }
        if let Some((victim, place)) = self.longest_waiting(now, |_| true) {
            return self.replace(victim, peer, place, now);
        }
        let unproven = self.connections.values().filter(|entry| entry.phase != Phase::Proven);
        Opening::Wait { until: unproven.map(|entry| entry.since + GRACE).min() }
    }

    /// Bytes of the client arrived.
    pub fn bytes_received(&mut self, id: ConnectionId, now: Instant) {
        if let Some(entry) = self.connections.get_mut(&id).filter(|entry| entry.phase == Phase::Idle) {
            (entry.phase, entry.since) = (Phase::Head, now);
        }
    }

    /// The head of a request is complete. A connection in the reserve takes a regular place if there is one.
    pub fn request_began(&mut self, id: ConnectionId, now: Instant) -> RequestAdmission {
        let Some(entry) = self.connections.get_mut(&id) else {
            return RequestAdmission::Any { closes: None };
        };
        (entry.phase, entry.since) = (Phase::Request, now);
        if entry.place == PlaceKind::Regular {
            return RequestAdmission::Any { closes: None };
        }
        let mut closes = None;
        if self.regular >= self.limits.places {
            let victim = self.longest_waiting(now, |entry| entry.place == PlaceKind::Regular);
            let Some((victim, _)) = victim else { return RequestAdmission::ReserveOnly };
            self.close(victim);
            closes = Some(victim);
        }
        if let Some(entry) = self.connections.get_mut(&id) {
            entry.place = PlaceKind::Regular;
            self.regular += 1;
        }
        RequestAdmission::Any { closes }
    }

    /// The request in progress has a valid key or signature.
    pub fn request_proven(&mut self, id: ConnectionId) {
        if let Some(entry) = self.connections.get_mut(&id) {
            entry.phase = Phase::Proven;
        }
    }

    /// The request was read and its response was produced.
    pub fn request_ended(&mut self, id: ConnectionId, now: Instant) {
        if let Some(entry) = self.connections.get_mut(&id) {
            (entry.phase, entry.since) = (Phase::Idle, now);
        }
    }

    /// The client takes no bytes of the response.
    pub fn write_blocked(&mut self, id: ConnectionId, now: Instant) {
        if let Some(entry) = self.connections.get_mut(&id) {
            entry.blocked_since.get_or_insert(now);
        }
    }

    /// The client took bytes of the response.
    pub fn bytes_written(&mut self, id: ConnectionId, now: Instant) {
        if let Some(entry) = self.connections.get_mut(&id) {
            entry.blocked_since = None;
            if entry.phase == Phase::Idle {
                entry.since = now;
            }
        }
    }

    /// The connection ended, or continues as a stream, which has limits of its own.
    pub fn close(&mut self, id: ConnectionId) {
        if let Some(entry) = self.connections.remove(&id) {
            self.regular -= usize::from(entry.place == PlaceKind::Regular);
            if let Some(peer) = entry.peer {
                self.release(peer);
            }
        }
    }

    /// A proxy forwarded a request of `peer`. `false`: the peer is at its limit. Otherwise [`Self::release`] follows.
    #[must_use]
    pub fn forwarded_request_began(&mut self, peer: PeerNetwork) -> bool {
        if self.is_at_its_limit(peer) {
            return false;
        }
        *self.peers.entry(peer).or_default() += 1;
        true
    }

    /// A connection or forwarded request of `peer` ended.
    pub fn release(&mut self, peer: PeerNetwork) {
        if let Some(count) = self.peers.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.peers.remove(&peer);
            }
        }
    }

    /// Removes the connections whose time is over: their owner closes them.
    pub fn remove_expired(&mut self, now: Instant) -> Vec<(ConnectionId, Expiry)> {
        let limits = &self.limits;
        let over = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        let expiry = |entry: &ConnectionEntry| match entry.phase {
            _ if entry.blocked_since.is_some_and(|since| over(since, limits.write_timeout)) => {
                Some(Expiry::Write)
            }
            Phase::Head if over(entry.since, limits.head_timeout) => Some(Expiry::Head),
            Phase::Idle if over(entry.since, limits.idle_timeout) => Some(Expiry::Idle),
            _ => None,
        };
        let expired = self.connections.iter().filter_map(|(&id, entry)| Some((id, expiry(entry)?)));
        let expired: Vec<_> = expired.collect();
        for (id, _) in &expired {
            self.close(*id);
        }
        expired
    }

    fn is_at_its_limit(&self, peer: PeerNetwork) -> bool {
        let count = self.peers.get(&peer).copied().unwrap_or(0);
        self.limits.per_peer.is_some_and(|limit| count >= limit.get())
    }

    /// The connection that has waited longest for its client, of those that may be closed for another one.
    fn longest_waiting(
        &self,
        now: Instant,
        is_candidate: impl Fn(&ConnectionEntry) -> bool,
    ) -> Option<(ConnectionId, PlaceKind)> {
        let candidates =
            self.connections.iter().filter(|(_, entry)| entry.may_be_replaced(now) && is_candidate(entry));
        candidates.min_by_key(|(id, entry)| (entry.since, **id)).map(|(&id, entry)| (id, entry.place))
    }

    /// Closes `victim` and gives its place to a new connection.
    fn replace(
        &mut self,
        victim: ConnectionId,
        peer: Option<PeerNetwork>,
        place: PlaceKind,
        now: Instant,
    ) -> Opening {
        self.close(victim);
        Opening::Serve { id: self.insert(peer, place, now), closes: Some(victim) }
    }

    fn insert(&mut self, peer: Option<PeerNetwork>, place: PlaceKind, now: Instant) -> ConnectionId {
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        self.regular += usize::from(place == PlaceKind::Regular);
        if let Some(peer) = peer {
            *self.peers.entry(peer).or_default() += 1;
        }
        let entry = ConnectionEntry { peer, place, phase: Phase::Head, since: now, blocked_since: None };
        self.connections.insert(id, entry);
        id
    }
}

#[cfg(test)]
mod tests;
