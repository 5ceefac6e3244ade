//! Due times after the wall clock was set, over a restart of the actor.

use std::time::Duration;

use crate::queue::tests::fixture::{ONE, TestQueue, message, provider_id};
use relevo_clock::Clock;
use relevo_domain::{Failure, MessageId, Overdue, RetryDecision, Status, Timestamp};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const STEPS: [Duration; 3] = [HOUR, DAY, Duration::from_secs(30 * 24 * 3600)];

/// Restarts the actor with a wall clock that shows `wall`.
async fn restart_at(queue: &mut TestQueue, wall: Timestamp) {
    queue.kill_unsupervised().await;
    queue.clock = Clock::from_tokio(wall);
    queue.start().await;
    // One no-op request for each page of due times: when it completes, the page before it is committed.
    for _ in 0..8 {
        queue.handle.withdraw_items(Vec::new()).await.unwrap();
    }
}

async fn fail(queue: &TestQueue, decision: RetryDecision) -> MessageId {
    let lease = queue.lease().await;
    let id = lease.id;
    queue.handle.apply_decision(lease, decision, Failure::transient("x")).unwrap();
    // A no-op request: when it completes, the decision is applied.
    queue.handle.withdraw_items(Vec::new()).await.unwrap();
    id
}

#[tokio::test(start_paused = true)]
async fn clock_that_goes_back_delays_no_retry() {
    for by in STEPS {
        let mut queue = TestQueue::open();
        queue.start().await;
        let start = queue.clock.now();
        queue.enqueue(message(1)).await;
        let retried = fail(&queue, RetryDecision::Retry { after: 60 * SECOND, counted: true }).await;
        restart_at(&mut queue, start - by).await;
        queue.advance_time(59 * SECOND).await;
        queue.assert_nothing_to_lease().await;
        queue.advance_time(2 * SECOND).await;
        let lease = queue.lease().await;
        assert_eq!((lease.id, lease.failures), (retried, 1), "{by:?}");
        queue.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
        // Later messages of the recipient are not delayed either.
        let next = queue.enqueue(message(1)).await;
        assert_eq!(queue.next_lease().await.id, next);
    }
}

#[tokio::test(start_paused = true)]
async fn clock_that_goes_back_delays_no_deferred_message_and_no_hold() {
    for by in STEPS {
        let mut queue = TestQueue::open();
        queue.start().await;
        let start = queue.clock.now();
        queue.enqueue(message(1)).await;
        let deferred = fail(&queue, RetryDecision::Defer { after: 2 * HOUR }).await;
        queue.enqueue(message(2)).await;
        let held = fail(&queue, RetryDecision::Hold { wait: 120 * SECOND }).await;
        restart_at(&mut queue, start - by).await;
        queue.advance_time(121 * SECOND).await;
        let overdue = queue.handle.find_overdue().await.unwrap();
        let overdue: Vec<_> = overdue.iter().map(|(lease, why)| (lease.id, *why)).collect();
        assert_eq!(overdue, [(held, Overdue::HoldExpired)], "{by:?}");
        assert!(queue.view(deferred).due.unwrap() <= queue.clock.now() + 2 * HOUR, "{by:?}");
        queue.advance_time(2 * HOUR).await;
        assert_eq!(queue.lease().await.id, deferred, "{by:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn scheduled_message_follows_the_wall_clock() {
    let mut queue = TestQueue::open();
    queue.start().await;
    let start = queue.clock.now();
    let mut submission = message(1);
    submission.send_at = Some(start + 2 * HOUR);
    let id = queue.enqueue(submission).await;
    restart_at(&mut queue, start - HOUR).await;
    queue.advance_time(2 * HOUR).await;
    queue.assert_nothing_to_lease().await;
    let view = queue.view(id);
    assert_eq!((view.status, view.due), (Status::Scheduled, Some(start + 2 * HOUR)));
    queue.advance_time(HOUR + SECOND).await;
    assert_eq!(queue.lease().await.id, id);
}

#[tokio::test(start_paused = true)]
async fn clock_that_goes_forward_over_a_restart_deletes_nothing_for_an_hour() {
    let mut queue = TestQueue::open();
    queue.start().await;
    let start = queue.clock.now();
    let id = queue.enqueue(message(1)).await;
    let lease = queue.lease().await;
    queue.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
    queue.handle.run_retention(None).await.unwrap();
    restart_at(&mut queue, start + 31 * DAY).await;
    let run_retention = async |queue: &TestQueue| {
        let mut from = None;
        while let Some(next) = queue.handle.run_retention(from).await.unwrap() {
            from = Some(next);
        }
    };
    run_retention(&queue).await;
    assert_eq!(queue.view(id).status, Status::Sent);
    queue.advance_time(HOUR + SECOND).await;
    run_retention(&queue).await;
    let found = queue.handle.find(ONE, &relevo_domain::MessageRef::Ours(id));
    assert!(found.is_err(), "it is older than its retention: {found:?}");
}
