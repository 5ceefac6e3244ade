//! Which devices of a group have the key under which this device writes to it. Two tables, because a rotated key is
//! forgotten by group, and a device that is gone by device.

use relevo_store::{self as store, Key, Tx};

use super::Stored;
use super::tables::{Digest, Place, Table, digest, last_digest};

/// A row: the device, and whether it has the key.
pub(super) type Status = (String, bool);

/// Begins the keys of a group's devices.
pub(super) fn group(place: Place, group: &str) -> Key {
    place.named(Table::GroupDevice, group)
}

pub(super) fn set(tx: &mut Tx, place: Place, group: &str, statuses: &[Status]) -> Stored<()> {
    let group = digest([group.as_bytes()]);
    for status in statuses {
        let (one, other) = keys(place, group, digest([status.0.as_bytes()]));
        store::put_large(tx, one, &store::encode(status)?)?;
        store::put_large(tx, other, &[])?;
    }
    Ok(())
}

pub(super) fn clear_group(tx: &mut Tx, place: Place, of: &str) -> Stored<()> {
    let devices = digests_under(tx, &group(place, of))?;
    devices.into_iter().try_for_each(|device| delete(tx, place, digest([of.as_bytes()]), device))
}

/// Forgets these devices in every group.
pub(super) fn delete_devices(tx: &mut Tx, place: Place, devices: &[Digest]) -> Stored<()> {
    for device in devices {
        let groups = digests_under(tx, &place.table(Table::DeviceGroup).bytes(device))?;
        groups.into_iter().try_for_each(|group| delete(tx, place, group, *device))?;
    }
    Ok(())
}

fn delete(tx: &mut Tx, place: Place, group: Digest, device: Digest) -> Stored<()> {
    let (one, other) = keys(place, group, device);
    store::delete_large(tx, one)?;
    store::delete_large(tx, other)
}

fn keys(place: Place, group: Digest, device: Digest) -> (Key, Key) {
    let one = place.table(Table::GroupDevice).bytes(&group).bytes(&device);
    (one, place.table(Table::DeviceGroup).bytes(&device).bytes(&group))
}

fn digests_under(tx: &Tx, prefix: &Key) -> Stored<Vec<Digest>> {
    let entries = tx.range(prefix, &prefix.clone().after_prefix());
    entries.map(|entry| entry.map(|(key, _)| last_digest(&key))).collect()
}
