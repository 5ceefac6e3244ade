//! Dead letters: messages that were given up, kept with their content until the operator redrives or discards them.

use relevo_domain::{BuryReason, InstanceNumber, MessageId, Mode, OutboundMessage, Timestamp};
use relevo_store::{self as store, Error, Store, Tx};

use super::keys;
use super::ledger::{self, MessageView};
use super::records::{Job, LedgerEntry, QueueCounters, append_to_lane};

/// Selects dead letters.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterFilter {
    /// Only those with this reason.
    pub reason: Option<BuryReason>,
    /// Only those buried at this moment or later.
    pub since: Option<Timestamp>,
    /// Only those buried before this moment.
    pub until: Option<Timestamp>,
}

/// A dead letter: its ledger entry and its content.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Its status and history.
    pub view: MessageView,
    /// Recipient, content and options.
    pub message: OutboundMessage,
    /// When it became a dead letter.
    pub buried_at: Timestamp,
}

impl DeadLetterFilter {
    fn matches(&self, letter: &DeadLetter) -> bool {
        self.reason.is_none_or(|reason| letter.view.buried == Some(reason))
            && self.since.is_none_or(|since| letter.buried_at >= since)
            && self.until.is_none_or(|until| letter.buried_at < until)
    }
}

/// Dead letters in the order of acceptance, up to `limit`, after `after`.
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

/// Appends dead letters to their lanes again, with the full number of attempts. Returns how many there were.
pub(super) fn redrive(tx: &mut Tx, ids: &[MessageId], now: Timestamp) -> Result<usize, Error> {
    let mut redriven = 0;
    for &id in ids {
        let Some(bytes) = tx.get(&keys::dead_letter(id))? else { continue };
        let job: Job = store::decode(&bytes)?;
        // Its caller has left, and its expiry was set for the first send.
        let job = Job { mode: Mode::Async, expires_at: None, ..job };
        let mut entry = LedgerEntry::read(tx, id)?.unwrap_or_else(|| LedgerEntry::new(&job));
        entry.requeue(now);
        (entry.failures, entry.buried, entry.due, entry.mode) = (0, None, None, Mode::Async);
        entry.write(tx, id)?;
        tx.delete(keys::dead_letter(id))?;
        job.write(tx, keys::job(id))?;
        let mut counters = QueueCounters::read(tx, id.instance())?;
        *counters.depth(id.class()) += 1;
        append_to_lane(tx, &mut counters, job.lane(id), id, now)?;
        counters.write(tx, id.instance())?;
        redriven += 1;
    }
    Ok(redriven)
}

/// Deletes dead letters; their ledger entries stay. Returns how many there were.
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
