//! What waits for the writer, and what goes into its next commit.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Error, Tx};

/// How soon a change is to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// Before everything else: somebody waits for this one message. Most often in commits that carry nothing else, or with
    /// the commit under way while that is not yet being synced. It may run before others that were submitted
    /// earlier, and never after others that were submitted later.
    First,
    /// With the next commit: somebody waits.
    Now,
    /// Together with others: it can wait for as long as the last commit took. So what nobody waits for keeps the writer
    /// and the disk busy for half of the time at most, and shares its commits, which cost more than what is in them.
    Soon,
}

/// One closure with its caller: runs against the transaction, and answers once the fate of the commit is known.
pub(super) struct Task {
    pub haste: Haste,
    pub run: Box<dyn FnOnce(&mut Tx) -> Finish + Send>,
}

pub(super) type Finish = Box<dyn FnOnce(Option<Error>) + Send>;

/// The most closures that wait in each lane to share the next commit, so that a flood cannot put off everybody's answer.
const MAX_GROUP: usize = 1024;

/// Closures, submitted and not yet looked at, that do not hold up whoever submits.
const BACKLOG: usize = 4096;

/// While something goes first now and then, the others are run for so long in one commit: what goes first next comes at
/// any moment, and waits until that commit has ended.
const SHARE: Duration = Duration::from_micros(250);

/// When nothing went first for so long, the others have no share but all of a commit.
const CALM: Duration = Duration::from_secs(1);

/// A message goes first two or three times: accepted, leased (by the same commit or another), settled. So long after each
/// the others wait for what follows, which would otherwise come when they have just begun. A little more than the way
/// through the actors takes.
const FOLLOWS: Duration = Duration::from_micros(500);

/// For so long others are passed over; then they go along.
const PATIENCE: Duration = Duration::from_millis(5);

/// Where closures are handed in.
#[derive(Clone)]
pub(super) struct Entrance {
    first: mpsc::Sender<Task>,
    others: mpsc::Sender<Task>,
}

impl Entrance {
    /// Puts a closure into its lane. It is dropped when the writer is gone.
    pub async fn submit(&self, task: Task) {
        let lane = match task.haste {
            Haste::First => &self.first,
            Haste::Now | Haste::Soon => &self.others,
        };
        let _ = lane.send(task).await;
    }
}

/// The writer's end: two lanes, each first come, first served.
pub(super) struct Lanes {
    first_in: mpsc::Receiver<Task>,
    others_in: mpsc::Receiver<Task>,
    first: VecDeque<Task>,
    others: VecDeque<Task>,
    /// Of the others, those that somebody waits for.
    awaited: usize,
    /// Since when the others see commits go without them.
    passed_over: Option<Instant>,
    /// Until then the others have a share only.
    hurried_until: Option<Instant>,
    /// Something went first in the commit under way.
    went_first: bool,
    /// The others wait until then for what follows.
    held_until: Option<Instant>,
    /// Until then what nobody waits for lets the writer rest.
    rested_at: Option<Instant>,
}

pub(super) fn lanes() -> (Entrance, Lanes) {
    let (first, first_in) = mpsc::channel(MAX_GROUP);
    let (others, others_in) = mpsc::channel(BACKLOG);
    let lanes = Lanes {
        first_in,
        others_in,
        first: VecDeque::new(),
        others: VecDeque::new(),
        awaited: 0,
        passed_over: None,
        hurried_until: None,
        went_first: false,
        held_until: None,
        rested_at: None,
    };
    (Entrance { first, others }, lanes)
}

impl Lanes {
    /// Waits until there is something for a commit. `false` when everything was run and nobody is left who could
    /// submit more.
    pub async fn wait(&mut self) -> bool {
        loop {
            self.look();
            let now = Instant::now();
            let patient_until = self.passed_over.map(|since| since + PATIENCE);
            if !self.first.is_empty() {
                self.hurried_until = Some(now + CALM);
                let pass_over = !self.others.is_empty() && patient_until.is_none_or(|until| now < until);
                self.passed_over = pass_over.then(|| self.passed_over.unwrap_or(now));
                return true;
            }
            let can_rest = self.awaited == 0 && self.others.len() < MAX_GROUP;
            let turn = if can_rest { self.held_until.max(self.rested_at) } else { self.held_until };
            let turn = turn.map_or(now, |turn| patient_until.map_or(turn, |until| until.min(turn)));
            if !self.others.is_empty() && now >= turn {
                self.passed_over = None;
                return true;
            }
            tokio::select! {
                biased;
                Some(task) = self.first_in.recv() => self.first.push_back(task),
                Some(task) = self.others_in.recv() => self.line_up(task),
                () = tokio::time::sleep_until(turn), if !self.others.is_empty() => {}
                else => return false,
            }
        }
    }

    /// Runs what goes into this commit.
    pub fn run(&mut self, tx: &mut Tx) -> Vec<Finish> {
        let began = Instant::now();
        self.went_first = !self.first.is_empty();
        let mut answers: Vec<_> = self.first.drain(..).map(|task| (task.run)(tx)).collect();
        if self.passed_over.is_some() {
            return answers;
        }
        let others_began = Instant::now();
        // No less than what went first had: a flood of it leaves half to the others.
        let share = self.is_hurried().then(|| SHARE.max(others_began - began));
        while share.is_none_or(|share| others_began.elapsed() < share)
            && let Some(task) = self.others.pop_front()
        {
            self.awaited -= usize::from(task.haste == Haste::Now);
            answers.push((task.run)(tx));
        }
        answers
    }

    /// Runs what goes first and has come since the commit began.
    pub fn run_late(&mut self, tx: &mut Tx) -> Vec<Finish> {
        let mut answers = Vec::new();
        for _ in 0..self.first_in.len() {
            answers.extend(self.first_in.try_recv().map(|task| (task.run)(tx)));
        }
        if !answers.is_empty() {
            self.went_first = true;
            self.hurried_until = Some(Instant::now() + CALM);
        }
        answers
    }

    /// Whether the others had a share only, in the commit under way.
    pub fn is_hurried(&self) -> bool {
        self.hurried_until.is_some_and(|until| Instant::now() < until)
    }

    /// The commit has ended, and took so long.
    pub fn ended(&mut self, took: Duration) {
        let now = Instant::now();
        self.rested_at = Some(now + took);
        if self.went_first {
            self.held_until = Some(now + FOLLOWS);
        }
    }

    /// Takes in what was submitted: the others before those that go first, so that none of these is seen later than
    /// others that were submitted after it.
    fn look(&mut self) {
        while self.others.len() < MAX_GROUP
            && let Ok(task) = self.others_in.try_recv()
        {
            self.line_up(task);
        }
        for _ in 0..self.first_in.len() {
            self.first.extend(self.first_in.try_recv());
        }
    }

    fn line_up(&mut self, task: Task) {
        self.awaited += usize::from(task.haste == Haste::Now);
        self.others.push_back(task);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const REST: Duration = Duration::from_millis(2);

    /// Lanes whose closures tell that they ran.
    struct World {
        entrance: Entrance,
        lanes: Lanes,
        ran: Arc<Mutex<Vec<&'static str>>>,
    }

    impl World {
        fn new() -> Self {
            let (entrance, lanes) = lanes();
            Self { entrance, lanes, ran: Arc::default() }
        }

        /// A closure that keeps the writer busy for so long.
        fn task(&self, haste: Haste, name: &'static str, busy: Duration) -> Task {
            let ran = self.ran.clone();
            let run = move |_: &mut Tx| -> Finish {
                std::thread::sleep(busy);
                ran.lock().unwrap().push(name);
                Box::new(|_| {})
            };
            Task { haste, run: Box::new(run) }
        }

        async fn submit(&self, haste: Haste, name: &'static str) {
            self.entrance.submit(self.task(haste, name, Duration::ZERO)).await;
        }

        /// What goes into the next commit, which takes so long.
        async fn commit(&mut self, took: Duration) -> Vec<&'static str> {
            assert!(self.lanes.wait().await);
            let ran = self.run();
            self.lanes.ended(took);
            ran
        }

        fn run(&mut self) -> Vec<&'static str> {
            let db = sled::Config::new().temporary(true).open().unwrap();
            let answers = self.lanes.run(&mut Tx::new(&db)).len();
            let ran = std::mem::take(&mut *self.ran.lock().unwrap());
            assert_eq!(ran.len(), answers);
            ran
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_wait_waits_for_company_and_not_longer_than_the_writer_rests() {
        let mut world = World::new();
        let began = Instant::now();
        world.submit(Haste::Now, "somebody").await;
        assert_eq!(world.commit(REST).await, ["somebody"]);
        // Nothing but time comes.
        world.submit(Haste::Soon, "a").await;
        assert_eq!((world.commit(Duration::ZERO).await, began.elapsed()), (vec!["a"], REST));
        // The writer has rested.
        world.submit(Haste::Soon, "b").await;
        assert_eq!((world.commit(9 * REST).await, began.elapsed()), (vec!["b"], REST));
        // Somebody comes who does not wait, and takes along who does.
        world.submit(Haste::Soon, "c").await;
        let (entrance, hasty) = (world.entrance.clone(), world.task(Haste::Now, "d", Duration::ZERO));
        tokio::spawn(async move {
            tokio::time::sleep(REST).await;
            entrance.submit(hasty).await;
        });
        assert_eq!((world.commit(REST).await, began.elapsed()), (vec!["c", "d"], 2 * REST));
    }

    #[tokio::test(start_paused = true)]
    async fn everything_is_run_before_the_end() {
        let mut world = World::new();
        for (haste, name) in [(Haste::Soon, "a"), (Haste::First, "b")] {
            world.submit(haste, name).await;
        }
        world.entrance = lanes().0;
        assert_eq!(world.commit(REST).await, ["b"]);
        assert_eq!(world.commit(REST).await, ["a"]);
        assert!(!world.lanes.wait().await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_first_goes_alone_and_the_others_go_along_when_their_patience_ends() {
        let mut world = World::new();
        let began = Instant::now();
        for haste in [Haste::Now, Haste::Soon] {
            world.submit(haste, "other").await;
            for _ in 0..2 {
                let began = Instant::now();
                while began.elapsed() < PATIENCE {
                    world.submit(Haste::First, "first").await;
                    assert_eq!(world.commit(9 * PATIENCE).await, ["first"]);
                    tokio::time::advance(Duration::from_millis(1)).await;
                }
                world.submit(Haste::First, "first").await;
                assert_eq!(world.commit(9 * PATIENCE).await, ["first", "other"]);
                // Patience begins anew.
                world.submit(haste, "other").await;
            }
            world.submit(Haste::First, "first").await;
            assert_eq!(world.commit(9 * PATIENCE).await, ["first"]);
            tokio::time::advance(PATIENCE).await;
            assert_eq!(world.commit(Duration::ZERO).await, ["other"]);
        }
        assert_eq!(began.elapsed(), 6 * PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn the_others_wait_a_moment_for_what_follows() {
        let mut world = World::new();
        let began = Instant::now();
        world.submit(Haste::First, "accepted").await;
        assert_eq!(world.commit(REST).await, ["accepted"]);
        world.submit(Haste::Now, "other").await;
        let (entrance, next) = (world.entrance.clone(), world.task(Haste::First, "leased", Duration::ZERO));
        tokio::spawn(async move { entrance.submit(next).await });
        assert_eq!((world.commit(REST).await, began.elapsed()), (vec!["leased"], Duration::ZERO));
        assert_eq!(world.commit(REST).await, ["other"]);
        // A timer's smallest step is a millisecond.
        assert!(began.elapsed() >= FOLLOWS && began.elapsed() <= Duration::from_millis(1));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_that_goes_first_is_seen_later_than_others_that_came_after_it() {
        let mut world = World::new();
        world.submit(Haste::First, "a").await;
        world.submit(Haste::Now, "b").await;
        assert_eq!(world.commit(REST).await, ["a"]);
        assert_eq!(world.commit(REST).await, ["b"]);
        // Nor where more has come than goes into one commit.
        for _ in 0..MAX_GROUP {
            world.submit(Haste::First, "a").await;
        }
        world.submit(Haste::Now, "b").await;
        assert_eq!(world.commit(REST).await, ["a"; MAX_GROUP]);
        assert_eq!(world.commit(REST).await, ["b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_while_nothing_is_expected_to_go_first() {
        let mut world = World::new();
        world.submit(Haste::First, "first").await;
        assert_eq!(world.commit(REST).await, ["first"]);
        tokio::time::advance(CALM - Duration::from_millis(1)).await;
        assert!(world.lanes.is_hurried());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!world.lanes.is_hurried());
    }

    #[tokio::test]
    async fn beside_what_goes_first_the_others_have_a_share_of_a_commit() {
        let mut world = World::new();
        let submit_long = async |world: &World| {
            for name in ["a", "b", "c"] {
                world.entrance.submit(world.task(Haste::Now, name, 2 * SHARE)).await;
            }
        };
        submit_long(&world).await;
        assert_eq!(world.commit(REST).await, ["a", "b", "c"], "nothing goes first: there is no hurry");
        assert!(!world.lanes.is_hurried());
        world.submit(Haste::First, "first").await;
        assert_eq!(world.commit(REST).await, ["first"]);
        assert!(world.lanes.is_hurried());
        submit_long(&world).await;
        for name in ["a", "b", "c"] {
            assert_eq!(world.commit(REST).await, [name]);
        }
    }
}
