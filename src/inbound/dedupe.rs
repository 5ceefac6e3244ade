//! What was delivered before.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use relevo_cloud_api::AccountChange;
use relevo_domain::{InboundMessage, InstanceNumber, Status, StatusUpdate, Timestamp};
use relevo_store::{Error, Key, Space, Tx};

/// Meta repeats a delivery for up to seven days (Cloud API webhooks, "retry"); a day more is for clocks and queues.
const RETENTION: Duration = Duration::from_secs(8 * 24 * 3600);

/// Expired entries that each new one clears away, so that remembering never needs a sweep.
const EXPIRED_PER_INSERT: usize = 4;

/// What tells a delivered part from all others of its instance.
pub(super) type DedupeKey = [u8; 16];

/// A message is the same when its id is, within what the id is unique.
pub(super) fn message_key(message: &InboundMessage) -> DedupeKey {
    let id = message.id.as_str().as_bytes();
    match &message.id_scope {
        Some(scope) => hash_parts([b"message", id, scope.as_bytes()]),
        None => hash_parts([b"message", id]),
    }
}

/// A status is the same when it says the same of the same message and, in groups, of the same participant.
pub(super) fn status_key(status: &StatusUpdate) -> DedupeKey {
    let participant = status.participant.as_deref().unwrap_or_default();
    let receipt = Status::from(status.receipt).as_str();
    let id = status.provider_id.as_str();
    hash_parts([b"status", id.as_bytes(), receipt.as_bytes(), participant.as_bytes()])
}

/// News is the same when the whole change is, and its entry's id and time are.
pub(super) fn change_key(change: &AccountChange) -> DedupeKey {
    let account = change.account.as_deref().unwrap_or_default();
    let at = change.at.map_or(0, Timestamp::millis).to_be_bytes();
    let value = change.value.to_string();
    hash_parts([b"change", change.field.as_bytes(), account.as_bytes(), &at, value.as_bytes()])
}

/// The parts are kept apart by their lengths.
fn hash_parts<const N: usize>(parts: [&[u8]; N]) -> DedupeKey {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(part);
    }
    let digest: [u8; 32] = digest.finalize().into();
    digest.first_chunk().copied().unwrap_or_default()
}

/// Remembers a delivery by its digest. `false` when it was remembered already.
pub(super) fn insert_if_new(
    tx: &mut Tx,
    instance: InstanceNumber,
    digest: &DedupeKey,
    now: Timestamp,
) -> Result<bool, Error> {
    let key = dedupe_key(instance, digest);
    if tx.get(&key)?.is_some() {
        return Ok(false);
    }
    tx.put(key, Vec::new())?;
    tx.put(
        Key::new(Space::InboundDedupe).u8(BY_TIME).u64(now.millis()).u32(instance.get()).bytes(digest),
        Vec::new(),
    )?;
    delete_expired(tx, now)?;
    Ok(true)
}

const BY_KEY: u8 = b'd';
const BY_TIME: u8 = b't';

fn dedupe_key(instance: InstanceNumber, digest: &[u8]) -> Key {
    Key::new(Space::InboundDedupe).u8(BY_KEY).u32(instance.get()).bytes(digest)
}

fn delete_expired(tx: &mut Tx, now: Timestamp) -> Result<(), Error> {
    let start = Key::new(Space::InboundDedupe).u8(BY_TIME);
    let end = start.clone().u64((now - RETENTION).millis());
    let expired: Vec<_> = {
        let entries = tx.range(&start, &end).take(EXPIRED_PER_INSERT);
        entries.map(|entry| entry.map(|(key, _)| key)).collect::<Result<_, _>>()?
    };
    for key in expired {
        // Space, kind and time come first; instance and digest are the rest.
        if let Some(rest) = key.get(10..) {
            tx.delete(Key::new(Space::InboundDedupe).u8(BY_KEY).bytes(rest))?;
        }
        tx.delete(key.into())?;
    }
    Ok(())
}
