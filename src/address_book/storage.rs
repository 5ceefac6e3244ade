//! Records of the address book.
//!
//! `Contact`: phone → [`AddressBookRecord`]; the empty phone, which no entry can have, → [`AddressBookMeta`].
//! `ContactOrder`: a number that decreases with every change → phone. The newest change comes first, and the order does
//! not depend on the clock.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use relevo_domain::{PhoneNumber, Timestamp};
use relevo_store::{self as store, Error, Key, Space, Store, Tx};

/// A page ends after the entry that reaches this many bytes of records.
const PAGE_BYTES: usize = 4 << 20;

/// One entry of the address book.
#[derive(Debug, Clone, PartialEq)]
pub struct AddressBookEntry {
    pub phone: String,
    pub name: Option<String>,
    /// Data of the API client; may be empty.
    pub data: Map<String, Value>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A page of the address book, the latest change first.
#[derive(Debug, Clone, PartialEq)]
pub struct AddressBookPage {
    pub entries: Vec<AddressBookEntry>,
    /// Number of entries in the whole address book.
    pub total: u64,
    /// Position after which the next page begins; `None` on the last page.
    pub next: Option<u64>,
}

/// The stored value of an entry. `change` is the first field, so two versions of a record never begin with the same
/// bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AddressBookRecord {
    /// Number of the change that wrote this record.
    change: u64,
    name: Option<String>,
    /// A JSON object.
    data: String,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// Counters of the whole address book.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct AddressBookMeta {
    pub total: u64,
    /// Number of the latest change.
    pub change: u64,
}

/// The entry of `phone`, read within a transaction.
///
/// # Errors
///
/// The store cannot be read, or the record cannot be decoded.
pub fn find_in(tx: &Tx, phone: &str) -> Result<Option<AddressBookEntry>, Error> {
    if phone.is_empty() {
        return Ok(None);
    }
    match tx.get(&entry_key(phone))? {
        Some(bytes) => Ok(Some(decode_entry(phone, store::decode(&bytes)?)?)),
        None => Ok(None),
    }
}

/// The entry of a person: of the phone as it is spelled, otherwise of its other spelling. Read within a transaction.
///
/// # Errors
///
/// The store cannot be read, or the record cannot be decoded.
pub fn find_person_in(tx: &Tx, phone: &str) -> Result<Option<AddressBookEntry>, Error> {
    let other = phone.parse::<PhoneNumber>().ok().and_then(|phone| phone.other_spelling());
    match find_in(tx, phone)? {
        Some(entry) => Ok(Some(entry)),
        None => other.map_or(Ok(None), |other| find_in(tx, other.digits())),
    }
}

/// Gives the entry of a person who changed the number to the new number, unless that has an entry. Returns whether there
/// was an entry to move.
///
/// # Errors
///
/// The store cannot be read, or the record cannot be decoded.
pub fn change_phone(
    tx: &mut Tx,
    former: &PhoneNumber,
    current: &PhoneNumber,
    now: Timestamp,
) -> Result<bool, Error> {
    let Some(entry) = find_person_in(tx, former.digits())? else { return Ok(false) };
    if find_person_in(tx, current.digits())?.is_some() {
        return Ok(false);
    }
    delete(tx, &entry.phone)?;
    put(tx, &AddressBookEntry { phone: current.to_string(), updated_at: now, ..entry })?;
    Ok(true)
}

/// Writes an entry. Returns whether it replaced an earlier one.
pub(super) fn put(tx: &mut Tx, entry: &AddressBookEntry) -> Result<bool, Error> {
    let replaced = delete(tx, &entry.phone)?;
    let mut meta = read_meta(|key| tx.get(key))?;
    meta.change += 1;
    meta.total += 1;
    let record = AddressBookRecord {
        change: meta.change,
        name: entry.name.clone(),
        data: serde_json::to_string(&entry.data).map_err(|cause| Error::Codec(cause.to_string()))?,
        created_at: entry.created_at,
        updated_at: entry.updated_at,
    };
    tx.put(entry_key(&entry.phone), store::encode(&record)?)?;
    tx.put(order_key(meta.change), entry.phone.clone().into_bytes())?;
    tx.put(meta_key(), store::encode(&meta)?)?;
    Ok(replaced)
}

/// Deletes an entry. Returns whether there was one.
pub(super) fn delete(tx: &mut Tx, phone: &str) -> Result<bool, Error> {
    let Some(bytes) = tx.get(&entry_key(phone))? else { return Ok(false) };
    let record: AddressBookRecord = store::decode(&bytes)?;
    tx.delete(entry_key(phone))?;
    tx.delete(order_key(record.change))?;
    let mut meta = read_meta(|key| tx.get(key))?;
    meta.total = meta.total.saturating_sub(1);
    tx.put(meta_key(), store::encode(&meta)?)?;
    Ok(true)
}

/// Deletes up to `limit` of the entries whose latest change is `until` or earlier, and returns their number. Zero means
/// that no such entry is left.
pub(super) fn delete_oldest(tx: &mut Tx, until: u64, limit: usize) -> Result<u64, Error> {
    let phones: Vec<Vec<u8>> = {
        let end = Key::new(Space::ContactOrder).after_prefix();
        let entries = tx.range(&order_key(until), &end).take(limit);
        entries.map(|entry| entry.map(|(_, phone)| phone)).collect::<Result<_, _>>()?
    };
    let mut deleted = 0;
    for phone in phones {
        deleted += u64::from(delete(tx, &phone_from_bytes(phone)?)?);
    }
    Ok(deleted)
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

/// Reads a page; blocks on the disk.
pub(super) fn list(store: &Store, after: Option<u64>, limit: usize) -> Result<AddressBookPage, Error> {
    let start = match after {
        Some(change) => order_key(change).successor(),
        None => Key::new(Space::ContactOrder),
    };
    let (mut entries, mut bytes, mut last, mut more) = (Vec::new(), 0, 0, false);
    for item in store.range(&start, &Key::new(Space::ContactOrder).after_prefix()) {
        if entries.len() >= limit || bytes >= PAGE_BYTES {
            more = true;
            break;
        }
        let (order, phone) = item?;
        let phone = phone_from_bytes(phone)?;
        // The entry was deleted after the order was read, or it moved to the front: it is not part of this page.
        let Some(stored) = store.get(&entry_key(&phone))? else { continue };
        let record: AddressBookRecord = store::decode(&stored)?;
        if order_key(record.change).as_slice() == order {
            bytes += stored.len();
            last = record.change;
            entries.push(decode_entry(&phone, record)?);
        }
    }
    let total = read_meta(|key| store.get(key))?.total;
    Ok(AddressBookPage { entries, total, next: more.then_some(last) })
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
