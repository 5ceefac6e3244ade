//! Decides which tasks the next commit runs, and how long the writer waits before it.
//!
//! Pure: it holds queued tasks of any type, and the caller passes the time and reports events. Urgent tasks run before
//! deferrable ones (normal and background). Within each of the two queues, tasks run in the order of submission.
//!
//! Bounds, counted from the end of the commit under way at the submission:
//! - An urgent task runs in the next commit, which begins at once.
//! - The first deferrable task of the queue waits for at most [`FOLLOW_UP_DELAY`] (a background task: for the duration of
//!   the last commit, if that is longer), then [`MAX_DEFERRAL`] while urgent commits go first, then one commit.
//! - Background tasks alone keep the writer busy for at most half of the time.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Priority;

/// Maximum number of deferrable tasks that are queued for the next commit. It bounds the duration of one commit.
pub(super) const MAX_GROUP: usize = 1024;

/// Minimum time that a commit gives to deferrable tasks under contention. An urgent task can arrive at any moment and
/// waits until the commit has ended.
pub(super) const CONTENDED_BUDGET: Duration = Duration::from_micros(250);

/// Time after the last urgent task until deferrable tasks have whole commits again.
pub(super) const CONTENTION_WINDOW: Duration = Duration::from_secs(1);

/// Pause of deferrable tasks after an urgent commit. A message needs two or three urgent commits: accepted, leased (in
/// the same commit or the next one), settled. The next one would otherwise arrive just after a deferrable task has
/// begun. The delay is slightly longer than the way through the actors.
pub(super) const FOLLOW_UP_DELAY: Duration = Duration::from_micros(500);

/// Maximum time for which urgent commits leave out waiting deferrable tasks.
pub(super) const MAX_DEFERRAL: Duration = Duration::from_millis(5);

/// What the writer does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Begin a commit: report [`CommitPlanner::commit_began`], then run the tasks of [`CommitPlanner::next_task`].
    Commit,
    /// Wait for a task, at most until this time.
    Wait { until: Option<Instant> },
}

/// Whether urgent tasks limit the time of deferrable tasks in a commit.
#[derive(Debug, Clone, Copy)]
enum Mode {
    /// No urgent task yet: deferrable tasks have whole commits.
    Calm,
    /// Deferrable tasks have a budget until this time.
    Contended { until: Instant },
}

/// Which tasks run in the commit under way.
#[derive(Debug, Clone, Copy)]
enum CommitPhase {
    /// No task runs.
    Idle,
    /// A commit is decided; deferrable tasks follow the urgent ones if `then_deferrable`.
    Planned { then_deferrable: bool },
    /// Urgent tasks run since `began`; deferrable tasks follow if `then_deferrable`.
    Urgent { began: Instant, then_deferrable: bool },
    /// Deferrable tasks run, until the deadline under contention.
    Deferrable { deadline: Option<Instant> },
}

/// Whether urgent commits leave out waiting deferrable tasks.
#[derive(Debug, Clone, Copy)]
enum Deferral {
    Inactive,
    Active { until: Instant },
}

/// The pause of deferrable tasks after an urgent commit.
#[derive(Debug, Clone, Copy)]
enum FollowUp {
    Inactive,
    /// The commit under way runs urgent tasks; the pause begins when it ends.
    AfterCommit,
    /// The pause ends at this time.
    Until(Instant),
}

/// The queued tasks and the state that decides their order.
#[derive(Debug)]
pub(super) struct CommitPlanner<T> {
    urgent: VecDeque<T>,
    deferrable: VecDeque<(Priority, T)>,
    /// Number of normal tasks among the deferrable ones.
    normal_count: usize,
    mode: Mode,
    phase: CommitPhase,
    deferral: Deferral,
    follow_up: FollowUp,
    /// Background tasks alone begin no commit before this time.
    rest_until: Option<Instant>,
}

impl<T> CommitPlanner<T> {
    /// A planner without tasks.
    pub fn new() -> Self {
        Self {
            urgent: VecDeque::new(),
            deferrable: VecDeque::new(),
            normal_count: 0,
            mode: Mode::Calm,
            phase: CommitPhase::Idle,
            deferral: Deferral::Inactive,
            follow_up: FollowUp::Inactive,
            rest_until: None,
        }
    }

    /// Whether fewer than [`MAX_GROUP`] deferrable tasks are queued.
    pub fn has_room(&self) -> bool {
        self.deferrable.len() < MAX_GROUP
    }

    /// Event: a task was submitted.
    pub fn submit(&mut self, priority: Priority, task: T) {
        match priority {
            Priority::Urgent => self.urgent.push_back(task),
            Priority::Normal | Priority::Background => {
                self.normal_count += usize::from(priority == Priority::Normal);
                self.deferrable.push_back((priority, task));
            }
        }
    }

    /// Decides, while no commit runs, whether one begins now.
    pub fn next_step(&mut self, now: Instant) -> Step {
        if !self.urgent.is_empty() {
            self.plan_urgent(now);
            return Step::Commit;
        }
        if self.deferrable.is_empty() {
            return Step::Wait { until: None };
        }
        match self.deferrable_not_before() {
            Some(time) if now < time => Step::Wait { until: Some(time) },
            _ => {
                self.deferral = Deferral::Inactive;
                self.phase = CommitPhase::Planned { then_deferrable: true };
                Step::Commit
            }
        }
    }

    /// Event: the commit that [`next_step`](Self::next_step) decided begins.
    pub fn commit_began(&mut self, now: Instant) {
        if let CommitPhase::Planned { then_deferrable } = self.phase {
            self.phase = CommitPhase::Urgent { began: now, then_deferrable };
        }
    }

    /// The next task of the commit under way, until `None`.
    pub fn next_task(&mut self, now: Instant) -> Option<T> {
        if let CommitPhase::Urgent { began, then_deferrable } = self.phase {
            let task = self.urgent.pop_front();
            if task.is_some() || !then_deferrable {
                return task;
            }
            // The budget is at least the time of the urgent tasks, so that a flood of them leaves half to the others.
            let budget = self.is_contended(now).then(|| CONTENDED_BUDGET.max(now - began));
            self.phase = CommitPhase::Deferrable { deadline: budget.map(|budget| now + budget) };
        }
        let CommitPhase::Deferrable { deadline } = self.phase else { return None };
        if deadline.is_some_and(|deadline| now >= deadline) {
            return None;
        }
        let (priority, task) = self.deferrable.pop_front()?;
        self.normal_count -= usize::from(priority == Priority::Normal);
        Some(task)
    }

    /// Event: the tasks of the commit have run, and its changes are not yet applied. Urgent tasks that were submitted
    /// meanwhile join it: [`next_task`](Self::next_task) returns them.
    pub fn admit_late_urgent(&mut self, now: Instant) {
        if self.urgent.is_empty() {
            self.phase = CommitPhase::Idle;
        } else {
            self.mode = Mode::Contended { until: now + CONTENTION_WINDOW };
            self.follow_up = FollowUp::AfterCommit;
            self.phase = CommitPhase::Urgent { began: now, then_deferrable: false };
        }
    }

    /// Event: the commit has ended; `took` is its duration.
    pub fn commit_ended(&mut self, now: Instant, took: Duration) {
        self.phase = CommitPhase::Idle;
        self.rest_until = Some(now + took);
        if let FollowUp::AfterCommit = self.follow_up {
            self.follow_up = FollowUp::Until(now + FOLLOW_UP_DELAY);
        }
    }

    /// Whether deferrable tasks have a budget.
    pub fn is_contended(&self, now: Instant) -> bool {
        match self.mode {
            Mode::Calm => false,
            Mode::Contended { until } => now < until,
        }
    }

    /// Plans a commit with the urgent tasks. Deferrable tasks join it only when they have been left out for
    /// [`MAX_DEFERRAL`].
    fn plan_urgent(&mut self, now: Instant) {
        let deferred_until = match self.deferral {
            Deferral::Inactive => now + MAX_DEFERRAL,
            Deferral::Active { until } => until,
        };
        let defers = !self.deferrable.is_empty() && now < deferred_until;
        self.deferral = if defers { Deferral::Active { until: deferred_until } } else { Deferral::Inactive };
        self.mode = Mode::Contended { until: now + CONTENTION_WINDOW };
        self.follow_up = FollowUp::AfterCommit;
        self.phase = CommitPhase::Planned { then_deferrable: !defers };
    }

    /// The earliest time at which the deferrable tasks begin a commit without urgent ones; `None`: at once.
    fn deferrable_not_before(&self) -> Option<Instant> {
        let follow_up_until = match self.follow_up {
            FollowUp::Until(until) => Some(until),
            FollowUp::Inactive | FollowUp::AfterCommit => None,
        };
        let only_background = self.normal_count == 0 && self.has_room();
        let pause_until =
            if only_background { follow_up_until.max(self.rest_until) } else { follow_up_until };
        match self.deferral {
            Deferral::Inactive => pause_until,
            Deferral::Active { until } => pause_until.map(|pause_until| pause_until.min(until)),
        }
    }
}

#[cfg(test)]
mod model;
