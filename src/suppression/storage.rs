//! Records of the suppression list. `Suppressed`: recipient in canonical form → [`SuppressionRecord`].

use serde::{Deserialize, Serialize};

use relevo_domain::{Recipient, Timestamp};
use relevo_store::{self as store, Error, Key, Space, Tx};

/// Why a recipient is on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuppressionReason {
    /// An API client added the recipient.
    Api,
    /// The recipient was imported from a file.
    File,
    /// WhatsApp rejected a message because its recipient wants no marketing (error 131050).
    OptedOut,
    /// The recipient opted out in WhatsApp's settings (webhook field `user_preferences`).
    Preference,
    /// The recipient wrote one of the configured keywords.
    Keyword,
}

/// The stored value of an entry.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SuppressionRecord {
    pub why: SuppressionReason,
    pub at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl SuppressionReason {
    /// The name that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            SuppressionReason::Api => "api",
            SuppressionReason::File => "file",
            SuppressionReason::OptedOut => "opted_out",
            SuppressionReason::Preference => "preference",
            SuppressionReason::Keyword => "keyword",
        }
    }
}

/// Adds a recipient to the list, within a transaction. `false` if there is already an entry, which then stays as it is.
///
/// # Errors
///
/// The store cannot be read, or the record cannot be encoded.
pub fn suppress(
    tx: &mut Tx,
    recipient: &Recipient,
    reason: SuppressionReason,
    at: Timestamp,
) -> Result<bool, Error> {
    insert(tx, recipient, &SuppressionRecord { why: reason, at, note: None })
}

pub(super) fn insert(tx: &mut Tx, recipient: &Recipient, record: &SuppressionRecord) -> Result<bool, Error> {
    let key = key_of(recipient);
    if tx.get(&key)?.is_some() {
        return Ok(false);
    }
    tx.put(key, store::encode(record)?)?;
    Ok(true)
}

/// Removes a recipient from the list, within a transaction. `false` if there is no entry.
///
/// # Errors
///
/// The store cannot be read.
pub fn release(tx: &mut Tx, recipient: &Recipient) -> Result<bool, Error> {
    let key = key_of(recipient);
    let exists = tx.get(&key)?.is_some();
    if exists {
        tx.delete(key)?;
    }
    Ok(exists)
}

pub(super) fn key_of(recipient: &Recipient) -> Key {
    Key::new(Space::Suppressed).bytes(recipient.to_string().as_bytes())
}
