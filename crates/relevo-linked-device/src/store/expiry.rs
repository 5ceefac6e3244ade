//! Tables whose rows have a date, by which expired rows are swept.

use relevo_store::{self as store, Key, Tx};

use super::tables::{DeviceKeyspace, NameDigest, Table, digest, last_digest};
use super::{BATCH_ROWS, StoreResult};

/// The date of rows that never expire.
pub(super) const NO_EXPIRY: i64 = 0;

/// A pair of tables: the rows by name, each with its date before its content, and an index by date.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExpiryTable {
    rows: Table,
    dates: Table,
}

/// Sent messages, for as long as a recipient may request them again. Dated by the time of sending.
pub(super) const SENT: ExpiryTable = ExpiryTable { rows: Table::Sent, dates: Table::SentDate };
/// Decrypted messages that are not yet in the event log. Dated by the time of arrival.
pub(super) const PENDING: ExpiryTable = ExpiryTable { rows: Table::Pending, dates: Table::PendingDate };
/// Base keys of sessions in which a message was requested again. Dated by the time of the request.
pub(super) const BASE_KEYS: ExpiryTable = ExpiryTable { rows: Table::BaseKey, dates: Table::BaseKeyDate };
/// Secrets that encrypt the edits, votes and comments of a message. Dated by the time at which they expire.
pub(super) const SECRETS: ExpiryTable = ExpiryTable { rows: Table::Secret, dates: Table::SecretDate };

/// The address of one row.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExpiryRow {
    table: ExpiryTable,
    keyspace: DeviceKeyspace,
    name: NameDigest,
}

impl ExpiryTable {
    /// The row under this name of one or several parts.
    pub fn row<const N: usize>(self, keyspace: DeviceKeyspace, names: [&str; N]) -> ExpiryRow {
        ExpiryRow { table: self, keyspace, name: digest(names.map(str::as_bytes)) }
    }

    /// The range of the dates before `cutoff`.
    pub fn expired_range(self, keyspace: DeviceKeyspace, cutoff: i64) -> (Key, Key) {
        (keyspace.table_key(self.dates), keyspace.table_key(self.dates).u64(sortable_date(cutoff)))
    }

    /// Deletes up to [`BATCH_ROWS`] rows that are dated before `cutoff`, and returns their number.
    pub fn sweep(self, tx: &mut Tx, keyspace: DeviceKeyspace, cutoff: i64) -> StoreResult<u32> {
        let (start, end) = self.expired_range(keyspace, cutoff);
        let date_keys = tx.range(&start, &end).take(BATCH_ROWS).map(|entry| entry.map(|(key, _)| key));
        let date_keys: Vec<_> = date_keys.collect::<StoreResult<_>>()?;
        let mut swept = 0;
        for date_key in date_keys {
            let name = last_digest(&date_key);
            tx.delete(ExpiryRow { table: self, keyspace, name }.key())?;
            tx.delete(date_key.into())?;
            swept += 1;
        }
        Ok(swept)
    }
}

impl ExpiryRow {
    /// The key of the row.
    pub fn key(self) -> Key {
        self.keyspace.table_key(self.table.rows).bytes(&self.name)
    }

    fn date_key(self, date: i64) -> Key {
        self.keyspace.table_key(self.table.dates).u64(sortable_date(date)).bytes(&self.name)
    }

    /// Writes the row and replaces an earlier one.
    pub fn put(self, tx: &mut Tx, date: i64, content: &[u8]) -> StoreResult<()> {
        self.delete_date(tx)?;
        if date != NO_EXPIRY {
            tx.put(self.date_key(date), Vec::new())?;
        }
        tx.put(self.key(), [&date.to_be_bytes(), content].concat())
    }

    /// Reads the date and the content of the row.
    pub fn get(self, tx: &Tx) -> StoreResult<Option<(i64, Vec<u8>)>> {
        tx.get(&self.key())?.map(parse_row).transpose()
    }

    /// Deletes the row.
    pub fn delete(self, tx: &mut Tx) -> StoreResult<()> {
        self.delete_date(tx)?;
        tx.delete(self.key())
    }

    fn delete_date(self, tx: &mut Tx) -> StoreResult<()> {
        let Some(value) = tx.get(&self.key())? else { return Ok(()) };
        let date = value.first_chunk().ok_or_else(missing_date)?;
        tx.delete(self.date_key(i64::from_be_bytes(*date)))
    }
}

/// Splits the value of a row into date and content.
pub(super) fn parse_row(mut row: Vec<u8>) -> StoreResult<(i64, Vec<u8>)> {
    let date = *row.first_chunk().ok_or_else(missing_date)?;
    row.drain(..date.len());
    Ok((i64::from_be_bytes(date), row))
}

fn missing_date() -> store::Error {
    store::Error::Codec("a row of a linked device has no date".to_owned())
}

/// Maps a date to an integer whose big-endian bytes sort like the date, also before 1970.
fn sortable_date(date: i64) -> u64 {
    date.cast_unsigned() ^ (1 << 63)
}
