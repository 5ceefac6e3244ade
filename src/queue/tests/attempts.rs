//! The model's moves that end attempts and messages.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::sample::Index;

use crate::queue::tests::world::{Stand, World, number};
use crate::queue::upkeep::Upkeep;
use crate::queue::{
    Lease, Outcome, ReceiptReport, Recorded, accept, dead, dispatch, later, receipts, settle, upkeep,
};
use relevo_domain::{
    AmbiguousPolicy, BuryReason, Failure, Mode, ProviderMessageId, Receipt, Status, Timestamp, Verdict,
};

/// How long an attempt may stay unsettled, and an unknown outcome held.
const LEASE_TIMEOUT: Duration = Duration::from_secs(90);
const HOLD: Duration = Duration::from_secs(120);

fn provider_id(message: usize, other: bool) -> ProviderMessageId {
    format!("wamid.{}{message}", if other { "other." } else { "" }).parse().unwrap()
}

impl World<'_> {
    /// The message of a lease, if the lease is still its live one.
    fn live(&self, lease: &Lease) -> Option<usize> {
        let message = self.place(lease.id);
        match self.messages[message].stand {
            Stand::Flying { attempt, at, .. } if (attempt, at) == (lease.attempt, lease.leased_at) => {
                Some(message)
            }
            _ => None,
        }
    }

    fn picked_lease(&self, index: Index) -> Option<Lease> {
        // The last ones more often: they are the live ones.
        let from = self.leases.len().saturating_sub(6);
        let recent = &self.leases[from..];
        (!recent.is_empty()).then(|| recent[index.index(recent.len())].clone())
    }

    pub fn sent(&mut self, lease: Index) {
        if let Some(lease) = self.picked_lease(lease) {
            self.sent_lease(&lease);
        }
    }

    pub fn sent_lease(&mut self, lease: &Lease) {
        let (id, now) = (provider_id(self.place(lease.id), false), self.now);
        let outcome = self.scratch.write(|tx| settle::sent(tx, lease, &id, now)).unwrap();
        let Some(message) = self.live(lease) else {
            assert_eq!(outcome, None, "a lease that is over moved something");
            return;
        };
        assert_eq!(outcome, Some(Outcome::Sent(id.clone())));
        let known = &mut self.messages[message];
        known.attempted(lease.attempt, now);
        known.provider_id.get_or_insert(id);
        known.announced();
        known.end(Status::Sent, now);
        self.settled(message, Status::Sent);
    }

    /// A message came to its end; if it is a row, with an outcome and nothing else.
    fn settled(&mut self, message: usize, status: Status) {
        if self.is_nobodys(message) {
            self.messages[message].provider_id = None;
        }
        let name = self.messages[message].provider_id.clone();
        self.told(message, status, name.as_ref());
    }

    pub fn postpone(&mut self, lease: Index, delay: Duration) {
        let Some(lease) = self.picked_lease(lease) else { return };
        let (now, until) = (self.now, self.now + delay);
        self.scratch.write(|tx| settle::postpone(tx, &lease, until, now)).unwrap();
        if let Some(message) = self.live(&lease) {
            self.messages[message].waits(until, now);
        }
    }

    pub fn judge(&mut self, lease: Index, verdict: Verdict) {
        if let Some(lease) = self.picked_lease(lease) {
            self.judge_lease(&lease, verdict);
        }
    }

    fn judge_lease(&mut self, lease: &Lease, verdict: Verdict) {
        let now = self.now;
        let failure = Failure::transient("no").with_code(7);
        let outcome = self.scratch.write(|tx| settle::judged(tx, lease, verdict, &failure, now)).unwrap();
        let Some(message) = self.live(lease) else {
            assert_eq!(outcome, None, "a lease that is over moved something");
            return;
        };
        let known = &mut self.messages[message];
        known.attempted(lease.attempt, now);
        let expected = match verdict {
            Verdict::Retry { after, counted } => {
                known.failures += u32::from(counted);
                known.waits(now + after, now);
                None
            }
            Verdict::Defer { after } => {
                if known.status == Status::Ambiguous {
                    known.step(Status::Queued, now);
                }
                known.stand = Stand::Deferred(now + after);
                known.step(Status::Deferred, now);
                None
            }
            Verdict::Hold { wait } => {
                if let Stand::Flying { held_until, .. } = &mut known.stand {
                    *held_until = Some(now + wait);
                }
                known.step(Status::Ambiguous, now);
                let name = known.provider_id.clone();
                self.told(message, Status::Ambiguous, name.as_ref());
                Some(Outcome::Unknown)
            }
            Verdict::Bury(reason) => {
                known.end(Status::DeadLetter, now);
                known.announced();
                let unknown = reason == BuryReason::Ambiguous;
                if unknown {
                    self.told_unknown(message);
                } else {
                    self.settled(message, Status::DeadLetter);
                }
                Some(if unknown { Outcome::Unknown } else { Outcome::Failed(failure) })
            }
            Verdict::Fail => {
                known.end(Status::Failed, now);
                known.announced();
                self.free_key(message);
                self.settled(message, Status::Failed);
                Some(Outcome::Failed(failure))
            }
        };
        assert_eq!(outcome, expected);
    }

    pub fn report(&mut self, message: Index, receipt: Receipt, with_our_id: bool, other_id: bool) {
        let Some(message) = self.picked(message) else { return };
        if self.purged[self.messages[message].instance] {
            return;
        }
        let now = self.now;
        let known = &mut self.messages[message];
        let named = provider_id(message, other_id);
        let report = ReceiptReport {
            instance: number(known.instance),
            id: with_our_id.then_some(known.id),
            provider_id: named.clone(),
            receipt,
            at: now,
            failure: None,
        };
        let (recorded, outcome) = self.scratch.write(|tx| receipts::record(tx, &report, now)).unwrap();
        // Rows of jobs have no place in the index; whoever looks for them asks their outcomes and their jobs.
        let is_indexed = known.id.item().is_none() && known.provider_id.as_ref() == Some(&named);
        let found = with_our_id || is_indexed;
        if !found || known.forgotten {
            assert_eq!((recorded, outcome), (Recorded::Unknown, None));
            return;
        }
        let status = Status::from(receipt);
        if known.is_open() {
            if let Stand::Flying { attempt, .. } = known.stand {
                known.attempted(attempt, now);
            } else {
                known.step(Status::Queued, now);
                known.step(Status::Sending, now);
            }
            known.end(status, now);
            known.announced();
            known.provider_id.get_or_insert(named);
            assert_eq!(recorded, Recorded::Moved(known.id));
            assert_eq!(matches!(outcome, Some(Outcome::Failed(_))), receipt == Receipt::Failed);
            assert!(outcome.is_some());
            if receipt == Receipt::Failed {
                self.free_key(message);
            }
            self.settled(message, status);
        } else if known.id.item().is_some() {
            assert_eq!((recorded, outcome), (self.told_by_report(message, status, &named), None));
        } else if known.status.may_become(status) {
            assert_eq!((recorded, outcome), (Recorded::Moved(known.id), None));
            let corrects = matches!(known.status, Status::DeadLetter | Status::Failed);
            known.acks += usize::from(corrects || receipt == Receipt::Failed);
            known.step(status, now);
            known.provider_id.get_or_insert(named);
        } else {
            assert_eq!((recorded, outcome), (Recorded::Unchanged(known.id), None));
        }
    }

    pub fn withdraw(&mut self, message: Index) {
        let Some(message) = self.picked(message) else { return };
        let (id, now) = (self.messages[message].id, self.now);
        let withdrawn = self.scratch.write(|tx| accept::withdraw(tx, id, now)).unwrap();
        let known = &mut self.messages[message];
        let may = matches!(known.stand, Stand::Waiting | Stand::Deferred(_));
        assert_eq!(withdrawn, may, "{known:?}");
        if withdrawn {
            known.end(Status::Cancelled, now);
            self.free_key(message);
            self.settled(message, Status::Cancelled);
        }
    }

    pub fn reschedule(&mut self, message: Index, delay: Duration) {
        let Some(message) = self.picked(message) else { return };
        let at = self.now + delay;
        let known = &mut self.messages[message];
        if self.purged[known.instance] {
            return;
        }
        let moved = self.scratch.write(|tx| later::reschedule(tx, known.id, at)).unwrap();
        assert_eq!(moved, known.status == Status::Scheduled);
        if moved {
            known.stand = Stand::Deferred(at);
        }
    }

    pub fn redrive(&mut self, message: Index) {
        // A dead letter, if there is one.
        let dead: Vec<_> = (0..self.messages.len()).filter(|&place| self.is_dead_letter(place)).collect();
        let picked = if dead.is_empty() { self.picked(message) } else { Some(*message.get(&dead)) };
        let Some(message) = picked else { return };
        let (now, joined, is_kept) = (self.now, self.stamp(), !dead.is_empty());
        let known = &mut self.messages[message];
        let ids = [known.id, known.id];
        let redriven = self.scratch.write(|tx| dead::redrive(tx, &ids, now)).unwrap();
        assert_eq!(redriven, usize::from(is_kept));
        if is_kept {
            known.waits(Timestamp(0), now);
            (known.joined, known.rejoined) = (joined, true);
            (known.mode, known.expires_at, known.failures) = (Mode::Async, None, 0);
        }
    }

    pub fn discard(&mut self, message: Index) {
        let Some(message) = self.picked(message) else { return };
        let is_kept = self.is_dead_letter(message);
        let known = &mut self.messages[message];
        let discarded = self.scratch.write(|tx| dead::discard(tx, &[known.id])).unwrap();
        assert_eq!(discarded, usize::from(is_kept));
        known.discarded |= is_kept;
    }

    pub fn is_dead_letter(&self, message: usize) -> bool {
        let known = &self.messages[message];
        let gone =
            known.forgotten || known.discarded || self.purged[known.instance] || known.id.item().is_some();
        known.status == Status::DeadLetter && !gone
    }

    pub fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.high = self.high.max(self.now);
    }

    pub fn step_back(&mut self, time: Duration) {
        self.now = self.now - time;
    }

    pub fn restart(&mut self) {
        self.run += 1;
    }

    /// What `retry` does every second.
    pub fn sweep(&mut self) {
        let (now, run) = (self.now, self.run);
        let found = self.scratch.write(|tx| dispatch::overdue(tx, now, run, LEASE_TIMEOUT, 200)).unwrap();
        let named: BTreeSet<_> = found.iter().map(|(lease, held)| (lease.id, *held)).collect();
        let mut expected = BTreeSet::new();
        for known in &self.messages {
            match known.stand {
                Stand::Flying { held_until: Some(until), .. } if until <= now => {
                    expected.insert((known.id, true));
                }
                Stand::Flying { held_until: None, run: of, at, .. }
                    if of != run || at + LEASE_TIMEOUT <= now =>
                {
                    expected.insert((known.id, false));
                }
                _ => {}
            }
        }
        assert_eq!(named, expected, "what nobody will settle");
        for (lease, held) in found {
            let resend = lease.on_ambiguous == AmbiguousPolicy::Resend && lease.mode == Mode::Async;
            let verdict = match (held, resend) {
                (false, _) => Verdict::Hold { wait: HOLD },
                (true, true) => Verdict::Retry { after: Duration::ZERO, counted: true },
                (true, false) => Verdict::Bury(BuryReason::Ambiguous),
            };
            self.judge_lease(&lease, verdict);
        }
    }

    pub fn upkeep(&mut self, keep: Duration) {
        self.upkeep_with(self.now - keep, Timestamp(0));
    }

    pub fn upkeep_with(&mut self, ledger_before: Timestamp, events_before: Timestamp) {
        let now = self.now;
        let mut from = None;
        loop {
            let page = Upkeep { event_log_size: u64::MAX, now, ledger_before, events_before, from };
            from = self.scratch.write(|tx| upkeep::page(tx, &page)).unwrap();
            if from.is_none() {
                break;
            }
        }
        for known in &mut self.messages {
            if !known.is_open()
                && known.id.item().is_none()
                && known.id.accepted_at().max(known.changed) < ledger_before
            {
                (known.forgotten, known.provider_id) = (true, None);
            }
        }
        self.keys.retain(|_, &mut (.., expires)| expires >= now);
    }

    pub fn purge(&mut self, instance: usize) {
        let now = self.now;
        while self.scratch.write(|tx| upkeep::purge(tx, number(instance), now)).unwrap() {}
        self.purged[instance] = true;
        for message in 0..self.messages.len() {
            let known = &mut self.messages[message];
            if known.instance != instance {
                continue;
            }
            let (was_open, was_flying) = (known.is_open(), known.is_flying());
            (known.stand, known.provider_id) = (Stand::Over, None);
            if was_open && known.id.item().is_some() {
                known.status = if was_flying { Status::DeadLetter } else { Status::Cancelled };
                if was_flying {
                    self.told_unknown(message);
                } else {
                    self.told(message, Status::Cancelled, None);
                }
            }
        }
        self.keys.retain(|&(owner, _), _| owner != instance);
    }
}
