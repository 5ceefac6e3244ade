//! Tests of bulk rows through the handle, on a real store.

use std::time::Duration;

use crate::queue::ItemOutcome;
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

/// A hook that writes a checkpoint of a job.
fn put_checkpoint(value: u8) -> impl FnOnce(&mut Tx) -> Result<(), StoreError> + Send + 'static {
    move |tx| tx.put(checkpoint_key(), vec![value])
}

async fn enqueue(queue: &TestQueue, rows: std::ops::Range<u32>) -> Vec<MessageId> {
    queue.handle.enqueue_items(rows.map(row).collect(), |_| Ok(())).await.unwrap()
}

impl TestQueue {
    fn receipt_report(&self, id: Option<MessageId>, receipt: Receipt) -> ReceiptReport {
        let at = self.clock.now();
        ReceiptReport { instance: ONE, id, provider_id: provider_id("wamid.1"), receipt, at, failure: None }
    }

    /// Waits until the job has outcomes with these statuses.
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
    let queue = TestQueue::open();
    queue.start().await;
    let ids = queue.handle.enqueue_items(vec![row(7)], put_checkpoint(1)).await.unwrap();
    assert_eq!(ids[0].item(), Some(BulkItem { job: JOB, row: 7 }));
    assert_eq!(queue.store.get(&checkpoint_key()).unwrap(), Some(vec![1]));
    assert_eq!(queue.handle.depth(ONE).unwrap().bulk, 1);
    queue.handle.record_sent(queue.lease().await, provider_id("wamid.1")).unwrap();
    let sent = queue.wait_for_outcomes(&[Status::Sent]).await;
    assert_eq!((sent[0].id, &sent[0].provider_id), (ids[0], &Some(provider_id("wamid.1"))));
    for space in [Space::Job, Space::Ledger, Space::InFlight, Space::Event, Space::DeadLetter] {
        assert_eq!(queue.count_records(space), 0, "{space:?}");
    }
    let found = queue.handle.find(ONE, &MessageRef::Ours(ids[0]));
    assert!(matches!(found, Err(Error::UnknownMessage)), "{found:?}");

    // An outcome that changes between reading and noting is returned again.
    let recorded =
        queue.handle.record_receipts(vec![queue.receipt_report(None, Receipt::Delivered)]).await.unwrap();
    assert_eq!(recorded, [ReceiptResult::Advanced(ids[0])]);
    queue.handle.note_outcomes(sent, put_checkpoint(2)).await.unwrap();
    assert_eq!(queue.store.get(&checkpoint_key()).unwrap(), Some(vec![2]));
    let delivered = queue.wait_for_outcomes(&[Status::Delivered]).await;
    assert!(delivered[0].supersedes(ids[0], Status::Sent));
    queue.handle.note_outcomes(delivered, |_| Ok(())).await.unwrap();
    assert_eq!(queue.handle.outcomes(JOB, 9).unwrap(), []);
    // After noting, only the lookup can resolve the provider id.
    let without_id = vec![queue.receipt_report(None, Receipt::Read)];
    assert_eq!(queue.handle.record_receipts(without_id.clone()).await.unwrap(), [ReceiptResult::Unknown]);
    let noted = ids[0];
    let find = move |instance, id: &_| (instance == ONE && *id == provider_id("wamid.1")).then_some(noted);
    queue.handle.set_bulk_row_lookup(std::sync::Arc::new(find));
    let both = [without_id, vec![queue.receipt_report(Some(ids[0]), Receipt::Sent)]].concat();
    let recorded = queue.handle.record_receipts(both).await.unwrap();
    assert_eq!(recorded, [ReceiptResult::Advanced(ids[0]), ReceiptResult::Advanced(ids[0])]);
    queue.handle.note_outcomes(queue.wait_for_outcomes(&[Status::Read]).await, |_| Ok(())).await.unwrap();
    // A late receipt for a noted row becomes an outcome that does not supersede.
    queue.handle.record_receipts(vec![queue.receipt_report(Some(ids[0]), Receipt::Sent)]).await.unwrap();
    let late = queue.wait_for_outcomes(&[Status::Sent]).await;
    assert!(!late[0].supersedes(ids[0], Status::Read));

    queue.handle.delete_job(JOB).await.unwrap();
    let recorded =
        queue.handle.record_receipts(vec![queue.receipt_report(Some(ids[0]), Receipt::Read)]).await.unwrap();
    assert_eq!(recorded, [ReceiptResult::Unknown]);
    assert_eq!((queue.count_records(Space::ItemOutcome), queue.count_records(Space::ProviderId)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn enqueue_items_accepts_all_rows_or_none() {
    let mut queue = TestQueue::open();
    queue.options = Options { capacity: 3, ..Options::default() };
    queue.start().await;
    enqueue(&queue, 0..2).await;
    let refused = queue.handle.enqueue_items((2..4).map(row).collect(), put_checkpoint(1)).await;
    assert!(matches!(refused, Err(Error::Full { capacity: 3 })), "{refused:?}");
    let failed = queue.handle.enqueue_items(vec![row(2)], |_| Err(StoreError::Closed)).await;
    assert!(matches!(failed, Err(Error::Store(StoreError::Closed))), "{failed:?}");
    assert_eq!(queue.store.get(&checkpoint_key()).unwrap(), None);
    assert_eq!(queue.handle.depth(ONE).unwrap().bulk, 2);
    assert_eq!(queue.count_records(Space::Job), 2);
    enqueue(&queue, 2..3).await;
}

#[tokio::test(start_paused = true)]
async fn ambiguous_outcome_is_published_at_once_and_corrected_later() {
    let queue = TestQueue::open();
    queue.start().await;
    let ids = enqueue(&queue, 0..1).await;
    let lease = queue.lease().await;
    let hold = RetryDecision::Hold { wait: Duration::from_secs(60) };
    queue.handle.apply_decision(lease, hold, Failure::ambiguous("no answer")).unwrap();
    let held = queue.wait_for_outcomes(&[Status::Ambiguous]).await;
    assert!(held[0].ambiguous);
    assert_eq!(queue.view(ids[0]).status, Status::Ambiguous);
    queue.handle.note_outcomes(held, |_| Ok(())).await.unwrap();
    queue.handle.record_receipts(vec![queue.receipt_report(Some(ids[0]), Receipt::Delivered)]).await.unwrap();
    let corrected = queue.wait_for_outcomes(&[Status::Delivered]).await;
    assert!(!corrected[0].ambiguous && corrected[0].supersedes(ids[0], Status::Ambiguous));
    assert_eq!((queue.count_records(Space::InFlight), queue.handle.depth(ONE).unwrap().bulk), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn withdraw_items_withdraws_unleased_rows() {
    let queue = TestQueue::open();
    queue.start().await;
    let ids = enqueue(&queue, 0..300).await;
    let begun = queue.handle.lease(ONE, 2, 2).await.unwrap().leases;
    let first = queue.handle.open_items(ONE, JOB, None, 100).await.unwrap();
    assert_eq!(first, ids[..100]);
    let rest = queue.handle.open_items(ONE, JOB, first.last().copied(), 1_000).await.unwrap();
    assert_eq!(rest, ids[100..]);
    let withdrawn = queue.handle.withdraw_items(ids.clone()).await.unwrap();
    assert_eq!(withdrawn, ids[2..]);
    assert_eq!(queue.wait_for_outcomes(&[Status::Cancelled; 100]).await.len(), 100);
    assert_eq!(queue.handle.depth(ONE).unwrap().bulk, 2);
    // A withdrawn row is enqueued again; receipts for its first message no longer count.
    let again = enqueue(&queue, 2..3).await[0];
    let lease = queue.lease().await;
    assert_eq!(lease.id, again);
    queue.handle.record_sent(lease, provider_id("wamid.1")).unwrap();
    drop(begun);
    let mut changed = queue.handle.subscribe_outcomes();
    while queue.handle.outcomes(JOB, 1).unwrap()[0].id != again {
        changed.changed().await.unwrap();
    }
    let recorded =
        queue.handle.record_receipts(vec![queue.receipt_report(Some(ids[2]), Receipt::Read)]).await.unwrap();
    assert_eq!(recorded, [ReceiptResult::Unchanged(ids[2])]);
}

#[tokio::test(start_paused = true)]
async fn purge_ends_open_bulk_rows() {
    let queue = TestQueue::open();
    queue.start().await;
    enqueue(&queue, 0..2).await;
    queue.handle.lease(ONE, 1, 1).await.unwrap();
    queue.handle.purge(ONE).await.unwrap();
    let outcomes = queue.wait_for_outcomes(&[Status::DeadLetter, Status::Cancelled]).await;
    assert!(outcomes[0].ambiguous && !outcomes[1].ambiguous);
}

#[tokio::test(start_paused = true)]
async fn single_messages_overtake_bulk_messages_without_capacity() {
    let queue = TestQueue::open();
    queue.start().await;
    enqueue(&queue, 0..5).await;
    let none = queue.handle.lease(ONE, 4, 0).await.unwrap();
    assert!(none.leases.is_empty() && none.next_due.is_none(), "{none:?}");
    let single = queue.enqueue(message(9)).await;
    let some = queue.handle.lease(ONE, 4, 2).await.unwrap().leases;
    assert_eq!(some.len(), 3);
    assert!(some.iter().any(|lease| lease.id == single));
}

#[tokio::test(start_paused = true)]
async fn buried_bulk_row_is_not_a_dead_letter() {
    let queue = TestQueue::open();
    queue.start().await;
    enqueue(&queue, 0..1).await;
    let failure = Failure::permanent("not a WhatsApp number").with_code(131_026);
    queue
        .handle
        .apply_decision(queue.lease().await, RetryDecision::Bury(BuryReason::Permanent), failure.clone())
        .unwrap();
    let outcomes = queue.wait_for_outcomes(&[Status::DeadLetter]).await;
    assert_eq!(outcomes[0].failure, Some(failure));
    assert_eq!((queue.count_records(Space::DeadLetter), queue.count_records(Space::Event)), (0, 0));
}

/// Checks that the noted status does not depend on how a job divides the receipts into outcomes.
#[test]
fn noted_status_is_independent_of_when_outcomes_are_noted() {
    let outcomes = [Status::Ambiguous, Status::DeadLetter, Status::Failed, Status::Sent, Status::Cancelled];
    let receipts = [Status::Sent, Status::Failed, Status::Delivered, Status::Read, Status::Played];
    let id = MessageId::for_bulk_item(relevo_domain::Timestamp(1), 0, ONE, BulkItem { job: JOB, row: 0 });
    let supersedes = |status, previous| {
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
        outcome.supersedes(id, previous)
    };
    let fold = |previous: Option<Status>, next| match previous {
        Some(previous) if !supersedes(next, previous) => previous,
        _ => next,
    };
    for outcome in outcomes {
        for nth in 0..receipts.len().pow(3) {
            let receipt = |place: u32| receipts[nth / receipts.len().pow(place) % receipts.len()];
            let stream = [outcome, receipt(0), receipt(1), receipt(2)];
            let results: Vec<_> = (0..8)
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
            assert!(results.iter().all(|status| *status == results[0]), "{stream:?}: {results:?}");
        }
    }
}
