use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::Notify;

use crate::contacts::{self, Number};
use crate::domain::Timestamp;
use crate::store::{Error, Tx};

use super::storage::{self, Frame};

/// Where inbound messages join the line. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Intake {
    /// `None`: nothing is relayed.
    line: Option<Arc<Entrance>>,
}

#[derive(Debug)]
struct Entrance {
    capacity: u64,
    arrived: Arc<Notify>,
}

/// Meta's webhook with what the address book says about its sender, in the order of the documented frames.
#[derive(Serialize)]
struct Enriched<'a> {
    #[serde(flatten)]
    webhook: &'a Map<String, Value>,
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

impl Intake {
    /// Nothing is relayed, and nothing is kept for it.
    pub fn off() -> Self {
        Self { line: None }
    }

    pub(super) fn new(capacity: u64, arrived: Arc<Notify>) -> Self {
        Self { line: Some(Arc::new(Entrance { capacity, arrived })) }
    }

    pub fn is_on(&self) -> bool {
        self.line.is_some()
    }

    /// Puts one of Meta's webhooks at the end of the line, in the commit that takes it in. Only the sender of its
    /// first message is looked up in the address book, as in the documented system; so a webhook that holds
    /// several senders is better pushed in pieces.
    ///
    /// # Errors
    ///
    /// [`Error::Full`]: the webhook must be refused, so that Meta repeats it.
    pub fn push(&self, tx: &mut Tx, webhook: &Value, now: Timestamp) -> Result<(), Error> {
        if !self.is_on() {
            return Ok(());
        }
        // Meta sends objects alone; anything else the consumer could not read.
        let Some(webhook) = webhook.as_object() else { return Ok(()) };
        let known = match first_sender(webhook) {
            Some(phone) => contacts::card(tx, phone)?,
            None => None,
        };
        let save_number = known.is_some();
        self.push_json(tx, &Enriched { webhook, cached_info: known.map(CachedInfo::from), save_number }, now)
    }

    /// Puts an object at the end of the line as it is.
    pub(super) fn push_json(
        &self,
        tx: &mut Tx,
        object: &impl Serialize,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(line) = &self.line else { return Ok(()) };
        let json = serde_json::to_string(object).map_err(|cause| Error::Codec(cause.to_string()))?;
        storage::push(tx, &Frame { queued_at: now, json }, line.capacity)?;
        // Before the commit: whoever is woken reads behind this closure, and so behind its commit.
        line.arrived.notify_one();
        Ok(())
    }
}

impl From<Number> for CachedInfo {
    fn from(number: Number) -> Self {
        Self {
            name: number.name,
            phone: number.phone,
            data: number.data,
            created_at: contacts::naive(number.created_at),
            updated_at: contacts::naive(number.updated_at),
        }
    }
}

/// Who sent the first message of a webhook.
fn first_sender(webhook: &Map<String, Value>) -> Option<&str> {
    let entries = webhook.get("entry")?.as_array()?;
    let changes = entries.iter().filter_map(|entry| entry.get("changes")?.as_array()).flatten();
    let of_messages = changes.filter(|change| change.get("field").is_some_and(|field| field == "messages"));
    let mut messages = of_messages.filter_map(|change| change.get("value")?.get("messages")?.get(0));
    messages.next()?.get("from")?.as_str()
}
