//! Outcomes of bulk jobs' rows: all that remains of a row after it is settled.
//!
//! An unsettled row has a job record and, while it waits for another attempt, a ledger entry, like any message. The
//! commit that settles it replaces both with an outcome, which is kept until the bulk job has noted it. Receipts that
//! arrive later become outcomes in the same way. A receipt that carries only WhatsApp's id finds its row among the
//! outcomes, or, once these are noted, through the job ([`BulkRowLookup`](super::BulkRowLookup)).
//!
//! A slot serves many jobs, one after the other. The first row of a job opens the slot; messages from before that, and
//! messages of a deleted slot, are ignored.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use relevo_domain::{
    BulkItem, Failure, InstanceNumber, MessageId, ProviderMessageId, Status, Timestamp, is_outcome_unknown,
};
use relevo_store::{self as store, Error, Key, Space, Store, Tx};

use super::records::{InFlight, Job, LedgerEntry, shorten};
use super::{ProviderMessageKey, ReceiptReport, ReceiptResult, keys};

/// The latest known outcome of a bulk job's row.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemOutcome {
    /// The row.
    pub item: BulkItem,
    /// The message of the row. A row that was withdrawn and enqueued again has a new message, and outcomes of the
    /// earlier one are ignored.
    pub id: MessageId,
    /// The instance that sends it.
    pub instance: InstanceNumber,
    /// A settled status, or [`Status::Ambiguous`].
    pub status: Status,
    /// When the status began.
    pub at: Timestamp,
    /// WhatsApp's id of the message, if known.
    pub provider_id: Option<ProviderMessageId>,
    /// The last failure, unless a later attempt succeeded.
    pub failure: Option<Failure>,
    /// Whether the outcome of an attempt is unknown, both while it is held and after it was buried as such.
    pub ambiguous: bool,
}

/// The record of an outcome. Its key and its message id contain the remaining fields.
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
    /// Whether this outcome replaces a known one of the same row. Statuses only move forward, and a later message of the
    /// row takes precedence over an earlier one. Readers of outcomes must check this before they apply one.
    pub fn supersedes(&self, id: MessageId, status: Status) -> bool {
        // Any other settled status replaces one that the node only assumed: an unknown outcome may be retried, and a
        // failure that WhatsApp reports is certain.
        let was_assumed = matches!(status, Status::Ambiguous | Status::DeadLetter);
        let corrected = was_assumed && self.status.is_settled() && self.status != status;
        self.id > id || (self.id == id && (status.may_become(self.status) || corrected))
    }

    fn from_ledger_entry(item: BulkItem, id: MessageId, entry: &LedgerEntry) -> Self {
        let at = entry.history.last().map_or(id.accepted_at(), |step| step.at);
        Self {
            item,
            id,
            instance: id.instance(),
            status: entry.status,
            at,
            provider_id: entry.provider_id.clone(),
            failure: entry.failure.clone(),
            ambiguous: is_outcome_unknown(entry.status, entry.buried),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let ItemOutcomeRecord { id, status, at, provider_id, failure, ambiguous } = store::decode(bytes)?;
        let item = id.item().ok_or_else(|| {
            Error::Codec(format!("outcome record of {id}, which is not a row of a bulk job"))
        })?;
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

    /// Writes the outcome unless the stored one takes precedence. Returns whether anything changed.
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

/// Opens the slot of a bulk job with the message of its first row, unless it is open.
pub(super) fn open_slot(tx: &mut Tx, item: BulkItem, id: MessageId) -> Result<(), Error> {
    let slot = keys::job_slot(item.job);
    if tx.get(&slot)?.is_none() {
        tx.put(slot, id.as_bytes().to_vec())?;
    }
    Ok(())
}

/// Whether the message belongs to the job that occupies the slot now.
fn is_current(tx: &Tx, item: BulkItem, id: MessageId) -> Result<bool, Error> {
    let first = tx.get(&keys::job_slot(item.job))?.and_then(|bytes| keys::message_id(&bytes));
    Ok(first.is_some_and(|first| first <= id))
}

/// Writes the status of a message: its ledger entry, or for a settled row of a bulk job only the outcome.
pub(super) fn persist(tx: &mut Tx, id: MessageId, entry: &mut LedgerEntry) -> Result<(), Error> {
    let Some(item) = id.item() else { return entry.write(tx, id) };
    let is_settled = entry.status.is_settled();
    if is_settled {
        tx.delete(keys::ledger(id))?;
    } else {
        entry.write(tx, id)?;
    }
    if (is_settled || entry.status == Status::Ambiguous) && is_current(tx, item, id)? {
        ItemOutcome::from_ledger_entry(item, id, entry).merge(tx)?;
    }
    Ok(())
}

/// Records a receipt for a settled row. A message that is not a row of an existing job is unknown.
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
        failure: (status == Status::Failed).then(|| report.failure_or_default()),
        ambiguous: false,
    };
    Ok(if outcome.merge(tx)? { ReceiptResult::Advanced(id) } else { ReceiptResult::Unchanged(id) })
}

/// Records the outcome of an unsettled row whose instance is deleted: not sent, or unknown if an attempt is under way.
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
        provider_id: known.and_then(|entry| entry.provider_id),
        failure: Some(Failure::permanent(message)),
        ambiguous: under_way,
    };
    outcome.merge(tx).map(drop)
}

/// Outcomes that a bulk job has not noted yet, in row order, up to `limit`.
pub(super) fn outcomes(store: &Store, job: u16, limit: usize) -> Result<Vec<ItemOutcome>, Error> {
    let slot = keys::job_slot(job);
    let entries = store.range(&slot.clone().successor(), &slot.after_prefix()).take(limit);
    entries.map(|entry| ItemOutcome::decode(&entry?.1)).collect()
}

/// Deletes noted outcomes that have not changed since.
pub(super) fn delete_noted(tx: &mut Tx, noted: &[ItemOutcome]) -> Result<(), Error> {
    for outcome in noted {
        if ItemOutcome::read(tx, outcome.item)?.as_ref() == Some(outcome) {
            tx.delete(keys::outcome(outcome.item))?;
        }
    }
    Ok(())
}

/// Finds rows by WhatsApp's ids among the outcomes that are not noted yet. Reads all of these once; their number is
/// bounded by the rows that jobs have open.
pub(super) fn find_by_provider_id(
    store: &Store,
    wanted: &HashSet<ProviderMessageKey>,
) -> Result<HashMap<ProviderMessageKey, MessageId>, Error> {
    let all = Key::new(Space::ItemOutcome);
    let mut found = HashMap::new();
    for entry in store.range(&all, &all.clone().after_prefix()) {
        let (slot_or_item, value) = entry?;
        if keys::is_job_slot(&slot_or_item) {
            continue;
        }
        let outcome = ItemOutcome::decode(&value)?;
        let Some(provider_id) = outcome.provider_id else { continue };
        let key = (outcome.instance, provider_id);
        if wanted.contains(&key) {
            found.entry(key).or_insert(outcome.id);
        }
    }
    Ok(found)
}

/// Maximum number of records that one call of [`delete_slot`] deletes.
const DELETE_PAGE: usize = 500;

/// Deletes the slot of a job and then its outcomes, one page per call; the first call frees the slot. Returns whether
/// there is more.
pub(super) fn delete_slot(tx: &mut Tx, job: u16) -> Result<bool, Error> {
    let slot = keys::job_slot(job);
    let page = tx.range(&slot, &slot.clone().after_prefix()).take(DELETE_PAGE);
    let page: Vec<_> = page.map(|entry| entry.map(|(key, _)| key)).collect::<Result<_, _>>()?;
    let is_full = page.len() == DELETE_PAGE;
    page.into_iter().try_for_each(|key| tx.delete(key.into()))?;
    Ok(is_full)
}
