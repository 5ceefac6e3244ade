//! The producers' side of the relay queue: appends frames within the commit of the caller.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::sync::Notify;

use crate::address_book::{self, AddressBookEntry};
use relevo_domain::Timestamp;
use relevo_store::{Error, Tx};

use super::frame::{self, RelayFrame};
use super::storage;

/// Appends frames to the relay queue. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FrameQueue {
    /// `None` if the relay is disabled.
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    capacity: u64,
    frame_added: Arc<Notify>,
}

/// Members that a frame has after those of Meta's webhook, in the order of the documented frames.
#[derive(Serialize)]
struct SenderMembers {
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_info: Option<CachedInfo>,
    save_number: bool,
}

#[derive(Serialize)]
struct CachedInfo {
    name: Option<String>,
    phone: String,
    /// Always an object: the known consumer reads its members without checking that it exists.
    data: Map<String, Value>,
    created_at: String,
    updated_at: String,
}

impl FrameQueue {
    /// A queue that accepts and stores nothing.
    pub fn disabled() -> Self {
        Self { inner: None }
    }

    pub(super) fn new(capacity: u64, frame_added: Arc<Notify>) -> Self {
        Self { inner: Some(Arc::new(Inner { capacity, frame_added })) }
    }

    /// Whether frames are queued.
    pub fn is_enabled(&self) -> bool {
        self.inner.is_some()
    }

    /// Appends one of Meta's webhooks to the queue, within the commit that ingests it: its bytes, and after them the
    /// address book entry of `sender`. Ignores webhooks that are not JSON objects; Meta sends none.
    ///
    /// # Errors
    ///
    /// [`Error::Full`]: the webhook must be refused, so that Meta repeats it. Otherwise the store failed.
    pub fn push(
        &self,
        tx: &mut Tx,
        webhook: &RawValue,
        sender: Option<&str>,
        now: Timestamp,
    ) -> Result<(), Error> {
        if !self.is_enabled() || !webhook.get().starts_with('{') {
            return Ok(());
        }
        let entry = match sender {
            Some(phone) => address_book::find_person_in(tx, phone)?,
            None => None,
        };
        let members =
            SenderMembers { save_number: entry.is_some(), cached_info: entry.map(CachedInfo::from) };
        let json = frame::append_members(webhook.get(), &to_json(&members)?);
        self.push_frame(tx, json, now)
    }

    /// Appends an object to the queue unchanged.
    pub(super) fn push_json(
        &self,
        tx: &mut Tx,
        object: &impl Serialize,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.push_frame(tx, to_json(object)?, now)
    }

    fn push_frame(&self, tx: &mut Tx, json: String, now: Timestamp) -> Result<(), Error> {
        let Some(inner) = &self.inner else { return Ok(()) };
        storage::push(tx, &RelayFrame { queued_at: now, json }, inner.capacity)?;
        // The signal may precede the commit: the pusher reads the queue on the writer thread, after this closure.
        inner.frame_added.notify_one();
        Ok(())
    }
}

fn to_json(object: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(object).map_err(|cause| Error::Codec(cause.to_string()))
}

impl From<AddressBookEntry> for CachedInfo {
    fn from(entry: AddressBookEntry) -> Self {
        Self {
            name: entry.name,
            phone: entry.phone,
            data: entry.data,
            created_at: entry.created_at.to_string(),
            updated_at: entry.updated_at.to_string(),
        }
    }
}
