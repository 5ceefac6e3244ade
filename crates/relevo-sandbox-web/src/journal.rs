//! What was accepted: every message by its sender and id, how often it came, and to whom it went.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::accounts::DeviceId;
use relevo_domain::Timestamp;

/// A message that reached the server.
#[derive(Debug, Clone, Serialize)]
pub struct JournaledMessage {
    /// Its place among all that are journaled, from 1 on.
    pub seq: u64,
    pub id: String,
    /// The device that sent it, under its phone number.
    pub from: String,
    /// The chat it was sent to, as its sender named it.
    pub to: String,
    /// The stanza's type: `text`, `media`, `reaction`, `poll`, …
    pub kind: String,
    /// The stanza's attribute `edit`: empty, 1 for an edit, 7 for a revocation.
    pub edit: String,
    pub at_ms: u64,
    /// How often the server received it: more than once when its sender tried again.
    pub received: u32,
    /// The code under which the last of them was refused. A refused message went to nobody.
    pub refused: Option<u16>,
    /// To how many devices it went, phones among them.
    pub delivered: usize,
    #[serde(skip)]
    devices: Vec<DeviceId>,
}

/// A message stanza as it arrives.
#[derive(Debug, Clone, Copy)]
pub struct MessageArrival<'a> {
    pub sender: DeviceId,
    pub id: &'a str,
    pub from: &'a str,
    pub to: &'a str,
    pub kind: &'a str,
    pub edit: &'a str,
    pub at: Timestamp,
}

#[derive(Debug, Default)]
struct Inner {
    /// Entries that are no longer kept.
    evicted: u64,
    entries: VecDeque<(DeviceId, JournaledMessage)>,
    by_id: HashMap<(DeviceId, Box<str>), u64>,
}

/// The journal. Bounded: the oldest entries make room, and their repetitions are then taken for new messages.
#[derive(Debug)]
pub struct Journal {
    inner: Mutex<Inner>,
    max_entries: usize,
}

impl Journal {
    pub fn new(keep: usize) -> Self {
        Self { inner: Mutex::default(), max_entries: keep.max(1) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a message arrived, for the first time or again.
    pub fn record_received(&self, arrival: MessageArrival<'_>, refused: Option<u16>) {
        let mut inner = self.lock();
        let key = (arrival.sender, Box::from(arrival.id));
        if let Some(seq) = inner.by_id.get(&key).copied()
            && let Some(entry) = inner.entry(seq)
        {
            entry.received += 1;
            entry.refused = refused;
            return;
        }
        if inner.entries.len() >= self.max_entries
            && let Some((sender, oldest)) = inner.entries.pop_front()
        {
            inner.by_id.remove(&(sender, oldest.id.into()));
            inner.evicted += 1;
        }
        let seq = inner.evicted + inner.entries.len() as u64 + 1;
        inner.by_id.insert(key, seq);
        inner.entries.push_back((
            arrival.sender,
            JournaledMessage {
                seq,
                id: arrival.id.to_owned(),
                from: arrival.from.to_owned(),
                to: arrival.to.to_owned(),
                kind: arrival.kind.to_owned(),
                edit: arrival.edit.to_owned(),
                at_ms: arrival.at.millis(),
                received: 1,
                refused,
                delivered: 0,
                devices: Vec::new(),
            },
        ));
    }

    /// Notes that a message goes to a device; false when it went there before.
    pub fn record_delivery(&self, sender: DeviceId, id: &str, device: DeviceId) -> bool {
        let mut inner = self.lock();
        let Some(seq) = inner.by_id.get(&(sender, Box::from(id))).copied() else { return true };
        let Some(entry) = inner.entry(seq) else { return true };
        if entry.devices.contains(&device) {
            return false;
        }
        entry.devices.push(device);
        entry.delivered = entry.devices.len();
        true
    }

    /// Entries after the sequence number `after`, oldest first, at most `limit` of them.
    pub fn page(&self, after: u64, limit: usize) -> Vec<JournaledMessage> {
        let inner = self.lock();
        let skip = usize::try_from(after.saturating_sub(inner.evicted)).unwrap_or(usize::MAX);
        inner.entries.iter().skip(skip).take(limit).map(|(_, entry)| entry.clone()).collect()
    }

    /// All kept entries, oldest first.
    pub fn all(&self) -> Vec<JournaledMessage> {
        self.page(0, usize::MAX)
    }

    /// The newest kept entry with this id, whoever sent it.
    pub fn find(&self, id: &str) -> Option<JournaledMessage> {
        self.lock().entries.iter().rev().find(|(_, entry)| entry.id == id).map(|(_, entry)| entry.clone())
    }

    /// How many messages were accepted in all, those that are no longer kept among them.
    pub fn accepted_count(&self) -> u64 {
        let inner = self.lock();
        inner.evicted + inner.entries.iter().filter(|(_, entry)| entry.refused.is_none()).count() as u64
    }
}

impl Inner {
    fn entry(&mut self, seq: u64) -> Option<&mut JournaledMessage> {
        let index = usize::try_from(seq.checked_sub(self.evicted + 1)?).ok()?;
        self.entries.get_mut(index).map(|(_, entry)| entry)
    }
}
