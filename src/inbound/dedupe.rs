//! Dedupe of delivered parts, by a hash that is kept longer than Meta repeats deliveries.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use relevo_cloud_api::AccountChange;
use relevo_domain::{InboundMessage, InstanceNumber, Status, StatusUpdate, Timestamp};
use relevo_store::{Error, Key, Space, Tx};

/// Time for which a hash is kept. Meta repeats a delivery for up to seven days (Cloud API webhooks, "retry"); one more day
/// allows for clock differences and queues.
const RETENTION: Duration = Duration::from_secs(8 * 24 * 3600);

/// Expired entries that each insert deletes, so that no separate sweep is necessary.
const EXPIRED_PER_INSERT: usize = 4;

/// Key that identifies a part among all parts of its instance.
pub(super) type DedupeKey = [u8; 16];

/// Key of a message: its id, within the scope in which the id is unique.
pub(super) fn message_key(message: &InboundMessage) -> DedupeKey {
    let id = message.id.as_str().as_bytes();
    match &message.id_scope {
        Some(scope) => hash_parts([b"message", id, scope.as_bytes()]),
        None => hash_parts([b"message", id]),
    }
}

/// Key of a status: message, status and, in groups, participant.
pub(super) fn status_key(status: &StatusUpdate) -> DedupeKey {
    let participant = status.participant.as_deref().unwrap_or_default();
    let receipt = Status::from(status.receipt).as_str();
    let id = status.provider_id.as_str();
    hash_parts([b"status", id.as_bytes(), receipt.as_bytes(), participant.as_bytes()])
}

/// Key of a change: its whole value, and the id and the time of its entry.
pub(super) fn change_key(change: &AccountChange) -> DedupeKey {
    let account = change.account.as_deref().unwrap_or_default();
    let at = change.at.map_or(0, Timestamp::millis).to_be_bytes();
    let value = change.value.to_string();
    hash_parts([b"change", change.field.as_bytes(), account.as_bytes(), &at, value.as_bytes()])
}

/// Hashes the parts, each with its length, so that the borders between them matter.
fn hash_parts<const N: usize>(parts: [&[u8]; N]) -> DedupeKey {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(part);
    }
    let digest: [u8; 32] = digest.finalize().into();
    digest.first_chunk().copied().unwrap_or_default()
}

/// Inserts the hash of a part. `false` if it exists already.
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
        // Space, kind and time are the first ten bytes; instance and hash follow.
        if let Some(rest) = key.get(10..) {
            tx.delete(Key::new(Space::InboundDedupe).u8(BY_KEY).bytes(rest))?;
        }
        tx.delete(key.into())?;
    }
    Ok(())
}
