use serde::{Deserialize, Serialize};

use relevo_domain::{Recipient, Timestamp};
use relevo_store::{self as store, Error, Key, Space, Tx};

/// How somebody came to be on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuppressionReason {
    /// Somebody entered it over the API, or with a file.
    Api,
    File,
    /// WhatsApp refused a message because its recipient wants no marketing (error 131050).
    OptedOut,
    /// The recipient said so in WhatsApp's settings (webhook field `user_preferences`).
    Preference,
    /// The recipient wrote one of the configured words.
    Keyword,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SuppressionRecord {
    pub why: SuppressionReason,
    pub at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl SuppressionReason {
    /// As the API writes it.
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

/// Puts somebody on the list. `false` when they were there already.
pub fn suppress(tx: &mut Tx, who: &Recipient, why: SuppressionReason, at: Timestamp) -> Result<bool, Error> {
    insert(tx, who, &SuppressionRecord { why, at, note: None })
}

pub(super) fn insert(tx: &mut Tx, who: &Recipient, record: &SuppressionRecord) -> Result<bool, Error> {
    let key = key_of(who);
    if tx.get(&key)?.is_some() {
        return Ok(false);
    }
    tx.put(key, store::encode(record)?)?;
    Ok(true)
}

/// Takes somebody off the list. `false` when they were not on it.
pub fn release(tx: &mut Tx, who: &Recipient) -> Result<bool, Error> {
    let key = key_of(who);
    let there = tx.get(&key)?.is_some();
    if there {
        tx.delete(key)?;
    }
    Ok(there)
}

pub(super) fn key_of(who: &Recipient) -> Key {
    Key::new(Space::Suppressed).bytes(who.to_string().as_bytes())
}
