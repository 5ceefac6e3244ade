//! Rows that have a date, and are swept when it has passed.

use relevo_store::{self as store, Key, Tx};

use super::tables::{DeviceKeyspace, NameDigest, Table, digest, last_digest};
use super::{BATCH_ROWS, StoreResult};

/// The date of what stays.
pub(super) const NO_EXPIRY: i64 = 0;

/// Two tables: the rows by name, each with its date before its content, and the dates.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExpiryTable {
    rows: Table,
    dates: Table,
}

/// What was sent, as long as somebody may ask for it again. By the time of sending.
pub(super) const SENT: ExpiryTable = ExpiryTable { rows: Table::Sent, dates: Table::SentDate };
/// What was decrypted and is not yet in our event log. By the time of arrival.
pub(super) const PENDING: ExpiryTable = ExpiryTable { rows: Table::Pending, dates: Table::PendingDate };
/// The base keys of sessions in which a message was asked for again. By the time of asking.
pub(super) const BASE_KEYS: ExpiryTable = ExpiryTable { rows: Table::BaseKey, dates: Table::BaseKeyDate };
/// What edits, votes and comments of a message are encrypted with. By the time at which nobody needs it.
pub(super) const SECRETS: ExpiryTable = ExpiryTable { rows: Table::Secret, dates: Table::SecretDate };

/// One row of such a table: where it lies, and its name there.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExpiryRow {
    table: ExpiryTable,
    keyspace: DeviceKeyspace,
    name: NameDigest,
}

impl ExpiryTable {
    pub fn row<const N: usize>(self, place: DeviceKeyspace, names: [&str; N]) -> ExpiryRow {
        ExpiryRow { table: self, keyspace: place, name: digest(names.map(str::as_bytes)) }
    }

    /// Between these lie the dates that are over at a moment: the earlier ones, not itself.
    pub fn expired_range(self, place: DeviceKeyspace, moment: i64) -> (Key, Key) {
        (place.table_key(self.dates), place.table_key(self.dates).u64(sortable_date(moment)))
    }

    /// Deletes some of what is over, and says how many.
    pub fn sweep(self, tx: &mut Tx, place: DeviceKeyspace, moment: i64) -> StoreResult<u32> {
        let (start, end) = self.expired_range(place, moment);
        let due = tx.range(&start, &end).take(BATCH_ROWS).map(|entry| entry.map(|(key, _)| key));
        let due: Vec<_> = due.collect::<StoreResult<_>>()?;
        let mut swept = 0;
        for date in due {
            let name = last_digest(&date);
            tx.delete(ExpiryRow { table: self, keyspace: place, name }.key())?;
            tx.delete(date.into())?;
            swept += 1;
        }
        Ok(swept)
    }
}

impl ExpiryRow {
    pub fn key(self) -> Key {
        self.keyspace.table_key(self.table.rows).bytes(&self.name)
    }

    fn date_key(self, date: i64) -> Key {
        self.keyspace.table_key(self.table.dates).u64(sortable_date(date)).bytes(&self.name)
    }

    /// Writes the row in the stead of what was there.
    pub fn put(self, tx: &mut Tx, date: i64, content: &[u8]) -> StoreResult<()> {
        self.delete_date(tx)?;
        if date != NO_EXPIRY {
            tx.put(self.date_key(date), Vec::new())?;
        }
        tx.put(self.key(), [&date.to_be_bytes(), content].concat())
    }

    pub fn get(self, tx: &Tx) -> StoreResult<Option<(i64, Vec<u8>)>> {
        tx.get(&self.key())?.map(parse_row).transpose()
    }

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

/// The date and the content of a row.
pub(super) fn parse_row(mut row: Vec<u8>) -> StoreResult<(i64, Vec<u8>)> {
    let date = *row.first_chunk().ok_or_else(missing_date)?;
    row.drain(..date.len());
    Ok((i64::from_be_bytes(date), row))
}

fn missing_date() -> store::Error {
    store::Error::Codec("a row of a linked device has no date".to_owned())
}

/// A date whose bytes sort as it does, also before 1970.
fn sortable_date(date: i64) -> u64 {
    date.cast_unsigned() ^ (1 << 63)
}
