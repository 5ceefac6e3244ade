//! Tests of instances that wait for their next message.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt;

use super::fixture::{ONE, TestQueue, message, provider_id, sync_message};
use crate::queue::{Error, IdempotencyKey, LeaseBatch, SendOutcome, Submission};
use relevo_domain::{Class, MessageId, Status};

type LeaseNext<'a> = Pin<Box<dyn Future<Output = Result<LeaseBatch, Error>> + 'a>>;

impl TestQueue {
    /// Starts to wait.
    fn lease_next(&self) -> LeaseNext<'_> {
        let mut next: LeaseNext<'_> = Box::pin(self.handle.lease_next(ONE));
        assert!((&mut next).now_or_never().is_none());
        next
    }
}

async fn leased_ids(next: LeaseNext<'_>) -> Vec<MessageId> {
    next.await.unwrap().leases.iter().map(|lease| lease.id).collect()
}

#[tokio::test]
async fn lease_next_leases_in_the_commit_that_accepts_the_message() {
    let queue = TestQueue::open();
    queue.start().await;
    let mut work = queue.handle.subscribe(ONE, Class::Transactional);
    let next = queue.lease_next();
    let id = queue.enqueue(message(1)).await;
    assert_eq!((leased_ids(next).await, queue.store.commits()), (vec![id], 1));
    assert_eq!(queue.view(id).status, Status::Sending);
    queue.assert_nothing_to_lease().await;
    assert!(!work.has_changed().unwrap(), "a leased message needs no notification");
    let later = queue.enqueue(message(2)).await;
    // No instance waited for this one.
    work.changed().await.unwrap();
    assert_eq!(queue.lease().await.id, later);
}

#[tokio::test]
async fn send_now_returns_the_outcome_of_a_message_leased_by_lease_next() {
    let queue = TestQueue::open();
    queue.start().await;
    let next = queue.lease_next();
    let sending = queue.handle.send_now(sync_message(1), Duration::from_secs(60));
    let instance = async {
        let lease = next.await.unwrap().leases.remove(0);
        queue.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
    };
    let (sent, ()) = tokio::join!(sending, instance);
    assert_eq!(sent.unwrap().1, SendOutcome::Sent(provider_id("wamid.1")));
}

#[tokio::test]
async fn lease_next_skips_scheduled_bulk_and_blocked_messages() {
    let queue = TestQueue::open();
    queue.start().await;
    let next = queue.lease_next();
    let at = Some(queue.clock.now() + Duration::from_secs(60));
    queue.enqueue(Submission { send_at: at, ..message(1) }).await;
    queue.enqueue(Submission { class: Class::Bulk, ..message(2) }).await;
    let first = queue.enqueue(message(3)).await;
    assert_eq!(leased_ids(next).await, [first]);
    let next = queue.lease_next();
    let mut work = queue.handle.subscribe(ONE, Class::Transactional);
    let second = queue.enqueue(message(3)).await;
    assert_eq!(leased_ids(next).await, [], "the lane of its recipient is busy");
    work.changed().await.unwrap();
    assert_eq!(queue.view(second).status, Status::Queued);
}

#[tokio::test]
async fn lease_next_returns_nothing_for_refused_and_duplicate_submissions() {
    let queue = TestQueue::open();
    queue.start().await;
    let keyed = |body| Submission {
        idempotency: Some(IdempotencyKey { key: [1; 16], body: [body; 16] }),
        ..message(1)
    };
    let next = queue.lease_next();
    let id = queue.enqueue(keyed(1)).await;
    assert_eq!(leased_ids(next).await, [id]);
    let next = queue.lease_next();
    assert_eq!(queue.enqueue(keyed(1)).await, id);
    assert_eq!(leased_ids(next).await, []);
    let next = queue.lease_next();
    assert!(matches!(queue.handle.enqueue(keyed(2)).await, Err(Error::KeyReused)));
    assert_eq!(leased_ids(next).await, []);
}

#[tokio::test]
async fn lease_next_serves_only_the_last_waiter() {
    let queue = TestQueue::open();
    queue.start().await;
    let (first, second) = (queue.lease_next(), queue.lease_next());
    assert_eq!(leased_ids(first).await, []);
    let id = queue.enqueue(message(1)).await;
    assert_eq!(leased_ids(second).await, [id]);
    let third = queue.lease_next();
    queue.handle.cancel_lease_next(ONE).unwrap();
    assert_eq!(leased_ids(third).await, []);
    let cancelled = queue.handle.lease_next(ONE);
    queue.handle.cancel_lease_next(ONE).unwrap();
    assert!(cancelled.await.unwrap().leases.is_empty());
    drop(queue.lease_next());
    let id = queue.enqueue(message(2)).await;
    assert_eq!(queue.next_lease().await.id, id, "a dropped waiter returns its lease");
}
