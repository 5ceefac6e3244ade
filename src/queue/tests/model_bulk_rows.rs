//! The model's rows of bulk jobs: what their outcomes should be, and what a job that notes them comes to believe.

use std::collections::BTreeMap;

use proptest::sample::Index;

use crate::queue::accept::{EnqueueContext, EnqueueRefusal};
use crate::queue::bulk_rows::{self, ItemOutcome};
use crate::queue::tests::reference_model::{CAPACITY, KEY_TTL, ModelRequest, QueueModel};
use crate::queue::{ReceiptResult, Submission, keys};
use relevo_domain::{BulkItem, MessageId, ProviderMessageId, Status};
use relevo_store::{Error, KeyValue};

pub const SLOTS: u16 = 2;

/// An outcome that waits to be noted.
#[derive(Debug, Clone, PartialEq)]
struct PendingOutcome {
    id: MessageId,
    status: Status,
    ambiguous: bool,
    provider_id: Option<ProviderMessageId>,
}

/// One slot, and the job that has it.
#[derive(Debug, Default)]
pub struct JobSlot {
    first: Option<MessageId>,
    rows: u32,
    pending: BTreeMap<u32, PendingOutcome>,
    /// What the job read and has not noted yet.
    read: Vec<ItemOutcome>,
    /// What it noted of each row.
    noted: BTreeMap<u32, (MessageId, Status)>,
}

/// How far a row has come; nothing moves it back.
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
        _ => panic!("{status} is no outcome"),
    }
}

/// Whether a row at `was` goes on to `next`.
pub fn supersedes(was: Status, next: Status) -> bool {
    !matches!(was, Status::Cancelled | Status::Expired) && rank(next) > rank(was)
}

impl QueueModel<'_> {
    /// Rows are taken in, all or none; `fails`: what should have been written with them was not.
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
        let terms = EnqueueContext {
            now: self.now,
            capacity: CAPACITY,
            idempotency_expires: self.now + KEY_TTL,
            random: 1,
        };
        let outcome = self.store.write(|tx| {
            let accepted = bulk_rows::accept(tx, submissions.clone(), terms)?;
            if fails { Err(Error::Closed) } else { Ok(accepted) }
        });
        let wanted = |instance| requests.iter().filter(|request| request.instance == instance).count();
        let full = (0..2).any(|at| {
            wanted(at) > 0 && self.open(at).count() + wanted(at) > usize::try_from(CAPACITY).unwrap()
        });
        let Ok(accepted) = outcome else { return assert!(fails) };
        assert_eq!(accepted.is_err(), full);
        let Ok(ids) = accepted else { return assert_eq!(accepted, Err(EnqueueRefusal::Full)) };
        let place = &mut self.slots[usize::from(slot)];
        place.first.get_or_insert(ids[0]);
        place.rows = fresh + missing;
        for ((submission, request), id) in submissions.into_iter().zip(requests).zip(ids) {
            assert_eq!(id.item(), submission.item);
            self.record_accepted(id, &ModelRequest { key: None, ..request }, &submission);
        }
    }

    /// A row of which everything so far was taken back may be enqueued again.
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

    /// Whether the job that the message belongs to is still there.
    fn is_current(&self, id: MessageId) -> bool {
        let slot = id.item().map(|item| &self.slots[usize::from(item.job)]);
        slot.and_then(|slot| slot.first).is_some_and(|first| first <= id)
    }

    /// Something became known of a message; if it is a row, its job should hear of it. `false`: not news.
    pub fn expect_outcome(
        &mut self,
        message: usize,
        status: Status,
        name: Option<&ProviderMessageId>,
    ) -> bool {
        let known = &self.messages[message];
        let (id, ambiguous) = (known.id, status == Status::Ambiguous);
        let Some(item) = id.item().filter(|_| self.is_current(id)) else { return false };
        let mut news = PendingOutcome { id, status, ambiguous, provider_id: name.cloned() };
        let pending = &mut self.slots[usize::from(item.job)].pending;
        if let Some(before) = pending.get(&item.row) {
            if before.id > id || (before.id == id && !supersedes(before.status, status)) {
                return false;
            }
            if before.id == id {
                news.provider_id = before.provider_id.clone().or(news.provider_id);
            }
        }
        pending.insert(item.row, news);
        true
    }

    /// The node gave a message up without knowing what became of it.
    pub fn expect_unknown_outcome(&mut self, message: usize) {
        let name = self.messages[message].provider_id.clone();
        if self.expect_outcome(message, Status::DeadLetter, name.as_ref()) {
            let item = self.messages[message].id.item().unwrap();
            self.slots[usize::from(item.job)].pending.get_mut(&item.row).unwrap().ambiguous = true;
        }
    }

    /// A message that was settled leaves no name behind when its job is gone.
    pub fn is_orphaned(&self, message: usize) -> bool {
        let id = self.messages[message].id;
        id.item().is_some() && !self.is_current(id)
    }

    /// What a report about a settled row should answer.
    pub fn expect_reported_outcome(
        &mut self,
        message: usize,
        status: Status,
        name: &ProviderMessageId,
    ) -> ReceiptResult {
        let id = self.messages[message].id;
        if !self.is_current(id) {
            return ReceiptResult::Unknown;
        }
        let (known, now) = (&mut self.messages[message], self.now);
        if supersedes(known.status, status) {
            known.step(status, now);
        }
        if self.expect_outcome(message, status, Some(name)) {
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

    /// The job notes what it read, whatever happened since.
    pub fn note_outcomes(&mut self, slot: u16) {
        let place = &mut self.slots[usize::from(slot)];
        let noted = std::mem::take(&mut place.read);
        self.store.write(|tx| bulk_rows::delete_noted(tx, &noted)).unwrap();
        for outcome in noted {
            let row = outcome.item.row;
            if place.pending.get(&row).is_some_and(|pending| is_same(pending, &outcome)) {
                place.pending.remove(&row);
            }
            let known = place.noted.get(&row);
            if known.is_none_or(|&(id, status)| outcome.supersedes(id, status)) {
                place.noted.insert(row, (outcome.id, outcome.status));
            }
        }
    }

    /// A job is deleted, whatever is left of it.
    pub fn delete_job(&mut self, slot: u16) {
        while self.store.write(|tx| bulk_rows::delete_slot(tx, slot)).unwrap() {}
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
        assert_eq!(slots.len(), count, "slots and outcomes, and nothing else");
    }

    /// A job that noted everything knows where each of its rows stands.
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
