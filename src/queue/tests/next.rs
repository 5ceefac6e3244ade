//! Instances that wait for their next message.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt;

use super::bench::{Bench, ONE, message, provider_id, urgent};
use crate::queue::{Error, IdempotencyKey, Leased, Outcome, Submission};
use relevo_domain::{Class, MessageId, Status};

type Next<'a> = Pin<Box<dyn Future<Output = Result<Leased, Error>> + 'a>>;

impl Bench {
    /// Waits from now on.
    fn lease_next(&self) -> Next<'_> {
        let mut next: Next<'_> = Box::pin(self.handle.lease_next(ONE));
        assert!((&mut next).now_or_never().is_none());
        next
    }
}

async fn given(next: Next<'_>) -> Vec<MessageId> {
    next.await.unwrap().leases.iter().map(|lease| lease.id).collect()
}

#[tokio::test]
async fn what_is_waited_for_is_leased_by_the_commit_that_takes_it_in() {
    let bench = Bench::open();
    bench.start().await;
    let mut nudges = bench.handle.subscribe(ONE, Class::Transactional);
    let next = bench.lease_next();
    let id = bench.enqueue(message(1)).await;
    assert_eq!((given(next).await, bench.store.commits()), (vec![id], 1));
    assert_eq!(bench.view(id).status, Status::Sending);
    bench.nothing_to_lease().await;
    assert!(!nudges.has_changed().unwrap(), "there was nothing to look for");
    let later = bench.enqueue(message(2)).await;
    // Nobody waited for this one.
    nudges.changed().await.unwrap();
    assert_eq!(bench.lease().await.id, later);
}

#[tokio::test]
async fn whoever_waits_for_the_end_of_a_message_is_told() {
    let bench = Bench::open();
    bench.start().await;
    let next = bench.lease_next();
    let sending = bench.handle.send_now(urgent(1), Duration::from_secs(60));
    let instance = async {
        let lease = next.await.unwrap().leases.remove(0);
        bench.handle.sent(lease, provider_id("wamid.1")).unwrap();
    };
    let (sent, ()) = tokio::join!(sending, instance);
    assert_eq!(sent.unwrap().1, Outcome::Sent(provider_id("wamid.1")));
}

#[tokio::test]
async fn nobody_is_given_what_must_not_go_yet() {
    let bench = Bench::open();
    bench.start().await;
    let next = bench.lease_next();
    let at = Some(bench.clock.now() + Duration::from_secs(60));
    bench.enqueue(Submission { send_at: at, ..message(1) }).await;
    bench.enqueue(Submission { class: Class::Bulk, ..message(2) }).await;
    let first = bench.enqueue(message(3)).await;
    assert_eq!(given(next).await, [first]);
    let next = bench.lease_next();
    let mut nudges = bench.handle.subscribe(ONE, Class::Transactional);
    let second = bench.enqueue(message(3)).await;
    assert_eq!(given(next).await, [], "its recipient's lane is busy");
    nudges.changed().await.unwrap();
    assert_eq!(bench.view(second).status, Status::Queued);
}

#[tokio::test]
async fn what_is_not_taken_in_is_not_given() {
    let bench = Bench::open();
    bench.start().await;
    let keyed = |body| Submission {
        idempotency: Some(IdempotencyKey { key: [1; 16], body: [body; 16] }),
        ..message(1)
    };
    let next = bench.lease_next();
    let id = bench.enqueue(keyed(1)).await;
    assert_eq!(given(next).await, [id]);
    let next = bench.lease_next();
    assert_eq!(bench.enqueue(keyed(1)).await, id);
    assert_eq!(given(next).await, []);
    let next = bench.lease_next();
    assert!(matches!(bench.handle.enqueue(keyed(2)).await, Err(Error::KeyReused)));
    assert_eq!(given(next).await, []);
}

#[tokio::test]
async fn only_who_waits_is_given_anything_and_of_several_the_last() {
    let bench = Bench::open();
    bench.start().await;
    let (first, second) = (bench.lease_next(), bench.lease_next());
    assert_eq!(given(first).await, []);
    let id = bench.enqueue(message(1)).await;
    assert_eq!(given(second).await, [id]);
    let third = bench.lease_next();
    bench.handle.lease_no_next(ONE).unwrap();
    assert_eq!(given(third).await, []);
    let at_once = bench.handle.lease_next(ONE);
    bench.handle.lease_no_next(ONE).unwrap();
    assert!(at_once.await.unwrap().leases.is_empty());
    drop(bench.lease_next());
    let gone = bench.enqueue(message(2)).await;
    assert_eq!(bench.next_lease().await.id, gone, "who is gone has begun nothing");
}
