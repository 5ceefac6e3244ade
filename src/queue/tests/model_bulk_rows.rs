//! The model of bulk jobs' rows: their expected outcomes, and the statuses that a job has noted.

use std::collections::BTreeMap;

use proptest::sample::Index;

use crate::queue::accept::{EnqueueContext, EnqueueRefusal};
use crate::queue::tests::reference_model::{CAPACITY, KEY_TTL, ModelRequest, QueueModel};
use crate::queue::{ItemOutcome, ReceiptResult, Submission, bulk_rows, item_outcomes, keys};
use relevo_domain::{BulkItem, MessageId, ProviderMessageId, Status};
use relevo_store::{Error, KeyValue};

/// Number of slots that the model uses.
pub const SLOTS: u16 = 2;

/// An outcome that is not noted yet.
#[derive(Debug, Clone, PartialEq)]
struct PendingOutcome {
    id: MessageId,
    status: Status,
    ambiguous: bool,
    provider_id: Option<ProviderMessageId>,
}

/// One slot and its current job.
#[derive(Debug, Default)]
pub struct JobSlot {
    first: Option<MessageId>,
    rows: u32,
    pending: BTreeMap<u32, PendingOutcome>,
    /// Outcomes that the job has read and not noted yet.
    read: Vec<ItemOutcome>,
    /// The noted status of each row.
    noted: BTreeMap<u32, (MessageId, Status)>,
}

/// Order of the statuses of a row; a status only changes to a higher rank.
fn rank(status: Status) -> u8 {
    match status {
        Status::Ambiguous => 0,
        Status::DeadLetter => 1,
        Status::Sent => 2,
        Status::Failed => 3,
        Status::Delivered => 4,
        Status::Read => 5,
        Status::Played => 6,
        Status::Cancelled | Status::Expired => 7,
        _ => panic!("{status} is not an outcome"),
    }
}

/// Whether the status of a row changes from `current` to `next`.
pub fn supersedes(current: Status, next: Status) -> bool {
    !matches!(current, Status::Cancelled | Status::Expired) && rank(next) > rank(current)
}

impl QueueModel<'_> {
    /// Accepts rows, all or none. `fails`: the hook of the same commit fails.
    pub fn accept_items(
        &mut self,
        slot: u16,
        again: Option<Index>,
        fails: bool,
        requests: Vec<ModelRequest>,
    ) {
        let requests: Vec<_> =
            requests.into_iter().filter(|request| !self.purged[request.instance]).collect();
        if requests.is_empty() {
            return;
        }
        let mut rows = self.withdrawn_rows(slot, again);
        let fresh = self.slots[usize::from(slot)].rows;
        rows.truncate(requests.len());
        let missing = u32::try_from(requests.len() - rows.len()).unwrap();
        rows.extend(fresh..fresh + missing);
        let submissions: Vec<Submission> = requests
            .iter()
            .zip(&rows)
            .map(|(request, &row)| {
                let item = Some(BulkItem { job: slot, row });
                Submission { item, idempotency: None, ..self.submission(request) }
            })
            .collect();
        let context = EnqueueContext {
            now: self.now,
            capacity: CAPACITY,
            idempotency_expires: self.now + KEY_TTL,
            random: 1,
        };
        let outcome = self.store.write(|tx| {
            let accepted = bulk_rows::accept(tx, submissions.clone(), context)?;
            if fails { Err(Error::Closed) } else { Ok(accepted) }
        });
        let wanted = |instance| requests.iter().filter(|request| request.instance == instance).count();
        let full = (0..2).any(|at| {
            wanted(at) > 0 && self.open(at).count() + wanted(at) > usize::try_from(CAPACITY).unwrap()
        });
        let Ok(accepted) = outcome else { return assert!(fails) };
        assert_eq!(accepted.is_err(), full);
        let Ok(ids) = accepted else { return assert_eq!(accepted, Err(EnqueueRefusal::Full)) };
        let job = &mut self.slots[usize::from(slot)];
        job.first.get_or_insert(ids[0]);
        job.rows = fresh + missing;
        for ((submission, request), id) in submissions.into_iter().zip(requests).zip(ids) {
            assert_eq!(id.item(), submission.item);
            self.record_accepted(id, &ModelRequest { key: None, ..request }, &submission);
        }
    }

    /// A row whose messages are all settled may be enqueued again.
    fn withdrawn_rows(&self, slot: u16, again: Option<Index>) -> Vec<u32> {
        let Some(again) = again else { return Vec::new() };
        let rows: Vec<_> = (0..self.slots[usize::from(slot)].rows)
            .filter(|&row| self.newest(slot, row).is_some_and(|message| !self.messages[message].is_open()))
            .collect();
        if rows.is_empty() { rows } else { vec![*again.get(&rows)] }
    }

    fn newest(&self, job: u16, row: u32) -> Option<usize> {
        let first = self.slots[usize::from(job)].first?;
        let of_row = |id: MessageId| id >= first && id.item() == Some(BulkItem { job, row });
        self.messages.iter().rposition(|known| of_row(known.id))
    }

    /// Whether the job of the message still exists.
    fn is_current(&self, id: MessageId) -> bool {
        let slot = id.item().map(|item| &self.slots[usize::from(item.job)]);
        slot.and_then(|slot| slot.first).is_some_and(|first| first <= id)
    }

    /// Records the expected outcome of a row. Returns `false` when the message is not a row of an existing job, or an
    /// existing outcome takes precedence.
    pub fn expect_outcome(
        &mut self,
        message: usize,
        status: Status,
        provider_id: Option<&ProviderMessageId>,
    ) -> bool {
        let known = &self.messages[message];
        let (id, ambiguous) = (known.id, status == Status::Ambiguous);
        let Some(item) = id.item().filter(|_| self.is_current(id)) else { return false };
        let mut outcome = PendingOutcome { id, status, ambiguous, provider_id: provider_id.cloned() };
        let pending = &mut self.slots[usize::from(item.job)].pending;
        if let Some(before) = pending.get(&item.row) {
            if before.id > id || (before.id == id && !supersedes(before.status, status)) {
                return false;
            }
            if before.id == id {
                outcome.provider_id = before.provider_id.clone().or(outcome.provider_id);
            }
        }
        pending.insert(item.row, outcome);
        true
    }

    /// Records that a message was buried with an unknown outcome.
    pub fn expect_unknown_outcome(&mut self, message: usize) {
        let provider_id = self.messages[message].provider_id.clone();
        if self.expect_outcome(message, Status::DeadLetter, provider_id.as_ref()) {
            let item = self.messages[message].id.item().unwrap();
            self.slots[usize::from(item.job)].pending.get_mut(&item.row).unwrap().ambiguous = true;
        }
    }

    /// Whether the message is a row of a deleted job: then its provider id is not stored.
    pub fn is_orphaned(&self, message: usize) -> bool {
        let id = self.messages[message].id;
        id.item().is_some() && !self.is_current(id)
    }

    /// The expected result of a receipt for a settled row.
    pub fn expect_reported_outcome(
        &mut self,
        message: usize,
        status: Status,
        provider_id: &ProviderMessageId,
    ) -> ReceiptResult {
        let id = self.messages[message].id;
        if !self.is_current(id) {
            return ReceiptResult::Unknown;
        }
        let (known, now) = (&mut self.messages[message], self.now);
        if supersedes(known.status, status) {
            known.step(status, now);
        }
        if self.expect_outcome(message, status, Some(provider_id)) {
            ReceiptResult::Advanced(id)
        } else {
            ReceiptResult::Unchanged(id)
        }
    }

    fn outcomes(&self, slot: u16) -> Vec<ItemOutcome> {
        let (prefix, entries) = (keys::job_slot(slot), self.store.entries());
        let of_slot = |(key, _): &&KeyValue| key.starts_with(prefix.as_slice()) && key.len() > 3;
        entries.iter().filter(of_slot).map(|(_, value)| ItemOutcome::decode(value).unwrap()).collect()
    }

    pub fn read_outcomes(&mut self, slot: u16, limit: usize) {
        let mut outcomes = self.outcomes(slot);
        outcomes.truncate(limit);
        self.slots[usize::from(slot)].read = outcomes;
    }

    /// Notes the outcomes that the job has read, which may have changed since.
    pub fn note_outcomes(&mut self, slot: u16) {
        let job = &mut self.slots[usize::from(slot)];
        let noted = std::mem::take(&mut job.read);
        self.store.write(|tx| item_outcomes::delete_noted(tx, &noted)).unwrap();
        for outcome in noted {
            let row = outcome.item.row;
            if job.pending.get(&row).is_some_and(|pending| is_same(pending, &outcome)) {
                job.pending.remove(&row);
            }
            let known = job.noted.get(&row);
            if known.is_none_or(|&(id, status)| outcome.supersedes(id, status)) {
                job.noted.insert(row, (outcome.id, outcome.status));
            }
        }
    }

    /// Deletes a job with its remaining outcomes.
    pub fn delete_job(&mut self, slot: u16) {
        while self.store.write(|tx| item_outcomes::delete_slot(tx, slot)).unwrap() {}
        self.slots[usize::from(slot)] = JobSlot::default();
    }

    pub fn audit_outcomes(&self, slots: &[KeyValue]) {
        let mut count = 0;
        for (job, slot) in (0u16..).zip(&self.slots) {
            let found = self.outcomes(job);
            count += found.len() + usize::from(slot.first.is_some());
            let rows: Vec<_> = found.iter().map(|outcome| outcome.item.row).collect();
            assert_eq!(rows, slot.pending.keys().copied().collect::<Vec<_>>(), "outcomes of {job}");
            for (outcome, pending) in found.iter().zip(slot.pending.values()) {
                assert!(is_same(pending, outcome), "{outcome:?}, not {pending:?}");
            }
        }
        assert_eq!(slots.len(), count, "only slots and outcomes");
    }

    /// Checks that a job that has noted all outcomes has the status of every row.
    pub fn check_noted_outcomes(&mut self) {
        for job in 0..SLOTS {
            self.read_outcomes(job, usize::MAX);
            self.note_outcomes(job);
            for row in 0..self.slots[usize::from(job)].rows {
                let known = &self.messages[self.newest(job, row).unwrap()];
                let noted = self.slots[usize::from(job)].noted.get(&row);
                assert_eq!(noted, Some(&(known.id, known.status)), "{known:?}");
            }
        }
    }
}

fn is_same(pending: &PendingOutcome, outcome: &ItemOutcome) -> bool {
    let PendingOutcome { id, status, ambiguous, provider_id } = pending;
    (id, status, ambiguous, provider_id)
        == (&outcome.id, &outcome.status, &outcome.ambiguous, &outcome.provider_id)
}
