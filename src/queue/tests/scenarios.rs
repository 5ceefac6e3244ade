//! The queue's actor through its handle, on a real store.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::queue::tests::bench::{Bench, ONE, message, provider_id, urgent};
use crate::queue::{
    Accepted, Depth, Error, IdempotencyKey, Msg, Options, Outcome, ReceiptReport, Recorded, Submission,
};
use relevo_domain::{Class, Content, Failure, MessageRef, Receipt, Status, Verdict};
use relevo_store::Haste;

const WAIT: Duration = Duration::from_secs(30);

fn under_key(submission: Submission, body: u8) -> Submission {
    Submission { idempotency: Some(IdempotencyKey { key: [7; 16], body: [body; 16] }), ..submission }
}

async fn bench() -> Arc<Bench> {
    let bench = Bench::open();
    bench.start().await;
    Arc::new(bench)
}

/// A caller who sends synchronously, at work.
fn caller(
    bench: &Bench,
    submission: Submission,
    wait: Duration,
) -> tokio::task::JoinHandle<Result<(relevo_domain::MessageId, Outcome), Error>> {
    let handle = bench.handle.clone();
    tokio::spawn(async move { handle.send_now(submission, wait).await })
}

#[tokio::test]
async fn two_thousand_callers_share_a_few_commits() {
    let bench = bench().await;
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
async fn a_key_stands_for_one_request() {
    let bench = bench().await;
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let handle = bench.handle.clone();
        callers.spawn(async move { handle.enqueue(under_key(message(0), 1)).await.unwrap() });
    }
    let answers = callers.join_all().await;
    let new: Vec<_> = answers.iter().filter(|answer| matches!(answer, Accepted::New(_))).collect();
    assert_eq!(new.len(), 1);
    assert!(answers.iter().all(|answer| answer.id() == new[0].id()));
    let other = bench.handle.enqueue(under_key(message(0), 2)).await;
    assert!(matches!(other, Err(Error::KeyReused)), "{other:?}");
    bench.pass(bench.options.idempotency_ttl).await;
    let later = bench.handle.enqueue(under_key(message(0), 2)).await.unwrap();
    assert!(matches!(later, Accepted::New(_)), "keys end");
    bench.handle.upkeep(None).await.unwrap();
    let repeat = bench.handle.enqueue(under_key(message(0), 2)).await.unwrap();
    assert_eq!(repeat, Accepted::Duplicate(later.id()), "and begin anew");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_until_something_ends() {
    let mut bench = Bench::open();
    bench.options = Options { capacity: 2, ..Options::default() };
    bench.start().await;
    let first = bench.enqueue(message(0)).await;
    bench.enqueue(under_key(message(1), 1)).await;
    let third = bench.handle.enqueue(message(2)).await;
    assert!(matches!(third, Err(Error::Full { capacity: 2 })), "{third:?}");
    let known = bench.handle.enqueue(under_key(message(1), 1)).await.unwrap();
    assert!(matches!(known, Accepted::Duplicate(_)), "what was accepted is answered even then");
    assert!(bench.handle.withdraw(first).await.unwrap());
    bench.enqueue(message(2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_hears_how_the_attempt_ended() {
    let bench = bench().await;
    let failure = Failure::transient("no").with_code(131_000);
    let sending = caller(&bench, urgent(0), WAIT);
    let lease = bench.next_lease().await;
    assert_eq!(bench.view(lease.id).status, Status::Sending);
    bench.handle.sent(lease, provider_id("wamid.1")).unwrap();
    assert_eq!(sending.await.unwrap().unwrap().1, Outcome::Sent(provider_id("wamid.1")));

    let failing = caller(&bench, under_key(urgent(0), 1), WAIT);
    let lease = bench.next_lease().await;
    bench.handle.judged(lease, Verdict::Fail, failure.clone()).unwrap();
    let (refused, outcome) = failing.await.unwrap().unwrap();
    assert_eq!(outcome, Outcome::Failed(failure.clone()));

    // A refusal is not stored under the key.
    let again = caller(&bench, under_key(urgent(0), 1), WAIT);
    let lease = bench.next_lease().await;
    assert_ne!(lease.id, refused);
    bench.handle.judged(lease, Verdict::Hold { wait: WAIT }, failure).unwrap();
    assert_eq!(again.await.unwrap().unwrap().1, Outcome::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_ends_before_the_attempt_takes_the_message_back() {
    let bench = bench().await;
    let mut nudges = bench.handle.subscribe(ONE, Class::Transactional);
    let waiting = caller(&bench, urgent(0), WAIT);
    nudges.changed().await.unwrap();
    // The caller has its id once another one behind it was answered.
    bench.enqueue(message(9)).await;
    bench.pass(WAIT).await;
    let (id, outcome) = waiting.await.unwrap().unwrap();
    assert_eq!(outcome, Outcome::Cancelled);
    assert_eq!(bench.view(id).status, Status::Cancelled);
    assert_ne!(bench.lease().await.id, id);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_ends_during_the_attempt_does_not_know() {
    let bench = bench().await;
    let waiting = caller(&bench, urgent(0), WAIT);
    let lease = bench.next_lease().await;
    bench.enqueue(message(9)).await;
    bench.pass(WAIT).await;
    let (id, outcome) = waiting.await.unwrap().unwrap();
    assert_eq!((id, outcome), (lease.id, Outcome::Unknown));
    bench.handle.sent(lease, provider_id("wamid.1")).unwrap();
    bench.until(id, Status::Sent).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_caller_went_away_is_not_sent_later() {
    let bench = bench().await;
    let mut nudges = bench.handle.subscribe(ONE, Class::Transactional);
    let waiting = caller(&bench, under_key(urgent(0), 1), WAIT);
    nudges.changed().await.unwrap();
    waiting.abort();
    bench.pass(WAIT).await;
    bench.nothing_to_lease().await;
    // The key is free again for the caller's next try.
    let id = bench.enqueue(under_key(message(0), 1)).await;
    assert_eq!(bench.lease().await.id, id);
}

#[tokio::test(start_paused = true)]
async fn a_message_too_old_for_its_attempt_is_told_at_once() {
    let bench = bench().await;
    let mut nudges = bench.handle.subscribe(ONE, Class::Transactional);
    let expires_at = Some(bench.clock.now() + Duration::from_secs(2));
    let waiting = caller(&bench, Submission { expires_at, ..urgent(0) }, WAIT);
    nudges.changed().await.unwrap();
    bench.pass(Duration::from_secs(2)).await;
    bench.nothing_to_lease().await;
    let (id, outcome) = waiting.await.unwrap().unwrap();
    assert_eq!((outcome, bench.view(id).status), (Outcome::Cancelled, Status::Expired));
}

#[tokio::test(start_paused = true)]
async fn a_repeat_waits_for_the_first_and_takes_nothing_back() {
    let bench = bench().await;
    let first = caller(&bench, under_key(urgent(0), 1), WAIT);
    let hasty = caller(&bench, under_key(urgent(0), 1), Duration::from_secs(1));
    let other = caller(&bench, under_key(urgent(1), 2), WAIT);
    assert!(matches!(other.await.unwrap(), Err(Error::KeyReused)));
    bench.pass(Duration::from_secs(1)).await;
    let (id, outcome) = hasty.await.unwrap().unwrap();
    assert_eq!(outcome, Outcome::Unknown);
    let lease = bench.lease().await;
    assert_eq!(lease.id, id);
    let second = caller(&bench, under_key(urgent(0), 1), WAIT);
    bench.handle.sent(lease, provider_id("wamid.1")).unwrap();
    for waiting in [first, second] {
        assert_eq!(waiting.await.unwrap().unwrap().1, Outcome::Sent(provider_id("wamid.1")));
    }
    let late = bench.handle.send_now(under_key(urgent(0), 1), WAIT).await.unwrap();
    assert_eq!(late.1, Outcome::Sent(provider_id("wamid.1")));
}

#[tokio::test(start_paused = true)]
async fn a_caller_whose_queue_died_gets_the_message_back() {
    let bench = bench().await;
    let mut nudges = bench.handle.subscribe(ONE, Class::Transactional);
    let waiting = caller(&bench, urgent(0), WAIT);
    nudges.changed().await.unwrap();
    bench.enqueue(message(9)).await;
    bench.slot.get().unwrap().kill();
    bench.start().await;
    let (id, outcome) = waiting.await.unwrap().unwrap();
    assert_eq!(outcome, Outcome::Cancelled);
    assert_ne!(bench.lease().await.id, id);
}

#[tokio::test(start_paused = true)]
async fn leases_that_nobody_received_go_again() {
    let bench = bench().await;
    let id = bench.enqueue(message(0)).await;
    let (gone, _) = ractor::concurrency::oneshot();
    bench
        .slot
        .cast(Msg::Lease { instance: ONE, max: 5, max_bulk: 5, haste: Haste::Now, reply: gone.into() })
        .unwrap();
    let lease = bench.next_lease().await;
    assert_eq!((lease.id, lease.attempt), (id, 1));
}

#[tokio::test(start_paused = true)]
async fn a_report_is_found_by_either_id_and_moves_the_message_forward() {
    let bench = bench().await;
    let id = bench.enqueue(message(0)).await;
    let report = |ours, receipt| ReceiptReport {
        instance: ONE,
        id: ours,
        provider_id: provider_id("wamid.1"),
        receipt,
        at: bench.clock.now(),
        failure: None,
    };
    let early = bench.handle.record(vec![report(None, Receipt::Delivered)]).await.unwrap();
    assert_eq!(early, [Recorded::Unknown]);
    let lease = bench.lease().await;
    let reports = vec![
        report(Some(id), Receipt::Sent),
        report(None, Receipt::Read),
        report(None, Receipt::Delivered),
        report(Some(id), Receipt::Failed),
    ];
    let recorded = bench.handle.record(reports).await.unwrap();
    let (moved, unchanged) = (Recorded::Moved(id), Recorded::Unchanged(id));
    assert_eq!(recorded, [moved, moved, unchanged, unchanged]);
    // The attempt's own answer comes late and changes nothing.
    bench.handle.judged(lease, Verdict::Fail, Failure::permanent("late")).unwrap();
    bench.nothing_to_lease().await;
    let view = bench.handle.find(ONE, &MessageRef::Provider(provider_id("wamid.1"))).unwrap();
    assert_eq!((view.id, view.status, view.failure), (id, Status::Read, None));
    let steps: Vec<_> = view.history.iter().map(|step| step.status).collect();
    assert_eq!(steps, [Status::Queued, Status::Sending, Status::Sent, Status::Read]);
}

#[tokio::test(start_paused = true)]
async fn a_long_body_survives_and_goes() {
    let bench = bench().await;
    let mut long = message(0);
    long.message.content = Content::Text { body: "x".repeat(200_000), preview_url: false };
    let expected = long.message.clone();
    let id = bench.enqueue(long).await;
    let lease = bench.lease().await;
    assert_eq!(lease.message, expected);
    bench.handle.sent(lease, provider_id("wamid.1")).unwrap();
    bench.until(id, Status::Sent).await;
    let parts = relevo_store::Key::new(relevo_store::Space::Part);
    assert_eq!(bench.store.range(&parts, &parts.clone().after_prefix()).count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_instance_leaves_only_its_ledger() {
    let bench = bench().await;
    let sent = bench.enqueue(message(0)).await;
    let lease = bench.lease().await;
    bench.handle.sent(lease, provider_id("wamid.1")).unwrap();
    bench.until(sent, Status::Sent).await;
    for recipient in 0..700 {
        bench.enqueue(message(recipient % 3)).await;
    }
    bench.handle.lease(ONE, 5, 5).await.unwrap();
    bench.handle.purge(ONE).await.unwrap();
    assert_eq!(bench.handle.depth(ONE).unwrap(), Depth::default());
    bench.nothing_to_lease().await;
    assert_eq!(bench.view(sent).status, Status::Sent);
}
