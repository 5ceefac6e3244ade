//! Trusted-contact tokens: the token that a person gave to this account, and the time at which ours was given to that
//! person. Both halves are one row, and each is updated separately.

use serde::{Deserialize, Serialize};
use whatsapp_rust::wacore::store::traits::TcTokenEntry;

use relevo_store::{self as store, Key, Tx};

use super::tables::{DeviceKeyspace, Table};
use super::{BATCH_ROWS, StoreResult};

/// A row. It contains the JID, because the key contains only its digest.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TcTokenRow {
    pub jid: String,
    pub entry: TcTokenEntry,
}

/// The key of a person's row.
pub(super) fn key(keyspace: DeviceKeyspace, jid: &str) -> Key {
    keyspace.name_key(Table::TcToken, jid)
}

/// Writes a row.
pub(super) fn put(tx: &mut Tx, keyspace: DeviceKeyspace, row: &TcTokenRow) -> StoreResult<()> {
    tx.put(key(keyspace, &row.jid), store::encode(row)?)
}

fn get(tx: &Tx, keyspace: DeviceKeyspace, jid: &str) -> StoreResult<Option<TcTokenEntry>> {
    let bytes = tx.get(&key(keyspace, jid))?;
    Ok(bytes.map(|bytes| store::decode::<TcTokenRow>(&bytes)).transpose()?.map(|row| row.entry))
}

/// Records the time at which our token was given. A later recorded time is kept.
pub(super) fn record_sent(tx: &mut Tx, keyspace: DeviceKeyspace, jid: String, time: i64) -> StoreResult<()> {
    let entry = match get(tx, keyspace, &jid)? {
        Some(entry) => {
            let time = entry.sender_timestamp.map_or(time, |before| before.max(time));
            TcTokenEntry { sender_timestamp: Some(time), ..entry }
        }
        None => TcTokenEntry { token: Vec::new(), token_timestamp: time, sender_timestamp: Some(time) },
    };
    put(tx, keyspace, &TcTokenRow { jid, entry })
}

/// Stores a received token, unless a newer one is stored.
pub(super) fn record_received(
    tx: &mut Tx,
    keyspace: DeviceKeyspace,
    jid: String,
    token: Vec<u8>,
    time: i64,
) -> StoreResult<()> {
    let before = get(tx, keyspace, &jid)?;
    if before.as_ref().is_some_and(|before| !before.token.is_empty() && time < before.token_timestamp) {
        return Ok(());
    }
    let sender_timestamp = before.and_then(|before| before.sender_timestamp);
    let entry = TcTokenEntry { token, token_timestamp: time, sender_timestamp };
    put(tx, keyspace, &TcTokenRow { jid, entry })
}

/// The result of one batch of a sweep.
pub(super) struct SweepStep {
    /// Number of deleted rows.
    pub rows: u32,
    /// The start of the next batch; `None` after the last one.
    pub next: Option<Key>,
}

/// Checks up to [`BATCH_ROWS`] rows and deletes those whose halves have both expired.
pub(super) fn sweep(
    tx: &mut Tx,
    keyspace: DeviceKeyspace,
    from: &Key,
    token_cutoff: i64,
    sender_cutoff: i64,
) -> StoreResult<SweepStep> {
    let end = keyspace.table_key(Table::TcToken).after_prefix();
    let keys = tx.range(from, &end).take(BATCH_ROWS).map(|entry| entry.map(|(key, _)| Key::from(key)));
    let keys: Vec<_> = keys.collect::<StoreResult<_>>()?;
    let next = keys.get(BATCH_ROWS - 1).map(|last| last.clone().successor());
    let mut rows = 0;
    for key in keys {
        let Some(bytes) = tx.get(&key)? else { continue };
        let entry = store::decode::<TcTokenRow>(&bytes)?.entry;
        let token_valid = !entry.token.is_empty() && entry.token_timestamp >= token_cutoff;
        let sender_valid = entry.sender_timestamp.is_some_and(|time| time >= sender_cutoff);
        if !token_valid && !sender_valid {
            tx.delete(key)?;
            rows += 1;
        }
    }
    Ok(SweepStep { rows, next })
}
