//! The queue's actor through its handle, on a real store.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::queue::tests::fixture::{ONE, TestQueue, message, provider_id, sync_message};
use crate::queue::{
    Acceptance, Depth, Error, IdempotencyKey, Msg, Options, ReceiptReport, ReceiptResult, SendOutcome,
    Submission,
};
use relevo_domain::{Class, Content, Failure, MessageRef, Receipt, RetryDecision, Status};
use relevo_store::Priority;

const WAIT: Duration = Duration::from_secs(30);

fn with_key(submission: Submission, body: u8) -> Submission {
    Submission { idempotency: Some(IdempotencyKey { key: [7; 16], body: [body; 16] }), ..submission }
}

async fn started_queue() -> Arc<TestQueue> {
    let bench = TestQueue::open();
    bench.start().await;
    Arc::new(bench)
}

/// A caller who sends synchronously, at work.
fn spawn_caller(
    bench: &TestQueue,
    submission: Submission,
    wait: Duration,
) -> tokio::task::JoinHandle<Result<(relevo_domain::MessageId, SendOutcome), Error>> {
    let handle = bench.handle.clone();
    tokio::spawn(async move { handle.send_now(submission, wait).await })
}

#[tokio::test]
async fn concurrent_enqueues_share_commits() {
    let bench = started_queue().await;
    let before = bench.store.commits();
    let mut callers = JoinSet::new();
    for recipient in 0..2_000 {
        let handle = bench.handle.clone();
        callers.spawn(async move { handle.enqueue(message(recipient)).await.unwrap().id() });
    }
    let ids: HashSet<_> = callers.join_all().await.into_iter().collect();
    assert_eq!(ids.len(), 2_000);
    assert_eq!(bench.handle.depth(ONE).unwrap(), Depth { transactional: 2_000, bulk: 0 });
    let commits = bench.store.commits() - before;
    assert!(commits < 100, "{commits} commits");
}

#[tokio::test(start_paused = true)]
async fn idempotency_key_accepts_one_request() {
    let bench = started_queue().await;
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let handle = bench.handle.clone();
        callers.spawn(async move { handle.enqueue(with_key(message(0), 1)).await.unwrap() });
    }
    let answers = callers.join_all().await;
    let new: Vec<_> = answers.iter().filter(|answer| matches!(answer, Acceptance::New(_))).collect();
    assert_eq!(new.len(), 1);
    assert!(answers.iter().all(|answer| answer.id() == new[0].id()));
    let other = bench.handle.enqueue(with_key(message(0), 2)).await;
    assert!(matches!(other, Err(Error::KeyReused)), "{other:?}");
    bench.advance_time(bench.options.idempotency_ttl).await;
    let later = bench.handle.enqueue(with_key(message(0), 2)).await.unwrap();
    assert!(matches!(later, Acceptance::New(_)), "keys end");
    bench.handle.run_retention(None).await.unwrap();
    let repeat = bench.handle.enqueue(with_key(message(0), 2)).await.unwrap();
    assert_eq!(repeat, Acceptance::Duplicate(later.id()), "and begin anew");
}

#[tokio::test(start_paused = true)]
async fn full_queue_refuses_until_a_message_ends() {
    let mut bench = TestQueue::open();
    bench.options = Options { capacity: 2, ..Options::default() };
    bench.start().await;
    let first = bench.enqueue(message(0)).await;
    bench.enqueue(with_key(message(1), 1)).await;
    let third = bench.handle.enqueue(message(2)).await;
    assert!(matches!(third, Err(Error::Full { capacity: 2 })), "{third:?}");
    let known = bench.handle.enqueue(with_key(message(1), 1)).await.unwrap();
    assert!(matches!(known, Acceptance::Duplicate(_)), "what was accepted is answered even then");
    assert!(bench.handle.withdraw(first).await.unwrap());
    bench.enqueue(message(2)).await;
}

#[tokio::test(start_paused = true)]
async fn send_now_returns_the_outcome_of_the_attempt() {
    let bench = started_queue().await;
    let failure = Failure::transient("no").with_code(131_000);
    let sending = spawn_caller(&bench, sync_message(0), WAIT);
    let lease = bench.next_lease().await;
    assert_eq!(bench.view(lease.id).status, Status::Sending);
    bench.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
    assert_eq!(sending.await.unwrap().unwrap().1, SendOutcome::Sent(provider_id("wamid.1")));

    let failing = spawn_caller(&bench, with_key(sync_message(0), 1), WAIT);
    let lease = bench.next_lease().await;
    bench.handle.apply_decision(lease, RetryDecision::Fail, failure.clone()).unwrap();
    let (refused, outcome) = failing.await.unwrap().unwrap();
    assert_eq!(outcome, SendOutcome::Failed(failure.clone()));

    // A refusal is not stored under the key.
    let again = spawn_caller(&bench, with_key(sync_message(0), 1), WAIT);
    let lease = bench.next_lease().await;
    assert_ne!(lease.id, refused);
    bench.handle.apply_decision(lease, RetryDecision::Hold { wait: WAIT }, failure).unwrap();
    assert_eq!(again.await.unwrap().unwrap().1, SendOutcome::Unknown);
}

#[tokio::test(start_paused = true)]
async fn send_now_withdraws_the_message_on_timeout_before_the_attempt() {
    let bench = started_queue().await;
    let mut nudges = bench.handle.subscribe(ONE, Class::Transactional);
    let waiting = spawn_caller(&bench, sync_message(0), WAIT);
    nudges.changed().await.unwrap();
    // The caller has its id once another one behind it was answered.
    bench.enqueue(message(9)).await;
    bench.advance_time(WAIT).await;
    let (id, outcome) = waiting.await.unwrap().unwrap();
    assert_eq!(outcome, SendOutcome::Cancelled);
    assert_eq!(bench.view(id).status, Status::Cancelled);
    assert_ne!(bench.lease().await.id, id);
}

#[tokio::test(start_paused = true)]
async fn send_now_returns_unknown_on_timeout_during_the_attempt() {
    let bench = started_queue().await;
    let waiting = spawn_caller(&bench, sync_message(0), WAIT);
    let lease = bench.next_lease().await;
    bench.enqueue(message(9)).await;
    bench.advance_time(WAIT).await;
    let (id, outcome) = waiting.await.unwrap().unwrap();
    assert_eq!((id, outcome), (lease.id, SendOutcome::Unknown));
    bench.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
    bench.wait_for_status(id, Status::Sent).await;
}

#[tokio::test(start_paused = true)]
async fn message_of_a_disconnected_caller_expires() {
    let bench = started_queue().await;
    let mut nudges = bench.handle.subscribe(ONE, Class::Transactional);
    let waiting = spawn_caller(&bench, with_key(sync_message(0), 1), WAIT);
    nudges.changed().await.unwrap();
    waiting.abort();
    bench.advance_time(WAIT).await;
    bench.assert_nothing_to_lease().await;
    // The key is free again for the caller's next try.
    let id = bench.enqueue(with_key(message(0), 1)).await;
    assert_eq!(bench.lease().await.id, id);
}

#[tokio::test(start_paused = true)]
async fn send_now_returns_cancelled_when_the_message_expires() {
    let bench = started_queue().await;
    let mut nudges = bench.handle.subscribe(ONE, Class::Transactional);
    let expires_at = Some(bench.clock.now() + Duration::from_secs(2));
    let waiting = spawn_caller(&bench, Submission { expires_at, ..sync_message(0) }, WAIT);
    nudges.changed().await.unwrap();
    bench.advance_time(Duration::from_secs(2)).await;
    bench.assert_nothing_to_lease().await;
    let (id, outcome) = waiting.await.unwrap().unwrap();
    assert_eq!((outcome, bench.view(id).status), (SendOutcome::Cancelled, Status::Expired));
}

#[tokio::test(start_paused = true)]
async fn repeated_send_now_waits_for_the_first_and_withdraws_nothing() {
    let bench = started_queue().await;
    let first = spawn_caller(&bench, with_key(sync_message(0), 1), WAIT);
    let hasty = spawn_caller(&bench, with_key(sync_message(0), 1), Duration::from_secs(1));
    let other = spawn_caller(&bench, with_key(sync_message(1), 2), WAIT);
    assert!(matches!(other.await.unwrap(), Err(Error::KeyReused)));
    bench.advance_time(Duration::from_secs(1)).await;
    let (id, outcome) = hasty.await.unwrap().unwrap();
    assert_eq!(outcome, SendOutcome::Unknown);
    let lease = bench.lease().await;
    assert_eq!(lease.id, id);
    let second = spawn_caller(&bench, with_key(sync_message(0), 1), WAIT);
    bench.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
    for waiting in [first, second] {
        assert_eq!(waiting.await.unwrap().unwrap().1, SendOutcome::Sent(provider_id("wamid.1")));
    }
    let late = bench.handle.send_now(with_key(sync_message(0), 1), WAIT).await.unwrap();
    assert_eq!(late.1, SendOutcome::Sent(provider_id("wamid.1")));
}

#[tokio::test(start_paused = true)]
async fn send_now_withdraws_the_message_after_the_queue_actor_restarts() {
    let bench = started_queue().await;
    let mut nudges = bench.handle.subscribe(ONE, Class::Transactional);
    let waiting = spawn_caller(&bench, sync_message(0), WAIT);
    nudges.changed().await.unwrap();
    bench.enqueue(message(9)).await;
    bench.slot.get().unwrap().kill();
    bench.start().await;
    let (id, outcome) = waiting.await.unwrap().unwrap();
    assert_eq!(outcome, SendOutcome::Cancelled);
    assert_ne!(bench.lease().await.id, id);
}

#[tokio::test(start_paused = true)]
async fn undelivered_leases_are_granted_again() {
    let bench = started_queue().await;
    let id = bench.enqueue(message(0)).await;
    let (gone, _) = ractor::concurrency::oneshot();
    bench
        .slot
        .cast(Msg::Lease { instance: ONE, max: 5, max_bulk: 5, haste: Priority::Normal, reply: gone.into() })
        .unwrap();
    let lease = bench.next_lease().await;
    assert_eq!((lease.id, lease.attempt), (id, 1));
}

#[tokio::test(start_paused = true)]
async fn receipt_is_matched_by_either_id_and_advances_the_message() {
    let bench = started_queue().await;
    let id = bench.enqueue(message(0)).await;
    let report = |ours, receipt| ReceiptReport {
        instance: ONE,
        id: ours,
        provider_id: provider_id("wamid.1"),
        receipt,
        at: bench.clock.now(),
        failure: None,
    };
    let early = bench.handle.record_receipts(vec![report(None, Receipt::Delivered)]).await.unwrap();
    assert_eq!(early, [ReceiptResult::Unknown]);
    let lease = bench.lease().await;
    let reports = vec![
        report(Some(id), Receipt::Sent),
        report(None, Receipt::Read),
        report(None, Receipt::Delivered),
        report(Some(id), Receipt::Failed),
    ];
    let recorded = bench.handle.record_receipts(reports).await.unwrap();
    let (moved, unchanged) = (ReceiptResult::Advanced(id), ReceiptResult::Unchanged(id));
    assert_eq!(recorded, [moved, moved, unchanged, unchanged]);
    // The attempt's own answer comes late and changes nothing.
    bench.handle.apply_decision(lease, RetryDecision::Fail, Failure::permanent("late")).unwrap();
    bench.assert_nothing_to_lease().await;
    let view = bench.handle.find(ONE, &MessageRef::Provider(provider_id("wamid.1"))).unwrap();
    assert_eq!((view.id, view.status, view.failure), (id, Status::Read, None));
    let steps: Vec<_> = view.history.iter().map(|step| step.status).collect();
    assert_eq!(steps, [Status::Queued, Status::Sending, Status::Sent, Status::Read]);
}

#[tokio::test(start_paused = true)]
async fn large_body_is_sent_and_deleted() {
    let bench = started_queue().await;
    let mut long = message(0);
    long.message.content = Content::Text { body: "x".repeat(200_000), preview_url: false };
    let expected = long.message.clone();
    let id = bench.enqueue(long).await;
    let lease = bench.lease().await;
    assert_eq!(lease.message, expected);
    bench.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
    bench.wait_for_status(id, Status::Sent).await;
    let parts = relevo_store::Key::new(relevo_store::Space::Part);
    assert_eq!(bench.store.range(&parts, &parts.clone().after_prefix()).count(), 0);
}

#[tokio::test(start_paused = true)]
async fn purge_keeps_only_the_ledger() {
    let bench = started_queue().await;
    let sent = bench.enqueue(message(0)).await;
    let lease = bench.lease().await;
    bench.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
    bench.wait_for_status(sent, Status::Sent).await;
    for recipient in 0..700 {
        bench.enqueue(message(recipient % 3)).await;
    }
    bench.handle.lease(ONE, 5, 5).await.unwrap();
    bench.handle.purge(ONE).await.unwrap();
    assert_eq!(bench.handle.depth(ONE).unwrap(), Depth::default());
    bench.assert_nothing_to_lease().await;
    assert_eq!(bench.view(sent).status, Status::Sent);
}
