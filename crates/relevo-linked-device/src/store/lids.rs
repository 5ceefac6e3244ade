//! Which hidden id belongs to which phone number: by both.

use whatsapp_rust::wacore::store::traits::LidPnMappingEntry;

use relevo_store::{self as store, Key, Tx};

use super::StoreResult;
use super::tables::{DeviceKeyspace, Table};

pub(super) fn key(place: DeviceKeyspace, lid: &str) -> Key {
    place.name_key(Table::Lid, lid)
}

/// Under it lies the newest LID of a phone number.
pub(super) fn phone_key(place: DeviceKeyspace, phone: &str) -> Key {
    place.name_key(Table::Phone, phone)
}

pub(super) fn put(tx: &mut Tx, place: DeviceKeyspace, entry: &LidPnMappingEntry) -> StoreResult<()> {
    let (key, phone_key) = (key(place, &entry.lid), phone_key(place, &entry.phone_number));
    if let Some(bytes) = tx.get(&key)? {
        let before: LidPnMappingEntry = store::decode(&bytes)?;
        detach_phone(tx, place, &before)?;
    }
    tx.put(phone_key, entry.lid.as_bytes().to_vec())?;
    tx.put(key, store::encode(entry)?)
}

/// A phone number that another LID has meanwhile is left alone.
fn detach_phone(tx: &mut Tx, place: DeviceKeyspace, mapping: &LidPnMappingEntry) -> StoreResult<()> {
    let key = phone_key(place, &mapping.phone_number);
    let newest = tx.get(&key)?;
    if newest.as_deref() == Some(mapping.lid.as_bytes()) {
        tx.delete(key)?;
    }
    Ok(())
}
