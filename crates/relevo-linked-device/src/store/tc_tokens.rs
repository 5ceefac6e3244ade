//! The tokens that people give to those whom they trust, and when ours was given to them. Two sides write one row, each
//! its own half.

use serde::{Deserialize, Serialize};
use whatsapp_rust::wacore::store::traits::TcTokenEntry;

use relevo_store::{self as store, Key, Tx};

use super::tables::{Place, Table};
use super::{STEP, Stored};

/// A row: its name is needed because the key has only its digest.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub jid: String,
    pub entry: TcTokenEntry,
}

pub(super) fn key(place: Place, jid: &str) -> Key {
    place.named(Table::TcToken, jid)
}

pub(super) fn put(tx: &mut Tx, place: Place, row: &Row) -> Stored<()> {
    store::put_large(tx, key(place, &row.jid), &store::encode(row)?)
}

fn get(tx: &Tx, place: Place, jid: &str) -> Stored<Option<TcTokenEntry>> {
    let bytes = store::get_large(&key(place, jid), |key| tx.get(key))?;
    Ok(bytes.map(|bytes| store::decode::<Row>(&bytes)).transpose()?.map(|row| row.entry))
}

/// Notes when our token was given; never an earlier time than is known.
pub(super) fn sent(tx: &mut Tx, place: Place, jid: String, time: i64) -> Stored<()> {
    let entry = match get(tx, place, &jid)? {
        Some(entry) => {
            let time = entry.sender_timestamp.map_or(time, |before| before.max(time));
            TcTokenEntry { sender_timestamp: Some(time), ..entry }
        }
        None => TcTokenEntry { token: Vec::new(), token_timestamp: time, sender_timestamp: Some(time) },
    };
    put(tx, place, &Row { jid, entry })
}

/// Keeps a token that was received, unless a newer one is known.
pub(super) fn received(tx: &mut Tx, place: Place, jid: String, token: Vec<u8>, time: i64) -> Stored<()> {
    let before = get(tx, place, &jid)?;
    if before.as_ref().is_some_and(|before| !before.token.is_empty() && time < before.token_timestamp) {
        return Ok(());
    }
    let sender_timestamp = before.and_then(|before| before.sender_timestamp);
    put(tx, place, &Row { jid, entry: TcTokenEntry { token, token_timestamp: time, sender_timestamp } })
}

/// What a step of a sweep did.
pub(super) struct Swept {
    pub rows: u32,
    /// Where the next step begins; `None` after the last.
    pub next: Option<Key>,
}

/// Looks at some rows and deletes those of which both halves are over.
pub(super) fn sweep(
    tx: &mut Tx,
    place: Place,
    from: &Key,
    token_cutoff: i64,
    sender_cutoff: i64,
) -> Stored<Swept> {
    let end = place.table(Table::TcToken).after_prefix();
    let keys = tx.range(from, &end).take(STEP).map(|entry| entry.map(|(key, _)| Key::from(key)));
    let keys: Vec<_> = keys.collect::<Stored<_>>()?;
    let next = keys.get(STEP - 1).map(|last| last.clone().successor());
    let mut rows = 0;
    for key in keys {
        let Some(bytes) = store::get_large(&key, |key| tx.get(key))? else { continue };
        let entry = store::decode::<Row>(&bytes)?.entry;
        let token_counts = !entry.token.is_empty() && entry.token_timestamp >= token_cutoff;
        let sender_counts = entry.sender_timestamp.is_some_and(|time| time >= sender_cutoff);
        if !token_counts && !sender_counts {
            store::delete_large(tx, key)?;
            rows += 1;
        }
    }
    Ok(Swept { rows, next })
}
