//! What was delivered before.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use relevo_cloud_api::Change;
use relevo_domain::{InboundMessage, InstanceNumber, Status, StatusUpdate, Timestamp};
use relevo_store::{Error, Key, Space, Tx};

/// Meta repeats a delivery for up to seven days (Cloud API webhooks, "retry"); a day more is for clocks and queues.
const MEMORY: Duration = Duration::from_secs(8 * 24 * 3600);

/// Expired entries that each new one clears away, so that remembering never needs a sweep.
const CLEARED_PER_ENTRY: usize = 4;

/// What tells a delivered part from all others of its instance.
pub(super) type Digest = [u8; 16];

/// A message is the same when its id is, within what the id is unique.
pub(super) fn of_message(message: &InboundMessage) -> Digest {
    let id = message.id.as_str().as_bytes();
    match &message.scope {
        Some(scope) => digest([b"message", id, scope.as_bytes()]),
        None => digest([b"message", id]),
    }
}

/// A status is the same when it says the same of the same message and, in groups, of the same participant.
pub(super) fn of_status(status: &StatusUpdate) -> Digest {
    let participant = status.participant.as_deref().unwrap_or_default();
    let receipt = Status::from(status.receipt).as_str();
    let id = status.provider_id.as_str();
    digest([b"status", id.as_bytes(), receipt.as_bytes(), participant.as_bytes()])
}

/// News is the same when the whole change is, and its entry's id and time are.
pub(super) fn of_change(change: &Change) -> Digest {
    let account = change.account.as_deref().unwrap_or_default();
    let at = change.at.map_or(0, Timestamp::millis).to_be_bytes();
    let value = change.value.to_string();
    digest([b"change", change.field.as_bytes(), account.as_bytes(), &at, value.as_bytes()])
}

/// The parts are kept apart by their lengths.
fn digest<const N: usize>(parts: [&[u8]; N]) -> Digest {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(part);
    }
    let digest: [u8; 32] = digest.finalize().into();
    digest.first_chunk().copied().unwrap_or_default()
}

/// Remembers a delivery by its digest. `false` when it was remembered already.
pub(super) fn first_time(
    tx: &mut Tx,
    instance: InstanceNumber,
    digest: &Digest,
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
