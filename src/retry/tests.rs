//! Tests of supervisor, queue and handles together: attempts that fail, are interrupted or have an unknown outcome.

use std::time::Duration;

use ractor::{Actor, ActorRef};

use crate::queue::tests::fixture::{ONE, TestQueue, message, provider_id, sync_message};
use crate::queue::{ReceiptReport, SendOutcome, Submission};
use crate::retry::{Arguments, Handle, Msg, Options, RetrySupervisor};
use crate::supervisor::{ActorSlot, Child, RestartPolicy};
use relevo_clock::Random;
use relevo_domain::{
    AmbiguousPolicy, BuryReason, Class, Failure, FailureKind, FailureScope, Receipt, Status,
};

/// A queue with its retry supervisor.
struct SupervisedQueue {
    queue: TestQueue,
    retry: Handle,
    supervisor: ActorRef<Msg>,
}

impl SupervisedQueue {
    async fn start() -> Self {
        Self::start_on(TestQueue::open(), 1).await
    }

    /// Starts a run of the process on an existing store.
    async fn start_on(queue: TestQueue, run: u64) -> Self {
        let arguments = Arguments {
            options: Options::default(),
            random: Random::seeded(1),
            queue: queue.arguments(run),
            queue_slot: queue.slot.clone(),
            queue_handle: queue.handle.clone(),
        };
        let (supervisor, _) = Actor::spawn(None, RetrySupervisor, arguments).await.unwrap();
        let slot = ActorSlot::default();
        slot.fill(supervisor.clone());
        Self { queue, retry: Handle::new(slot), supervisor }
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn resend_on_ambiguous() -> Submission {
    Submission { on_ambiguous: AmbiguousPolicy::Resend, ..message(0) }
}

#[tokio::test(start_paused = true)]
async fn transient_failure_is_retried_until_attempts_are_exhausted() {
    let SupervisedQueue { queue, retry, .. } = SupervisedQueue::start().await;
    let id = queue.enqueue(message(0)).await;
    for attempt in 1..=5 {
        let lease = queue.next_lease().await;
        assert_eq!((lease.attempt, lease.failures), (attempt, attempt - 1));
        retry.report_failure(lease, Failure::transient("no").with_code(131_000)).unwrap();
        if attempt < 5 {
            let due = queue.wait_for_status(id, Status::Queued).await.due.unwrap();
            queue.assert_nothing_to_lease().await;
            queue.advance_time(due.since(queue.clock.now())).await;
        }
    }
    let view = queue.wait_for_status(id, Status::DeadLetter).await;
    assert_eq!(view.buried, Some(BuryReason::Exhausted));
    assert_eq!(view.failure.unwrap().code, Some(131_000));
    assert_eq!(queue.handle.depth(ONE).unwrap().total(), 0);
}

#[tokio::test(start_paused = true)]
async fn ambiguous_message_holds_its_lane_until_a_receipt_settles_it() {
    let SupervisedQueue { queue, retry, .. } = SupervisedQueue::start().await;
    let held = queue.enqueue(message(0)).await;
    let behind = queue.enqueue(message(0)).await;
    retry.report_failure(queue.lease().await, Failure::ambiguous("the connection broke")).unwrap();
    queue.wait_for_status(held, Status::Ambiguous).await;
    queue.assert_nothing_to_lease().await;
    let report = ReceiptReport {
        instance: ONE,
        id: Some(held),
        provider_id: provider_id("wamid.1"),
        receipt: Receipt::Delivered,
        at: queue.clock.now(),
        failure: None,
    };
    let work = queue.handle.subscribe(ONE, Class::Transactional);
    queue.handle.record_receipts(vec![report]).await.unwrap();
    assert!(work.has_changed().unwrap(), "the lane continues");
    assert_eq!(queue.view(held).status, Status::Delivered);
    assert_eq!(queue.lease().await.id, behind);
}

#[tokio::test(start_paused = true)]
async fn ambiguous_message_without_a_receipt_is_buried() {
    let SupervisedQueue { queue, retry, .. } = SupervisedQueue::start().await;
    let held = queue.enqueue(message(0)).await;
    let behind = queue.enqueue(message(0)).await;
    retry.report_failure(queue.lease().await, Failure::ambiguous("the connection broke")).unwrap();
    queue.wait_for_status(held, Status::Ambiguous).await;
    queue.advance_time(121 * SECOND).await;
    let view = queue.wait_for_status(held, Status::DeadLetter).await;
    assert_eq!(view.buried, Some(BuryReason::Ambiguous));
    assert_eq!(queue.lease().await.id, behind);
}

#[tokio::test(start_paused = true)]
async fn resend_policy_stops_at_the_attempt_limit() {
    let SupervisedQueue { queue, retry, .. } = SupervisedQueue::start().await;
    let id = queue.enqueue(resend_on_ambiguous()).await;
    for attempt in 1..=5 {
        let lease = queue.next_lease().await;
        assert_eq!((lease.id, lease.attempt), (id, attempt));
        retry.report_failure(lease, Failure::ambiguous("the connection broke")).unwrap();
        queue.wait_for_status(id, Status::Ambiguous).await;
        queue.advance_time(121 * SECOND).await;
    }
    assert_eq!(queue.wait_for_status(id, Status::DeadLetter).await.buried, Some(BuryReason::Ambiguous));
}

#[tokio::test(start_paused = true)]
async fn repeatable_message_is_retried_after_a_crash_and_after_an_ambiguous_failure() {
    let queue = TestQueue::open();
    queue.start().await;
    let id = queue.enqueue(Submission { repeatable: true, ..message(0) }).await;
    queue.lease().await;
    queue.kill_unsupervised().await;
    let SupervisedQueue { queue, retry, .. } = SupervisedQueue::start_on(queue, 2).await;
    let due = queue.wait_for_status(id, Status::Queued).await.due.unwrap();
    queue.advance_time(due.since(queue.clock.now())).await;
    let lease = queue.next_lease().await;
    assert_eq!((lease.id, lease.attempt, lease.repeatable), (id, 2, true));
    let failure = Failure::new(FailureKind::Ambiguous, FailureScope::Number, "the connection ended");
    retry.report_failure(lease, failure).unwrap();
    let due = queue.wait_for_status(id, Status::Queued).await.due.unwrap();
    queue.advance_time(due.since(queue.clock.now())).await;
    let lease = queue.next_lease().await;
    assert_eq!((lease.attempt, lease.failures), (3, 1), "a failure of the connection does not count");
    queue.handle.record_sent(lease, provider_id("3EB0")).unwrap();
    queue.wait_for_status(id, Status::Sent).await;
}

#[tokio::test(start_paused = true)]
async fn sync_caller_gets_unknown_before_the_message_is_retried() {
    let SupervisedQueue { queue, retry, .. } = SupervisedQueue::start().await;
    let caller = {
        let handle = queue.handle.clone();
        let submission = Submission { repeatable: true, ..sync_message(1) };
        tokio::spawn(async move { handle.send_now(submission, 30 * SECOND).await })
    };
    retry.report_failure(queue.next_lease().await, Failure::ambiguous("no response from WhatsApp")).unwrap();
    let (id, outcome) = caller.await.unwrap().unwrap();
    assert_eq!(outcome, SendOutcome::Unknown);
    queue.advance_time(2 * SECOND).await;
    let lease = queue.next_lease().await;
    assert_eq!((lease.id, lease.attempt), (id, 2));
    queue.handle.record_sent(lease, provider_id("3EB0")).unwrap();
    queue.wait_for_status(id, Status::Sent).await;
}

#[tokio::test(start_paused = true)]
async fn expired_lease_is_ambiguous_and_its_late_answer_is_recorded() {
    let SupervisedQueue { queue, .. } = SupervisedQueue::start().await;
    let id = queue.enqueue(message(0)).await;
    let lease = queue.lease().await;
    queue.advance_time(89 * SECOND).await;
    assert_eq!(queue.view(id).status, Status::Sending);
    queue.advance_time(2 * SECOND).await;
    queue.wait_for_status(id, Status::Ambiguous).await;
    queue.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
    let view = queue.wait_for_status(id, Status::Sent).await;
    let steps: Vec<_> = view.history.iter().map(|step| step.status).collect();
    assert_eq!(steps, [Status::Queued, Status::Sending, Status::Ambiguous, Status::Sent]);
}

#[tokio::test(start_paused = true)]
async fn attempts_of_the_previous_run_are_decided_at_startup() {
    let queue = TestQueue::open();
    queue.start().await;
    let id = queue.enqueue(message(0)).await;
    queue.lease().await;
    queue.kill_unsupervised().await;
    let SupervisedQueue { queue, .. } = SupervisedQueue::start_on(queue, 2).await;
    let view = queue.wait_for_status(id, Status::Ambiguous).await;
    assert_eq!(view.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn killed_queue_actor_is_restarted_and_resumes() {
    let SupervisedQueue { queue, retry, .. } = SupervisedQueue::start().await;
    let (first, second) = (queue.enqueue(message(0)).await, queue.enqueue(message(0)).await);
    let caller = {
        let handle = queue.handle.clone();
        tokio::spawn(async move { handle.send_now(sync_message(1), 30 * SECOND).await })
    };
    let leases = [queue.next_lease().await, queue.next_lease().await];
    for round in 0..3u32 {
        queue.kill().await;
        let refilled = tokio::spawn({
            let handle = queue.handle.clone();
            async move { handle.enqueue(message(10)).await.unwrap() }
        });
        queue.advance_time(100 * Duration::from_millis(2u64.pow(round))).await;
        refilled.await.unwrap();
    }
    // The actor was killed during the attempt: the caller gets an unknown outcome, and the result is recorded later.
    let (urgent, outcome) = caller.await.unwrap().unwrap();
    assert_eq!(outcome, SendOutcome::Unknown);
    let [lease, other] = leases;
    assert_eq!((lease.id, other.id), (first, urgent));
    queue.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
    retry.report_failure(other, Failure::transient("no")).unwrap();
    queue.wait_for_status(first, Status::Sent).await;
    queue.wait_for_status(urgent, Status::Failed).await;
    let mut found: Vec<_> = queue.handle.lease(ONE, 9, 9).await.unwrap().leases;
    assert_eq!(found.len(), 2);
    assert!(found.iter().any(|lease| lease.id == second));
    assert_eq!(found.remove(0).attempt, 1);
}

#[tokio::test(start_paused = true)]
async fn timer_of_an_earlier_incarnation_restarts_nothing() {
    let SupervisedQueue { queue, supervisor, .. } = SupervisedQueue::start().await;
    let running = queue.slot.get().unwrap().get_id();
    let earlier = Child::<Msg>::new(RestartPolicy::new(SECOND, SECOND, 1)).incarnation();
    supervisor.cast(Msg::RestartQueue(earlier)).unwrap();
    // The sweep follows the timer in the supervisor's mailbox: its decision shows that the timer was handled.
    let id = queue.enqueue(message(0)).await;
    queue.lease().await;
    queue.advance_time(91 * SECOND).await;
    queue.wait_for_status(id, Status::Ambiguous).await;
    assert_eq!(queue.slot.get().unwrap().get_id(), running);
}
