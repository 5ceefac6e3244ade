//! The mapping between hidden ids (LIDs) and phone numbers, indexed by both.

use whatsapp_rust::wacore::store::traits::LidPnMappingEntry;

use relevo_store::{self as store, Key, Tx};

use super::StoreResult;
use super::tables::{DeviceKeyspace, Table};

/// The key of a LID's mapping.
pub(super) fn key(keyspace: DeviceKeyspace, lid: &str) -> Key {
    keyspace.name_key(Table::Lid, lid)
}

/// The key of the newest LID of a phone number.
pub(super) fn phone_key(keyspace: DeviceKeyspace, phone: &str) -> Key {
    keyspace.name_key(Table::Phone, phone)
}

/// Writes a mapping and replaces an earlier one of the same LID.
pub(super) fn put(tx: &mut Tx, keyspace: DeviceKeyspace, entry: &LidPnMappingEntry) -> StoreResult<()> {
    let (key, phone_key) = (key(keyspace, &entry.lid), phone_key(keyspace, &entry.phone_number));
    if let Some(bytes) = tx.get(&key)? {
        let before: LidPnMappingEntry = store::decode(&bytes)?;
        detach_phone(tx, keyspace, &before)?;
    }
    tx.put(phone_key, entry.lid.as_bytes().to_vec())?;
    tx.put(key, store::encode(entry)?)
}

/// Deletes the phone number's entry of a mapping, unless another LID has replaced it.
fn detach_phone(tx: &mut Tx, keyspace: DeviceKeyspace, mapping: &LidPnMappingEntry) -> StoreResult<()> {
    let key = phone_key(keyspace, &mapping.phone_number);
    let newest = tx.get(&key)?;
    if newest.as_deref() == Some(mapping.lid.as_bytes()) {
        tx.delete(key)?;
    }
    Ok(())
}
