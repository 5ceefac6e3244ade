//! The address book as it lies in the store.
//!
//! `Contact`: phone → record; under the empty phone, which nobody has, the book itself. `ContactOrder`: a number
//! that falls with every change → phone, so that the newest change comes first and a clock that is set back
//! changes nothing about the order.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use relevo_domain::Timestamp;
use relevo_store::{self as store, Error, Key, Space, Store, Tx};

/// A page of the list holds no more than this many bytes of records, besides its first entry.
const PAGE_BYTES: usize = 4 << 20;

/// Somebody in the address book.
#[derive(Debug, Clone, PartialEq)]
pub struct AddressBookEntry {
    pub phone: String,
    pub name: Option<String>,
    /// What the caller wants to remember; empty when nothing.
    pub data: Map<String, Value>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A part of the address book, the latest change first.
#[derive(Debug, Clone, PartialEq)]
pub struct AddressBookPage {
    pub entries: Vec<AddressBookEntry>,
    /// How many there are in all.
    pub total: u64,
    /// Behind which place to go on, when there is more.
    pub next: Option<u64>,
}

/// `change` comes first, so that no two records of a phone begin with the same bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AddressBookRecord {
    /// The place of the record among all changes.
    change: u64,
    name: Option<String>,
    /// A JSON object.
    data: String,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// What is known about the address book as a whole.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct AddressBookMeta {
    pub total: u64,
    /// The place of the latest change.
    pub change: u64,
}

/// Who has this phone, within a change that is being made.
pub fn find_in(tx: &Tx, phone: &str) -> Result<Option<AddressBookEntry>, Error> {
    if phone.is_empty() {
        return Ok(None);
    }
    match tx.get(&entry_key(phone))? {
        Some(bytes) => Ok(Some(decode_entry(phone, store::decode(&bytes)?)?)),
        None => Ok(None),
    }
}

/// Writes an entry in the place of whatever was there. Tells whether something was.
pub(super) fn put(tx: &mut Tx, number: &AddressBookEntry) -> Result<bool, Error> {
    let replaced = delete(tx, &number.phone)?;
    let mut book = read_meta(|key| tx.get(key))?;
    book.change += 1;
    book.total += 1;
    let record = AddressBookRecord {
        change: book.change,
        name: number.name.clone(),
        data: serde_json::to_string(&number.data).map_err(|cause| Error::Codec(cause.to_string()))?,
        created_at: number.created_at,
        updated_at: number.updated_at,
    };
    tx.put(entry_key(&number.phone), store::encode(&record)?)?;
    tx.put(order_key(book.change), number.phone.clone().into_bytes())?;
    tx.put(meta_key(), store::encode(&book)?)?;
    Ok(replaced)
}

/// Removes an entry. Tells whether there was one.
pub(super) fn delete(tx: &mut Tx, phone: &str) -> Result<bool, Error> {
    let Some(bytes) = tx.get(&entry_key(phone))? else { return Ok(false) };
    let record: AddressBookRecord = store::decode(&bytes)?;
    tx.delete(entry_key(phone))?;
    tx.delete(order_key(record.change))?;
    let mut book = read_meta(|key| tx.get(key))?;
    book.total = book.total.saturating_sub(1);
    tx.put(meta_key(), store::encode(&book)?)?;
    Ok(true)
}

/// Removes up to `limit` of the entries that did not change after `until`; tells how many. Fewer than `limit`: no
/// such entry is left.
pub(super) fn delete_oldest(tx: &mut Tx, until: u64, limit: usize) -> Result<u64, Error> {
    let phones: Vec<Vec<u8>> = {
        let end = Key::new(Space::ContactOrder).after_prefix();
        let entries = tx.range(&order_key(until), &end).take(limit);
        entries.map(|entry| entry.map(|(_, phone)| phone)).collect::<Result<_, _>>()?
    };
    let mut taken = 0;
    for phone in phones {
        taken += u64::from(delete(tx, &phone_from_bytes(phone)?)?);
    }
    Ok(taken)
}

pub(super) fn read_meta(
    get: impl Fn(&Key) -> Result<Option<Vec<u8>>, Error>,
) -> Result<AddressBookMeta, Error> {
    get(&meta_key())?.map_or_else(|| Ok(AddressBookMeta::default()), |bytes| store::decode(&bytes))
}

pub(super) fn get(store: &Store, phone: &str) -> Result<Option<AddressBookEntry>, Error> {
    if phone.is_empty() {
        return Ok(None);
    }
    match store.get(&entry_key(phone))? {
        Some(bytes) => Ok(Some(decode_entry(phone, store::decode(&bytes)?)?)),
        None => Ok(None),
    }
}

/// Reads a page: belongs on a blocking thread.
pub(super) fn list(store: &Store, after: Option<u64>, limit: usize) -> Result<AddressBookPage, Error> {
    let start = match after {
        Some(change) => order_key(change).successor(),
        None => Key::new(Space::ContactOrder),
    };
    let (mut numbers, mut bytes, mut last, mut more) = (Vec::new(), 0, 0, false);
    for entry in store.range(&start, &Key::new(Space::ContactOrder).after_prefix()) {
        if numbers.len() >= limit || bytes >= PAGE_BYTES {
            more = true;
            break;
        }
        let (order, phone) = entry?;
        let phone = phone_from_bytes(phone)?;
        // Gone since the order was read, or moved to the front: not a part of this page either way.
        let Some(stored) = store.get(&entry_key(&phone))? else { continue };
        let record: AddressBookRecord = store::decode(&stored)?;
        if order_key(record.change).as_slice() == order {
            bytes += stored.len();
            last = record.change;
            numbers.push(decode_entry(&phone, record)?);
        }
    }
    let total = read_meta(|key| store.get(key))?.total;
    Ok(AddressBookPage { entries: numbers, total, next: more.then_some(last) })
}

fn decode_entry(phone: &str, record: AddressBookRecord) -> Result<AddressBookEntry, Error> {
    let data = serde_json::from_str(&record.data).map_err(|cause| Error::Codec(cause.to_string()))?;
    Ok(AddressBookEntry {
        phone: phone.to_owned(),
        name: record.name,
        data,
        created_at: record.created_at,
        updated_at: record.updated_at,
    })
}

fn phone_from_bytes(phone: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(phone).map_err(|cause| Error::Codec(cause.to_string()))
}

fn entry_key(phone: &str) -> Key {
    Key::new(Space::Contact).bytes(phone.as_bytes())
}

fn meta_key() -> Key {
    entry_key("")
}

fn order_key(change: u64) -> Key {
    Key::new(Space::ContactOrder).u64(u64::MAX - change)
}
