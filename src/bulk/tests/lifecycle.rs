//! Tests of jobs from creation to end: outcomes, crashes, invalid rows, templates, limits.

use std::time::Duration;

use bytes::Bytes;

use super::fixture::{BulkFixture, SendResult, job, phone, two};
use crate::bulk::{Error, JobKind, JobProgress, JobStatus, NewJob, OnSuppressed, Options, Plan, RowStatus};
use crate::queue::ReceiptReport;
use crate::queue::tests::fixture::{ONE, provider_id};
use relevo_domain::{Content, MessageRef, Receipt, RecipientParser, Status as Sent};
use relevo_store::Priority;

#[tokio::test]
async fn every_row_is_sent_once_and_counted() {
    let fixture = BulkFixture::open().await;
    fixture.run_both_instances();
    let id = fixture.create(job(), 2_500).await;
    let progress = fixture.wait_completed(id).await;
    assert_eq!((progress.counts.sent, progress.counts.failed, progress.taken), (2_500, 0, 2_500));
    assert_eq!(progress.percentage(), 100.0);
    assert_eq!(fixture.attempt_counts(), vec![1; 2_500]);
    let results = fixture.results(id).await;
    assert_eq!(results.len(), 2_500);
    for (row, result) in (0..).zip(&results) {
        assert_eq!((result.row, result.line, &result.phone), (row, row + 1, &phone(row)));
        assert_eq!(result.status, RowStatus::Message(Sent::Sent));
        assert_eq!(result.provider_id.as_ref().unwrap().as_str(), format!("wamid.{row}"));
        assert!(result.device_id.is_some() && result.instance.is_some() && result.at.is_some());
    }
    assert_eq!(fixture.queue.handle.depth(ONE).unwrap().total(), 0);
    let view = fixture.view(id);
    assert!(view.progress.started_at.is_some() && view.progress.ended_at.is_some());
}

#[tokio::test]
async fn window_stays_small_until_rows_are_sent() {
    let fixture = BulkFixture::open().await;
    let id = fixture.create(job(), 2_000).await;
    fixture.wait_until(id, |progress| progress.taken >= 200).await;
    // The actor runs the command after it has filled its window.
    let taken = fixture.handle.pause(id).await.unwrap().progress.taken;
    assert!(taken <= 1_000, "{taken}");
    fixture.handle.resume(id).await.unwrap();
    fixture.run_both_instances();
    assert_eq!(fixture.wait_completed(id).await.counts.sent, 2_000);
}

#[tokio::test]
async fn killed_job_continues_and_sends_no_row_twice() {
    let options = Options { window: 100, ..Options::default() };
    let mut fixture = BulkFixture::with_options(options).await;
    fixture.run_both_instances();
    let id = fixture.create(job(), 1_500).await;
    for reached in [200, 500, 800, 1_100, 1_400] {
        fixture.wait_until(id, |progress| progress.counts.sent >= reached).await;
        fixture.crash().await;
    }
    let progress = fixture.wait_completed(id).await;
    assert_eq!((progress.counts.sent, progress.counts.failed), (1_500, 0));
    assert_eq!(fixture.attempt_counts(), vec![1; 1_500]);
}

#[tokio::test]
async fn invalid_and_suppressed_rows_are_reported_and_skipped() {
    let fixture = BulkFixture::open().await;
    fixture.run_both_instances();
    fixture.suppressed.lock().unwrap().insert(phone(2));
    let phones = ["573000000000", "abc", "573000000002", "573000000003"].map(str::to_owned);
    let id = fixture.handle.create(job(), fixture.draft(phones.clone())).await.unwrap().id;
    let progress = fixture.wait_completed(id).await;
    let counts = progress.counts;
    assert_eq!((counts.sent, counts.failed, counts.invalid, counts.skipped), (2, 1, 1, 1));
    let (errors, end) = fixture.handle.errors(id, 0, 100).await.unwrap();
    assert_eq!(errors.len(), 1);
    assert_eq!((errors[0].row, errors[0].line, errors[0].phone.as_str()), (1, 2, "abc"));
    assert!(errors[0].error.contains("dígitos"));
    assert_eq!(
        fixture.handle.errors(id, end, 100).await.unwrap(),
        (vec![], end),
        "each error is returned once"
    );
    let statuses: Vec<_> = fixture.results(id).await.iter().map(|row| row.status).collect();
    let sent = RowStatus::Message(Sent::Sent);
    assert_eq!(statuses, [sent, RowStatus::Invalid, RowStatus::Skipped, sent]);

    let all = NewJob { suppressed: OnSuppressed::Send, ..job() };
    let id = fixture.handle.create(all, fixture.draft(phones)).await.unwrap().id;
    assert_eq!(fixture.wait_completed(id).await.counts.skipped, 0);
}

#[tokio::test]
async fn page_size_shrinks_while_the_store_is_contended() {
    let fixture = BulkFixture::open().await;
    let calm = fixture.create(job(), 300).await;
    assert_eq!(fixture.wait_until(calm, |progress| progress.taken > 0).await.taken, 256);
    let store = fixture.queue.store.clone();
    let (started, is_started) = tokio::sync::oneshot::channel();
    let urgent_commits = tokio::spawn(async move {
        let mut started = Some(started);
        loop {
            let (reply, committed) = tokio::sync::oneshot::channel();
            store
                .submit_with_priority(Priority::Urgent, |_| Ok(()), |result| reply.send(result).unwrap())
                .await;
            committed.await.unwrap().unwrap();
            if let Some(started) = started.take() {
                started.send(()).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    is_started.await.unwrap();
    let contended = fixture.create(job(), 300).await;
    assert_eq!(fixture.wait_until(contended, |progress| progress.taken > 0).await.taken, 32);
    urgent_commits.abort();
}

#[tokio::test]
async fn file_values_fill_the_template() {
    let fixture = BulkFixture::open().await;
    let bodies = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    for number in [ONE, two()] {
        let bodies = bodies.clone();
        fixture.run_instance(number, move |lease| {
            if let Content::Text { body, .. } = &lease.message.content {
                bodies.lock().unwrap().push((lease.message.to.to_string(), body.clone()));
            }
            SendResult::Sent
        });
    }
    let mut upload = fixture.handle.upload(RecipientParser::default()).unwrap();
    for piece in ["phone|@valor1\n+51123123123|leo", "nardo\n\n12|x\n+51123123124\n"] {
        upload.write(Bytes::from_static(piece.as_bytes())).await.unwrap();
    }
    let rows = upload.finish().await.unwrap();
    assert_eq!((rows.total(), rows.bad().0), (3, 1));
    let plan = Plan::Text("Hola @valor1".to_owned());
    let file = NewJob { kind: JobKind::File, plan, ..job() };
    let id = fixture.handle.create(file, rows).await.unwrap().id;
    assert_eq!(fixture.wait_completed(id).await.counts.sent, 2);
    let mut bodies = bodies.lock().unwrap().clone();
    bodies.sort();
    let expected = [("51123123123", "Hola leonardo"), ("51123123124", "Hola ---")];
    assert_eq!(bodies, expected.map(|(to, body)| (to.to_owned(), body.to_owned())));
    let results = fixture.results(id).await;
    assert_eq!(results.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 4, 5]);
    assert_eq!(results[0].phone, "+51123123123");
    assert_eq!(fixture.handle.results(id, 2, 1).await.unwrap().rows[0].phone, "+51123123124");
}

#[tokio::test]
async fn ambiguous_row_does_not_block_the_job_and_is_corrected_later() {
    let mut fixture = BulkFixture::open().await;
    let unknown = |lease: &crate::queue::Lease| match lease.id.item().unwrap().row {
        1 => SendResult::Ambiguous,
        2 => SendResult::Failed,
        _ => SendResult::Sent,
    };
    fixture.run_instance(ONE, unknown);
    fixture.run_instance(two(), unknown);
    let id = fixture.create(job(), 4).await;
    let counts = fixture.wait_completed(id).await.counts;
    assert_eq!((counts.sent, counts.failed, counts.ambiguous), (2, 2, 1));
    let before = fixture.results(id).await;
    assert!(before[1].ambiguous && before[1].error.as_deref().unwrap().contains("timeout"));
    assert_eq!((before[2].code, before[2].status), (Some(131_026), RowStatus::Message(Sent::DeadLetter)));

    fixture.crash().await;
    let sender = fixture.attempts.lock().unwrap()[&1][0];
    let report = ReceiptReport {
        instance: sender,
        id: None,
        provider_id: provider_id("wamid.0"),
        receipt: Receipt::Read,
        at: fixture.queue.clock.now(),
        failure: None,
    };
    let first = ReceiptReport { instance: fixture.attempts.lock().unwrap()[&0][0], ..report.clone() };
    let held_message = fixture.queue.handle.open_items(sender, 0, None, 9).await.unwrap()[0];
    let late = ReceiptReport {
        id: Some(held_message),
        provider_id: provider_id("wamid.1"),
        receipt: Receipt::Delivered,
        ..report
    };
    fixture.queue.handle.record_receipts(vec![first, late]).await.unwrap();
    // The two receipts may be recorded one after the other.
    let recorded = |progress: &JobProgress| progress.counts.ambiguous == 0 && progress.counts.read == 1;
    let counts = fixture.wait_until(id, recorded).await.counts;
    assert_eq!((counts.sent, counts.failed, counts.delivered), (3, 1, 2));
    let after = fixture.results(id).await;
    assert_eq!(after[0].status, RowStatus::Message(Sent::Read));
    assert_eq!((after[1].status, after[1].error.clone()), (RowStatus::Message(Sent::Delivered), None));
    assert_eq!(fixture.handle.find(held_message).await.unwrap().unwrap().1, after[1]);
    assert!(
        fixture.queue.handle.find(sender, &MessageRef::Ours(held_message)).is_err(),
        "the queue has no ledger entry of a row"
    );
}

#[tokio::test]
async fn limits_and_conflicts_are_refused_at_once() {
    let fixture =
        BulkFixture::with_options(Options { max_rows: 3, max_active: 1, ..Options::default() }).await;
    let mut list = fixture.handle.list_draft().unwrap();
    (0..3).for_each(|n| list.push(&phone(n), None).unwrap());
    assert!(matches!(list.push(&phone(3), None), Err(Error::TooManyRows { limit: 3 })));
    drop(list);
    let id = fixture.create(job(), 1).await;
    let second = fixture.handle.create(job(), fixture.draft([phone(1)])).await;
    assert!(matches!(second, Err(Error::TooManyJobs { limit: 1 })));
    let again = fixture.handle.create(NewJob { id, ..job() }, fixture.draft([phone(1)])).await;
    assert!(matches!(again, Err(Error::Exists(_))));
    let running = fixture.handle.delete(id).await;
    assert!(matches!(running, Err(Error::State { status: JobStatus::Processing | JobStatus::Pending, .. })));
    fixture.instances.lock().unwrap().clear();
    fixture.handle.cancel(id).await.unwrap();
    let no_instance = fixture.handle.create(job(), fixture.draft([phone(1)])).await;
    assert!(matches!(no_instance, Err(Error::NoDevices)));
    assert_eq!(
        std::fs::read_dir(fixture.dir.path().join("jobs")).unwrap().count(),
        1,
        "refused drafts are deleted"
    );
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "is left")]
async fn draft_that_is_left_fails_a_test() {
    let fixture = BulkFixture::open().await;
    std::mem::forget(fixture.draft([phone(0)]));
}
