//! Rows of bulk jobs through the handle, on a real store.

use std::time::Duration;

use crate::queue::items::ItemOutcome;
use crate::queue::tests::bench::{Bench, ONE, message, provider_id};
use crate::queue::{Error, Options, ReceiptReport, Recorded, Submission};
use relevo_domain::{BulkItem, BuryReason, Failure, MessageId, MessageRef, Receipt, Status, Verdict};
use relevo_store::{Error as StoreError, Key, Space, Tx};

const JOB: u16 = 3;

fn row(row: u32) -> Submission {
    let item = Some(BulkItem { job: JOB, row });
    Submission { item, ..message(usize::try_from(row).unwrap()) }
}

fn cursor() -> Key {
    Key::new(Space::BulkJob).u8(1)
}

/// What a job writes with what it does.
fn save(value: u8) -> impl FnOnce(&mut Tx) -> Result<(), StoreError> + Send + 'static {
    move |tx| tx.put(cursor(), vec![value])
}

async fn enqueue(bench: &Bench, rows: std::ops::Range<u32>) -> Vec<MessageId> {
    bench.handle.enqueue_items(rows.map(row).collect(), |_| Ok(())).await.unwrap()
}

impl Bench {
    fn about(&self, id: Option<MessageId>, receipt: Receipt) -> ReceiptReport {
        let at = self.clock.now();
        ReceiptReport { instance: ONE, id, provider_id: provider_id("wamid.1"), receipt, at, failure: None }
    }

    /// Waits until the job has outcomes like these.
    async fn outcomes(&self, statuses: &[Status]) -> Vec<ItemOutcome> {
        let mut changed = self.handle.outcomes_changed();
        loop {
            let outcomes = self.handle.outcomes(JOB, 100).unwrap();
            if outcomes.iter().map(|outcome| outcome.status).eq(statuses.iter().copied()) {
                return outcomes;
            }
            changed.changed().await.unwrap();
        }
    }

    fn records(&self, space: Space) -> usize {
        self.store.range(&Key::new(space), &Key::new(space).after_prefix()).count()
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_leaves_its_outcome_and_then_nothing() {
    let bench = Bench::open();
    bench.start().await;
    let ids = bench.handle.enqueue_items(vec![row(7)], save(1)).await.unwrap();
    assert_eq!(ids[0].item(), Some(BulkItem { job: JOB, row: 7 }));
    assert_eq!(bench.store.get(&cursor()).unwrap(), Some(vec![1]));
    assert_eq!(bench.handle.depth(ONE).unwrap().bulk, 1);
    bench.handle.sent(bench.lease().await, provider_id("wamid.1")).unwrap();
    let sent = bench.outcomes(&[Status::Sent]).await;
    assert_eq!((sent[0].id, &sent[0].provider_id), (ids[0], &Some(provider_id("wamid.1"))));
    for space in [Space::Job, Space::Ledger, Space::Flight, Space::Event, Space::DeadLetter] {
        assert_eq!(bench.records(space), 0, "{space:?}");
    }
    let found = bench.handle.find(ONE, &MessageRef::Ours(ids[0]));
    assert!(matches!(found, Err(Error::UnknownMessage)), "{found:?}");

    // A fact that comes between reading and noting is told again.
    let recorded = bench.handle.record(vec![bench.about(None, Receipt::Delivered)]).await.unwrap();
    assert_eq!(recorded, [Recorded::Moved(ids[0])]);
    bench.handle.note_outcomes(sent, save(2)).await.unwrap();
    assert_eq!(bench.store.get(&cursor()).unwrap(), Some(vec![2]));
    let delivered = bench.outcomes(&[Status::Delivered]).await;
    assert!(delivered[0].follows(ids[0], Status::Sent));
    bench.handle.note_outcomes(delivered, |_| Ok(())).await.unwrap();
    assert_eq!(bench.handle.outcomes(JOB, 9).unwrap(), []);
    // Whoever noted it is asked what it is called.
    let nameless = vec![bench.about(None, Receipt::Read)];
    assert_eq!(bench.handle.record(nameless.clone()).await.unwrap(), [Recorded::Unknown]);
    let noted = ids[0];
    let find = move |instance, id: &_| (instance == ONE && *id == provider_id("wamid.1")).then_some(noted);
    bench.handle.ask_for_noted_rows(std::sync::Arc::new(find));
    let both = [nameless, vec![bench.about(Some(ids[0]), Receipt::Sent)]].concat();
    let recorded = bench.handle.record(both).await.unwrap();
    assert_eq!(recorded, [Recorded::Moved(ids[0]), Recorded::Moved(ids[0])]);
    bench.handle.note_outcomes(bench.outcomes(&[Status::Read]).await, |_| Ok(())).await.unwrap();
    // One that was noted long ago comes as an outcome, and is not believed.
    bench.handle.record(vec![bench.about(Some(ids[0]), Receipt::Sent)]).await.unwrap();
    let late = bench.outcomes(&[Status::Sent]).await;
    assert!(!late[0].follows(ids[0], Status::Read));

    bench.handle.forget_job(JOB).await.unwrap();
    let recorded = bench.handle.record(vec![bench.about(Some(ids[0]), Receipt::Read)]).await.unwrap();
    assert_eq!(recorded, [Recorded::Unknown]);
    assert_eq!((bench.records(Space::Outcome), bench.records(Space::ProviderId)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn all_rows_are_taken_in_or_none() {
    let mut bench = Bench::open();
    bench.options = Options { capacity: 3, ..Options::default() };
    bench.start().await;
    enqueue(&bench, 0..2).await;
    let refused = bench.handle.enqueue_items((2..4).map(row).collect(), save(1)).await;
    assert!(matches!(refused, Err(Error::Full { capacity: 3 })), "{refused:?}");
    let failed = bench.handle.enqueue_items(vec![row(2)], |_| Err(StoreError::Closed)).await;
    assert!(matches!(failed, Err(Error::Store(StoreError::Closed))), "{failed:?}");
    assert_eq!(bench.store.get(&cursor()).unwrap(), None);
    assert_eq!(bench.handle.depth(ONE).unwrap().bulk, 2);
    assert_eq!(bench.records(Space::Job), 2);
    enqueue(&bench, 2..3).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_told_at_once_and_corrected_later() {
    let bench = Bench::open();
    bench.start().await;
    let ids = enqueue(&bench, 0..1).await;
    let lease = bench.lease().await;
    let hold = Verdict::Hold { wait: Duration::from_secs(60) };
    bench.handle.judged(lease, hold, Failure::ambiguous("no answer")).unwrap();
    let held = bench.outcomes(&[Status::Ambiguous]).await;
    assert!(held[0].ambiguous);
    assert_eq!(bench.view(ids[0]).status, Status::Ambiguous);
    bench.handle.note_outcomes(held, |_| Ok(())).await.unwrap();
    bench.handle.record(vec![bench.about(Some(ids[0]), Receipt::Delivered)]).await.unwrap();
    let corrected = bench.outcomes(&[Status::Delivered]).await;
    assert!(!corrected[0].ambiguous && corrected[0].follows(ids[0], Status::Ambiguous));
    assert_eq!((bench.records(Space::Flight), bench.handle.depth(ONE).unwrap().bulk), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_not_begun_is_taken_back() {
    let bench = Bench::open();
    bench.start().await;
    let ids = enqueue(&bench, 0..300).await;
    let begun = bench.handle.lease(ONE, 2, 2).await.unwrap().leases;
    let first = bench.handle.open_items(ONE, JOB, None, 100).await.unwrap();
    assert_eq!(first, ids[..100]);
    let rest = bench.handle.open_items(ONE, JOB, first.last().copied(), 1_000).await.unwrap();
    assert_eq!(rest, ids[100..]);
    let withdrawn = bench.handle.withdraw_items(ids.clone()).await.unwrap();
    assert_eq!(withdrawn, ids[2..]);
    assert_eq!(bench.outcomes(&[Status::Cancelled; 100]).await.len(), 100);
    assert_eq!(bench.handle.depth(ONE).unwrap().bulk, 2);
    // A row that was taken back goes again, and what is said of its first message counts no more.
    let again = enqueue(&bench, 2..3).await[0];
    let lease = bench.lease().await;
    assert_eq!(lease.id, again);
    bench.handle.sent(lease, provider_id("wamid.1")).unwrap();
    drop(begun);
    let mut changed = bench.handle.outcomes_changed();
    while bench.handle.outcomes(JOB, 1).unwrap()[0].id != again {
        changed.changed().await.unwrap();
    }
    let recorded = bench.handle.record(vec![bench.about(Some(ids[2]), Receipt::Read)]).await.unwrap();
    assert_eq!(recorded, [Recorded::Unchanged(ids[2])]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_instance_ends_its_rows() {
    let bench = Bench::open();
    bench.start().await;
    enqueue(&bench, 0..2).await;
    bench.handle.lease(ONE, 1, 1).await.unwrap();
    bench.handle.purge(ONE).await.unwrap();
    let outcomes = bench.outcomes(&[Status::DeadLetter, Status::Cancelled]).await;
    assert!(outcomes[0].ambiguous && !outcomes[1].ambiguous);
}

#[tokio::test(start_paused = true)]
async fn single_messages_pass_bulk_ones_for_which_there_is_no_room() {
    let bench = Bench::open();
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
async fn a_row_that_is_given_up_is_no_dead_letter() {
    let bench = Bench::open();
    bench.start().await;
    enqueue(&bench, 0..1).await;
    let failure = Failure::permanent("not a WhatsApp number").with_code(131_026);
    bench.handle.judged(bench.lease().await, Verdict::Bury(BuryReason::Permanent), failure.clone()).unwrap();
    let outcomes = bench.outcomes(&[Status::DeadLetter]).await;
    assert_eq!(outcomes[0].failure, Some(failure));
    assert_eq!((bench.records(Space::DeadLetter), bench.records(Space::Event)), (0, 0));
}

/// However a job cuts the stream of facts into outcomes, it comes to believe the same.
#[test]
fn what_a_job_believes_depends_on_no_moment_of_noting() {
    let ends = [Status::Ambiguous, Status::DeadLetter, Status::Failed, Status::Sent, Status::Cancelled];
    let facts = [Status::Sent, Status::Failed, Status::Delivered, Status::Read, Status::Played];
    let id = MessageId::of_item(relevo_domain::Timestamp(1), 0, ONE, BulkItem { job: JOB, row: 0 });
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
        outcome.follows(id, was)
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
