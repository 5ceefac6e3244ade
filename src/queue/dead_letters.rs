//! Dead letters: kept with their content until somebody decides.

use relevo_domain::{BuryReason, InstanceNumber, MessageId, Mode, OutboundMessage, Timestamp};
use relevo_store::{self as store, Error, Store, Tx};

use super::keys;
use super::ledger::{self, MessageView};
use super::records::{Job, LedgerEntry, QueueCounters, append_to_lane};

/// Which dead letters are meant.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterFilter {
    pub reason: Option<BuryReason>,
    /// Buried at this moment or later ...
    pub since: Option<Timestamp>,
    /// ... and before this one.
    pub until: Option<Timestamp>,
}

/// A dead letter: its fate, and what it said.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    pub view: MessageView,
    pub message: OutboundMessage,
    pub buried_at: Timestamp,
}

impl DeadLetterFilter {
    fn matches(&self, letter: &DeadLetter) -> bool {
        self.reason.is_none_or(|reason| letter.view.buried == Some(reason))
            && self.since.is_none_or(|since| letter.buried_at >= since)
            && self.until.is_none_or(|until| letter.buried_at < until)
    }
}

/// Dead letters in the order in which they were accepted, up to `limit`, after `after`.
pub(super) fn page(
    store: &Store,
    instance: InstanceNumber,
    filter: &DeadLetterFilter,
    after: Option<MessageId>,
    limit: usize,
) -> Result<Vec<DeadLetter>, Error> {
    let start = after.map_or(keys::dead_letters(instance), |id| keys::dead_letter(id).successor());
    let mut page = Vec::new();
    for entry in store.range(&start, &keys::dead_letters(instance).after_prefix()) {
        if page.len() >= limit {
            break;
        }
        let Some(id) = keys::trailing_id(&entry?.0) else { continue };
        page.extend(dead_letter(store, id)?.filter(|letter| filter.matches(letter)));
    }
    Ok(page)
}

/// One dead letter.
pub(super) fn dead_letter(store: &Store, id: MessageId) -> Result<Option<DeadLetter>, Error> {
    let Some(bytes) = store.get(&keys::dead_letter(id))? else {
        return Ok(None);
    };
    let job: Job = store::decode(&bytes)?;
    let Some(view) = ledger::view(store, id)? else { return Ok(None) };
    let buried_at = view.history.last().map_or(id.accepted_at(), |step| step.at);
    Ok(Some(DeadLetter { view, message: job.message, buried_at }))
}

/// Puts dead letters back at the end of their lanes, with all their attempts before them; tells how many.
pub(super) fn redrive(tx: &mut Tx, ids: &[MessageId], now: Timestamp) -> Result<usize, Error> {
    let mut redriven = 0;
    for &id in ids {
        let Some(bytes) = tx.get(&keys::dead_letter(id))? else { continue };
        let job: Job = store::decode(&bytes)?;
        // Nobody waits for it any more, and what made it expire is not what made it die.
        let job = Job { mode: Mode::Async, expires_at: None, ..job };
        let mut row = LedgerEntry::read(tx, id)?.unwrap_or_else(|| LedgerEntry::new(&job));
        row.requeue(now);
        (row.failures, row.buried, row.due, row.mode) = (0, None, None, Mode::Async);
        row.write(tx, id)?;
        tx.delete(keys::dead_letter(id))?;
        job.write(tx, keys::job(id))?;
        let mut book = QueueCounters::read(tx, id.instance())?;
        *book.depth(id.class()) += 1;
        append_to_lane(tx, &mut book, job.lane(id), id, now)?;
        book.write(tx, id.instance())?;
        redriven += 1;
    }
    Ok(redriven)
}

/// Forgets dead letters; their fate stays in the ledger. Tells how many there were.
pub(super) fn discard(tx: &mut Tx, ids: &[MessageId]) -> Result<usize, Error> {
    let mut discarded = 0;
    for &id in ids {
        if tx.contains(&keys::dead_letter(id))? {
            tx.delete(keys::dead_letter(id))?;
            discarded += 1;
        }
    }
    Ok(discarded)
}
