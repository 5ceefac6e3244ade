//! Counters of queries by type, and a history of connections.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use relevo_domain::Timestamp;

/// Maximum number of connection records; the oldest are evicted.
const MAX_CONNECTION_RECORDS: usize = 20_000;

/// Maximum number of counted query types; further types count as `other`.
const MAX_QUERY_KINDS: usize = 256;

/// A change of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionTransition {
    /// A socket was opened.
    Opened,
    /// A device logged in.
    LoggedIn,
    /// A login was refused.
    Refused,
    /// A connection ended after its handshake.
    Closed,
}

/// A change of a connection and its time.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectionRecord {
    /// Time in milliseconds since 1970.
    pub at_ms: u64,
    /// The change.
    pub turn: ConnectionTransition,
    /// The device as `number:device`, where it is known.
    pub device: Option<String>,
}

#[derive(Debug, Default)]
struct Inner {
    queries: BTreeMap<String, u64>,
    connection_records: VecDeque<ConnectionRecord>,
    opened: u64,
    logins: u64,
}

/// The counters of a server.
#[derive(Debug, Default)]
pub struct Stats(Mutex<Inner>);

impl Stats {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a query under `type xmlns child`.
    pub fn record_query(&self, kind: String) {
        let mut inner = self.lock();
        let known = inner.queries.len() < MAX_QUERY_KINDS || inner.queries.contains_key(&kind);
        *inner.queries.entry(if known { kind } else { "other".into() }).or_default() += 1;
    }

    /// Records a change of a connection.
    pub fn record_connection(&self, at: Timestamp, turn: ConnectionTransition, device: Option<String>) {
        let mut inner = self.lock();
        match turn {
            ConnectionTransition::Opened => inner.opened += 1,
            ConnectionTransition::LoggedIn => inner.logins += 1,
            ConnectionTransition::Refused | ConnectionTransition::Closed => {}
        }
        if inner.connection_records.len() == MAX_CONNECTION_RECORDS {
            inner.connection_records.pop_front();
        }
        inner.connection_records.push_back(ConnectionRecord { at_ms: at.millis(), turn, device });
    }

    /// Number of queries by type.
    pub fn queries(&self) -> BTreeMap<String, u64> {
        self.lock().queries.clone()
    }

    /// The recorded changes of connections, oldest first.
    pub fn connection_records(&self) -> Vec<ConnectionRecord> {
        self.lock().connection_records.iter().cloned().collect()
    }

    /// Number of opened sockets.
    pub fn opened(&self) -> u64 {
        self.lock().opened
    }

    /// Number of successful logins.
    pub fn logins(&self) -> u64 {
        self.lock().logins
    }
}
