//! The planner against its documented bounds, over random arrivals and durations in virtual time.
//!
//! Every task runs exactly once, each queue is first in, first out, and no urgent task runs after a deferrable one that
//! was submitted later. Waiting times, budgets, deferrals and rest periods are checked against the trace of commits.

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use tokio::time::Instant;

use super::{
    CONTENDED_BUDGET, CONTENTION_WINDOW, CommitPlanner, FOLLOW_UP_DELAY, MAX_DEFERRAL, MAX_GROUP, Priority,
    Step,
};

/// Durations and times in microseconds.
type Micros = u64;

const FOLLOW_UP: Micros = FOLLOW_UP_DELAY.as_micros() as Micros;
const DEFERRAL: Micros = MAX_DEFERRAL.as_micros() as Micros;
const BUDGET: Micros = CONTENDED_BUDGET.as_micros() as Micros;
const WINDOW: Micros = CONTENTION_WINDOW.as_micros() as Micros;

/// A task: when it is submitted, and for how long it runs.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    at: Micros,
    priority: Priority,
    work: Micros,
}

/// A task that ran.
#[derive(Debug, Clone, Copy)]
struct Run {
    id: usize,
    began: Micros,
    /// When the planner admitted the task to the commit: at its beginning, or after its other tasks (late).
    admitted: Micros,
    arrival: Arrival,
}

impl Run {
    fn is_urgent(&self) -> bool {
        self.arrival.priority == Priority::Urgent
    }
}

/// A commit, with the tasks that it ran in their order.
#[derive(Debug)]
struct Commit {
    began: Micros,
    ended: Micros,
    /// The planner held at least [`MAX_GROUP`] deferrable tasks at the beginning.
    was_crowded: bool,
    runs: Vec<Run>,
}

impl Commit {
    fn took(&self) -> Micros {
        self.ended - self.began
    }

    fn deferrable(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| !run.is_urgent())
    }

    fn early_urgent(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| run.is_urgent() && run.admitted == self.began)
    }
}

/// Runs the planner as the writer does, in virtual time.
struct Simulation {
    planner: CommitPlanner<usize>,
    base: Instant,
    now: Micros,
    arrivals: Vec<Arrival>,
    /// Tasks that are submitted and that the planner does not hold yet, as in the channels.
    urgent_channel: VecDeque<usize>,
    deferrable_channel: VecDeque<usize>,
    next_arrival: usize,
    commits: Vec<Commit>,
}

impl Simulation {
    fn run(arrivals: Vec<Arrival>, syncs: &[Micros]) -> Vec<Commit> {
        let mut simulation = Self {
            planner: CommitPlanner::new(),
            base: Instant::now(),
            now: 0,
            arrivals,
            urgent_channel: VecDeque::new(),
            deferrable_channel: VecDeque::new(),
            next_arrival: 0,
            commits: Vec::new(),
        };
        let mut syncs = syncs.iter().cycle();
        loop {
            simulation.receive_submitted();
            match simulation.planner.next_step(simulation.instant()) {
                Step::Commit => simulation.commit(*syncs.next().unwrap()),
                Step::Wait { until } => {
                    let until = until.map(|until| simulation.micros(until));
                    assert!(until.is_none_or(|until| until > simulation.now), "a wait that has ended");
                    let next = simulation.arrivals.get(simulation.next_arrival).map(|arrival| arrival.at);
                    match [until, next].into_iter().flatten().min() {
                        Some(time) => simulation.now = time,
                        None => return simulation.commits,
                    }
                }
            }
        }
    }

    fn instant(&self) -> Instant {
        self.base + Duration::from_micros(self.now)
    }

    fn micros(&self, instant: Instant) -> Micros {
        (instant - self.base).as_micros().try_into().unwrap()
    }

    fn arrive(&mut self) {
        while let Some(arrival) = self.arrivals.get(self.next_arrival)
            && arrival.at <= self.now
        {
            match arrival.priority {
                Priority::Urgent => self.urgent_channel.push_back(self.next_arrival),
                _ => self.deferrable_channel.push_back(self.next_arrival),
            }
            self.next_arrival += 1;
        }
    }

    fn submit_urgent(&mut self) {
        self.urgent_channel.drain(..).for_each(|id| self.planner.submit(Priority::Urgent, id));
    }

    fn receive_submitted(&mut self) {
        self.arrive();
        while self.planner.has_room()
            && let Some(id) = self.deferrable_channel.pop_front()
        {
            self.planner.submit(self.arrivals[id].priority, id);
        }
        self.submit_urgent();
    }

    fn commit(&mut self, sync: Micros) {
        let began = self.now;
        let was_crowded = !self.planner.has_room();
        self.planner.commit_began(self.instant());
        let mut runs = self.run_tasks();
        self.arrive();
        self.submit_urgent();
        self.planner.admit_late_urgent(self.instant());
        runs.extend(self.run_tasks());
        self.now += sync;
        let took = Duration::from_micros(self.now - began);
        self.planner.commit_ended(self.instant(), took);
        self.commits.push(Commit { began, ended: self.now, was_crowded, runs });
    }

    fn run_tasks(&mut self) -> Vec<Run> {
        let admitted = self.now;
        let mut runs = Vec::new();
        while let Some(id) = self.planner.next_task(self.instant()) {
            let arrival = self.arrivals[id];
            runs.push(Run { id, began: self.now, admitted, arrival });
            self.now += arrival.work;
        }
        runs
    }
}

/// Checks one trace against the documented rules.
struct Audit<'a> {
    arrivals: &'a [Arrival],
    commits: &'a [Commit],
    longest: Micros,
}

impl Audit<'_> {
    fn check(&self) {
        self.check_order();
        for number in 0..self.commits.len() {
            assert!(!self.commits[number].runs.is_empty(), "commit {number} is empty");
            self.check_urgent(number);
            self.check_budget(number);
            if self.commits[number].deferrable().next().is_some() {
                self.check_first_deferrable(number);
                self.check_joint_commit(number);
                self.check_follow_up(number);
                self.check_idle_time(number);
            }
        }
    }

    fn previous_end(&self, number: usize) -> Micros {
        number.checked_sub(1).map_or(0, |previous| self.commits[previous].ended)
    }

    fn check_order(&self) {
        let runs: Vec<&Run> = self.commits.iter().flat_map(|commit| &commit.runs).collect();
        assert!(runs.iter().all(|run| run.arrival.at <= run.began), "a task ran before its submission");
        let ids = |urgent: bool| -> Vec<usize> {
            runs.iter().filter(|run| run.is_urgent() == urgent).map(|run| run.id).collect()
        };
        for urgent in [true, false] {
            let submitted = self.arrivals.iter().enumerate();
            let submitted = submitted.filter(|(_, arrival)| (arrival.priority == Priority::Urgent) == urgent);
            let submitted: Vec<usize> = submitted.map(|(id, _)| id).collect();
            assert_eq!(ids(urgent), submitted, "each task once, in the order of submission");
        }
        let mut newest_deferrable = None;
        for run in runs {
            if run.is_urgent() {
                assert!(newest_deferrable.is_none_or(|newest| newest < run.id), "task {} ran late", run.id);
            } else {
                newest_deferrable = newest_deferrable.max(Some(run.id));
            }
        }
    }

    /// An urgent task joins the commit under way or the next one, which begins at once.
    fn check_urgent(&self, number: usize) {
        let commit = &self.commits[number];
        let earliest = commit.early_urgent().map(|run| run.arrival.at).min();
        if let Some(earliest) = earliest {
            assert_eq!(commit.began, self.previous_end(number).max(earliest), "commit {number} waited");
        }
        if let Some(previous) = number.checked_sub(1).map(|previous| &self.commits[previous]) {
            assert!(earliest.is_none_or(|earliest| earliest > previous.began), "commit {number} is too late");
        }
    }

    /// Under contention, deferrable tasks stop at the budget; otherwise all waiting ones run.
    fn check_budget(&self, number: usize) {
        let commit = &self.commits[number];
        let Some(first) = commit.deferrable().next() else { return };
        let last = commit.deferrable().last().unwrap_or(first);
        let earlier = self.commits[..number].iter().flat_map(|commit| &commit.runs);
        let admitted =
            earlier.chain(commit.early_urgent()).filter(|run| run.is_urgent()).map(|run| run.admitted);
        let is_contended = admitted.max().is_some_and(|admitted| first.began < admitted + WINDOW);
        let budget = BUDGET.max(first.began - commit.began);
        let spent = last.began - first.began;
        if is_contended {
            assert!(spent < budget, "commit {number} spent {spent} of {budget} µs");
        }
        let next = self.commits[number + 1..].iter().find_map(|commit| commit.deferrable().next());
        let left_out = next.is_some_and(|next| next.arrival.at <= commit.began) && !commit.was_crowded;
        assert!(
            !left_out || (is_contended && spent + last.arrival.work >= budget),
            "commit {number} left out tasks after {spent} of {budget} µs"
        );
    }

    /// The first deferrable task waits for the pause, the maximum deferral and one commit.
    fn check_first_deferrable(&self, number: usize) {
        let commit = &self.commits[number];
        let Some(first) = commit.deferrable().next() else { return };
        let earlier = &self.commits[..number];
        let last_turn = earlier.iter().rev().find(|commit| commit.deferrable().next().is_some());
        let mut since = first.arrival.at.max(last_turn.map_or(0, |commit| commit.ended));
        if let Some(under_way) = earlier.iter().find(|commit| commit.began < since && since < commit.ended) {
            since = under_way.ended;
        }
        let pause = match first.arrival.priority {
            Priority::Background => FOLLOW_UP.max(self.longest),
            _ => FOLLOW_UP,
        };
        let waited = commit.began.saturating_sub(since);
        assert!(waited <= pause + DEFERRAL + self.longest, "commit {number}: waited for {waited} µs");
    }

    /// Deferrable tasks share a commit with urgent ones only after the maximum deferral.
    fn check_joint_commit(&self, number: usize) {
        let commit = &self.commits[number];
        let Some(first) = commit.deferrable().next() else { return };
        if commit.early_urgent().next().is_none() {
            return;
        }
        assert!(self.has_expired_deferral(number, first), "commit {number} deferred nothing");
    }

    /// Whether urgent commits have left out this task for the maximum deferral.
    fn has_expired_deferral(&self, number: usize, task: &Run) -> bool {
        let earlier = self.commits[..number].iter().rev();
        let urgent_only = earlier.take_while(|commit| commit.deferrable().next().is_none());
        let deferring = urgent_only.filter(|commit| task.arrival.at <= commit.began);
        let since = deferring.map(|commit| commit.began).min();
        since.is_some_and(|since| since + DEFERRAL <= self.commits[number].began)
    }

    /// Deferrable tasks pause after an urgent commit, for its follow-up.
    fn check_follow_up(&self, number: usize) {
        let commit = &self.commits[number];
        let Some(first) = commit.deferrable().next() else { return };
        let Some(previous) = number.checked_sub(1).map(|previous| &self.commits[previous]) else { return };
        let must_pause = previous.runs.iter().any(Run::is_urgent)
            && commit.early_urgent().next().is_none()
            && !self.has_expired_deferral(number, first);
        let paused = commit.began - previous.ended;
        assert!(!must_pause || paused >= FOLLOW_UP, "commit {number} paused for {paused} µs");
    }

    /// The writer is idle only for the follow-up of an urgent commit, and rests before background tasks.
    fn check_idle_time(&self, number: usize) {
        let commit = &self.commits[number];
        let free = self.previous_end(number);
        let had_urgent = self.commits[..number].iter().any(|commit| commit.runs.iter().any(Run::is_urgent));
        let done = self.commits[..number].iter().flat_map(|commit| &commit.runs).map(|run| run.id);
        let done: std::collections::HashSet<usize> = done.collect();
        let submitted = self.arrivals.iter().enumerate().filter(|(_, arrival)| arrival.at <= commit.began);
        let mut waiting = submitted.filter(|(id, _)| !done.contains(id)).map(|(_, arrival)| arrival);
        match waiting.clone().find(|arrival| arrival.priority == Priority::Normal) {
            Some(normal) if !commit.was_crowded => {
                let idle = commit.began - free.max(normal.at);
                let allowed = if had_urgent { FOLLOW_UP } else { 0 };
                assert!(idle <= allowed, "commit {number}: a normal task waited for {idle} µs");
            }
            Some(_) => {}
            None => {
                let Some(previous) = number.checked_sub(1).map(|previous| &self.commits[previous]) else {
                    return;
                };
                // A previous commit with deferrable tasks ends their deferral, so that nothing shortens the rest.
                let must_rest = waiting.all(|arrival| arrival.priority == Priority::Background)
                    && previous.deferrable().next().is_some()
                    && !commit.was_crowded;
                let rested = commit.began - free;
                assert!(!must_rest || rested >= previous.took(), "commit {number} rested for {rested} µs");
            }
        }
    }
}

fn micros(max: Micros) -> impl Strategy<Value = Micros> {
    prop_oneof![2 => Just(0), 4 => 0..=max, 1 => 0..=20 * max]
}

/// Arrivals with a mix of priorities and a pace that differ from case to case.
fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let pace = prop_oneof![Just(20), Just(200), Just(2_000), Just(60_000)];
    (0..4u32, 0..4u32, 0..4u32, pace, 1..120u64).prop_flat_map(|(urgent, normal, background, pace, work)| {
        let priority = prop_oneof![
            urgent => Just(Priority::Urgent),
            normal => Just(Priority::Normal),
            background + u32::from(urgent + normal == 0) => Just(Priority::Background),
        ];
        prop::collection::vec((micros(pace), priority, micros(work)), 1..150).prop_map(|steps| {
            let mut at = 0;
            let arrive = |(gap, priority, work)| {
                at += gap;
                Arrival { at, priority, work }
            };
            steps.into_iter().map(arrive).collect()
        })
    })
}

fn check(arrivals: &[Arrival], syncs: &[Micros]) {
    let commits = Simulation::run(arrivals.to_vec(), syncs);
    let longest = commits.iter().map(Commit::took).max().unwrap_or(0);
    Audit { arrivals, commits: &commits, longest }.check();
}

#[test]
fn planner_keeps_its_bounds_over_random_arrivals() {
    let config = ProptestConfig {
        cases: 2_000,
        rng_seed: RngSeed::Fixed(11),
        failure_persistence: None,
        ..Default::default()
    };
    let syncs = prop_oneof![
        prop::collection::vec(50..300u64, 1..20),
        prop::collection::vec(50..3_000u64, 1..20),
        prop::collection::vec(0..50u64, 1..20),
    ];
    TestRunner::new(config)
        .run(&(arrivals(), syncs), |(arrivals, syncs)| {
            check(&arrivals, &syncs);
            Ok(())
        })
        .unwrap();
}

#[test]
fn background_tasks_alone_use_half_of_the_time() {
    let arrivals: Vec<Arrival> =
        (0..500).map(|n| Arrival { at: n * 100, priority: Priority::Background, work: 10 }).collect();
    let commits = Simulation::run(arrivals, &[700, 1_900, 300]);
    let (last, earlier) = commits.split_last().unwrap();
    let busy: Micros = earlier.iter().map(Commit::took).sum();
    assert!(2 * busy <= last.began, "busy for {busy} of {} µs", last.began);
}

#[test]
fn flood_of_tasks_is_committed_in_groups() {
    let flood = |priority| Arrival { at: 0, priority, work: 1 };
    let arrivals: Vec<Arrival> = vec![flood(Priority::Background); 3 * MAX_GROUP + 1];
    check(&arrivals, &[100]);
    let commits = Simulation::run(arrivals, &[100]);
    let sizes: Vec<usize> = commits.iter().map(|commit| commit.runs.len()).collect();
    assert_eq!(sizes, [MAX_GROUP, MAX_GROUP, MAX_GROUP, 1]);
    assert_eq!(
        (commits[2].began, commits[3].began - commits[2].ended),
        (commits[1].ended, commits[2].took())
    );
}
