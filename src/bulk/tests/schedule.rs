//! Tests of `send_at`, the sending hours and jobs whose instances cannot send, under paused time that the tests advance.

use std::time::Duration;

use uuid::Uuid;

use super::fixture::{BulkFixture, job, two};
use crate::bulk::{JobProgress, JobStatus, NewJob, Options, RowStatus, SenderSelection, SendingHours};
use crate::queue::tests::fixture::{ONE, provider_id};
use relevo_domain::{InstanceState, Status};

/// Maximum number of steps before a test fails.
const MAX_STEPS: usize = 200_000;

impl BulkFixture {
    /// Advances time in small steps until the progress satisfies `reached`.
    async fn advance_until(&self, job: Uuid, reached: impl Fn(&JobProgress) -> bool) -> JobProgress {
        for _ in 0..MAX_STEPS {
            let progress = self.view(job).progress;
            if reached(&progress) {
                return progress;
            }
            tokio::time::advance(Duration::from_millis(20)).await;
            std::thread::yield_now();
        }
        panic!("progress not reached: {:?}", self.view(job));
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn job_starts_at_send_at() {
    let fixture = BulkFixture::open().await;
    fixture.run_both_instances();
    let send_at = fixture.queue.clock.now() + HOUR;
    let id = fixture.create(NewJob { send_at: Some(send_at), ..job() }, 3).await;
    assert_eq!(fixture.view(id).progress.status, JobStatus::Pending);
    let progress = fixture.advance_until(id, |progress| progress.status != JobStatus::Pending).await;
    assert!(progress.started_at.unwrap() >= send_at);
    fixture.advance_until(id, |progress| progress.status == JobStatus::Completed).await;
}

#[tokio::test(start_paused = true)]
async fn unsent_rows_wait_for_the_next_sending_hours() {
    // The clock of the test queue starts on 22 November 2025 at 08:26:40 UTC.
    let fixture = BulkFixture::with_options(Options { window: 10, ..Options::default() }).await;
    let window = Some(SendingHours::new("08:00", "08:30", "UTC").unwrap());
    let id = fixture.create(NewJob { window, ..job() }, 25).await;
    fixture.advance_until(id, |progress| progress.taken == 10).await;
    fixture.queue.advance_time(Duration::from_secs(200)).await;
    let closed = fixture.advance_until(id, |progress| progress.error.is_some()).await;
    assert!(closed.error.unwrap().contains("2025-11-23T08:00:00"));
    assert!(
        fixture.queue.handle.lease(ONE, 9, 9).await.unwrap().leases.is_empty(),
        "the queue has no row of the job"
    );
    fixture.run_both_instances();
    fixture.queue.advance_time(22 * HOUR).await;
    assert_eq!(fixture.view(id).progress.counts.sent, 0);
    fixture.queue.advance_time(Duration::from_secs(6_000)).await;
    let done = fixture.advance_until(id, |progress| progress.status == JobStatus::Completed).await;
    assert_eq!((done.counts.sent, done.counts.failed), (25, 0));
    assert_eq!(fixture.attempt_counts(), vec![1; 25]);
}

#[tokio::test(start_paused = true)]
async fn job_completes_when_its_last_outcome_arrives_after_the_sending_hours() {
    let fixture = BulkFixture::open().await;
    let window = Some(SendingHours::new("08:00", "08:30", "UTC").unwrap());
    let id = fixture.create(NewJob { window, ..job() }, 1).await;
    fixture.advance_until(id, |progress| progress.taken == 1).await;
    let mut leases = fixture.queue.handle.lease(ONE, 9, 9).await.unwrap().leases;
    leases.extend(fixture.queue.handle.lease(two(), 9, 9).await.unwrap().leases);
    fixture.queue.advance_time(Duration::from_secs(200)).await;
    fixture.advance_until(id, |progress| progress.error.is_some()).await;
    for lease in leases {
        fixture.queue.handle.record_sent(lease, provider_id("wamid.0")).unwrap();
    }
    let done = fixture.advance_until(id, |progress| progress.status == JobStatus::Completed).await;
    assert_eq!((done.counts.sent, done.error), (1, None));
}

/// A job of the instance `one` alone.
fn job_of_one() -> NewJob {
    NewJob { senders: SenderSelection::Named(vec!["one".parse().unwrap()]), ..job() }
}

#[tokio::test(start_paused = true)]
async fn job_says_at_once_what_it_waits_for() {
    let fixture = BulkFixture::open().await;
    fixture.set_state(ONE, InstanceState::Paused);
    let created = fixture.handle.create(job_of_one(), fixture.draft(["573001234567".to_owned()])).await;
    let error = created.unwrap().progress.error.unwrap();
    assert!(error.contains("one is paused"), "{error}");

    // Also when every row is in the queue of its instance.
    fixture.set_state(ONE, InstanceState::Connected);
    let id = fixture.create(job_of_one(), 5).await;
    fixture.advance_until(id, |progress| progress.taken == 5).await;
    assert_eq!(fixture.view(id).progress.error, None);
    fixture.set_state(ONE, InstanceState::LoggedOut);
    let waiting = fixture.advance_until(id, |progress| progress.error.is_some()).await;
    assert!(waiting.error.unwrap().contains("one is logged_out"));
    fixture.set_state(ONE, InstanceState::Connected);
    fixture.run_instance(ONE, |_| super::fixture::SendResult::Sent);
    let done = fixture.advance_until(id, |progress| progress.status == JobStatus::Completed).await;
    assert_eq!((done.counts.sent, done.error), (5, None));
}

#[tokio::test(start_paused = true)]
async fn stalled_job_ends_and_its_rows_can_be_tried_again() {
    let options = Options { stalled_after: Duration::from_secs(60), window: 10, ..Options::default() };
    let fixture = BulkFixture::with_options(options).await;
    let id = fixture.create(job_of_one(), 25).await;
    fixture.advance_until(id, |progress| progress.taken == 10).await;
    fixture.set_state(ONE, InstanceState::Paused);
    // A pause does not count.
    fixture.advance_until(id, |progress| progress.error.is_some()).await;
    fixture.handle.pause(id).await.unwrap();
    fixture.queue.advance_time(HOUR).await;
    fixture.handle.resume(id).await.unwrap();
    let resumed_at = fixture.queue.clock.now();
    let failed = fixture.advance_until(id, |progress| progress.status == JobStatus::Failed).await;
    let lasted = fixture.queue.clock.now().since(resumed_at);
    assert!(lasted > Duration::from_secs(50) && lasted < Duration::from_secs(120), "{lasted:?}");
    assert!(failed.error.unwrap().starts_with("stalled: "));
    assert_eq!((failed.counts.failed, failed.counts.sent), (25, 0));
    for row in fixture.results(id).await {
        assert_eq!(row.status, RowStatus::Message(Status::Failed), "{row:?}");
        assert_eq!(row.error.as_deref(), Some("stalled"));
    }

    fixture.set_state(ONE, InstanceState::Connected);
    fixture.run_instance(ONE, |_| super::fixture::SendResult::Sent);
    fixture.handle.retry_failed(id).await.unwrap();
    let done = fixture.advance_until(id, |progress| progress.status == JobStatus::Completed).await;
    assert_eq!((done.counts.sent, done.counts.failed), (25, 0));
    assert_eq!(fixture.attempt_counts(), vec![1; 25]);
}
