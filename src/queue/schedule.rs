//! Messages whose sender chose their moment.

use relevo_domain::{InstanceNumber, MessageId, Status, Timestamp};
use relevo_store::{Error, Store, Tx};

use super::keys;
use super::ledger::{self, MessageView};
use super::records::{Job, LedgerEntry, LedgerStep};

/// Puts a new job among the due instead of among the arrivals.
pub(super) fn schedule(tx: &mut Tx, id: MessageId, job: &Job, at: Timestamp) -> Result<(), Error> {
    let mut row = LedgerEntry::new(job);
    row.status = Status::Scheduled;
    row.due = Some(at);
    row.history.push(LedgerStep::new(Status::Scheduled, id.accepted_at()));
    tx.put(keys::due(id, at), Vec::new())?;
    row.write(tx, id)
}

/// Moves a scheduled message to another moment. `false` when it is not, or no longer, scheduled.
pub(super) fn reschedule(tx: &mut Tx, id: MessageId, at: Timestamp) -> Result<bool, Error> {
    let Some(mut row) = LedgerEntry::read(tx, id)?.filter(|row| row.status == Status::Scheduled) else {
        return Ok(false);
    };
    if let Some(before) = row.due.replace(at) {
        tx.delete(keys::due(id, before))?;
    }
    tx.put(keys::due(id, at), Vec::new())?;
    row.write(tx, id)?;
    Ok(true)
}

/// Where a page of scheduled messages begins: after this moment and message.
pub type ScheduleCursor = (Timestamp, MessageId);

/// Scheduled messages of an instance in the order of their moments, up to `limit`, after `after`.
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
