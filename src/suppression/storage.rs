//! Records of the suppression list. `Suppressed`: recipient, in the spelling in which it was added → [`SuppressionRecord`].
//! A lookup tries every spelling of the person.

use serde::{Deserialize, Serialize};

use relevo_domain::{IdentityChange, Recipient, Timestamp};
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
    if find(recipient, |key| tx.get(key))?.is_some() {
        return Ok(false);
    }
    tx.put(key_of(recipient), store::encode(record)?)?;
    Ok(true)
}

/// Removes a person from the list, under every spelling, within a transaction. `false` if there is no entry.
///
/// # Errors
///
/// The store cannot be read.
pub fn release(tx: &mut Tx, recipient: &Recipient) -> Result<bool, Error> {
    let mut released = false;
    for text in spellings(recipient) {
        let key = key_of_text(&text);
        if tx.get(&key)?.is_some() {
            tx.delete(key)?;
            released = true;
        }
    }
    Ok(released)
}

/// Carries an entry over to the names that a person has now: if any name is on the list, all current ones are
/// afterwards, with the same reason and time. With `forget`, the former names are removed. Returns the reason if a name
/// was added.
///
/// # Errors
///
/// The store cannot be read, or a record cannot be decoded.
pub fn carry_over(
    tx: &mut Tx,
    change: &IdentityChange,
    forget: bool,
) -> Result<Option<SuppressionReason>, Error> {
    let mut found = None;
    for name in change.former.iter().chain(&change.current) {
        found = find(name, |key| tx.get(key))?;
        if found.is_some() {
            break;
        }
    }
    let Some((_, record)) = found else { return Ok(None) };
    let record: SuppressionRecord = store::decode(&record)?;
    let mut added = false;
    for name in &change.current {
        added |= insert(tx, name, &record)?;
    }
    if forget {
        for name in &change.former {
            release(tx, name)?;
        }
    }
    Ok(added.then_some(record.why))
}

/// The entry of a person: the spelling in which it was added, and the record.
pub(super) fn find(
    recipient: &Recipient,
    get: impl Fn(&Key) -> Result<Option<Vec<u8>>, Error>,
) -> Result<Option<(String, Vec<u8>)>, Error> {
    for text in spellings(recipient) {
        if let Some(record) = get(&key_of_text(&text))? {
            return Ok(Some((text, record)));
        }
    }
    Ok(None)
}

/// The texts under which a person may be on the list. Earlier versions kept the `00` of `0057…`.
fn spellings(recipient: &Recipient) -> impl Iterator<Item = String> {
    let dialled = recipient.phone().map(|phone| format!("00{phone}"));
    recipient.spellings().map(|spelling| spelling.to_string()).chain(dialled)
}

pub(super) fn key_of(recipient: &Recipient) -> Key {
    key_of_text(&recipient.to_string())
}

fn key_of_text(text: &str) -> Key {
    Key::new(Space::Suppressed).bytes(text.as_bytes())
}
