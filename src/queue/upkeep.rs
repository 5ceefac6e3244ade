//! Forgetting what was kept long enough, a page at a time.

use crate::domain::{InstanceNumber, MessageId, Timestamp};
use crate::events;
use crate::store::{self, Error, Key, Space, Tx};

use super::keys;
use super::record::Row;

/// What one page of upkeep looks at, at most.
const PAGE: usize = 500;

/// What is too old, and where the last page ended.
#[derive(Debug, Clone)]
pub(super) struct Upkeep {
    pub now: Timestamp,
    /// Settled messages accepted before this are forgotten.
    pub ledger_before: Timestamp,
    pub events_before: Timestamp,
    /// Where in the ledger this page begins.
    pub from: Option<MessageId>,
}

/// Forgets one page. Returns where the next begins; `None` when the ledger has no older rows.
pub(super) fn page(tx: &mut Tx, upkeep: &Upkeep) -> Result<Option<MessageId>, Error> {
    forget_keys(tx, upkeep.now)?;
    forget_events(tx, upkeep.events_before)?;
    forget_rows(tx, upkeep)
}

fn forget_keys(tx: &mut Tx, now: Timestamp) -> Result<(), Error> {
    let start = Key::new(Space::IdempotencyExpiry);
    let end = Key::new(Space::IdempotencyExpiry).u64(now.millis());
    for key in keys_in(tx, &start, &end)? {
        if let Some(rest) = key.as_slice().get(9..) {
            tx.delete(Key::new(Space::Idempotency).bytes(rest));
        }
        tx.delete(key);
    }
    Ok(())
}

fn forget_events(tx: &mut Tx, before: Timestamp) -> Result<(), Error> {
    let all = Key::new(Space::EventTail);
    for key in keys_in(tx, &all, &all.clone().after_prefix())? {
        let number = key.as_slice().get(1..).and_then(|bytes| bytes.first_chunk::<4>());
        if let Some(instance) = number.and_then(|bytes| InstanceNumber::from_be_bytes(*bytes)) {
            events::trim(tx, instance, before, PAGE)?;
        }
    }
    Ok(())
}

fn forget_rows(tx: &mut Tx, upkeep: &Upkeep) -> Result<Option<MessageId>, Error> {
    let start = upkeep.from.map_or(Key::new(Space::Ledger), |id| keys::ledger(id).successor());
    let page = keys_in(tx, &start, &Key::new(Space::Ledger).after_prefix())?;
    let mut last = None;
    for key in page {
        let Some(id) = keys::trailing_id(key.as_slice()) else { continue };
        if id.accepted_at() >= upkeep.ledger_before {
            return Ok(None);
        }
        last = Some(id);
        let Some(row) = Row::read(tx, id)? else { continue };
        if !row.status.is_settled() {
            continue;
        }
        if let Some(provider_id) = &row.provider_id {
            tx.delete(keys::provider_id(id.instance(), provider_id));
        }
        store::delete_large(tx, keys::dead_letter(id))?;
        tx.delete(key);
    }
    Ok(last)
}

/// Deletes a page of everything that an instance left behind. `true` when there is more.
pub(super) fn purge(tx: &mut Tx, instance: InstanceNumber) -> Result<bool, Error> {
    const OWNED: [Space; 10] = [
        Space::Job,
        Space::Lane,
        Space::Wake,
        Space::Due,
        Space::Flight,
        Space::DeadLetter,
        Space::ProviderId,
        Space::Idempotency,
        Space::Event,
        Space::EventTail,
    ];
    for space in OWNED {
        for start in
            [Key::new(space).u32(instance.get()), Key::new(Space::Part).u8(space as u8).u32(instance.get())]
        {
            let page = keys_in(tx, &start, &start.clone().after_prefix())?;
            if !page.is_empty() {
                page.into_iter().for_each(|key| tx.delete(key));
                return Ok(true);
            }
        }
    }
    tx.delete(keys::book(instance));
    Ok(false)
}

fn keys_in(tx: &Tx, start: &Key, end: &Key) -> Result<Vec<Key>, Error> {
    tx.range(start, end).take(PAGE).map(|entry| entry.map(|(key, _)| Key::from(key))).collect()
}
