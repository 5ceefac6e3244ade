//! Counters: queries by kind, and connections over time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use relevo_domain::Timestamp;

/// How many moments of connections are kept; the oldest make room.
const MOMENTS: usize = 20_000;

/// How many kinds of queries are told apart; further ones count as `other`.
const KINDS: usize = 256;

/// What happened to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// A socket was opened.
    Opened,
    /// A device logged in.
    LoggedIn,
    /// A login was refused.
    Refused,
    /// A connection with a tunnel ended.
    Closed,
}

/// Something that happened to a connection, and when.
#[derive(Debug, Clone, Serialize)]
pub struct Moment {
    pub at_ms: u64,
    pub turn: Turn,
    /// Whose it was, where that is known.
    pub device: Option<String>,
}

#[derive(Debug, Default)]
struct Inner {
    queries: BTreeMap<String, u64>,
    moments: VecDeque<Moment>,
    opened: u64,
    logins: u64,
}

#[derive(Debug, Default)]
pub struct Stats(Mutex<Inner>);

impl Stats {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a query under `type xmlns child`.
    pub fn query(&self, kind: String) {
        let mut inner = self.lock();
        let known = inner.queries.len() < KINDS || inner.queries.contains_key(&kind);
        *inner.queries.entry(if known { kind } else { "other".into() }).or_default() += 1;
    }

    pub fn turn(&self, at: Timestamp, turn: Turn, device: Option<String>) {
        let mut inner = self.lock();
        match turn {
            Turn::Opened => inner.opened += 1,
            Turn::LoggedIn => inner.logins += 1,
            Turn::Refused | Turn::Closed => {}
        }
        if inner.moments.len() == MOMENTS {
            inner.moments.pop_front();
        }
        inner.moments.push_back(Moment { at_ms: at.millis(), turn, device });
    }

    /// The queries that were seen, by kind.
    pub fn queries(&self) -> BTreeMap<String, u64> {
        self.lock().queries.clone()
    }

    /// What happened to connections, oldest first.
    pub fn moments(&self) -> Vec<Moment> {
        self.lock().moments.iter().cloned().collect()
    }

    /// How many sockets were opened.
    pub fn opened(&self) -> u64 {
        self.lock().opened
    }

    /// How many logins succeeded.
    pub fn logins(&self) -> u64 {
        self.lock().logins
    }
}
