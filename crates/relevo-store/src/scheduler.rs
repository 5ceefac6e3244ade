//! What waits for the writer, and what goes into its next commit.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Error, Tx};

/// How soon a change is to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Before everything else: somebody waits for this one message. Most often in commits that carry nothing else, or with
    /// the commit under way while that is not yet being synced. It may run before others that were submitted
    /// earlier, and never after others that were submitted later.
    Urgent,
    /// With the next commit: somebody waits.
    Normal,
    /// Together with others: it can wait for as long as the last commit took. So what nobody waits for keeps the writer
    /// and the disk busy for half of the time at most, and shares its commits, which cost more than what is in them.
    Background,
}

/// One closure with its caller: runs against the transaction, and answers once the fate of the commit is known.
pub(super) struct Task {
    pub priority: Priority,
    pub run: Box<dyn FnOnce(&mut Tx) -> Completion + Send>,
}

pub(super) type Completion = Box<dyn FnOnce(Option<Error>) + Send>;

/// The most closures that wait in each lane to share the next commit, so that a flood cannot put off everybody's answer.
const MAX_GROUP: usize = 1024;

/// Closures, submitted and not yet looked at, that do not hold up whoever submits.
const SUBMIT_BUFFER: usize = 4096;

/// While something goes first now and then, the others are run for so long in one commit: what goes first next comes at
/// any moment, and waits until that commit has ended.
const CONTENDED_BUDGET: Duration = Duration::from_micros(250);

/// When nothing went first for so long, the others have no share but all of a commit.
const CONTENTION_WINDOW: Duration = Duration::from_secs(1);

/// A message goes first two or three times: accepted, leased (by the same commit or another), settled. So long after each
/// the others wait for what follows, which would otherwise come when they have just begun. A little more than the way
/// through the actors takes.
const FOLLOW_UP_DELAY: Duration = Duration::from_micros(500);

/// For so long others are passed over; then they go along.
const MAX_DEFERRAL: Duration = Duration::from_millis(5);

/// Where closures are handed in.
#[derive(Clone)]
pub(super) struct Submitter {
    urgent: mpsc::Sender<Task>,
    others: mpsc::Sender<Task>,
}

impl Submitter {
    /// Puts a closure into its lane. It is dropped when the writer is gone.
    pub async fn submit(&self, task: Task) {
        let lane = match task.priority {
            Priority::Urgent => &self.urgent,
            Priority::Normal | Priority::Background => &self.others,
        };
        let _ = lane.send(task).await;
    }
}

/// The writer's end: two lanes, each first come, first served.
pub(super) struct Scheduler {
    urgent_rx: mpsc::Receiver<Task>,
    others_rx: mpsc::Receiver<Task>,
    urgent: VecDeque<Task>,
    others: VecDeque<Task>,
    /// Of the others, those that somebody waits for.
    normal_count: usize,
    /// Since when the others see commits go without them.
    deferred_since: Option<Instant>,
    /// Until then the others have a share only.
    contended_until: Option<Instant>,
    /// Something went first in the commit under way.
    ran_urgent: bool,
    /// The others wait until then for what follows.
    follow_up_until: Option<Instant>,
    /// Until then what nobody waits for lets the writer rest.
    rest_until: Option<Instant>,
}

pub(super) fn scheduler_channel() -> (Submitter, Scheduler) {
    let (first, first_in) = mpsc::channel(MAX_GROUP);
    let (others, others_in) = mpsc::channel(SUBMIT_BUFFER);
    let lanes = Scheduler {
        urgent_rx: first_in,
        others_rx: others_in,
        urgent: VecDeque::new(),
        others: VecDeque::new(),
        normal_count: 0,
        deferred_since: None,
        contended_until: None,
        ran_urgent: false,
        follow_up_until: None,
        rest_until: None,
    };
    (Submitter { urgent: first, others }, lanes)
}

impl Scheduler {
    /// Waits until there is something for a commit. `false` when everything was run and nobody is left who could
    /// submit more.
    pub async fn wait(&mut self) -> bool {
        loop {
            self.receive_submitted();
            let now = Instant::now();
            let patient_until = self.deferred_since.map(|since| since + MAX_DEFERRAL);
            if !self.urgent.is_empty() {
                self.contended_until = Some(now + CONTENTION_WINDOW);
                let pass_over = !self.others.is_empty() && patient_until.is_none_or(|until| now < until);
                self.deferred_since = pass_over.then(|| self.deferred_since.unwrap_or(now));
                return true;
            }
            let can_rest = self.normal_count == 0 && self.others.len() < MAX_GROUP;
            let turn =
                if can_rest { self.follow_up_until.max(self.rest_until) } else { self.follow_up_until };
            let turn = turn.map_or(now, |turn| patient_until.map_or(turn, |until| until.min(turn)));
            if !self.others.is_empty() && now >= turn {
                self.deferred_since = None;
                return true;
            }
            tokio::select! {
                biased;
                Some(task) = self.urgent_rx.recv() => self.urgent.push_back(task),
                Some(task) = self.others_rx.recv() => self.push_other(task),
                () = tokio::time::sleep_until(turn), if !self.others.is_empty() => {}
                else => return false,
            }
        }
    }

    /// Runs what goes into this commit.
    pub fn run(&mut self, tx: &mut Tx) -> Vec<Completion> {
        let began = Instant::now();
        self.ran_urgent = !self.urgent.is_empty();
        let mut answers: Vec<_> = self.urgent.drain(..).map(|task| (task.run)(tx)).collect();
        if self.deferred_since.is_some() {
            return answers;
        }
        let others_began = Instant::now();
        // No less than what went first had: a flood of it leaves half to the others.
        let share = self.is_contended().then(|| CONTENDED_BUDGET.max(others_began - began));
        while share.is_none_or(|share| others_began.elapsed() < share)
            && let Some(task) = self.others.pop_front()
        {
            self.normal_count -= usize::from(task.priority == Priority::Normal);
            answers.push((task.run)(tx));
        }
        answers
    }

    /// Runs what goes first and has come since the commit began.
    pub fn run_late_urgent(&mut self, tx: &mut Tx) -> Vec<Completion> {
        let mut answers = Vec::new();
        for _ in 0..self.urgent_rx.len() {
            answers.extend(self.urgent_rx.try_recv().map(|task| (task.run)(tx)));
        }
        if !answers.is_empty() {
            self.ran_urgent = true;
            self.contended_until = Some(Instant::now() + CONTENTION_WINDOW);
        }
        answers
    }

    /// Whether the others had a share only, in the commit under way.
    pub fn is_contended(&self) -> bool {
        self.contended_until.is_some_and(|until| Instant::now() < until)
    }

    /// The commit has ended, and took so long.
    pub fn record_commit(&mut self, took: Duration) {
        let now = Instant::now();
        self.rest_until = Some(now + took);
        if self.ran_urgent {
            self.follow_up_until = Some(now + FOLLOW_UP_DELAY);
        }
    }

    /// Takes in what was submitted: the others before those that go first, so that none of these is seen later than
    /// others that were submitted after it.
    fn receive_submitted(&mut self) {
        while self.others.len() < MAX_GROUP
            && let Ok(task) = self.others_rx.try_recv()
        {
            self.push_other(task);
        }
        for _ in 0..self.urgent_rx.len() {
            self.urgent.extend(self.urgent_rx.try_recv());
        }
    }

    fn push_other(&mut self, task: Task) {
        self.normal_count += usize::from(task.priority == Priority::Normal);
        self.others.push_back(task);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const REST: Duration = Duration::from_millis(2);

    /// Lanes whose closures tell that they ran.
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

        /// A closure that keeps the writer busy for so long.
        fn task(&self, haste: Priority, name: &'static str, busy: Duration) -> Task {
            let ran = self.ran.clone();
            let run = move |_: &mut Tx| -> Completion {
                std::thread::sleep(busy);
                ran.lock().unwrap().push(name);
                Box::new(|_| {})
            };
            Task { priority: haste, run: Box::new(run) }
        }

        async fn submit(&self, haste: Priority, name: &'static str) {
            self.submitter.submit(self.task(haste, name, Duration::ZERO)).await;
        }

        /// What goes into the next commit, which takes so long.
        async fn commit(&mut self, took: Duration) -> Vec<&'static str> {
            assert!(self.scheduler.wait().await);
            let ran = self.run();
            self.scheduler.record_commit(took);
            ran
        }

        fn run(&mut self) -> Vec<&'static str> {
            let db = sled::Config::new().temporary(true).open().unwrap();
            let answers = self.scheduler.run(&mut Tx::new(&db)).len();
            let ran = std::mem::take(&mut *self.ran.lock().unwrap());
            assert_eq!(ran.len(), answers);
            ran
        }
    }

    #[tokio::test(start_paused = true)]
    async fn background_tasks_wait_for_the_rest_period_or_a_normal_task() {
        let mut world = TestScheduler::new();
        let began = Instant::now();
        world.submit(Priority::Normal, "somebody").await;
        assert_eq!(world.commit(REST).await, ["somebody"]);
        // Nothing but time comes.
        world.submit(Priority::Background, "a").await;
        assert_eq!((world.commit(Duration::ZERO).await, began.elapsed()), (vec!["a"], REST));
        // The writer has rested.
        world.submit(Priority::Background, "b").await;
        assert_eq!((world.commit(9 * REST).await, began.elapsed()), (vec!["b"], REST));
        // Somebody comes who does not wait, and takes along who does.
        world.submit(Priority::Background, "c").await;
        let (entrance, hasty) = (world.submitter.clone(), world.task(Priority::Normal, "d", Duration::ZERO));
        tokio::spawn(async move {
            tokio::time::sleep(REST).await;
            entrance.submit(hasty).await;
        });
        assert_eq!((world.commit(REST).await, began.elapsed()), (vec!["c", "d"], 2 * REST));
    }

    #[tokio::test(start_paused = true)]
    async fn scheduler_runs_every_task_before_it_ends() {
        let mut world = TestScheduler::new();
        for (haste, name) in [(Priority::Background, "a"), (Priority::Urgent, "b")] {
            world.submit(haste, name).await;
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
        for haste in [Priority::Normal, Priority::Background] {
            world.submit(haste, "other").await;
            for _ in 0..2 {
                let began = Instant::now();
                while began.elapsed() < MAX_DEFERRAL {
                    world.submit(Priority::Urgent, "first").await;
                    assert_eq!(world.commit(9 * MAX_DEFERRAL).await, ["first"]);
                    tokio::time::advance(Duration::from_millis(1)).await;
                }
                world.submit(Priority::Urgent, "first").await;
                assert_eq!(world.commit(9 * MAX_DEFERRAL).await, ["first", "other"]);
                // Patience begins anew.
                world.submit(haste, "other").await;
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
        let (entrance, next) =
            (world.submitter.clone(), world.task(Priority::Urgent, "leased", Duration::ZERO));
        tokio::spawn(async move { entrance.submit(next).await });
        assert_eq!((world.commit(REST).await, began.elapsed()), (vec!["leased"], Duration::ZERO));
        assert_eq!(world.commit(REST).await, ["other"]);
        // A timer's smallest step is a millisecond.
        assert!(began.elapsed() >= FOLLOW_UP_DELAY && began.elapsed() <= Duration::from_millis(1));
    }

    #[tokio::test(start_paused = true)]
    async fn urgent_task_never_runs_after_tasks_submitted_later() {
        let mut world = TestScheduler::new();
        world.submit(Priority::Urgent, "a").await;
        world.submit(Priority::Normal, "b").await;
        assert_eq!(world.commit(REST).await, ["a"]);
        assert_eq!(world.commit(REST).await, ["b"]);
        // Nor where more has come than goes into one commit.
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
        assert_eq!(world.commit(REST).await, ["a", "b", "c"], "nothing goes first: there is no hurry");
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
