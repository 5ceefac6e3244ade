//! When a job may be sent, and how long it is kept. Time stands still here, and the test moves it.

use std::time::Duration;

use uuid::Uuid;

use super::world::{World, job};
use crate::bulk::{NewJob, Options, Progress, Status, Window};
use crate::queue::tests::bench::ONE;

/// More than enough steps for what a test waits for; it fails when they are used up.
const STEPS: usize = 200_000;

impl World {
    /// Lets time pass in small steps until the job is there.
    async fn pass_until(&self, job: Uuid, reached: impl Fn(&Progress) -> bool) -> Progress {
        for _ in 0..STEPS {
            let progress = self.view(job).progress;
            if reached(&progress) {
                return progress;
            }
            tokio::time::advance(Duration::from_millis(20)).await;
            std::thread::yield_now();
        }
        panic!("never: {:?}", self.view(job));
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn a_job_waits_for_its_moment() {
    let world = World::open().await;
    world.play_both();
    let send_at = world.bench.clock.now() + HOUR;
    let id = world.create(NewJob { send_at: Some(send_at), ..job() }, 3).await;
    assert_eq!(world.view(id).progress.status, Status::Pending);
    let progress = world.pass_until(id, |progress| progress.status != Status::Pending).await;
    assert!(progress.started_at.unwrap() >= send_at);
    world.pass_until(id, |progress| progress.status == Status::Completed).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_when_the_window_closes_is_sent_when_it_opens() {
    // The clock of the bench starts on 22 November 2025 at 08:26:40 UTC.
    let world = World::with(Options { window: 10, ..Options::default() }).await;
    let window = Some(Window::new("08:00", "08:30", "UTC").unwrap());
    let id = world.create(NewJob { window, ..job() }, 25).await;
    world.pass_until(id, |progress| progress.taken == 10).await;
    world.bench.pass(Duration::from_secs(200)).await;
    let closed = world.pass_until(id, |progress| progress.error.is_some()).await;
    assert!(closed.error.unwrap().contains("2025-11-23T08:00:00"));
    assert!(
        world.bench.handle.lease(ONE, 9, 9).await.unwrap().leases.is_empty(),
        "the queue has nothing of it"
    );
    world.play_both();
    world.bench.pass(22 * HOUR).await;
    assert_eq!(world.view(id).progress.counts.sent, 0);
    world.bench.pass(Duration::from_secs(6_000)).await;
    let done = world.pass_until(id, |progress| progress.status == Status::Completed).await;
    assert_eq!((done.counts.sent, done.counts.failed), (25, 0));
    assert_eq!(world.times(), vec![1; 25]);
}
