//! Retention: deletes expired records, one page per commit.

use crate::events;
use relevo_domain::{InstanceNumber, MessageId, Timestamp};
use relevo_store::{Error, InstanceEntries, Key, Space, Tx};

use super::records::LedgerEntry;
use super::{item_outcomes, keys};

/// Maximum number of records of each kind that one page reads.
const PAGE: usize = 500;

/// What one page deletes, and where it begins.
#[derive(Debug, Clone)]
pub(super) struct RetentionPage {
    pub now: Timestamp,
    /// Entries of settled messages whose last step is older than this are deleted.
    pub ledger_before: Timestamp,
    /// Events older than this are deleted.
    pub events_before: Timestamp,
    /// Maximum size of an event log in bytes.
    pub event_log_size: u64,
    /// Where in the ledger the page begins.
    pub from: Option<MessageId>,
}

/// Deletes one page. Returns where in the ledger the next page begins, and `None` when nothing is left.
pub(super) fn delete_page(tx: &mut Tx, page: &RetentionPage) -> Result<Option<MessageId>, Error> {
    let keys_left = delete_expired_keys(tx, page.now)?;
    let keep = events::RetentionLimits { since: page.events_before, bytes: page.event_log_size };
    let events_left = trim_events(tx, &keep)?;
    let next = delete_ledger_entries(tx, page)?;
    if next.is_none() && (keys_left || events_left) {
        return Ok(Some(page.from.unwrap_or(MessageId::from_bytes([0; 16]))));
    }
    Ok(next)
}

/// Deletes a page of expired idempotency keys. Returns whether there may be more.
fn delete_expired_keys(tx: &mut Tx, now: Timestamp) -> Result<bool, Error> {
    let start = Key::new(Space::IdempotencyExpiry);
    let end = Key::new(Space::IdempotencyExpiry).u64(now.millis());
    let expired = keys_in(tx, &start, &end)?;
    let is_full = expired.len() == PAGE;
    for key in expired {
        if let Some(rest) = key.as_slice().get(9..) {
            tx.delete(Key::new(Space::Idempotency).bytes(rest))?;
        }
        tx.delete(key)?;
    }
    Ok(is_full)
}

/// Deletes a page of old events. Returns whether there may be more.
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

/// Deletes old entries of one page of the ledger. Returns the last id that was read.
fn delete_ledger_entries(tx: &mut Tx, page: &RetentionPage) -> Result<Option<MessageId>, Error> {
    let start = page.from.map_or(Key::new(Space::Ledger), |id| keys::ledger(id).successor());
    let entries = keys_in(tx, &start, &Key::new(Space::Ledger).after_prefix())?;
    let mut last = None;
    for key in entries {
        let Some(id) = keys::trailing_id(key.as_slice()) else { continue };
        if id.accepted_at() >= page.ledger_before {
            return Ok(None);
        }
        last = Some(id);
        let Some(entry) = LedgerEntry::read(tx, id)? else { continue };
        // An unsettled entry has a job, unless its instance was deleted.
        if !entry.status.is_settled() && tx.get(&keys::job(id))?.is_some() {
            continue;
        }
        if entry.history.last().is_some_and(|step| step.at >= page.ledger_before) {
            // Accepted long ago, but sent recently because it was scheduled or delayed.
            continue;
        }
        if let Some(provider_id) = &entry.provider_id {
            tx.delete(keys::provider_id(id.instance(), provider_id))?;
        }
        tx.delete(keys::dead_letter(id))?;
        tx.delete(key)?;
    }
    Ok(last)
}

/// Deletes a page of the records of a deleted instance. Returns whether there is more.
///
/// [`Space::instance_entries`] says which they are. Unsettled rows of bulk jobs get an outcome, which their job reads.
/// Ledger entries and expiry entries of idempotency keys expire; [`delete_page`] deletes them.
pub(super) fn purge(tx: &mut Tx, instance: InstanceNumber, now: Timestamp) -> Result<bool, Error> {
    let spaces = Space::ALL.iter().filter(|space| space.instance_entries() == InstanceEntries::Purged);
    for &space in spaces {
        for start in
            [Key::new(space).u32(instance.get()), Key::new(Space::Part).u8(space as u8).u32(instance.get())]
        {
            let page = keys_in(tx, &start, &start.clone().after_prefix())?;
            if space == Space::Job && start.as_slice().first() == Some(&(Space::Job as u8)) {
                for id in page.iter().filter_map(|key| keys::trailing_id(key.as_slice())) {
                    item_outcomes::end_orphan(tx, id, now)?;
                }
            }
            if !page.is_empty() {
                page.into_iter().try_for_each(|key| tx.delete(key))?;
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn keys_in(tx: &Tx, start: &Key, end: &Key) -> Result<Vec<Key>, Error> {
    tx.range(start, end).take(PAGE).map(|entry| entry.map(|(key, _)| Key::from(key))).collect()
}
