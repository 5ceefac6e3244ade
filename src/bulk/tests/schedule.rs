//! Tests of `send_at` and the sending hours, under paused time that the tests advance.

use std::time::Duration;

use uuid::Uuid;

use super::fixture::{BulkFixture, job, two};
use crate::bulk::{JobProgress, JobStatus, NewJob, Options, SendingHours};
use crate::queue::tests::fixture::{ONE, provider_id};

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
