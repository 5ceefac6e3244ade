//! Supervisor, queue and handles together: what becomes of attempts that fail, vanish or stay unknown.

use std::time::Duration;

use ractor::Actor;

use crate::queue::tests::bench::{Bench, ONE, message, provider_id, urgent};
use crate::queue::{Outcome, ReceiptReport, Submission};
use crate::retry::{Arguments, Handle, Options, RetrySupervisor};
use crate::supervision::Slot;
use relevo_domain::{AmbiguousPolicy, BuryReason, Class, Failure, FailureKind, Receipt, Scope, Status};

/// A queue with its judge.
struct Node {
    bench: Bench,
    retry: Handle,
}

impl Node {
    async fn start() -> Self {
        Self::on(Bench::open(), 1).await
    }

    /// Starts a run of the process on what is already there.
    async fn on(bench: Bench, run: u64) -> Self {
        let arguments = Arguments {
            options: Options::default(),
            queue: bench.arguments(run),
            queue_slot: bench.slot.clone(),
            queue_handle: bench.handle.clone(),
        };
        let (supervisor, _) = Actor::spawn(None, RetrySupervisor, arguments).await.unwrap();
        let slot = Slot::default();
        slot.fill(supervisor);
        Self { bench, retry: Handle::new(slot) }
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn resend() -> Submission {
    Submission { on_ambiguous: AmbiguousPolicy::Resend, ..message(0) }
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_tried_again_until_it_is_enough() {
    let Node { bench, retry } = Node::start().await;
    let id = bench.enqueue(message(0)).await;
    for attempt in 1..=5 {
        let lease = bench.next_lease().await;
        assert_eq!((lease.attempt, lease.failures), (attempt, attempt - 1));
        retry.failed(lease, Failure::transient("no").with_code(131_000)).unwrap();
        if attempt < 5 {
            let due = bench.until(id, Status::Queued).await.due.unwrap();
            bench.nothing_to_lease().await;
            bench.pass(due.since(bench.clock.now())).await;
        }
    }
    let view = bench.until(id, Status::DeadLetter).await;
    assert_eq!(view.buried, Some(BuryReason::Exhausted));
    assert_eq!(view.failure.unwrap().code, Some(131_000));
    assert_eq!(bench.handle.depth(ONE).unwrap().total(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_held_message_keeps_its_lane_until_a_status_settles_it() {
    let Node { bench, retry } = Node::start().await;
    let held = bench.enqueue(message(0)).await;
    let behind = bench.enqueue(message(0)).await;
    retry.failed(bench.lease().await, Failure::ambiguous("the connection broke")).unwrap();
    bench.until(held, Status::Ambiguous).await;
    bench.nothing_to_lease().await;
    let report = ReceiptReport {
        instance: ONE,
        id: Some(held),
        provider_id: provider_id("wamid.1"),
        receipt: Receipt::Delivered,
        at: bench.clock.now(),
        failure: None,
    };
    let nudges = bench.handle.subscribe(ONE, Class::Transactional);
    bench.handle.record(vec![report]).await.unwrap();
    assert!(nudges.has_changed().unwrap(), "the lane goes on");
    assert_eq!(bench.view(held).status, Status::Delivered);
    assert_eq!(bench.lease().await.id, behind);
}

#[tokio::test(start_paused = true)]
async fn a_held_message_that_no_status_settles_is_buried() {
    let Node { bench, retry } = Node::start().await;
    let held = bench.enqueue(message(0)).await;
    let behind = bench.enqueue(message(0)).await;
    retry.failed(bench.lease().await, Failure::ambiguous("the connection broke")).unwrap();
    bench.until(held, Status::Ambiguous).await;
    bench.pass(121 * SECOND).await;
    let view = bench.until(held, Status::DeadLetter).await;
    assert_eq!(view.buried, Some(BuryReason::Ambiguous));
    assert_eq!(bench.lease().await.id, behind);
}

#[tokio::test(start_paused = true)]
async fn the_resend_policy_resends_as_often_as_the_limit_allows() {
    let Node { bench, retry } = Node::start().await;
    let id = bench.enqueue(resend()).await;
    for attempt in 1..=5 {
        let lease = bench.next_lease().await;
        assert_eq!((lease.id, lease.attempt), (id, attempt));
        retry.failed(lease, Failure::ambiguous("the connection broke")).unwrap();
        bench.until(id, Status::Ambiguous).await;
        bench.pass(121 * SECOND).await;
    }
    assert_eq!(bench.until(id, Status::DeadLetter).await.buried, Some(BuryReason::Ambiguous));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_recognised_is_repeated_after_a_crash_and_after_an_unknown_outcome() {
    let bench = Bench::open();
    bench.start().await;
    let id = bench.enqueue(Submission { repeatable: true, ..message(0) }).await;
    bench.lease().await;
    bench.kill_unsupervised().await;
    let Node { bench, retry } = Node::on(bench, 2).await;
    let due = bench.until(id, Status::Queued).await.due.unwrap();
    bench.pass(due.since(bench.clock.now())).await;
    let lease = bench.next_lease().await;
    assert_eq!((lease.id, lease.attempt, lease.repeatable), (id, 2, true));
    let lost = Failure::new(FailureKind::Ambiguous, Scope::Number, "the connection ended");
    retry.failed(lease, lost).unwrap();
    let due = bench.until(id, Status::Queued).await.due.unwrap();
    bench.pass(due.since(bench.clock.now())).await;
    let lease = bench.next_lease().await;
    assert_eq!((lease.attempt, lease.failures), (3, 1), "what ended the connection does not count");
    bench.handle.sent(lease, provider_id("3EB0")).unwrap();
    bench.until(id, Status::Sent).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_is_told_that_nobody_knows_before_the_message_is_repeated() {
    let Node { bench, retry } = Node::start().await;
    let caller = {
        let handle = bench.handle.clone();
        let submission = Submission { repeatable: true, ..urgent(1) };
        tokio::spawn(async move { handle.send_now(submission, 30 * SECOND).await })
    };
    retry.failed(bench.next_lease().await, Failure::ambiguous("no word from WhatsApp")).unwrap();
    let (id, outcome) = caller.await.unwrap().unwrap();
    assert_eq!(outcome, Outcome::Unknown);
    bench.pass(2 * SECOND).await;
    let lease = bench.next_lease().await;
    assert_eq!((lease.id, lease.attempt), (id, 2));
    bench.handle.sent(lease, provider_id("3EB0")).unwrap();
    bench.until(id, Status::Sent).await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_nobody_reports_about_is_ambiguous_and_its_late_answer_counts() {
    let Node { bench, .. } = Node::start().await;
    let id = bench.enqueue(message(0)).await;
    let lease = bench.lease().await;
    bench.pass(89 * SECOND).await;
    assert_eq!(bench.view(id).status, Status::Sending);
    bench.pass(2 * SECOND).await;
    bench.until(id, Status::Ambiguous).await;
    bench.handle.sent(lease, provider_id("wamid.1")).unwrap();
    let view = bench.until(id, Status::Sent).await;
    let steps: Vec<_> = view.history.iter().map(|step| step.status).collect();
    assert_eq!(steps, [Status::Queued, Status::Sending, Status::Ambiguous, Status::Sent]);
}

#[tokio::test(start_paused = true)]
async fn attempts_of_the_previous_run_are_judged_at_once() {
    let bench = Bench::open();
    bench.start().await;
    let id = bench.enqueue(message(0)).await;
    bench.lease().await;
    bench.kill_unsupervised().await;
    let Node { bench, .. } = Node::on(bench, 2).await;
    let view = bench.until(id, Status::Ambiguous).await;
    assert_eq!(view.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_killed_comes_back_and_everything_goes_on() {
    let Node { bench, retry } = Node::start().await;
    let (first, second) = (bench.enqueue(message(0)).await, bench.enqueue(message(0)).await);
    let caller = {
        let handle = bench.handle.clone();
        tokio::spawn(async move { handle.send_now(urgent(1), 30 * SECOND).await })
    };
    let leases = [bench.next_lease().await, bench.next_lease().await];
    for round in 0..3u32 {
        bench.kill().await;
        let refilled = tokio::spawn({
            let handle = bench.handle.clone();
            async move { handle.enqueue(message(10)).await.unwrap() }
        });
        bench.pass(100 * Duration::from_millis(2u64.pow(round))).await;
        refilled.await.unwrap();
    }
    // An attempt was under way when its caller lost the queue: he is told so, and what comes of it is kept.
    let (urgent, outcome) = caller.await.unwrap().unwrap();
    assert_eq!(outcome, Outcome::Unknown);
    let [lease, other] = leases;
    assert_eq!((lease.id, other.id), (first, urgent));
    bench.handle.sent(lease, provider_id("wamid.1")).unwrap();
    retry.failed(other, Failure::transient("no")).unwrap();
    bench.until(first, Status::Sent).await;
    bench.until(urgent, Status::Failed).await;
    let mut found: Vec<_> = bench.handle.lease(ONE, 9, 9).await.unwrap().leases;
    assert_eq!(found.len(), 2);
    assert!(found.iter().any(|lease| lease.id == second));
    assert_eq!(found.remove(0).attempt, 1);
}
