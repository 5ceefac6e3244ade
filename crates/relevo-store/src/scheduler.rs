//! Queues submitted tasks and runs those of each commit. [`CommitPlanner`] decides; this module moves tasks between the
//! channels and the planner, reads the clock and waits.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::commit_planner::{CommitPlanner, MAX_GROUP, Step};
use super::{Error, Tx};

/// How soon a change becomes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Before all other tasks: a caller waits for this one message. The task joins the commit under way while that is
    /// not yet applied; otherwise it runs in the next commit, most often with urgent tasks alone. It may run before
    /// other tasks that were submitted earlier, and never runs after others that were submitted later.
    Urgent,
    /// In the next commit: a caller waits.
    Normal,
    /// Together with others: no caller waits. The task can wait for as long as the last commit took. Background tasks
    /// alone therefore keep the writer and the disk busy for at most half of the time, and share their commits, whose
    /// fixed cost exceeds that of their contents.
    Background,
}

/// One submitted closure: it runs against the transaction and returns what reports the commit's outcome to the caller.
pub(super) struct Task {
    pub priority: Priority,
    pub run: Box<dyn FnOnce(&mut Tx) -> Completion + Send>,
}

/// Reports the outcome to the caller. The argument is the failure of the commit, if it failed.
pub(super) type Completion = Box<dyn FnOnce(Option<Error>) + Send>;

/// Number of deferrable tasks that can be submitted before `submit` waits, beyond those that the planner holds.
const SUBMIT_BUFFER: usize = 4096;

/// The sending end.
#[derive(Clone)]
pub(super) struct Submitter {
    urgent_tx: mpsc::Sender<Task>,
    deferrable_tx: mpsc::Sender<Task>,
}

impl Submitter {
    /// Queues a task. Drops it when the writer has ended.
    pub async fn submit(&self, task: Task) {
        let queue = match task.priority {
            Priority::Urgent => &self.urgent_tx,
            Priority::Normal | Priority::Background => &self.deferrable_tx,
        };
        let _ = queue.send(task).await;
    }
}

/// The writer's end: the two channels and the planner.
pub(super) struct Scheduler {
    urgent_rx: mpsc::Receiver<Task>,
    deferrable_rx: mpsc::Receiver<Task>,
    planner: CommitPlanner<Task>,
}

/// The two ends of a new scheduler.
pub(super) fn scheduler_channel() -> (Submitter, Scheduler) {
    let (urgent_tx, urgent_rx) = mpsc::channel(MAX_GROUP);
    let (deferrable_tx, deferrable_rx) = mpsc::channel(SUBMIT_BUFFER);
    let scheduler = Scheduler { urgent_rx, deferrable_rx, planner: CommitPlanner::new() };
    (Submitter { urgent_tx, deferrable_tx }, scheduler)
}

impl Scheduler {
    /// Waits until a commit begins. Returns `false` when all tasks have run and every [`Submitter`] is dropped.
    pub async fn wait(&mut self) -> bool {
        loop {
            self.receive_submitted();
            let wake_at = match self.planner.next_step(Instant::now()) {
                Step::Commit => return true,
                Step::Wait { until } => until,
            };
            tokio::select! {
                biased;
                Some(task) = self.urgent_rx.recv() => self.planner.submit(task.priority, task),
                Some(task) = self.deferrable_rx.recv() => self.planner.submit(task.priority, task),
                () = tokio::time::sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
                else => return false,
            }
        }
    }

    /// Runs the tasks of the commit.
    pub fn run(&mut self, tx: &mut Tx) -> Vec<Completion> {
        self.planner.commit_began(Instant::now());
        self.run_tasks(tx)
    }

    fn run_tasks(&mut self, tx: &mut Tx) -> Vec<Completion> {
        let mut completions = Vec::new();
        while let Some(task) = self.planner.next_task(Instant::now()) {
            completions.push((task.run)(tx));
        }
        completions
    }

    /// Runs the urgent tasks that were submitted since the commit began, over the same transaction.
    pub fn run_late_urgent(&mut self, tx: &mut Tx) -> Vec<Completion> {
        self.receive_urgent();
        self.planner.admit_late_urgent(Instant::now());
        self.run_tasks(tx)
    }

    /// Whether urgent tasks were run recently, so that deferrable ones have a budget.
    pub fn is_contended(&self) -> bool {
        self.planner.is_contended(Instant::now())
    }

    /// Records the end of a commit and its duration.
    pub fn record_commit(&mut self, took: Duration) {
        self.planner.commit_ended(Instant::now(), took);
    }

    /// Moves submitted tasks to the planner: deferrable before urgent ones, so that the planner has every urgent task
    /// that was submitted before a deferrable one that it holds.
    fn receive_submitted(&mut self) {
        while self.planner.has_room()
            && let Ok(task) = self.deferrable_rx.try_recv()
        {
            self.planner.submit(task.priority, task);
        }
        self.receive_urgent();
    }

    fn receive_urgent(&mut self) {
        // Only the tasks that are queued now: a flood must not keep this loop busy.
        for _ in 0..self.urgent_rx.len() {
            if let Ok(task) = self.urgent_rx.try_recv() {
                self.planner.submit(task.priority, task);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::commit_planner::{CONTENDED_BUDGET, CONTENTION_WINDOW, FOLLOW_UP_DELAY, MAX_DEFERRAL};
    use crate::engine::Engine;

    const REST: Duration = Duration::from_millis(2);

    /// A scheduler whose tasks record their names when they run.
    struct TestScheduler {
        submitter: Submitter,
        scheduler: Scheduler,
        ran: Arc<Mutex<Vec<&'static str>>>,
    }

    impl TestScheduler {
        fn new() -> Self {
            let (submitter, scheduler) = scheduler_channel();
            Self { submitter, scheduler, ran: Arc::default() }
        }

        /// A task that blocks the writer for `busy`.
        fn task(&self, priority: Priority, name: &'static str, busy: Duration) -> Task {
            let ran = self.ran.clone();
            let run = move |_: &mut Tx| -> Completion {
                std::thread::sleep(busy);
                ran.lock().unwrap().push(name);
                Box::new(|_| {})
            };
            Task { priority, run: Box::new(run) }
        }

        async fn submit(&self, priority: Priority, name: &'static str) {
            self.submitter.submit(self.task(priority, name, Duration::ZERO)).await;
        }

        /// The names of the tasks of the next commit, whose duration is `took`.
        async fn commit(&mut self, took: Duration) -> Vec<&'static str> {
            assert!(self.scheduler.wait().await);
            let ran = self.run();
            self.scheduler.record_commit(took);
            ran
        }

        fn run(&mut self) -> Vec<&'static str> {
            let engine = Engine::new(sled::Config::new().temporary(true).open().unwrap());
            let completions = self.scheduler.run(&mut Tx::new(&engine)).len();
            let ran = std::mem::take(&mut *self.ran.lock().unwrap());
            assert_eq!(ran.len(), completions);
            ran
        }
    }

    #[tokio::test(start_paused = true)]
    async fn background_tasks_wait_for_the_rest_period_or_a_normal_task() {
        let mut world = TestScheduler::new();
        let began = Instant::now();
        world.submit(Priority::Normal, "normal").await;
        assert_eq!(world.commit(REST).await, ["normal"]);
        // Without a normal task, a background task waits for the duration of the last commit.
        world.submit(Priority::Background, "a").await;
        assert_eq!((world.commit(Duration::ZERO).await, began.elapsed()), (vec!["a"], REST));
        // The rest period has passed.
        world.submit(Priority::Background, "b").await;
        assert_eq!((world.commit(9 * REST).await, began.elapsed()), (vec!["b"], REST));
        // A normal task takes the waiting background task with it.
        world.submit(Priority::Background, "c").await;
        let (submitter, normal) =
            (world.submitter.clone(), world.task(Priority::Normal, "d", Duration::ZERO));
        tokio::spawn(async move {
            tokio::time::sleep(REST).await;
            submitter.submit(normal).await;
        });
        assert_eq!((world.commit(REST).await, began.elapsed()), (vec!["c", "d"], 2 * REST));
    }

    #[tokio::test(start_paused = true)]
    async fn scheduler_runs_every_task_before_it_ends() {
        let mut world = TestScheduler::new();
        for (priority, name) in [(Priority::Background, "a"), (Priority::Urgent, "b")] {
            world.submit(priority, name).await;
        }
        world.submitter = scheduler_channel().0;
        assert_eq!(world.commit(REST).await, ["b"]);
        assert_eq!(world.commit(REST).await, ["a"]);
        assert!(!world.scheduler.wait().await);
    }

    #[tokio::test(start_paused = true)]
    async fn urgent_tasks_commit_alone_until_others_reach_max_deferral() {
        let mut world = TestScheduler::new();
        let began = Instant::now();
        for priority in [Priority::Normal, Priority::Background] {
            world.submit(priority, "other").await;
            for _ in 0..2 {
                let began = Instant::now();
                while began.elapsed() < MAX_DEFERRAL {
                    world.submit(Priority::Urgent, "first").await;
                    assert_eq!(world.commit(9 * MAX_DEFERRAL).await, ["first"]);
                    tokio::time::advance(Duration::from_millis(1)).await;
                }
                world.submit(Priority::Urgent, "first").await;
                assert_eq!(world.commit(9 * MAX_DEFERRAL).await, ["first", "other"]);
                // The deferral begins again.
                world.submit(priority, "other").await;
            }
            world.submit(Priority::Urgent, "first").await;
            assert_eq!(world.commit(9 * MAX_DEFERRAL).await, ["first"]);
            tokio::time::advance(MAX_DEFERRAL).await;
            assert_eq!(world.commit(Duration::ZERO).await, ["other"]);
        }
        assert_eq!(began.elapsed(), 6 * MAX_DEFERRAL);
    }

    #[tokio::test(start_paused = true)]
    async fn other_tasks_wait_for_the_follow_up_of_an_urgent_task() {
        let mut world = TestScheduler::new();
        let began = Instant::now();
        world.submit(Priority::Urgent, "accepted").await;
        assert_eq!(world.commit(REST).await, ["accepted"]);
        world.submit(Priority::Normal, "other").await;
        let (submitter, next) =
            (world.submitter.clone(), world.task(Priority::Urgent, "leased", Duration::ZERO));
        tokio::spawn(async move { submitter.submit(next).await });
        assert_eq!((world.commit(REST).await, began.elapsed()), (vec!["leased"], Duration::ZERO));
        assert_eq!(world.commit(REST).await, ["other"]);
        // tokio's timers have a resolution of one millisecond.
        assert!(began.elapsed() >= FOLLOW_UP_DELAY && began.elapsed() <= Duration::from_millis(1));
    }

    #[tokio::test(start_paused = true)]
    async fn urgent_task_never_runs_after_tasks_submitted_later() {
        let mut world = TestScheduler::new();
        world.submit(Priority::Urgent, "a").await;
        world.submit(Priority::Normal, "b").await;
        assert_eq!(world.commit(REST).await, ["a"]);
        assert_eq!(world.commit(REST).await, ["b"]);
        // Also when the urgent channel is full.
        for _ in 0..MAX_GROUP {
            world.submit(Priority::Urgent, "a").await;
        }
        world.submit(Priority::Normal, "b").await;
        assert_eq!(world.commit(REST).await, ["a"; MAX_GROUP]);
        assert_eq!(world.commit(REST).await, ["b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn contention_ends_after_its_window() {
        let mut world = TestScheduler::new();
        world.submit(Priority::Urgent, "first").await;
        assert_eq!(world.commit(REST).await, ["first"]);
        tokio::time::advance(CONTENTION_WINDOW - Duration::from_millis(1)).await;
        assert!(world.scheduler.is_contended());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!world.scheduler.is_contended());
    }

    #[tokio::test]
    async fn other_tasks_have_a_budget_under_contention() {
        let mut world = TestScheduler::new();
        let submit_long = async |world: &TestScheduler| {
            for name in ["a", "b", "c"] {
                world.submitter.submit(world.task(Priority::Normal, name, 2 * CONTENDED_BUDGET)).await;
            }
        };
        submit_long(&world).await;
        assert_eq!(world.commit(REST).await, ["a", "b", "c"], "without urgent tasks there is no budget");
        assert!(!world.scheduler.is_contended());
        world.submit(Priority::Urgent, "first").await;
        assert_eq!(world.commit(REST).await, ["first"]);
        assert!(world.scheduler.is_contended());
        submit_long(&world).await;
        for name in ["a", "b", "c"] {
            assert_eq!(world.commit(REST).await, [name]);
        }
    }
}
