//! The journal of accepted messages: by sender and id, with the number of arrivals and the recipients.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::accounts::DeviceId;
use relevo_domain::Timestamp;

/// A message that arrived at the server.
#[derive(Debug, Clone, Serialize)]
pub struct JournaledMessage {
    /// Sequence number, from 1.
    pub seq: u64,
    /// The message's id.
    pub id: String,
    /// The sending device, under its phone number.
    pub from: String,
    /// The chat, as the sender addressed it.
    pub to: String,
    /// The stanza's type: `text`, `media`, `reaction`, `poll`, …
    pub kind: String,
    /// The stanza's attribute `edit`: empty, 1 for an edit, 7 for a revocation.
    pub edit: String,
    /// Time of the first arrival in milliseconds since 1970.
    pub at_ms: u64,
    /// Number of arrivals: more than one when the sender retried.
    pub received: u32,
    /// Error code with which the last arrival was refused. A refused message is delivered to no device.
    pub refused: Option<u16>,
    /// Number of devices to which it was delivered, including phones.
    pub delivered: usize,
    #[serde(skip)]
    devices: Vec<DeviceId>,
}

/// An arriving message stanza.
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
    /// Number of evicted entries.
    evicted: u64,
    entries: VecDeque<(DeviceId, JournaledMessage)>,
    by_id: HashMap<(DeviceId, Box<str>), u64>,
}

/// The journal. Bounded: the oldest entries are evicted, and their repetitions then count as new messages.
#[derive(Debug)]
pub struct Journal {
    inner: Mutex<Inner>,
    max_entries: usize,
}

impl Journal {
    /// An empty journal for at most `keep` entries.
    pub fn new(keep: usize) -> Self {
        Self { inner: Mutex::default(), max_entries: keep.max(1) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the first or a repeated arrival of a message.
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

    /// Records the delivery of a message to a device. Returns false when it was delivered there before.
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

    /// At most `limit` entries after the sequence number `after`, oldest first.
    pub fn page(&self, after: u64, limit: usize) -> Vec<JournaledMessage> {
        let inner = self.lock();
        let skip = usize::try_from(after.saturating_sub(inner.evicted)).unwrap_or(usize::MAX);
        inner.entries.iter().skip(skip).take(limit).map(|(_, entry)| entry.clone()).collect()
    }

    /// All entries, oldest first.
    pub fn all(&self) -> Vec<JournaledMessage> {
        self.page(0, usize::MAX)
    }

    /// The newest entry with this id, of any sender.
    pub fn find(&self, id: &str) -> Option<JournaledMessage> {
        self.lock().entries.iter().rev().find(|(_, entry)| entry.id == id).map(|(_, entry)| entry.clone())
    }

    /// Number of accepted messages, including evicted ones.
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
