//! The devices that have the sender key of this device, by group. A second table indexes them by device: rows are deleted
//! by group when the key is rotated, and by device when a device is removed.

use relevo_store::{self as store, Key, Tx};

use super::StoreResult;
use super::tables::{DeviceKeyspace, NameDigest, Table, digest, last_digest};

/// A row: the JID of the device, and whether it has the key.
pub(super) type SenderKeyStatus = (String, bool);

/// The prefix of the keys of a group's devices.
pub(super) fn group_key(keyspace: DeviceKeyspace, group: &str) -> Key {
    keyspace.name_key(Table::GroupDevice, group)
}

/// Records whether these devices have the key of a group.
pub(super) fn set_statuses(
    tx: &mut Tx,
    keyspace: DeviceKeyspace,
    group: &str,
    statuses: &[SenderKeyStatus],
) -> StoreResult<()> {
    let group = digest([group.as_bytes()]);
    for status in statuses {
        let (row, index) = keys(keyspace, group, digest([status.0.as_bytes()]));
        tx.put(row, store::encode(status)?)?;
        tx.put(index, Vec::new())?;
    }
    Ok(())
}

/// Deletes all devices of a group.
pub(super) fn clear_group(tx: &mut Tx, keyspace: DeviceKeyspace, group: &str) -> StoreResult<()> {
    let devices = digests_under(tx, &group_key(keyspace, group))?;
    devices.into_iter().try_for_each(|device| delete(tx, keyspace, digest([group.as_bytes()]), device))
}

/// Deletes these devices from all groups.
pub(super) fn delete_devices(
    tx: &mut Tx,
    keyspace: DeviceKeyspace,
    devices: &[NameDigest],
) -> StoreResult<()> {
    for device in devices {
        let groups = digests_under(tx, &keyspace.table_key(Table::DeviceGroup).bytes(device))?;
        groups.into_iter().try_for_each(|group| delete(tx, keyspace, group, *device))?;
    }
    Ok(())
}

fn delete(tx: &mut Tx, keyspace: DeviceKeyspace, group: NameDigest, device: NameDigest) -> StoreResult<()> {
    let (row, index) = keys(keyspace, group, device);
    tx.delete(row)?;
    tx.delete(index)
}

/// The keys of a row and of its entry in the index by device.
fn keys(keyspace: DeviceKeyspace, group: NameDigest, device: NameDigest) -> (Key, Key) {
    let row = keyspace.table_key(Table::GroupDevice).bytes(&group).bytes(&device);
    (row, keyspace.table_key(Table::DeviceGroup).bytes(&device).bytes(&group))
}

/// The digests at the end of all keys with this prefix.
fn digests_under(tx: &Tx, prefix: &Key) -> StoreResult<Vec<NameDigest>> {
    let entries = tx.range(prefix, &prefix.clone().after_prefix());
    entries.map(|entry| entry.map(|(key, _)| last_digest(&key))).collect()
}
