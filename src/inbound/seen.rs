//! What was delivered before.

use std::time::Duration;

use crate::domain::{InstanceNumber, Timestamp};
use crate::store::{Error, Key, Space, Tx};

/// Meta repeats a delivery for up to seven days (Cloud API webhooks, "retry"); a day more is for clocks and queues.
const MEMORY: Duration = Duration::from_secs(8 * 24 * 3600);

/// Expired entries that each new one clears away, so that remembering never needs a sweep.
const CLEARED_PER_ENTRY: usize = 4;

/// Remembers a delivery by its digest. `false` when it was remembered already.
pub(super) fn first_time(
    tx: &mut Tx,
    instance: InstanceNumber,
    digest: &[u8; 16],
    now: Timestamp,
) -> Result<bool, Error> {
    let key = by_digest(instance, digest);
    if tx.get(&key)?.is_some() {
        return Ok(false);
    }
    tx.put(key, Vec::new())?;
    tx.put(
        Key::new(Space::Seen).u8(BY_TIME).u64(now.millis()).u32(instance.get()).bytes(digest),
        Vec::new(),
    )?;
    clear_expired(tx, now)?;
    Ok(true)
}

const BY_DIGEST: u8 = b'd';
const BY_TIME: u8 = b't';

fn by_digest(instance: InstanceNumber, digest: &[u8]) -> Key {
    Key::new(Space::Seen).u8(BY_DIGEST).u32(instance.get()).bytes(digest)
}

fn clear_expired(tx: &mut Tx, now: Timestamp) -> Result<(), Error> {
    let start = Key::new(Space::Seen).u8(BY_TIME);
    let end = start.clone().u64((now - MEMORY).millis());
    let expired: Vec<_> = {
        let entries = tx.range(&start, &end).take(CLEARED_PER_ENTRY);
        entries.map(|entry| entry.map(|(key, _)| key)).collect::<Result<_, _>>()?
    };
    for key in expired {
        // Space, kind and time come first; instance and digest are the rest.
        if let Some(rest) = key.get(10..) {
            tx.delete(Key::new(Space::Seen).u8(BY_DIGEST).bytes(rest));
        }
        tx.delete(key.into());
    }
    Ok(())
}
