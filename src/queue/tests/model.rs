//! The queue's storage functions against a model, over random histories.
//!
//! Checked invariants: no job is lost; a lane has at most one lease and keeps its order; a message has one outcome; no
//! message is leased too early or too late; counters are right; and finally no record is left.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngSeed, TestRunner};

use crate::queue::tests::model_bulk_rows::SLOTS;
use crate::queue::tests::reference_model::{ModelRequest, QueueModel};
use relevo_domain::{BuryReason, Receipt, RetryDecision};
use relevo_store::TestStore;

/// One operation on the queue.
#[derive(Debug, Clone)]
enum Op {
    Accept(ModelRequest),
    AcceptItems { slot: u16, again: Option<Index>, fails: bool, requests: Vec<ModelRequest> },
    ReadOutcomes(u16, usize),
    NoteOutcomes(u16),
    DeleteJob(u16),
    Lease { instance: usize, max: usize, max_bulk: usize },
    Sent(Index),
    Postpone(Index, u64),
    ApplyDecision(Index, RetryDecision),
    Report { message: Index, receipt: Receipt, with_our_id: bool, other_id: bool },
    Withdraw(Index),
    Reschedule(Index, u64),
    Redrive(Index),
    Discard(Index),
    AdvanceTime(u64),
    StepBack(u64),
    Sweep,
    Restart,
    RunRetention,
    Purge(usize),
}

fn millis() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(500), Just(5_000), Just(60_000)]
}

fn decision() -> impl Strategy<Value = RetryDecision> {
    let after = || millis().prop_map(Duration::from_millis);
    prop_oneof![
        4 => (after(), any::<bool>()).prop_map(|(after, counted)| RetryDecision::Retry { after, counted }),
        2 => after().prop_map(|after| RetryDecision::Defer { after }),
        2 => after().prop_map(|wait| RetryDecision::Hold { wait }),
        2 => Just(RetryDecision::Bury(BuryReason::Permanent)),
        1 => Just(RetryDecision::Bury(BuryReason::Exhausted)),
        2 => Just(RetryDecision::Fail),
    ]
}

fn request() -> impl Strategy<Value = ModelRequest> {
    let key = prop::option::weighted(0.4, (0..3u8, 0..2u8));
    let ttl = prop::option::weighted(0.25, prop_oneof![Just(1), Just(700), Just(30_000)]);
    let delay = prop::option::weighted(0.15, millis());
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.15));
    (0..2usize, 0..3usize, flags, key, ttl, delay).prop_map(|(instance, to, flags, key, ttl, delay)| {
        let (bulk, sync, resend, large) = flags;
        ModelRequest { instance, to, bulk, sync, resend, large, key, ttl, delay }
    })
}

fn op() -> impl Strategy<Value = Op> {
    let receipt = prop_oneof![
        Just(Receipt::Sent),
        Just(Receipt::Delivered),
        Just(Receipt::Read),
        Just(Receipt::Played),
        Just(Receipt::Failed),
    ];
    let report = (any::<Index>(), receipt, any::<bool>(), prop::bool::weighted(0.2));
    let again = prop::option::weighted(0.3, any::<Index>());
    let rows = (0..SLOTS, again, prop::bool::weighted(0.1), prop::collection::vec(request(), 1..4));
    prop_oneof![
        10 => request().prop_map(Op::Accept),
        6 => rows.prop_map(|(slot, again, fails, requests)| Op::AcceptItems { slot, again, fails, requests }),
        2 => (0..SLOTS, 1..4usize).prop_map(|(slot, limit)| Op::ReadOutcomes(slot, limit)),
        2 => (0..SLOTS).prop_map(Op::NoteOutcomes),
        1 => (0..SLOTS * 4).prop_map(Op::DeleteJob),
        10 => (0..2usize, 1..5usize, 0..5usize).prop_map(|(instance, max, max_bulk)| {
            Op::Lease { instance, max, max_bulk: max_bulk.min(max) }
        }),
        5 => any::<Index>().prop_map(Op::Sent),
        2 => (any::<Index>(), millis()).prop_map(|(lease, delay)| Op::Postpone(lease, delay)),
        6 => (any::<Index>(), decision()).prop_map(|(lease, decision)| Op::ApplyDecision(lease, decision)),
        4 => report.prop_map(|(message, receipt, with_our_id, other_id)| {
            Op::Report { message, receipt, with_our_id, other_id }
        }),
        2 => any::<Index>().prop_map(Op::Withdraw),
        1 => (any::<Index>(), millis()).prop_map(|(message, delay)| Op::Reschedule(message, delay)),
        2 => any::<Index>().prop_map(Op::Redrive),
        1 => any::<Index>().prop_map(Op::Discard),
        5 => prop_oneof![Just(1), Just(700), Just(10_000), Just(100_000)].prop_map(Op::AdvanceTime),
        1 => prop_oneof![Just(1), Just(2_000), Just(90_000)].prop_map(Op::StepBack),
        2 => Just(Op::Sweep),
        1 => Just(Op::Restart),
        1 => Just(Op::RunRetention),
        1 => (0..40usize).prop_map(Op::Purge),
    ]
}

fn apply(model: &mut QueueModel, op: Op) {
    match op {
        Op::Accept(request) => model.accept(request),
        Op::AcceptItems { slot, again, fails, requests } => model.accept_items(slot, again, fails, requests),
        Op::ReadOutcomes(slot, limit) => model.read_outcomes(slot, limit),
        Op::NoteOutcomes(slot) => model.note_outcomes(slot),
        Op::DeleteJob(slot) if slot < SLOTS => model.delete_job(slot),
        Op::DeleteJob(_) => {}
        Op::Lease { instance, max, max_bulk } => model.lease(instance, max, max_bulk),
        Op::Sent(lease) => model.mark_sent(lease),
        Op::Postpone(lease, delay) => model.postpone(lease, Duration::from_millis(delay)),
        Op::ApplyDecision(lease, decision) => model.apply_decision(lease, decision),
        Op::Report { message, receipt, with_our_id, other_id } => {
            model.report(message, receipt, with_our_id, other_id);
        }
        Op::Withdraw(message) => model.withdraw(message),
        Op::Reschedule(message, delay) => model.reschedule(message, Duration::from_millis(delay)),
        Op::Redrive(message) => model.redrive(message),
        Op::Discard(message) => model.discard(message),
        Op::AdvanceTime(millis) => model.advance_time(Duration::from_millis(millis)),
        Op::StepBack(millis) => model.step_back(Duration::from_millis(millis)),
        Op::Sweep => model.sweep(),
        Op::Restart => model.restart(),
        Op::RunRetention => model.run_retention(Duration::from_secs(60)),
        // Rare, because it deletes one of two instances.
        Op::Purge(instance) if instance < 2 => model.purge(instance),
        Op::Purge(_) => {}
    }
}

#[test]
fn random_histories_match_the_model() {
    let config = ProptestConfig {
        // Each run tests the same histories; PROPTEST_CASES sets their number.
        rng_seed: RngSeed::Fixed(0x7265_6c65_766f),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let store = TestStore::new();
    let histories = prop::collection::vec(op(), 1..90);
    let outcome = TestRunner::new(config).run(&histories, |history| {
        store.clear();
        let mut model = QueueModel::new(&store);
        for op in history {
            apply(&mut model, op);
            model.audit();
        }
        model.drain();
        model.delete_everything();
        Ok(())
    });
    outcome.unwrap();
}
