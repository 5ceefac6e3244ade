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

/// Where inbound messages join the line. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FrameQueue {
    /// `None`: nothing is relayed.
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    capacity: u64,
    frame_added: Arc<Notify>,
}

/// What a frame holds behind Meta's webhook, in the order of the documented frames.
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
    /// An object always: the known consumer looks inside without asking whether there is one.
    data: Map<String, Value>,
    created_at: String,
    updated_at: String,
}

impl FrameQueue {
    /// Nothing is relayed, and nothing is kept for it.
    pub fn disabled() -> Self {
        Self { inner: None }
    }

    pub(super) fn new(capacity: u64, arrived: Arc<Notify>) -> Self {
        Self { inner: Some(Arc::new(Inner { capacity, frame_added: arrived })) }
    }

    pub fn is_enabled(&self) -> bool {
        self.inner.is_some()
    }

    /// Puts one of Meta's webhooks at the end of the line, in the commit that takes it in: as it came, and behind it
    /// what the address book says about `sender`. Meta sends objects alone; anything else is no frame.
    ///
    /// # Errors
    ///
    /// [`Error::Full`]: the webhook must be refused, so that Meta repeats it.
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
        let known = match sender {
            Some(phone) => address_book::find_in(tx, phone)?,
            None => None,
        };
        let knowledge =
            SenderMembers { save_number: known.is_some(), cached_info: known.map(CachedInfo::from) };
        let json = frame::append_members(webhook.get(), &to_json(&knowledge)?);
        self.push_frame(tx, json, now)
    }

    /// Puts an object at the end of the line as it is.
    pub(super) fn push_json(
        &self,
        tx: &mut Tx,
        object: &impl Serialize,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.push_frame(tx, to_json(object)?, now)
    }

    fn push_frame(&self, tx: &mut Tx, json: String, now: Timestamp) -> Result<(), Error> {
        let Some(line) = &self.inner else { return Ok(()) };
        storage::push(tx, &RelayFrame { queued_at: now, json }, line.capacity)?;
        // Before the commit: whoever is woken reads behind this closure, and so behind its commit.
        line.frame_added.notify_one();
        Ok(())
    }
}

fn to_json(object: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(object).map_err(|cause| Error::Codec(cause.to_string()))
}

impl From<AddressBookEntry> for CachedInfo {
    fn from(number: AddressBookEntry) -> Self {
        Self {
            name: number.name,
            phone: number.phone,
            data: number.data,
            created_at: number.created_at.to_string(),
            updated_at: number.updated_at.to_string(),
        }
    }
}
