//! Which devices of a group have the key under which this device writes to it. Two tables, because a rotated key is
//! forgotten by group, and a device that is gone by device.

use relevo_store::{self as store, Key, Tx};

use super::StoreResult;
use super::tables::{DeviceKeyspace, NameDigest, Table, digest, last_digest};

/// A row: the device, and whether it has the key.
pub(super) type SenderKeyStatus = (String, bool);

/// Begins the keys of a group's devices.
pub(super) fn group_key(place: DeviceKeyspace, group: &str) -> Key {
    place.name_key(Table::GroupDevice, group)
}

pub(super) fn set_statuses(
    tx: &mut Tx,
    place: DeviceKeyspace,
    group: &str,
    statuses: &[SenderKeyStatus],
) -> StoreResult<()> {
    let group = digest([group.as_bytes()]);
    for status in statuses {
        let (one, other) = keys(place, group, digest([status.0.as_bytes()]));
        tx.put(one, store::encode(status)?)?;
        tx.put(other, Vec::new())?;
    }
    Ok(())
}

pub(super) fn clear_group(tx: &mut Tx, place: DeviceKeyspace, of: &str) -> StoreResult<()> {
    let devices = digests_under(tx, &group_key(place, of))?;
    devices.into_iter().try_for_each(|device| delete(tx, place, digest([of.as_bytes()]), device))
}

/// Forgets these devices in every group.
pub(super) fn delete_devices(tx: &mut Tx, place: DeviceKeyspace, devices: &[NameDigest]) -> StoreResult<()> {
    for device in devices {
        let groups = digests_under(tx, &place.table_key(Table::DeviceGroup).bytes(device))?;
        groups.into_iter().try_for_each(|group| delete(tx, place, group, *device))?;
    }
    Ok(())
}

fn delete(tx: &mut Tx, place: DeviceKeyspace, group: NameDigest, device: NameDigest) -> StoreResult<()> {
    let (one, other) = keys(place, group, device);
    tx.delete(one)?;
    tx.delete(other)
}

fn keys(place: DeviceKeyspace, group: NameDigest, device: NameDigest) -> (Key, Key) {
    let one = place.table_key(Table::GroupDevice).bytes(&group).bytes(&device);
    (one, place.table_key(Table::DeviceGroup).bytes(&device).bytes(&group))
}

fn digests_under(tx: &Tx, prefix: &Key) -> StoreResult<Vec<NameDigest>> {
    let entries = tx.range(prefix, &prefix.clone().after_prefix());
    entries.map(|entry| entry.map(|(key, _)| last_digest(&key))).collect()
}
