//! The tokens that people give to those whom they trust, and when ours was given to them. Two sides write one row, each
//! its own half.

use serde::{Deserialize, Serialize};
use whatsapp_rust::wacore::store::traits::TcTokenEntry;

use relevo_store::{self as store, Key, Tx};

use super::tables::{DeviceKeyspace, Table};
use super::{BATCH_ROWS, StoreResult};

/// A row: its name is needed because the key has only its digest.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TcTokenRow {
    pub jid: String,
    pub entry: TcTokenEntry,
}

pub(super) fn key(place: DeviceKeyspace, jid: &str) -> Key {
    place.name_key(Table::TcToken, jid)
}

pub(super) fn put(tx: &mut Tx, place: DeviceKeyspace, row: &TcTokenRow) -> StoreResult<()> {
    tx.put(key(place, &row.jid), store::encode(row)?)
}

fn get(tx: &Tx, place: DeviceKeyspace, jid: &str) -> StoreResult<Option<TcTokenEntry>> {
    let bytes = tx.get(&key(place, jid))?;
    Ok(bytes.map(|bytes| store::decode::<TcTokenRow>(&bytes)).transpose()?.map(|row| row.entry))
}

/// Notes when our token was given; never an earlier time than is known.
pub(super) fn record_sent(tx: &mut Tx, place: DeviceKeyspace, jid: String, time: i64) -> StoreResult<()> {
    let entry = match get(tx, place, &jid)? {
        Some(entry) => {
            let time = entry.sender_timestamp.map_or(time, |before| before.max(time));
            TcTokenEntry { sender_timestamp: Some(time), ..entry }
        }
        None => TcTokenEntry { token: Vec::new(), token_timestamp: time, sender_timestamp: Some(time) },
    };
    put(tx, place, &TcTokenRow { jid, entry })
}

/// Keeps a token that was received, unless a newer one is known.
pub(super) fn record_received(
    tx: &mut Tx,
    place: DeviceKeyspace,
    jid: String,
    token: Vec<u8>,
    time: i64,
) -> StoreResult<()> {
    let before = get(tx, place, &jid)?;
    if before.as_ref().is_some_and(|before| !before.token.is_empty() && time < before.token_timestamp) {
        return Ok(());
    }
    let sender_timestamp = before.and_then(|before| before.sender_timestamp);
    put(
        tx,
        place,
        &TcTokenRow { jid, entry: TcTokenEntry { token, token_timestamp: time, sender_timestamp } },
    )
}

/// What a step of a sweep did.
pub(super) struct SweepStep {
    pub rows: u32,
    /// Where the next step begins; `None` after the last.
    pub next: Option<Key>,
}

/// Looks at some rows and deletes those of which both halves are over.
pub(super) fn sweep(
    tx: &mut Tx,
    place: DeviceKeyspace,
    from: &Key,
    token_cutoff: i64,
    sender_cutoff: i64,
) -> StoreResult<SweepStep> {
    let end = place.table_key(Table::TcToken).after_prefix();
    let keys = tx.range(from, &end).take(BATCH_ROWS).map(|entry| entry.map(|(key, _)| Key::from(key)));
    let keys: Vec<_> = keys.collect::<StoreResult<_>>()?;
    let next = keys.get(BATCH_ROWS - 1).map(|last| last.clone().successor());
    let mut rows = 0;
    for key in keys {
        let Some(bytes) = tx.get(&key)? else { continue };
        let entry = store::decode::<TcTokenRow>(&bytes)?.entry;
        let token_counts = !entry.token.is_empty() && entry.token_timestamp >= token_cutoff;
        let sender_counts = entry.sender_timestamp.is_some_and(|time| time >= sender_cutoff);
        if !token_counts && !sender_counts {
            tx.delete(key)?;
            rows += 1;
        }
    }
    Ok(SweepStep { rows, next })
}
