//! Instances that wait for their next message.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt;

use super::fixture::{ONE, TestQueue, message, provider_id, sync_message};
use crate::queue::{Error, IdempotencyKey, LeaseBatch, SendOutcome, Submission};
use relevo_domain::{Class, MessageId, Status};

type LeaseNext<'a> = Pin<Box<dyn Future<Output = Result<LeaseBatch, Error>> + 'a>>;

impl TestQueue {
    /// Waits from now on.
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
    let bench = TestQueue::open();
    bench.start().await;
    let mut nudges = bench.handle.subscribe(ONE, Class::Transactional);
    let next = bench.lease_next();
    let id = bench.enqueue(message(1)).await;
    assert_eq!((leased_ids(next).await, bench.store.commits()), (vec![id], 1));
    assert_eq!(bench.view(id).status, Status::Sending);
    bench.assert_nothing_to_lease().await;
    assert!(!nudges.has_changed().unwrap(), "there was nothing to look for");
    let later = bench.enqueue(message(2)).await;
    // Nobody waited for this one.
    nudges.changed().await.unwrap();
    assert_eq!(bench.lease().await.id, later);
}

#[tokio::test]
async fn send_now_returns_the_outcome_of_a_message_leased_by_lease_next() {
    let bench = TestQueue::open();
    bench.start().await;
    let next = bench.lease_next();
    let sending = bench.handle.send_now(sync_message(1), Duration::from_secs(60));
    let instance = async {
        let lease = next.await.unwrap().leases.remove(0);
        bench.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
    };
    let (sent, ()) = tokio::join!(sending, instance);
    assert_eq!(sent.unwrap().1, SendOutcome::Sent(provider_id("wamid.1")));
}

#[tokio::test]
async fn lease_next_skips_scheduled_bulk_and_blocked_messages() {
    let bench = TestQueue::open();
    bench.start().await;
    let next = bench.lease_next();
    let at = Some(bench.clock.now() + Duration::from_secs(60));
    bench.enqueue(Submission { send_at: at, ..message(1) }).await;
    bench.enqueue(Submission { class: Class::Bulk, ..message(2) }).await;
    let first = bench.enqueue(message(3)).await;
    assert_eq!(leased_ids(next).await, [first]);
    let next = bench.lease_next();
    let mut nudges = bench.handle.subscribe(ONE, Class::Transactional);
    let second = bench.enqueue(message(3)).await;
    assert_eq!(leased_ids(next).await, [], "its recipient's lane is busy");
    nudges.changed().await.unwrap();
    assert_eq!(bench.view(second).status, Status::Queued);
}

#[tokio::test]
async fn lease_next_returns_nothing_for_refused_and_duplicate_submissions() {
    let bench = TestQueue::open();
    bench.start().await;
    let keyed = |body| Submission {
        idempotency: Some(IdempotencyKey { key: [1; 16], body: [body; 16] }),
        ..message(1)
    };
    let next = bench.lease_next();
    let id = bench.enqueue(keyed(1)).await;
    assert_eq!(leased_ids(next).await, [id]);
    let next = bench.lease_next();
    assert_eq!(bench.enqueue(keyed(1)).await, id);
    assert_eq!(leased_ids(next).await, []);
    let next = bench.lease_next();
    assert!(matches!(bench.handle.enqueue(keyed(2)).await, Err(Error::KeyReused)));
    assert_eq!(leased_ids(next).await, []);
}

#[tokio::test]
async fn lease_next_serves_only_the_last_waiter() {
    let bench = TestQueue::open();
    bench.start().await;
    let (first, second) = (bench.lease_next(), bench.lease_next());
    assert_eq!(leased_ids(first).await, []);
    let id = bench.enqueue(message(1)).await;
    assert_eq!(leased_ids(second).await, [id]);
    let third = bench.lease_next();
    bench.handle.cancel_lease_next(ONE).unwrap();
    assert_eq!(leased_ids(third).await, []);
    let at_once = bench.handle.lease_next(ONE);
    bench.handle.cancel_lease_next(ONE).unwrap();
    assert!(at_once.await.unwrap().leases.is_empty());
    drop(bench.lease_next());
    let gone = bench.enqueue(message(2)).await;
    assert_eq!(bench.next_lease().await.id, gone, "who is gone has begun nothing");
}
