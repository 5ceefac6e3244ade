//! Rows that have a date, and are swept when it has passed.

use relevo_store::{self as store, Key, Tx};

use super::tables::{Digest, Place, Table, digest, last_digest};
use super::{STEP, Stored};

/// The date of what stays.
pub(super) const NEVER: i64 = 0;

/// Two tables: the rows by name, each with its date before its content, and the dates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dated {
    rows: Table,
    dates: Table,
}

/// What was sent, as long as somebody may ask for it again. By the time of sending.
pub(super) const SENT: Dated = Dated { rows: Table::Sent, dates: Table::SentDate };
/// What was decrypted and is not yet in our event log. By the time of arrival.
pub(super) const PENDING: Dated = Dated { rows: Table::Pending, dates: Table::PendingDate };
/// The base keys of sessions in which a message was asked for again. By the time of asking.
pub(super) const BASE_KEYS: Dated = Dated { rows: Table::BaseKey, dates: Table::BaseKeyDate };
/// What edits, votes and comments of a message are encrypted with. By the time at which nobody needs it.
pub(super) const SECRETS: Dated = Dated { rows: Table::Secret, dates: Table::SecretDate };

/// One row of such a table: where it lies, and its name there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    of: Dated,
    place: Place,
    name: Digest,
}

impl Dated {
    pub fn row<const N: usize>(self, place: Place, names: [&str; N]) -> Row {
        Row { of: self, place, name: digest(names.map(str::as_bytes)) }
    }

    /// Between these lie the dates that are over at a moment: the earlier ones, not itself.
    pub fn over(self, place: Place, moment: i64) -> (Key, Key) {
        (place.table(self.dates), place.table(self.dates).u64(ordered(moment)))
    }

    /// Deletes some of what is over, and says how many.
    pub fn sweep(self, tx: &mut Tx, place: Place, moment: i64) -> Stored<u32> {
        let (start, end) = self.over(place, moment);
        let due = tx.range(&start, &end).take(STEP).map(|entry| entry.map(|(key, _)| key));
        let due: Vec<_> = due.collect::<Stored<_>>()?;
        let mut swept = 0;
        for date in due {
            let name = last_digest(&date);
            store::delete_large(tx, Row { of: self, place, name }.key())?;
            store::delete_large(tx, date.into())?;
            swept += 1;
        }
        Ok(swept)
    }
}

impl Row {
    pub fn key(self) -> Key {
        self.place.table(self.of.rows).bytes(&self.name)
    }

    fn date_key(self, date: i64) -> Key {
        self.place.table(self.of.dates).u64(ordered(date)).bytes(&self.name)
    }

    /// Writes the row in the stead of what was there.
    pub fn put(self, tx: &mut Tx, date: i64, content: &[u8]) -> Stored<()> {
        self.forget_date(tx)?;
        if date != NEVER {
            store::put_large(tx, self.date_key(date), &[])?;
        }
        store::put_large(tx, self.key(), &[&date.to_be_bytes(), content].concat())
    }

    pub fn get(self, tx: &Tx) -> Stored<Option<(i64, Vec<u8>)>> {
        store::get_large(&self.key(), |key| tx.get(key))?.map(parse).transpose()
    }

    pub fn delete(self, tx: &mut Tx) -> Stored<()> {
        self.forget_date(tx)?;
        store::delete_large(tx, self.key())
    }

    fn forget_date(self, tx: &mut Tx) -> Stored<()> {
        let Some(value) = tx.get(&self.key())? else { return Ok(()) };
        let date = store::head_of_large(&value)?.first_chunk().ok_or_else(undated)?;
        store::delete_large(tx, self.date_key(i64::from_be_bytes(*date)))
    }
}

/// The date and the content of a row.
pub(super) fn parse(mut row: Vec<u8>) -> Stored<(i64, Vec<u8>)> {
    let date = *row.first_chunk().ok_or_else(undated)?;
    row.drain(..date.len());
    Ok((i64::from_be_bytes(date), row))
}

fn undated() -> store::Error {
    store::Error::Codec("a row of a linked device has no date".to_owned())
}

/// A date whose bytes sort as it does, also before 1970.
fn ordered(date: i64) -> u64 {
    date.cast_unsigned() ^ (1 << 63)
}
