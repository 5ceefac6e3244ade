//! Tests of the commands of jobs: cancel, pause, resume, retry, delete, list.

use uuid::Uuid;

use super::fixture::{BulkFixture, SendResult, job, phone, two};
use crate::bulk::{Error, JobKind, JobStatus, ListCursor, ListFilter, NewJob, Options, Plan, RowStatus};
use crate::queue::Submission;
use crate::queue::tests::fixture::{ONE, TestQueue, message};
use relevo_domain::{
    BlobRef, Content, Media, MediaKind, MediaSource, MessageId, RecipientParser, Status as Sent,
};
use relevo_store::{BlobSet, Key, Space};

#[tokio::test]
async fn cancelled_job_sends_no_more_rows() {
    let fixture = BulkFixture::with_options(Options { window: 50, ..Options::default() }).await;
    let id = fixture.create(job(), 200).await;
    fixture.wait_until(id, |progress| progress.taken >= 50).await;
    let view = fixture.handle.cancel(id).await.unwrap();
    assert_eq!(view.progress.status, JobStatus::Cancelled);
    let progress = fixture.wait_until(id, |progress| progress.counts.cancelled >= 50).await;
    assert_eq!((progress.counts.cancelled, progress.counts.sent), (50, 0));
    fixture.run_both_instances();
    assert!(fixture.queue.handle.lease(ONE, 9, 9).await.unwrap().leases.is_empty());
    let results = fixture.results(id).await;
    assert_eq!(results[0].status, RowStatus::Message(Sent::Cancelled));
    assert_eq!(results[199].status, RowStatus::Message(Sent::Cancelled));
    assert!(matches!(fixture.handle.resume(id).await, Err(Error::State { .. })));
}

#[tokio::test]
async fn paused_job_survives_a_crash_and_resumes_without_gaps() {
    let mut fixture = BulkFixture::with_options(Options { window: 50, ..Options::default() }).await;
    let id = fixture.create(job(), 120).await;
    fixture.wait_until(id, |progress| progress.taken >= 50).await;
    assert_eq!(fixture.handle.pause(id).await.unwrap().progress.status, JobStatus::Paused);
    assert_eq!(fixture.queue.handle.depth(ONE).unwrap().total(), 0, "the queue has no row of the job");
    fixture.crash().await;
    assert_eq!(fixture.view(id).progress.status, JobStatus::Paused);
    fixture.run_both_instances();
    fixture.handle.pause(id).await.unwrap();
    assert!(fixture.attempt_counts().is_empty());
    fixture.handle.resume(id).await.unwrap();
    let progress = fixture.wait_completed(id).await;
    assert_eq!((progress.counts.sent, progress.counts.cancelled), (120, 0));
    assert_eq!(fixture.attempt_counts(), vec![1; 120]);
}

#[tokio::test]
async fn withdrawn_rows_are_reread_with_their_values() {
    const ROWS: u32 = 60;
    let fixture = BulkFixture::open().await;
    let mut upload = fixture.handle.upload(RecipientParser::default()).unwrap();
    // A few megabytes, so that the rows are read in several pages.
    let padding = "x".repeat(60_000);
    for row in 0..ROWS {
        upload.write(format!("{}|{row}|{padding}\n", phone(row)).into()).await.unwrap();
    }
    let rows = upload.finish().await.unwrap();
    let file = NewJob { kind: JobKind::File, plan: Plan::Text("@valor1".to_owned()), ..job() };
    let id = fixture.handle.create(file, rows).await.unwrap().id;
    fixture.wait_until(id, |progress| progress.taken == ROWS).await;
    fixture.handle.pause(id).await.unwrap();
    assert_eq!(fixture.queue.handle.depth(ONE).unwrap().total(), 0);
    for number in [ONE, two()] {
        fixture.run_instance(number, |lease| {
            let Content::Text { body, .. } = &lease.message.content else { return SendResult::Failed };
            let row = lease.id.item().unwrap().row;
            let is_right = *body == row.to_string() && lease.message.to == phone(row).parse().unwrap();
            if is_right { SendResult::Sent } else { SendResult::Failed }
        });
    }
    fixture.handle.resume(id).await.unwrap();
    assert_eq!(fixture.wait_completed(id).await.counts.sent, ROWS);
    assert_eq!(fixture.attempt_counts(), vec![1; ROWS as usize]);
}

#[tokio::test]
async fn job_with_a_truncated_source_fails_with_the_reason() {
    let fixture = BulkFixture::open().await;
    let id = fixture.create(job(), 60).await;
    fixture.wait_until(id, |progress| progress.taken == 60).await;
    fixture.handle.pause(id).await.unwrap();
    let source = fixture.dir.path().join("jobs").join(id.to_string()).join("source");
    std::fs::File::options().write(true).open(source).unwrap().set_len(0).unwrap();
    fixture.run_both_instances();
    fixture.handle.resume(id).await.unwrap();
    let ended = fixture.wait_until(id, |progress| progress.status == JobStatus::Failed).await;
    assert!(ended.error.unwrap().contains("the source has no row 0"));
    assert!(fixture.attempt_counts().is_empty());
}

#[tokio::test]
async fn job_with_a_damaged_source_sends_no_further_row() {
    let mut fixture = BulkFixture::open().await;
    let id = fixture.create(job(), 60).await;
    fixture.wait_until(id, |progress| progress.taken == 60).await;
    fixture.handle.pause(id).await.unwrap();
    let path = fixture.dir.path().join("jobs").join(id.to_string()).join("source");
    let mut source = std::fs::read(&path).unwrap();
    let digit = source.iter().position(u8::is_ascii_digit).unwrap();
    source[digit + 5] ^= 1;
    std::fs::write(&path, source).unwrap();
    fixture.crash().await;
    fixture.run_both_instances();
    fixture.handle.resume(id).await.unwrap();
    let ended = fixture.wait_until(id, |progress| progress.status == JobStatus::Failed).await;
    assert!(ended.error.unwrap().contains("the source is damaged"));
    assert!(fixture.attempt_counts().is_empty());
}

#[tokio::test]
async fn retry_failed_resends_failed_rows_only() {
    let mut fixture = BulkFixture::open().await;
    let fails = |lease: &crate::queue::Lease| match lease.id.item().unwrap().row % 10 {
        0 => SendResult::Failed,
        1 => SendResult::Ambiguous,
        _ => SendResult::Sent,
    };
    let instances = [fixture.run_instance(ONE, fails), fixture.run_instance(two(), fails)];
    let id = fixture.create(job(), 1_200).await;
    let counts = fixture.wait_completed(id).await.counts;
    assert_eq!((counts.sent, counts.failed, counts.ambiguous), (960, 240, 120));
    for instance in instances {
        instance.abort();
        let _ = instance.await;
    }
    fixture.handle.retry_failed(id).await.unwrap();
    fixture.crash().await;
    fixture.run_both_instances();
    let counts = fixture.wait_until(id, |progress| progress.counts.sent == 1_080).await.counts;
    assert_eq!((counts.failed, counts.ambiguous), (120, 120));
    fixture.wait_completed(id).await;
    let expected: Vec<_> = (0..1_200).map(|row| if row % 10 == 0 { 2 } else { 1 }).collect();
    assert_eq!(fixture.attempt_counts(), expected);
}

const REFUSED_ROWS: u32 = 8;

/// A job whose rows have failed and are retried while the queue of both instances is full, and the messages that fill it.
/// No instance runs.
async fn job_with_refused_retry() -> (BulkFixture, Uuid, Vec<MessageId>) {
    const ROWS: u32 = REFUSED_ROWS;
    let mut queue = TestQueue::open();
    queue.options.capacity = u64::from(ROWS);
    let fixture = BulkFixture::with_queue(queue, Options::default()).await;
    let instances = [ONE, two()].map(|number| fixture.run_instance(number, |_| SendResult::Failed));
    let id = fixture.create(job(), ROWS).await;
    assert_eq!(fixture.wait_completed(id).await.counts.failed, ROWS);
    for instance in instances {
        instance.abort();
        let _ = instance.await;
    }
    let mut others = Vec::new();
    for recipient in 0..ROWS {
        for instance in [ONE, two()] {
            others.push(fixture.queue.enqueue(Submission { instance, ..message(recipient as usize) }).await);
        }
    }
    fixture.handle.retry_failed(id).await.unwrap();
    fixture.wait_until(id, |progress| progress.error.is_some()).await;
    (fixture, id, others)
}

#[tokio::test]
async fn cancelled_retry_leaves_no_row_open_that_the_queue_refused() {
    let (mut fixture, id, _) = job_with_refused_retry().await;
    fixture.handle.cancel(id).await.unwrap();
    let cancelled = RowStatus::Message(Sent::Cancelled);
    assert_eq!(fixture.statuses(id).await, [cancelled; REFUSED_ROWS as usize]);
    for _ in 0..2 {
        let counts = fixture.view(id).progress.counts;
        assert_eq!((counts.cancelled, counts.failed), (REFUSED_ROWS, 0));
        fixture.crash().await;
    }
}

#[tokio::test]
async fn failed_retry_is_repeated_with_the_rows_that_the_queue_refused() {
    let (mut fixture, id, others) = job_with_refused_retry().await;
    let source = fixture.dir.path().join("jobs").join(id.to_string()).join("source");
    let rows = std::fs::read(&source).unwrap();
    std::fs::write(&source, "").unwrap();
    // Commands make the actor run a round at once.
    fixture.handle.pause(id).await.unwrap();
    fixture.handle.resume(id).await.unwrap();
    fixture.wait_until(id, |progress| progress.status == JobStatus::Failed).await;
    std::fs::write(&source, rows).unwrap();
    assert_eq!(fixture.statuses(id).await, [RowStatus::Waiting; REFUSED_ROWS as usize]);
    fixture.crash().await;
    for other in others {
        assert!(fixture.queue.handle.withdraw(other).await.unwrap());
    }
    fixture.run_both_instances();
    fixture.handle.retry_failed(id).await.unwrap();
    let counts = fixture.wait_completed(id).await.counts;
    assert_eq!((counts.sent, counts.failed), (REFUSED_ROWS, 0));
    assert_eq!(fixture.attempt_counts(), [2; REFUSED_ROWS as usize]);
}

#[tokio::test]
async fn deleted_job_leaves_no_files_or_records() {
    let fixture = BulkFixture::open().await;
    fixture.run_both_instances();
    let id = fixture.create(job(), 30).await;
    fixture.wait_completed(id).await;
    fixture.handle.delete(id).await.unwrap();
    assert!(matches!(fixture.handle.get(id), Err(Error::Unknown(_))));
    assert_eq!(std::fs::read_dir(fixture.dir.path().join("jobs")).unwrap().count(), 0);
    for space in [Space::BulkJob, Space::ItemOutcome, Space::ProviderId, Space::Job, Space::Ledger] {
        let (start, end) = (Key::new(space), Key::new(space).after_prefix());
        assert_eq!(fixture.queue.store.range(&start, &end).count(), 0, "{space:?}");
    }
    let again = fixture.create(job(), 3).await;
    assert_eq!(fixture.wait_completed(again).await.counts.sent, 3, "its slot can be reused");
}

#[tokio::test]
async fn jobs_are_listed_newest_first() {
    let fixture = BulkFixture::open().await;
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(fixture.handle.create(job(), fixture.draft([phone(n)])).await.unwrap());
    }
    ids.sort_by_key(|view| std::cmp::Reverse((view.created_at, view.id)));
    let expected: Vec<_> = ids.iter().map(|view| view.id).collect();
    let all = fixture.handle.list(&ListFilter::default(), None, 10).unwrap();
    assert_eq!(all.iter().map(|view| view.id).collect::<Vec<_>>(), expected);
    let after = ListCursor { created_at: ids[0].created_at, id: ids[0].id };
    let rest = fixture.handle.list(&ListFilter::default(), Some(after), 1).unwrap();
    assert_eq!(rest[0].id, expected[1]);
    let done = ListFilter { status: Some(JobStatus::Completed), ..ListFilter::default() };
    assert!(fixture.handle.list(&done, None, 10).unwrap().is_empty());
}

#[tokio::test]
async fn job_references_its_blobs_until_it_is_deleted() {
    let fixture = BulkFixture::open().await;
    let blob = |digit: &str| BlobRef { sha256: digit.repeat(64), size: 1, mime: "image/png".to_owned() };
    let picture = |digit: &str| {
        let (kind, source) = (MediaKind::Image, MediaSource::Blob(blob(digit)));
        Content::Media(Media { kind, source, caption: None, file_name: None, voice: false })
    };
    let mut list = fixture.handle.list_draft().unwrap();
    list.push("573001234567", Some(&picture("a"))).unwrap();
    list.push("573001234568", Some(&picture("b"))).unwrap();
    let own = NewJob { id: Uuid::from_u128(1), plan: Plan::PerRow, ..job() };
    fixture.handle.create(own, list.finish().unwrap()).await.unwrap();
    let mut list = fixture.handle.list_draft().unwrap();
    list.push("573001234567", None).unwrap();
    let common = NewJob { id: Uuid::from_u128(2), plan: Plan::Common(picture("c")), ..job() };
    fixture.handle.create(common, list.finish().unwrap()).await.unwrap();

    let mut referenced = BlobSet::default();
    fixture.handle.referenced_blobs(&mut referenced).unwrap();
    let mut all = BlobSet::default();
    ["a", "b", "c"].into_iter().for_each(|digit| all.insert(&blob(digit)));
    assert_eq!(referenced, all);

    fixture.handle.cancel(Uuid::from_u128(1)).await.unwrap();
    fixture.wait_until(Uuid::from_u128(1), |progress| progress.counts.cancelled == 2).await;
    fixture.handle.delete(Uuid::from_u128(1)).await.unwrap();
    let mut referenced = BlobSet::default();
    fixture.handle.referenced_blobs(&mut referenced).unwrap();
    let mut expected = BlobSet::default();
    expected.insert(&blob("c"));
    assert_eq!(referenced, expected);
}
