//! The strict-order push of inbound messages to one WebSocket.

use serde_json::Value;

use crate::domain::Timestamp;
use crate::store::{self, Error, Key, Space, Tx};

/// Where inbound messages join the line. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Intake {
    on: bool,
}

impl Intake {
    /// Nothing is relayed, and nothing is kept for it.
    pub fn off() -> Self {
        Self { on: false }
    }

    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Puts one of Meta's webhooks at the end of the line, in the commit that takes it in.
    pub fn push(&self, tx: &mut Tx, webhook: &Value, _now: Timestamp) -> Result<(), Error> {
        if !self.on {
            return Ok(());
        }
        let line = Key::new(Space::Relay);
        let last = tx.range(&line, &line.clone().after_prefix()).last().transpose()?;
        let order = last.and_then(|(key, _)| key.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes)));
        let bytes = serde_json::to_vec(webhook).map_err(|cause| Error::Codec(cause.to_string()))?;
        store::put_large(tx, line.u64(order.map_or(1, |order| order + 1)), &bytes)
    }
}
