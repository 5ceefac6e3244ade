//! Rows of bulk jobs: messages that leave nothing behind but their outcome, which the job takes note of.
//!
//! A row has a job and, while that waits for another attempt, a ledger row, like any message. The commit that
//! settles it replaces both by an outcome, which stays until the bulk job has noted it. Facts that arrive later
//! become outcomes the same way; one that WhatsApp tells by its own id alone finds the row among the outcomes, and once
//! they are noted through the job ([`NotedRows`](super::NotedRows)). The first row of a bulk job opens its slot; what
//! concerns a message from before that (a slot serves many jobs, one after the other), or a slot that was given up, is
//! nobody's any more.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use relevo_domain::{
    BulkItem, BuryReason, Class, Failure, InstanceNumber, MessageId, ProviderMessageId, Status, Timestamp,
};
use relevo_store::{self as store, Error, Key, Space, Store, Tx};

use super::ProviderMessageKey;
use super::accept::{self, EnqueueContext, EnqueueRefusal};
use super::records::{InFlight, Job, LedgerEntry, QueueCounters, shorten};
use super::{ReceiptReport, ReceiptResult, Submission, keys, receipts};

/// What became of a row of a bulk job, as far as it is known.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemOutcome {
    pub item: BulkItem,
    /// The message that the row became. A row that was taken back and enqueued again has a new one, and what is
    /// said of an earlier one counts for nothing.
    pub id: MessageId,
    pub instance: InstanceNumber,
    /// A settled status, or [`Status::Ambiguous`].
    pub status: Status,
    pub at: Timestamp,
    /// WhatsApp's id of it, where one was told.
    pub provider_id: Option<ProviderMessageId>,
    /// The last failure, while it still matters.
    pub failure: Option<Failure>,
    /// Whether an attempt went out and nobody knows what became of it: held for now, or given up so.
    pub ambiguous: bool,
}

/// An outcome as it is written down; its key and its id say the rest.
#[derive(Debug, Serialize, Deserialize)]
struct ItemOutcomeRecord {
    #[serde(rename = "i")]
    id: MessageId,
    #[serde(rename = "s")]
    status: Status,
    #[serde(rename = "t")]
    at: Timestamp,
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    provider_id: Option<ProviderMessageId>,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
    #[serde(rename = "u", default, skip_serializing_if = "std::ops::Not::not")]
    ambiguous: bool,
}

impl ItemOutcome {
    /// Whether this replaces what was known of the row: facts only move forward, and what a later message of the
    /// row says goes before what an earlier one said. Who notes outcomes asks this before believing one.
    pub fn supersedes(&self, id: MessageId, status: Status) -> bool {
        // What the node held or gave up yields to any other end: an unknown outcome may be tried again, and a failure
        // that WhatsApp reports is more than the node's guess.
        let was_a_guess = matches!(status, Status::Ambiguous | Status::DeadLetter);
        let corrected = was_a_guess && self.status.is_settled() && self.status != status;
        self.id > id || (self.id == id && (status.may_become(self.status) || corrected))
    }

    fn from_ledger_entry(item: BulkItem, id: MessageId, row: &LedgerEntry) -> Self {
        let at = row.history.last().map_or(id.accepted_at(), |step| step.at);
        Self {
            item,
            id,
            instance: id.instance(),
            status: row.status,
            at,
            provider_id: row.provider_id.clone(),
            failure: row.failure.clone(),
            ambiguous: row.status == Status::Ambiguous || row.buried == Some(BuryReason::Ambiguous),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let ItemOutcomeRecord { id, status, at, provider_id, failure, ambiguous } = store::decode(bytes)?;
        let item = id.item().ok_or_else(|| Error::Codec(format!("an outcome of {id}, which is no row")))?;
        Ok(Self { item, id, instance: id.instance(), status, at, provider_id, failure, ambiguous })
    }

    fn read(tx: &Tx, item: BulkItem) -> Result<Option<Self>, Error> {
        tx.get(&keys::outcome(item))?.map(|bytes| Self::decode(&bytes)).transpose()
    }

    fn write(self, tx: &mut Tx) -> Result<(), Error> {
        let Self { item, id, status, at, provider_id, mut failure, ambiguous, .. } = self;
        if let Some(failure) = &mut failure {
            failure.message = shorten(&failure.message);
        }
        let record = ItemOutcomeRecord { id, status, at, provider_id, failure, ambiguous };
        tx.put(keys::outcome(item), store::encode(&record)?)
    }

    /// Writes the outcome down, unless something better is known already. `false`: nothing changed.
    fn merge(mut self, tx: &mut Tx) -> Result<bool, Error> {
        if let Some(known) = Self::read(tx, self.item)? {
            if !self.supersedes(known.id, known.status) {
                return Ok(false);
            }
            if known.id == self.id {
                self.provider_id = known.provider_id.or(self.provider_id);
                self.at = self.at.max(known.at);
            }
        }
        self.write(tx)?;
        Ok(true)
    }
}

/// Opens the slot of a bulk job with the first message of its first row.
pub(super) fn open_slot(tx: &mut Tx, item: BulkItem, id: MessageId) -> Result<(), Error> {
    let slot = keys::job_slot(item.job);
    if tx.get(&slot)?.is_none() {
        tx.put(slot, id.as_bytes().to_vec())?;
    }
    Ok(())
}

/// Whether the message belongs to the job that has the slot now.
fn is_current(tx: &Tx, item: BulkItem, id: MessageId) -> Result<bool, Error> {
    let first = tx.get(&keys::job_slot(item.job))?.and_then(|bytes| keys::message_id(&bytes));
    Ok(first.is_some_and(|first| first <= id))
}

/// Takes rows in and counts them, all or none.
pub(super) fn accept(
    tx: &mut Tx,
    submissions: Vec<Submission>,
    terms: EnqueueContext,
) -> Result<Result<Vec<MessageId>, EnqueueRefusal>, Error> {
    let mut books = BTreeMap::new();
    for submission in &submissions {
        let book = match books.entry(submission.instance) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(QueueCounters::read(tx, submission.instance)?),
        };
        if book.depth.iter().sum::<u64>() >= terms.capacity {
            return Ok(Err(EnqueueRefusal::Full));
        }
        *book.depth(submission.class()) += 1;
    }
    let mut ids = Vec::with_capacity(submissions.len());
    for submission in submissions {
        ids.push(accept::insert_job(tx, submission, terms)?);
    }
    for (instance, book) in books {
        book.write(tx, instance)?;
    }
    Ok(Ok(ids))
}

/// Writes down where a row stands: while it is open as any message does, and then as its outcome alone.
pub(super) fn persist(
    tx: &mut Tx,
    item: BulkItem,
    id: MessageId,
    row: &mut LedgerEntry,
) -> Result<(), Error> {
    let is_settled = row.status.is_settled();
    if is_settled {
        tx.delete(keys::ledger(id))?;
    } else {
        row.write(tx, id)?;
    }
    if (is_settled || row.status == Status::Ambiguous) && is_current(tx, item, id)? {
        ItemOutcome::from_ledger_entry(item, id, row).merge(tx)?;
    }
    Ok(())
}

/// A fact about a message that is settled. Of one that is no row of a job there is, nothing is known.
pub(super) fn record_receipt(
    tx: &mut Tx,
    id: MessageId,
    report: &ReceiptReport,
) -> Result<ReceiptResult, Error> {
    let Some(item) = id.item() else { return Ok(ReceiptResult::Unknown) };
    if !is_current(tx, item, id)? {
        return Ok(ReceiptResult::Unknown);
    }
    let status = Status::from(report.receipt);
    let outcome = ItemOutcome {
        item,
        id,
        instance: id.instance(),
        status,
        at: report.at,
        provider_id: Some(report.provider_id.clone()),
        failure: (status == Status::Failed).then(|| receipts::failure_from(report)),
        ambiguous: false,
    };
    Ok(if outcome.merge(tx)? { ReceiptResult::Advanced(id) } else { ReceiptResult::Unchanged(id) })
}

/// An instance is deleted with the row still open: it was not sent, or nobody will learn whether.
pub(super) fn end_orphan(tx: &mut Tx, id: MessageId, now: Timestamp) -> Result<(), Error> {
    let (Some(item), Some(job)) = (id.item(), Job::read(tx, id)?) else { return Ok(()) };
    let known = LedgerEntry::read(tx, id)?;
    let flight = InFlight::read(tx, job.lane(id))?.filter(|flight| flight.id == id);
    tx.delete(keys::ledger(id))?;
    if !is_current(tx, item, id)? {
        return Ok(());
    }
    let under_way = flight.is_some();
    let message = if under_way {
        "the instance was deleted while the message was on its way"
    } else {
        "the instance was deleted before the message could be sent"
    };
    let outcome = ItemOutcome {
        item,
        id,
        instance: id.instance(),
        status: if under_way { Status::DeadLetter } else { Status::Cancelled },
        at: now,
        provider_id: known.and_then(|row| row.provider_id),
        failure: Some(Failure::permanent(message)),
        ambiguous: under_way,
    };
    outcome.merge(tx).map(drop)
}

/// Outcomes that a bulk job has not noted yet, in the order of its rows.
pub(super) fn outcomes(store: &Store, job: u16, limit: usize) -> Result<Vec<ItemOutcome>, Error> {
    let slot = keys::job_slot(job);
    let entries = store.range(&slot.clone().successor(), &slot.after_prefix()).take(limit);
    entries.map(|entry| ItemOutcome::decode(&entry?.1)).collect()
}

/// Forgets outcomes that were noted and have not changed since.
pub(super) fn delete_noted(tx: &mut Tx, noted: &[ItemOutcome]) -> Result<(), Error> {
    for outcome in noted {
        if ItemOutcome::read(tx, outcome.item)?.as_ref() == Some(outcome) {
            tx.delete(keys::outcome(outcome.item))?;
        }
    }
    Ok(())
}

/// The rows that WhatsApp calls by these ids, among those whose outcomes are not noted yet. Reads all of these once: as
/// many as jobs have open at once.
pub(super) fn find_by_provider_id(
    store: &Store,
    wanted: &HashSet<ProviderMessageKey>,
) -> Result<HashMap<ProviderMessageKey, MessageId>, Error> {
    let all = Key::new(Space::ItemOutcome);
    let mut found = HashMap::new();
    for entry in store.range(&all, &all.clone().after_prefix()) {
        let (key, value) = entry?;
        if keys::is_job_slot(&key) {
            continue;
        }
        let outcome = ItemOutcome::decode(&value)?;
        let name = outcome.provider_id.map(|name| (outcome.instance, name));
        if let Some(name) = name.filter(|name| wanted.contains(name)) {
            found.entry(name).or_insert(outcome.id);
        }
    }
    Ok(found)
}

/// Takes back those messages that were not tried yet, and tells which.
pub(super) fn withdraw(tx: &mut Tx, ids: &[MessageId], now: Timestamp) -> Result<Vec<MessageId>, Error> {
    let mut withdrawn = Vec::new();
    for &id in ids {
        if accept::withdraw(tx, id, now)? {
            withdrawn.push(id);
        }
    }
    Ok(withdrawn)
}

/// The messages of a bulk job that an instance has not settled, in the order in which they were accepted.
pub(super) fn open_messages(
    store: &Store,
    instance: InstanceNumber,
    job: u16,
    after: Option<MessageId>,
    limit: usize,
) -> Result<Vec<MessageId>, Error> {
    let all = keys::jobs(instance, Class::Bulk);
    let start = after.map_or(all.clone(), |id| all.clone().bytes(id.as_bytes()).successor());
    let mut found = Vec::new();
    for entry in store.range(&start, &all.after_prefix()) {
        if found.len() >= limit {
            break;
        }
        let id = keys::trailing_id(&entry?.0);
        found.extend(id.filter(|id| id.item().is_some_and(|item| item.job == job)));
    }
    Ok(found)
}

/// What one call of [`give_up`] deletes, at most.
const DELETE_PAGE: usize = 500;

/// Gives the slot up, at once, and then its outcomes, a page at a time. `true` when there is more.
pub(super) fn delete_slot(tx: &mut Tx, job: u16) -> Result<bool, Error> {
    let slot = keys::job_slot(job);
    let page = tx.range(&slot, &slot.clone().after_prefix()).take(DELETE_PAGE);
    let page: Vec<_> = page.map(|entry| entry.map(|(key, _)| key)).collect::<Result<_, _>>()?;
    let is_full = page.len() == DELETE_PAGE;
    page.into_iter().try_for_each(|key| tx.delete(key.into()))?;
    Ok(is_full)
}
