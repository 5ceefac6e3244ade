//! Scheduled messages: those whose sender set a time.

use relevo_domain::{InstanceNumber, MessageId, Status, Timestamp};
use relevo_store::{Error, Store, Tx};

use super::keys;
use super::ledger::{self, MessageView};
use super::records::{Job, LedgerEntry, LedgerStep};

/// Adds a new job to the due entries instead of the arrivals.
pub(super) fn schedule(tx: &mut Tx, id: MessageId, job: &Job, at: Timestamp) -> Result<(), Error> {
    let mut entry = LedgerEntry::new(job);
    entry.status = Status::Scheduled;
    entry.due = Some(at);
    entry.history.push(LedgerStep::new(Status::Scheduled, id.accepted_at()));
    tx.put(keys::due(id, at), Vec::new())?;
    entry.write(tx, id)
}

/// Changes the time of a scheduled message. Returns `false` when the message is not scheduled.
pub(super) fn reschedule(tx: &mut Tx, id: MessageId, at: Timestamp) -> Result<bool, Error> {
    let Some(mut entry) = LedgerEntry::read(tx, id)?.filter(|entry| entry.status == Status::Scheduled) else {
        return Ok(false);
    };
    if let Some(before) = entry.due.replace(at) {
        tx.delete(keys::due(id, before))?;
    }
    tx.put(keys::due(id, at), Vec::new())?;
    entry.write(tx, id)?;
    Ok(true)
}

/// Position of a page of scheduled messages: after this time and message.
pub type ScheduleCursor = (Timestamp, MessageId);

/// Scheduled messages of an instance in order of time, up to `limit`, after `after`.
pub(super) fn page(
    store: &Store,
    instance: InstanceNumber,
    after: Option<ScheduleCursor>,
    limit: usize,
) -> Result<Vec<MessageView>, Error> {
    let start = match after {
        Some((at, id)) => keys::due(id, at).successor(),
        None => keys::all_due(instance),
    };
    let mut page = Vec::new();
    for entry in store.range(&start, &keys::all_due(instance).after_prefix()) {
        if page.len() >= limit {
            break;
        }
        let Some((_, id)) = keys::parse_due(&entry?.0) else { continue };
        let view = ledger::view(store, id)?;
        page.extend(view.filter(|view| view.status == Status::Scheduled));
    }
    Ok(page)
}
