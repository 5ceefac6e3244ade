//! Rows of bulk jobs through the handle, on a real store.

use std::time::Duration;

use crate::queue::bulk_rows::ItemOutcome;
use crate::queue::tests::fixture::{ONE, TestQueue, message, provider_id};
use crate::queue::{Error, Options, ReceiptReport, ReceiptResult, Submission};
use relevo_domain::{BulkItem, BuryReason, Failure, MessageId, MessageRef, Receipt, RetryDecision, Status};
use relevo_store::{Error as StoreError, Key, Space, Tx};

const JOB: u16 = 3;

fn row(row: u32) -> Submission {
    let item = Some(BulkItem { job: JOB, row });
    Submission { item, ..message(usize::try_from(row).unwrap()) }
}

fn checkpoint_key() -> Key {
    Key::new(Space::BulkJob).u8(1)
}

/// What a job writes with what it does.
fn put_checkpoint(value: u8) -> impl FnOnce(&mut Tx) -> Result<(), StoreError> + Send + 'static {
    move |tx| tx.put(checkpoint_key(), vec![value])
}

async fn enqueue(bench: &TestQueue, rows: std::ops::Range<u32>) -> Vec<MessageId> {
    bench.handle.enqueue_items(rows.map(row).collect(), |_| Ok(())).await.unwrap()
}

impl TestQueue {
    fn receipt_report(&self, id: Option<MessageId>, receipt: Receipt) -> ReceiptReport {
        let at = self.clock.now();
        ReceiptReport { instance: ONE, id, provider_id: provider_id("wamid.1"), receipt, at, failure: None }
    }

    /// Waits until the job has outcomes like these.
    async fn wait_for_outcomes(&self, statuses: &[Status]) -> Vec<ItemOutcome> {
        let mut changed = self.handle.subscribe_outcomes();
        loop {
            let outcomes = self.handle.outcomes(JOB, 100).unwrap();
            if outcomes.iter().map(|outcome| outcome.status).eq(statuses.iter().copied()) {
                return outcomes;
            }
            changed.changed().await.unwrap();
        }
    }

    fn count_records(&self, space: Space) -> usize {
        self.store.range(&Key::new(space), &Key::new(space).after_prefix()).count()
    }
}

#[tokio::test(start_paused = true)]
async fn bulk_row_leaves_only_its_outcome_until_noted() {
    let bench = TestQueue::open();
    bench.start().await;
    let ids = bench.handle.enqueue_items(vec![row(7)], put_checkpoint(1)).await.unwrap();
    assert_eq!(ids[0].item(), Some(BulkItem { job: JOB, row: 7 }));
    assert_eq!(bench.store.get(&checkpoint_key()).unwrap(), Some(vec![1]));
    assert_eq!(bench.handle.depth(ONE).unwrap().bulk, 1);
    bench.handle.record_sent(bench.lease().await, provider_id("wamid.1")).unwrap();
    let sent = bench.wait_for_outcomes(&[Status::Sent]).await;
    assert_eq!((sent[0].id, &sent[0].provider_id), (ids[0], &Some(provider_id("wamid.1"))));
    for space in [Space::Job, Space::Ledger, Space::InFlight, Space::Event, Space::DeadLetter] {
        assert_eq!(bench.count_records(space), 0, "{space:?}");
    }
    let found = bench.handle.find(ONE, &MessageRef::Ours(ids[0]));
    assert!(matches!(found, Err(Error::UnknownMessage)), "{found:?}");

    // A fact that comes between reading and noting is told again.
    let recorded =
        bench.handle.record_receipts(vec![bench.receipt_report(None, Receipt::Delivered)]).await.unwrap();
    assert_eq!(recorded, [ReceiptResult::Advanced(ids[0])]);
    bench.handle.note_outcomes(sent, put_checkpoint(2)).await.unwrap();
    assert_eq!(bench.store.get(&checkpoint_key()).unwrap(), Some(vec![2]));
    let delivered = bench.wait_for_outcomes(&[Status::Delivered]).await;
    assert!(delivered[0].supersedes(ids[0], Status::Sent));
    bench.handle.note_outcomes(delivered, |_| Ok(())).await.unwrap();
    assert_eq!(bench.handle.outcomes(JOB, 9).unwrap(), []);
    // Whoever noted it is asked what it is called.
    let nameless = vec![bench.receipt_report(None, Receipt::Read)];
    assert_eq!(bench.handle.record_receipts(nameless.clone()).await.unwrap(), [ReceiptResult::Unknown]);
    let noted = ids[0];
    let find = move |instance, id: &_| (instance == ONE && *id == provider_id("wamid.1")).then_some(noted);
    bench.handle.set_bulk_row_lookup(std::sync::Arc::new(find));
    let both = [nameless, vec![bench.receipt_report(Some(ids[0]), Receipt::Sent)]].concat();
    let recorded = bench.handle.record_receipts(both).await.unwrap();
    assert_eq!(recorded, [ReceiptResult::Advanced(ids[0]), ReceiptResult::Advanced(ids[0])]);
    bench.handle.note_outcomes(bench.wait_for_outcomes(&[Status::Read]).await, |_| Ok(())).await.unwrap();
    // One that was noted long ago comes as an outcome, and is not believed.
    bench.handle.record_receipts(vec![bench.receipt_report(Some(ids[0]), Receipt::Sent)]).await.unwrap();
    let late = bench.wait_for_outcomes(&[Status::Sent]).await;
    assert!(!late[0].supersedes(ids[0], Status::Read));

    bench.handle.delete_job(JOB).await.unwrap();
    let recorded =
        bench.handle.record_receipts(vec![bench.receipt_report(Some(ids[0]), Receipt::Read)]).await.unwrap();
    assert_eq!(recorded, [ReceiptResult::Unknown]);
    assert_eq!((bench.count_records(Space::ItemOutcome), bench.count_records(Space::ProviderId)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn enqueue_items_accepts_all_rows_or_none() {
    let mut bench = TestQueue::open();
    bench.options = Options { capacity: 3, ..Options::default() };
    bench.start().await;
    enqueue(&bench, 0..2).await;
    let refused = bench.handle.enqueue_items((2..4).map(row).collect(), put_checkpoint(1)).await;
    assert!(matches!(refused, Err(Error::Full { capacity: 3 })), "{refused:?}");
    let failed = bench.handle.enqueue_items(vec![row(2)], |_| Err(StoreError::Closed)).await;
    assert!(matches!(failed, Err(Error::Store(StoreError::Closed))), "{failed:?}");
    assert_eq!(bench.store.get(&checkpoint_key()).unwrap(), None);
    assert_eq!(bench.handle.depth(ONE).unwrap().bulk, 2);
    assert_eq!(bench.count_records(Space::Job), 2);
    enqueue(&bench, 2..3).await;
}

#[tokio::test(start_paused = true)]
async fn ambiguous_outcome_is_published_at_once_and_corrected_later() {
    let bench = TestQueue::open();
    bench.start().await;
    let ids = enqueue(&bench, 0..1).await;
    let lease = bench.lease().await;
    let hold = RetryDecision::Hold { wait: Duration::from_secs(60) };
    bench.handle.apply_decision(lease, hold, Failure::ambiguous("no answer")).unwrap();
    let held = bench.wait_for_outcomes(&[Status::Ambiguous]).await;
    assert!(held[0].ambiguous);
    assert_eq!(bench.view(ids[0]).status, Status::Ambiguous);
    bench.handle.note_outcomes(held, |_| Ok(())).await.unwrap();
    bench.handle.record_receipts(vec![bench.receipt_report(Some(ids[0]), Receipt::Delivered)]).await.unwrap();
    let corrected = bench.wait_for_outcomes(&[Status::Delivered]).await;
    assert!(!corrected[0].ambiguous && corrected[0].supersedes(ids[0], Status::Ambiguous));
    assert_eq!((bench.count_records(Space::InFlight), bench.handle.depth(ONE).unwrap().bulk), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn withdraw_items_withdraws_unleased_rows() {
    let bench = TestQueue::open();
    bench.start().await;
    let ids = enqueue(&bench, 0..300).await;
    let begun = bench.handle.lease(ONE, 2, 2).await.unwrap().leases;
    let first = bench.handle.open_items(ONE, JOB, None, 100).await.unwrap();
    assert_eq!(first, ids[..100]);
    let rest = bench.handle.open_items(ONE, JOB, first.last().copied(), 1_000).await.unwrap();
    assert_eq!(rest, ids[100..]);
    let withdrawn = bench.handle.withdraw_items(ids.clone()).await.unwrap();
    assert_eq!(withdrawn, ids[2..]);
    assert_eq!(bench.wait_for_outcomes(&[Status::Cancelled; 100]).await.len(), 100);
    assert_eq!(bench.handle.depth(ONE).unwrap().bulk, 2);
    // A row that was taken back goes again, and what is said of its first message counts no more.
    let again = enqueue(&bench, 2..3).await[0];
    let lease = bench.lease().await;
    assert_eq!(lease.id, again);
    bench.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
    drop(begun);
    let mut changed = bench.handle.subscribe_outcomes();
    while bench.handle.outcomes(JOB, 1).unwrap()[0].id != again {
        changed.changed().await.unwrap();
    }
    let recorded =
        bench.handle.record_receipts(vec![bench.receipt_report(Some(ids[2]), Receipt::Read)]).await.unwrap();
    assert_eq!(recorded, [ReceiptResult::Unchanged(ids[2])]);
}

#[tokio::test(start_paused = true)]
async fn purge_ends_open_bulk_rows() {
    let bench = TestQueue::open();
    bench.start().await;
    enqueue(&bench, 0..2).await;
    bench.handle.lease(ONE, 1, 1).await.unwrap();
    bench.handle.purge(ONE).await.unwrap();
    let outcomes = bench.wait_for_outcomes(&[Status::DeadLetter, Status::Cancelled]).await;
    assert!(outcomes[0].ambiguous && !outcomes[1].ambiguous);
}

#[tokio::test(start_paused = true)]
async fn single_messages_overtake_bulk_messages_without_capacity() {
    let bench = TestQueue::open();
    bench.start().await;
    enqueue(&bench, 0..5).await;
    let none = bench.handle.lease(ONE, 4, 0).await.unwrap();
    assert!(none.leases.is_empty() && none.next_due.is_none(), "{none:?}");
    let single = bench.enqueue(message(9)).await;
    let some = bench.handle.lease(ONE, 4, 2).await.unwrap().leases;
    assert_eq!(some.len(), 3);
    assert!(some.iter().any(|lease| lease.id == single));
}

#[tokio::test(start_paused = true)]
async fn buried_bulk_row_is_not_a_dead_letter() {
    let bench = TestQueue::open();
    bench.start().await;
    enqueue(&bench, 0..1).await;
    let failure = Failure::permanent("not a WhatsApp number").with_code(131_026);
    bench
        .handle
        .apply_decision(bench.lease().await, RetryDecision::Bury(BuryReason::Permanent), failure.clone())
        .unwrap();
    let outcomes = bench.wait_for_outcomes(&[Status::DeadLetter]).await;
    assert_eq!(outcomes[0].failure, Some(failure));
    assert_eq!((bench.count_records(Space::DeadLetter), bench.count_records(Space::Event)), (0, 0));
}

/// However a job cuts the stream of facts into outcomes, it comes to believe the same.
#[test]
fn noted_status_is_independent_of_when_outcomes_are_noted() {
    let ends = [Status::Ambiguous, Status::DeadLetter, Status::Failed, Status::Sent, Status::Cancelled];
    let facts = [Status::Sent, Status::Failed, Status::Delivered, Status::Read, Status::Played];
    let id = MessageId::for_bulk_item(relevo_domain::Timestamp(1), 0, ONE, BulkItem { job: JOB, row: 0 });
    let follows = |status, was| {
        let outcome = ItemOutcome {
            item: BulkItem { job: JOB, row: 0 },
            id,
            instance: ONE,
            status,
            at: relevo_domain::Timestamp(1),
            provider_id: None,
            failure: None,
            ambiguous: false,
        };
        outcome.supersedes(id, was)
    };
    let fold = |was: Option<Status>, next| match was {
        Some(was) if !follows(next, was) => was,
        _ => next,
    };
    for end in ends {
        for nth in 0..facts.len().pow(3) {
            let fact = |place: u32| facts[nth / facts.len().pow(place) % facts.len()];
            let stream = [end, fact(0), fact(1), fact(2)];
            let believed: Vec<_> = (0..8)
                .map(|cuts| {
                    let (mut noted, mut pending) = (None, None);
                    for (place, status) in stream.into_iter().enumerate() {
                        pending = Some(fold(pending, status));
                        if cuts & (1 << place) != 0 || place == 3 {
                            noted = pending.take().map(|status| fold(noted, status));
                        }
                    }
                    noted.unwrap()
                })
                .collect();
            assert!(believed.iter().all(|status| *status == believed[0]), "{stream:?}: {believed:?}");
        }
    }
}
