//! Operations of the model that end attempts and messages.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::sample::Index;

use crate::queue::retention::RetentionPage;
use crate::queue::tests::reference_model::{ModelState, QueueModel, number};
use crate::queue::{
    Lease, ReceiptReport, ReceiptResult, SendOutcome, accept, dead_letters, dispatch, receipts, retention,
    schedule, settle,
};
use relevo_domain::{
    AmbiguousPolicy, BuryReason, Failure, Mode, Overdue, ProviderMessageId, Receipt, RetryDecision, Status,
    Timestamp,
};

/// Age of an overdue lease, and duration of a hold.
const LEASE_TIMEOUT: Duration = Duration::from_secs(90);
const HOLD: Duration = Duration::from_secs(120);

fn provider_id(message: usize, other: bool) -> ProviderMessageId {
    format!("wamid.{}{message}", if other { "other." } else { "" }).parse().unwrap()
}

impl QueueModel<'_> {
    /// The message of a lease, if the lease is current.
    fn current_message(&self, lease: &Lease) -> Option<usize> {
        let message = self.index_of(lease.id);
        match self.messages[message].state {
            ModelState::InFlight { attempt, at, .. } if (attempt, at) == (lease.attempt, lease.leased_at) => {
                Some(message)
            }
            _ => None,
        }
    }

    fn pick_lease(&self, index: Index) -> Option<Lease> {
        // Recent leases are usually the current ones.
        let from = self.leases.len().saturating_sub(6);
        let recent = &self.leases[from..];
        (!recent.is_empty()).then(|| recent[index.index(recent.len())].clone())
    }

    pub fn mark_sent(&mut self, lease: Index) {
        if let Some(lease) = self.pick_lease(lease) {
            self.mark_lease_sent(&lease);
        }
    }

    pub fn mark_lease_sent(&mut self, lease: &Lease) {
        let (id, now) = (provider_id(self.index_of(lease.id), false), self.now);
        let outcome = self.store.write(|tx| settle::record_sent(tx, lease, &id, now)).unwrap();
        let Some(message) = self.current_message(lease) else {
            assert_eq!(outcome, None, "a settled lease changed the message");
            return;
        };
        assert_eq!(outcome, Some(SendOutcome::Sent(id.clone())));
        let known = &mut self.messages[message];
        known.record_attempt(lease.attempt, now);
        known.provider_id.get_or_insert(id);
        known.count_ack();
        known.settle(Status::Sent, now);
        self.expect_settled_outcome(message, Status::Sent);
    }

    /// Expects the outcome of a settled row.
    fn expect_settled_outcome(&mut self, message: usize, status: Status) {
        if self.is_orphaned(message) {
            self.messages[message].provider_id = None;
        }
        let provider_id = self.messages[message].provider_id.clone();
        self.expect_outcome(message, status, provider_id.as_ref());
    }

    pub fn postpone(&mut self, lease: Index, delay: Duration) {
        let Some(lease) = self.pick_lease(lease) else { return };
        let (now, until) = (self.now, self.now + delay);
        self.store.write(|tx| settle::postpone(tx, &lease, until, now)).unwrap();
        if let Some(message) = self.current_message(&lease) {
            self.messages[message].requeue(until, now);
        }
    }

    pub fn apply_decision(&mut self, lease: Index, decision: RetryDecision) {
        if let Some(lease) = self.pick_lease(lease) {
            self.apply_decision_to_lease(&lease, decision);
        }
    }

    fn apply_decision_to_lease(&mut self, lease: &Lease, decision: RetryDecision) {
        let now = self.now;
        let failure = Failure::transient("no").with_code(7);
        let outcome =
            self.store.write(|tx| settle::apply_decision(tx, lease, decision, &failure, now)).unwrap();
        let Some(message) = self.current_message(lease) else {
            assert_eq!(outcome, None, "a settled lease changed the message");
            return;
        };
        let known = &mut self.messages[message];
        known.record_attempt(lease.attempt, now);
        let expected = match decision {
            RetryDecision::Retry { after, counted } => {
                known.failures += u32::from(counted);
                known.requeue(now + after, now);
                None
            }
            RetryDecision::Defer { after } => {
                if known.status == Status::Ambiguous {
                    known.step(Status::Queued, now);
                }
                known.state = ModelState::Deferred(now + after);
                known.step(Status::Deferred, now);
                None
            }
            RetryDecision::Hold { wait } => {
                if let ModelState::InFlight { held_until, .. } = &mut known.state {
                    *held_until = Some(now + wait);
                }
                known.step(Status::Ambiguous, now);
                let provider_id = known.provider_id.clone();
                self.expect_outcome(message, Status::Ambiguous, provider_id.as_ref());
                Some(SendOutcome::Unknown)
            }
            RetryDecision::Bury(reason) => {
                known.settle(Status::DeadLetter, now);
                known.count_ack();
                let unknown = reason == BuryReason::Ambiguous;
                if unknown {
                    self.expect_unknown_outcome(message);
                } else {
                    self.expect_settled_outcome(message, Status::DeadLetter);
                }
                Some(if unknown { SendOutcome::Unknown } else { SendOutcome::Failed(failure) })
            }
            RetryDecision::Fail => {
                known.settle(Status::Failed, now);
                known.count_ack();
                self.free_key(message);
                self.expect_settled_outcome(message, Status::Failed);
                Some(SendOutcome::Failed(failure))
            }
        };
        assert_eq!(outcome, expected);
    }

    pub fn report(&mut self, message: Index, receipt: Receipt, with_our_id: bool, other_id: bool) {
        let Some(message) = self.pick(message) else { return };
        if self.purged[self.messages[message].instance] {
            return;
        }
        let now = self.now;
        let known = &mut self.messages[message];
        let provider_id = provider_id(message, other_id);
        let report = ReceiptReport {
            instance: number(known.instance),
            id: with_our_id.then_some(known.id),
            provider_id: provider_id.clone(),
            receipt,
            at: now,
            failure: None,
        };
        let (recorded, outcome) = self.store.write(|tx| receipts::record(tx, &report, now)).unwrap();
        // The index does not contain rows of jobs.
        let is_indexed = known.id.item().is_none() && known.provider_id.as_ref() == Some(&provider_id);
        let found = with_our_id || is_indexed;
        if !found || known.entry_deleted {
            assert_eq!((recorded, outcome), (ReceiptResult::Unknown, None));
            return;
        }
        let status = Status::from(receipt);
        if known.is_open() {
            if let ModelState::InFlight { attempt, .. } = known.state {
                known.record_attempt(attempt, now);
            } else {
                known.step(Status::Queued, now);
                known.step(Status::Sending, now);
            }
            known.settle(status, now);
            known.count_ack();
            known.provider_id.get_or_insert(provider_id);
            assert_eq!(recorded, ReceiptResult::Advanced(known.id));
            assert_eq!(matches!(outcome, Some(SendOutcome::Failed(_))), receipt == Receipt::Failed);
            assert!(outcome.is_some());
            if receipt == Receipt::Failed {
                self.free_key(message);
            }
            self.expect_settled_outcome(message, status);
        } else if known.id.item().is_some() {
            assert_eq!(
                (recorded, outcome),
                (self.expect_reported_outcome(message, status, &provider_id), None)
            );
        } else if known.status.may_become(status) {
            assert_eq!((recorded, outcome), (ReceiptResult::Advanced(known.id), None));
            let corrects = matches!(known.status, Status::DeadLetter | Status::Failed);
            known.acks += usize::from(corrects || receipt == Receipt::Failed);
            known.step(status, now);
            known.provider_id.get_or_insert(provider_id);
        } else {
            assert_eq!((recorded, outcome), (ReceiptResult::Unchanged(known.id), None));
        }
    }

    pub fn withdraw(&mut self, message: Index) {
        let Some(message) = self.pick(message) else { return };
        let (id, now) = (self.messages[message].id, self.now);
        let withdrawn = self.store.write(|tx| accept::withdraw(tx, id, now)).unwrap();
        let known = &mut self.messages[message];
        let is_waiting = matches!(known.state, ModelState::Waiting | ModelState::Deferred(_));
        assert_eq!(withdrawn, is_waiting, "{known:?}");
        if withdrawn {
            known.settle(Status::Cancelled, now);
            self.free_key(message);
            self.expect_settled_outcome(message, Status::Cancelled);
        }
    }

    pub fn reschedule(&mut self, message: Index, delay: Duration) {
        let Some(message) = self.pick(message) else { return };
        let at = self.now + delay;
        let known = &mut self.messages[message];
        if self.purged[known.instance] {
            return;
        }
        let moved = self.store.write(|tx| schedule::reschedule(tx, known.id, at)).unwrap();
        assert_eq!(moved, known.status == Status::Scheduled);
        if moved {
            known.state = ModelState::Deferred(at);
        }
    }

    pub fn redrive(&mut self, message: Index) {
        // Prefer a dead letter.
        let dead: Vec<_> = (0..self.messages.len()).filter(|&index| self.is_dead_letter(index)).collect();
        let picked = if dead.is_empty() { self.pick(message) } else { Some(*message.get(&dead)) };
        let Some(message) = picked else { return };
        let (now, joined, is_kept) = (self.now, self.next_order(), !dead.is_empty());
        let known = &mut self.messages[message];
        let ids = [known.id, known.id];
        let redriven = self.store.write(|tx| dead_letters::redrive(tx, &ids, now)).unwrap();
        assert_eq!(redriven, usize::from(is_kept));
        if is_kept {
            known.requeue(Timestamp(0), now);
            (known.lane_order, known.rejoined) = (joined, true);
            (known.mode, known.expires_at, known.failures) = (Mode::Async, None, 0);
        }
    }

    pub fn discard(&mut self, message: Index) {
        let Some(message) = self.pick(message) else { return };
        let is_kept = self.is_dead_letter(message);
        let known = &mut self.messages[message];
        let discarded = self.store.write(|tx| dead_letters::discard(tx, &[known.id])).unwrap();
        assert_eq!(discarded, usize::from(is_kept));
        known.discarded |= is_kept;
    }

    pub fn is_dead_letter(&self, message: usize) -> bool {
        let known = &self.messages[message];
        let is_deleted = known.entry_deleted
            || known.discarded
            || self.purged[known.instance]
            || known.id.item().is_some();
        known.status == Status::DeadLetter && !is_deleted
    }

    pub fn advance_time(&mut self, time: Duration) {
        self.now = self.now + time;
        self.latest = self.latest.max(self.now);
    }

    pub fn step_back(&mut self, time: Duration) {
        self.now = self.now - time;
    }

    pub fn restart(&mut self) {
        self.run += 1;
    }

    /// The periodic sweep of the retry supervisor.
    pub fn sweep(&mut self) {
        let (now, run) = (self.now, self.run);
        let found = self.store.write(|tx| dispatch::find_overdue(tx, now, run, LEASE_TIMEOUT, 200)).unwrap();
        let is_held = |overdue: &Overdue| *overdue == Overdue::HoldExpired;
        let overdue: BTreeSet<_> =
            found.iter().map(|(lease, overdue)| (lease.id, is_held(overdue))).collect();
        let mut expected = BTreeSet::new();
        for known in &self.messages {
            match known.state {
                ModelState::InFlight { held_until: Some(until), .. } if until <= now => {
                    expected.insert((known.id, true));
                }
                ModelState::InFlight { held_until: None, run: lease_run, at, .. }
                    if lease_run != run || at + LEASE_TIMEOUT <= now =>
                {
                    expected.insert((known.id, false));
                }
                _ => {}
            }
        }
        assert_eq!(overdue, expected, "overdue leases");
        for (lease, overdue) in found {
            let resend = lease.on_ambiguous == AmbiguousPolicy::Resend && lease.mode == Mode::Async;
            let decision = match (is_held(&overdue), resend) {
                (false, _) => RetryDecision::Hold { wait: HOLD },
                (true, true) => RetryDecision::Retry { after: Duration::ZERO, counted: true },
                (true, false) => RetryDecision::Bury(BuryReason::Ambiguous),
            };
            self.apply_decision_to_lease(&lease, decision);
        }
    }

    pub fn run_retention(&mut self, keep: Duration) {
        self.run_retention_with(self.now - keep, Timestamp(0));
    }

    pub fn run_retention_with(&mut self, ledger_before: Timestamp, events_before: Timestamp) {
        let now = self.now;
        let mut from = None;
        loop {
            let page = RetentionPage { event_log_size: u64::MAX, now, ledger_before, events_before, from };
            from = self.store.write(|tx| retention::delete_page(tx, &page)).unwrap();
            if from.is_none() {
                break;
            }
        }
        for known in &mut self.messages {
            if !known.is_open()
                && known.id.item().is_none()
                && known.id.accepted_at().max(known.last_step_at) < ledger_before
            {
                (known.entry_deleted, known.provider_id) = (true, None);
            }
        }
        self.keys.retain(|_, &mut (.., expires)| expires >= now);
    }

    pub fn purge(&mut self, instance: usize) {
        let now = self.now;
        while self.store.write(|tx| retention::purge(tx, number(instance), now)).unwrap() {}
        self.purged[instance] = true;
        for message in 0..self.messages.len() {
            let known = &mut self.messages[message];
            if known.instance != instance {
                continue;
            }
            let (was_open, was_in_flight) = (known.is_open(), known.is_in_flight());
            (known.state, known.provider_id) = (ModelState::Settled, None);
            if was_open && known.id.item().is_some() {
                known.status = if was_in_flight { Status::DeadLetter } else { Status::Cancelled };
                if was_in_flight {
                    self.expect_unknown_outcome(message);
                } else {
                    self.expect_outcome(message, Status::Cancelled, None);
                }
            }
        }
        self.keys.retain(|&(owner, _), _| owner != instance);
    }
}
