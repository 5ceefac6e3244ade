//! Tests of the actor through its handle, on a real store.

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
    let queue = TestQueue::open();
    queue.start().await;
    Arc::new(queue)
}

/// Starts a synchronous send in a task.
fn spawn_caller(
    queue: &TestQueue,
    submission: Submission,
    wait: Duration,
) -> tokio::task::JoinHandle<Result<(relevo_domain::MessageId, SendOutcome), Error>> {
    let handle = queue.handle.clone();
    tokio::spawn(async move { handle.send_now(submission, wait).await })
}

#[tokio::test]
async fn concurrent_enqueues_share_commits() {
    let queue = started_queue().await;
    let before = queue.store.commits();
    let mut callers = JoinSet::new();
    for recipient in 0..2_000 {
        let handle = queue.handle.clone();
        callers.spawn(async move { handle.enqueue(message(recipient)).await.unwrap().id() });
    }
    let ids: HashSet<_> = callers.join_all().await.into_iter().collect();
    assert_eq!(ids.len(), 2_000);
    assert_eq!(queue.handle.depth(ONE).unwrap(), Depth { transactional: 2_000, bulk: 0 });
    let commits = queue.store.commits() - before;
    assert!(commits < 100, "{commits} commits");
}

#[tokio::test(start_paused = true)]
async fn idempotency_key_accepts_one_request() {
    let queue = started_queue().await;
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let handle = queue.handle.clone();
        callers.spawn(async move { handle.enqueue(with_key(message(0), 1)).await.unwrap() });
    }
    let acceptances = callers.join_all().await;
    let new: Vec<_> =
        acceptances.iter().filter(|acceptance| matches!(acceptance, Acceptance::New(_))).collect();
    assert_eq!(new.len(), 1);
    assert!(acceptances.iter().all(|acceptance| acceptance.id() == new[0].id()));
    let other = queue.handle.enqueue(with_key(message(0), 2)).await;
    assert!(matches!(other, Err(Error::KeyReused)), "{other:?}");
    queue.advance_time(queue.options.idempotency_ttl).await;
    let later = queue.handle.enqueue(with_key(message(0), 2)).await.unwrap();
    assert!(matches!(later, Acceptance::New(_)), "the key has expired");
    queue.handle.run_retention(None).await.unwrap();
    let repeat = queue.handle.enqueue(with_key(message(0), 2)).await.unwrap();
    assert_eq!(repeat, Acceptance::Duplicate(later.id()), "the key is used again");
}

#[tokio::test(start_paused = true)]
async fn full_queue_refuses_until_a_message_ends() {
    let mut queue = TestQueue::open();
    queue.options = Options { capacity: 2, ..Options::default() };
    queue.start().await;
    let first = queue.enqueue(message(0)).await;
    queue.enqueue(with_key(message(1), 1)).await;
    let third = queue.handle.enqueue(message(2)).await;
    assert!(matches!(third, Err(Error::Full { capacity: 2 })), "{third:?}");
    let known = queue.handle.enqueue(with_key(message(1), 1)).await.unwrap();
    assert!(
        matches!(known, Acceptance::Duplicate(_)),
        "a repeated request is answered although the queue is full"
    );
    assert!(queue.handle.withdraw(first).await.unwrap());
    queue.enqueue(message(2)).await;
}

#[tokio::test(start_paused = true)]
async fn send_now_returns_the_outcome_of_the_attempt() {
    let queue = started_queue().await;
    let failure = Failure::transient("no").with_code(131_000);
    let sending = spawn_caller(&queue, sync_message(0), WAIT);
    let lease = queue.next_lease().await;
    assert_eq!(queue.view(lease.id).status, Status::Sending);
    queue.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
    assert_eq!(sending.await.unwrap().unwrap().1, SendOutcome::Sent(provider_id("wamid.1")));

    let failing = spawn_caller(&queue, with_key(sync_message(0), 1), WAIT);
    let lease = queue.next_lease().await;
    queue.handle.apply_decision(lease, RetryDecision::Fail, failure.clone()).unwrap();
    let (refused, outcome) = failing.await.unwrap().unwrap();
    assert_eq!(outcome, SendOutcome::Failed(failure.clone()));

    // A failure deletes the key.
    let again = spawn_caller(&queue, with_key(sync_message(0), 1), WAIT);
    let lease = queue.next_lease().await;
    assert_ne!(lease.id, refused);
    queue.handle.apply_decision(lease, RetryDecision::Hold { wait: WAIT }, failure).unwrap();
    assert_eq!(again.await.unwrap().unwrap().1, SendOutcome::Unknown);
}

#[tokio::test(start_paused = true)]
async fn send_now_withdraws_the_message_on_timeout_before_the_attempt() {
    let queue = started_queue().await;
    let mut work = queue.handle.subscribe(ONE, Class::Transactional);
    let waiting = spawn_caller(&queue, sync_message(0), WAIT);
    work.changed().await.unwrap();
    // After the reply to a later request, the caller has its id.
    queue.enqueue(message(9)).await;
    queue.advance_time(WAIT).await;
    let (id, outcome) = waiting.await.unwrap().unwrap();
    assert_eq!(outcome, SendOutcome::Cancelled);
    assert_eq!(queue.view(id).status, Status::Cancelled);
    assert_ne!(queue.lease().await.id, id);
}

#[tokio::test(start_paused = true)]
async fn send_now_returns_unknown_on_timeout_during_the_attempt() {
    let queue = started_queue().await;
    let waiting = spawn_caller(&queue, sync_message(0), WAIT);
    let lease = queue.next_lease().await;
    queue.enqueue(message(9)).await;
    queue.advance_time(WAIT).await;
    let (id, outcome) = waiting.await.unwrap().unwrap();
    assert_eq!((id, outcome), (lease.id, SendOutcome::Unknown));
    queue.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
    queue.wait_for_status(id, Status::Sent).await;
}

#[tokio::test(start_paused = true)]
async fn message_of_a_disconnected_caller_expires() {
    let queue = started_queue().await;
    let mut work = queue.handle.subscribe(ONE, Class::Transactional);
    let waiting = spawn_caller(&queue, with_key(sync_message(0), 1), WAIT);
    work.changed().await.unwrap();
    waiting.abort();
    queue.advance_time(WAIT).await;
    queue.assert_nothing_to_lease().await;
    // The key can be used again by the caller's next request.
    let id = queue.enqueue(with_key(message(0), 1)).await;
    assert_eq!(queue.lease().await.id, id);
}

#[tokio::test(start_paused = true)]
async fn send_now_returns_cancelled_when_the_message_expires() {
    let queue = started_queue().await;
    let mut work = queue.handle.subscribe(ONE, Class::Transactional);
    let expires_at = Some(queue.clock.now() + Duration::from_secs(2));
    let waiting = spawn_caller(&queue, Submission { expires_at, ..sync_message(0) }, WAIT);
    work.changed().await.unwrap();
    queue.advance_time(Duration::from_secs(2)).await;
    queue.assert_nothing_to_lease().await;
    let (id, outcome) = waiting.await.unwrap().unwrap();
    assert_eq!((outcome, queue.view(id).status), (SendOutcome::Cancelled, Status::Expired));
}

#[tokio::test(start_paused = true)]
async fn repeated_send_now_waits_for_the_first_and_withdraws_nothing() {
    let queue = started_queue().await;
    let first = spawn_caller(&queue, with_key(sync_message(0), 1), WAIT);
    let impatient = spawn_caller(&queue, with_key(sync_message(0), 1), Duration::from_secs(1));
    let other = spawn_caller(&queue, with_key(sync_message(1), 2), WAIT);
    assert!(matches!(other.await.unwrap(), Err(Error::KeyReused)));
    queue.advance_time(Duration::from_secs(1)).await;
    let (id, outcome) = impatient.await.unwrap().unwrap();
    assert_eq!(outcome, SendOutcome::Unknown);
    let lease = queue.lease().await;
    assert_eq!(lease.id, id);
    let second = spawn_caller(&queue, with_key(sync_message(0), 1), WAIT);
    queue.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
    for waiting in [first, second] {
        assert_eq!(waiting.await.unwrap().unwrap().1, SendOutcome::Sent(provider_id("wamid.1")));
    }
    let late = queue.handle.send_now(with_key(sync_message(0), 1), WAIT).await.unwrap();
    assert_eq!(late.1, SendOutcome::Sent(provider_id("wamid.1")));
}

#[tokio::test(start_paused = true)]
async fn send_now_withdraws_the_message_after_the_queue_actor_restarts() {
    let queue = started_queue().await;
    let mut work = queue.handle.subscribe(ONE, Class::Transactional);
    let waiting = spawn_caller(&queue, sync_message(0), WAIT);
    work.changed().await.unwrap();
    queue.enqueue(message(9)).await;
    queue.slot.get().unwrap().kill();
    queue.start().await;
    let (id, outcome) = waiting.await.unwrap().unwrap();
    assert_eq!(outcome, SendOutcome::Cancelled);
    assert_ne!(queue.lease().await.id, id);
}

#[tokio::test(start_paused = true)]
async fn undelivered_leases_are_granted_again() {
    let queue = started_queue().await;
    let id = queue.enqueue(message(0)).await;
    let (dropped, _) = ractor::concurrency::oneshot();
    queue
        .slot
        .cast(Msg::Lease {
            instance: ONE,
            max: 5,
            max_bulk: 5,
            priority: Priority::Normal,
            reply: dropped.into(),
        })
        .unwrap();
    let lease = queue.next_lease().await;
    assert_eq!((lease.id, lease.attempt), (id, 1));
}

#[tokio::test(start_paused = true)]
async fn receipt_is_matched_by_either_id_and_advances_the_message() {
    let queue = started_queue().await;
    let id = queue.enqueue(message(0)).await;
    let report = |id, receipt| ReceiptReport {
        instance: ONE,
        id,
        provider_id: provider_id("wamid.1"),
        receipt,
        at: queue.clock.now(),
        failure: None,
    };
    let early = queue.handle.record_receipts(vec![report(None, Receipt::Delivered)]).await.unwrap();
    assert_eq!(early, [ReceiptResult::Unknown]);
    let lease = queue.lease().await;
    let reports = vec![
        report(Some(id), Receipt::Sent),
        report(None, Receipt::Read),
        report(None, Receipt::Delivered),
        report(Some(id), Receipt::Failed),
    ];
    let recorded = queue.handle.record_receipts(reports).await.unwrap();
    let (advanced, unchanged) = (ReceiptResult::Advanced(id), ReceiptResult::Unchanged(id));
    assert_eq!(recorded, [advanced, advanced, unchanged, unchanged]);
    // The result of the attempt arrives later and changes nothing.
    queue.handle.apply_decision(lease, RetryDecision::Fail, Failure::permanent("late")).unwrap();
    queue.assert_nothing_to_lease().await;
    let view = queue.handle.find(ONE, &MessageRef::Provider(provider_id("wamid.1"))).unwrap();
    assert_eq!((view.id, view.status, view.failure), (id, Status::Read, None));
    let steps: Vec<_> = view.history.iter().map(|step| step.status).collect();
    assert_eq!(steps, [Status::Queued, Status::Sending, Status::Sent, Status::Read]);
}

#[tokio::test(start_paused = true)]
async fn large_body_is_sent_and_deleted() {
    let queue = started_queue().await;
    let mut long = message(0);
    long.message.content = Content::Text { body: "x".repeat(200_000), preview_url: false };
    let expected = long.message.clone();
    let id = queue.enqueue(long).await;
    let lease = queue.lease().await;
    assert_eq!(lease.message, expected);
    queue.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
    queue.wait_for_status(id, Status::Sent).await;
    let parts = relevo_store::Key::new(relevo_store::Space::Part);
    assert_eq!(queue.store.range(&parts, &parts.clone().after_prefix()).count(), 0);
}

#[tokio::test(start_paused = true)]
async fn purge_keeps_only_the_ledger() {
    let queue = started_queue().await;
    let sent = queue.enqueue(message(0)).await;
    let lease = queue.lease().await;
    queue.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
    queue.wait_for_status(sent, Status::Sent).await;
    for recipient in 0..700 {
        queue.enqueue(message(recipient % 3)).await;
    }
    queue.handle.lease(ONE, 5, 5).await.unwrap();
    queue.handle.purge(ONE).await.unwrap();
    assert_eq!(queue.handle.depth(ONE).unwrap(), Depth::default());
    queue.assert_nothing_to_lease().await;
    assert_eq!(queue.view(sent).status, Status::Sent);
}
