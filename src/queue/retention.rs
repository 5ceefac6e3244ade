//! Forgetting what was kept long enough, a page at a time.

use crate::events;
use relevo_domain::{InstanceNumber, MessageId, Timestamp};
use relevo_store::{Error, Key, Space, Tx};

use super::records::LedgerEntry;
use super::{bulk_rows, keys};

/// What one page of upkeep looks at, at most.
const PAGE: usize = 500;

/// What is too old, and where the last page ended.
#[derive(Debug, Clone)]
pub(super) struct RetentionPage {
    pub now: Timestamp,
    /// Settled messages whose last step is older than this are forgotten.
    pub ledger_before: Timestamp,
    pub events_before: Timestamp,
    /// Bytes of events that one instance may keep.
    pub event_log_size: u64,
    /// Where in the ledger this page begins.
    pub from: Option<MessageId>,
}

/// Forgets one page. Returns where in the ledger the next begins; `None` when there is nothing left to forget.
pub(super) fn delete_page(tx: &mut Tx, upkeep: &RetentionPage) -> Result<Option<MessageId>, Error> {
    let keys_left = delete_expired_keys(tx, upkeep.now)?;
    let keep = events::RetentionLimits { since: upkeep.events_before, bytes: upkeep.event_log_size };
    let events_left = trim_events(tx, &keep)?;
    let next = delete_ledger_entries(tx, upkeep)?;
    if next.is_none() && (keys_left || events_left) {
        return Ok(Some(upkeep.from.unwrap_or(MessageId::from_bytes([0; 16]))));
    }
    Ok(next)
}

/// `true` when there may be more.
fn delete_expired_keys(tx: &mut Tx, now: Timestamp) -> Result<bool, Error> {
    let start = Key::new(Space::IdempotencyExpiry);
    let end = Key::new(Space::IdempotencyExpiry).u64(now.millis());
    let page = keys_in(tx, &start, &end)?;
    let full = page.len() == PAGE;
    for key in page {
        if let Some(rest) = key.as_slice().get(9..) {
            tx.delete(Key::new(Space::Idempotency).bytes(rest))?;
        }
        tx.delete(key)?;
    }
    Ok(full)
}

/// `true` when there may be more.
fn trim_events(tx: &mut Tx, keep: &events::RetentionLimits) -> Result<bool, Error> {
    let mut left = PAGE;
    for instance in events::logs(tx)? {
        left = left.saturating_sub(events::trim(tx, instance, keep, left)?);
        if left == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

fn delete_ledger_entries(tx: &mut Tx, upkeep: &RetentionPage) -> Result<Option<MessageId>, Error> {
    let start = upkeep.from.map_or(Key::new(Space::Ledger), |id| keys::ledger(id).successor());
    let page = keys_in(tx, &start, &Key::new(Space::Ledger).after_prefix())?;
    let mut last = None;
    for key in page {
        let Some(id) = keys::trailing_id(key.as_slice()) else { continue };
        if id.accepted_at() >= upkeep.ledger_before {
            return Ok(None);
        }
        last = Some(id);
        let Some(row) = LedgerEntry::read(tx, id)? else { continue };
        // A row that is not settled waits for its job. Only a deleted instance leaves one without.
        if !row.status.is_settled() && tx.contains(&keys::job(id))? {
            continue;
        }
        if row.history.last().is_some_and(|step| step.at >= upkeep.ledger_before) {
            // Accepted long ago, for a moment or after a pause that has only just passed.
            continue;
        }
        if let Some(provider_id) = &row.provider_id {
            tx.delete(keys::provider_id(id.instance(), provider_id))?;
        }
        tx.delete(keys::dead_letter(id))?;
        tx.delete(key)?;
    }
    Ok(last)
}

/// Deletes a page of everything that an instance left behind. `true` when there is more.
///
/// Rows of bulk jobs that were still open come to an end of which their job is told. Ledger rows and the ends of idempotency keys, which are sorted by time, stay for [`page`] to forget.
pub(super) fn purge(tx: &mut Tx, instance: InstanceNumber, now: Timestamp) -> Result<bool, Error> {
    const OWNED: [Space; 10] = [
        Space::Job,
        Space::Lane,
        Space::Wake,
        Space::Due,
        Space::InFlight,
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
            if space == Space::Job && start.as_slice().first() == Some(&(Space::Job as u8)) {
                for id in page.iter().filter_map(|key| keys::trailing_id(key.as_slice())) {
                    bulk_rows::end_orphan(tx, id, now)?;
                }
            }
            if !page.is_empty() {
                page.into_iter().try_for_each(|key| tx.delete(key))?;
                return Ok(true);
            }
        }
    }
    tx.delete(keys::counters(instance))?;
    Ok(false)
}

fn keys_in(tx: &Tx, start: &Key, end: &Key) -> Result<Vec<Key>, Error> {
    tx.range(start, end).take(PAGE).map(|entry| entry.map(|(key, _)| Key::from(key))).collect()
}
