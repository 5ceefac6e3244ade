//! Which hidden id belongs to which phone number: by both.

use whatsapp_rust::wacore::store::traits::LidPnMappingEntry;

use relevo_store::{self as store, Key, Tx};

use super::Stored;
use super::tables::{Place, Table};

pub(super) fn key(place: Place, lid: &str) -> Key {
    place.named(Table::Lid, lid)
}

/// Under it lies the newest LID of a phone number.
pub(super) fn phone_key(place: Place, phone: &str) -> Key {
    place.named(Table::Phone, phone)
}

pub(super) fn put(tx: &mut Tx, place: Place, entry: &LidPnMappingEntry) -> Stored<()> {
    let (key, phone_key) = (key(place, &entry.lid), phone_key(place, &entry.phone_number));
    if let Some(bytes) = store::get_large(&key, |key| tx.get(key))? {
        let before: LidPnMappingEntry = store::decode(&bytes)?;
        leave_phone(tx, place, &before)?;
    }
    store::put_large(tx, phone_key, entry.lid.as_bytes())?;
    store::put_large(tx, key, &store::encode(entry)?)
}

/// A phone number that another LID has meanwhile is left alone.
fn leave_phone(tx: &mut Tx, place: Place, mapping: &LidPnMappingEntry) -> Stored<()> {
    let key = phone_key(place, &mapping.phone_number);
    let newest = store::get_large(&key, |key| tx.get(key))?;
    if newest.as_deref() == Some(mapping.lid.as_bytes()) {
        store::delete_large(tx, key)?;
    }
    Ok(())
}
