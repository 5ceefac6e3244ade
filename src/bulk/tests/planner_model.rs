//! Model test of the planner: a simulated actor, queue and result file execute random sequences of outcomes, commands,
//! instance states, crashes and clock changes, and check the guarantees of the planner after every step.

mod actor;
mod environment;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use uuid::Uuid;

use self::environment::{QueuedMessage, Random};
use super::fixture::sender_instance;
use crate::bulk::Options;
use crate::bulk::commands::JobCommand;
use crate::bulk::job::{JobKind, JobStatus, NewJob, OnSuppressed, Plan, RowStatus, SenderSelection};
use crate::bulk::planner::{Inputs, OpenRow, Planner, Step};
use crate::bulk::row_record::RowRecord;
use crate::bulk::senders::{SenderInstance, initial_senders};
use crate::bulk::sending_hours::{HoursState, SendingHours};
use crate::bulk::source::{SourceFormat, SourcePosition};
use crate::bulk::storage::{Checkpoint, JobRecord};
use crate::queue::ItemOutcome;
use crate::queue::tests::fixture::ONE;
use relevo_domain::{InstanceNumber, InstanceState, LaneId, MessageId, Status, Timestamp};

/// Number of random histories.
const SEEDS: u64 = 400;
/// Number of random events of a history.
const EVENTS: usize = 250;
/// Number of recipients; each has several rows.
const RECIPIENTS: u32 = 60;
/// 22 November 2025, 08:26:40 UTC.
const START: Timestamp = Timestamp(1_763_800_000_000);

#[test]
fn planner_keeps_its_guarantees_under_random_histories() {
    let mut totals = Totals::default();
    for seed in 0..SEEDS {
        let guard = SeedReport(seed);
        Model::new(seed).run(&mut totals);
        drop(guard);
    }
    // The histories must reach the interesting states, or the test proves little.
    let Totals {
        completed,
        cancelled,
        failed,
        outside_hours,
        no_sender,
        queue_full,
        moved,
        retried,
        retry_refused,
        interrupted,
    } = totals;
    for (name, count) in [
        ("completed", completed),
        ("cancelled", cancelled),
        ("failed", failed),
        ("outside the sending hours", outside_hours),
        ("without a sender", no_sender),
        ("queue full", queue_full),
        ("moved to another sender", moved),
        ("retried", retried),
        ("retried rows not accepted by the queue", retry_refused),
        ("interrupted by a power cut", interrupted),
    ] {
        assert!(count >= 10, "only {count} histories or steps: {name}");
    }
}

#[test]
fn window_grows_with_the_rows_that_were_closed() {
    // Open rows, rows closed since the last round, `bulk.window`, and the number of rows handed over at once.
    for (open, closed, window, expected) in [
        (0, 0, 2_000, 256),
        (0, 0, 100, 100),
        (250, 0, 2_000, 6),
        // The open rows last for four polls: grow by the closed rows, an eighth of them, and one.
        (250, 10, 2_000, 12),
        (400, 100, 2_000, 113),
        // They may not: grow by twice the closed rows.
        (399, 100, 2_000, 200),
        (399, 100, 450, 51),
        (1_000, 600, 2_000, 256),
    ] {
        let mut model = Model::new(0);
        model.record.window = None;
        model.record.send_at = None;
        model.record.total = 1_500;
        model.options.window = window;
        model.checkpoint.status = JobStatus::Processing;
        model.checkpoint.cursor.row = open;
        model.open_rows = (0..open).map(|row| (row, OpenRow::default())).collect();
        let mut planner = Planner::default();
        planner.on_rows_closed(closed);
        planner.begin_round();
        let step = planner.next_step(&model.inputs(&model.instances, false));
        let Step::HandOver(page) = step else { panic!("{step:?}") };
        assert_eq!(page.limit, expected, "{open} open, {closed} closed, window {window}");
        let step = planner.next_step(&model.inputs(&model.instances, true));
        let Step::HandOver(page) = step else { panic!("{step:?}") };
        assert_eq!(page.limit, expected.min(32), "contended");
    }
}

/// Prints the seed of a failed history.
struct SeedReport(u64);

impl Drop for SeedReport {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with the seed {}", self.0);
        }
    }
}

/// What the histories did.
#[derive(Default)]
struct Totals {
    completed: u32,
    cancelled: u32,
    failed: u32,
    outside_hours: u32,
    no_sender: u32,
    queue_full: u32,
    moved: u32,
    retried: u32,
    retry_refused: u32,
    interrupted: u32,
}

struct Model {
    random: Random,
    record: JobRecord,
    options: Options,
    now: Timestamp,
    instances: Vec<SenderInstance>,
    // Durable state of the job.
    checkpoint: Checkpoint,
    results: Vec<Option<RowRecord>>,
    // State of the actor.
    planner: Planner,
    open_rows: BTreeMap<u32, OpenRow>,
    // The queue.
    messages: BTreeMap<MessageId, QueuedMessage>,
    outcomes: BTreeMap<u32, ItemOutcome>,
    next_message: u64,
    // What happened.
    sent: Vec<u32>,
    last_sender: HashMap<LaneId, (InstanceNumber, Vec<InstanceNumber>)>,
    /// Nothing fails any more, and all instances are connected.
    is_favourable: bool,
}

fn recipient(row: u32) -> LaneId {
    LaneId(u64::from(row % RECIPIENTS))
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let limit = random.pick(&[20, 200, 1_500]);
        let total = u32::try_from(1 + random.below(limit)).unwrap();
        let hours = [("08:00", "08:30"), ("22:00", "03:00"), ("00:00", "23:59")];
        let window = random.one_in(2).then(|| {
            let (from, to) = random.pick(&hours);
            SendingHours::new(from, to, "America/Bogota").unwrap()
        });
        let mut number = ONE;
        let mut instances = Vec::new();
        for name in ["one", "two", "three", "four"] {
            let rate = random.pick(&[1.0, 20.0, 80.0]);
            instances.push(SenderInstance { rate, ..sender_instance(name, number) });
            number = number.next().unwrap();
        }
        let senders = match random.below(3) {
            0 => SenderSelection::Named(vec!["one".parse().unwrap(), "three".parse().unwrap()]),
            1 => SenderSelection::Any { limit: 2 },
            _ => SenderSelection::Any { limit: 4 },
        };
        let job = NewJob {
            id: Uuid::from_u128(1),
            kind: JobKind::List,
            file_name: None,
            plan: Plan::PerRow,
            senders,
            send_at: random.one_in(4).then_some(START + Duration::from_secs(1_000)),
            window,
            suppressed: OnSuppressed::Skip,
        };
        let initial = initial_senders(&job.senders, &instances).unwrap();
        let options = Options { window: random.pick(&[3, 60, 700, 2_000]), ..Options::default() };
        Self {
            random,
            record: JobRecord::new(job, SourceFormat::Lines, total, [0; 32], START),
            options,
            now: START,
            instances,
            checkpoint: Checkpoint::new(SourcePosition::START, initial, START),
            results: vec![None; total as usize],
            planner: Planner::default(),
            open_rows: BTreeMap::new(),
            messages: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            next_message: 0,
            sent: vec![0; total as usize],
            last_sender: HashMap::new(),
            is_favourable: false,
        }
    }

    /// Runs a random history; then lets everything succeed and expects the job to end.
    fn run(mut self, totals: &mut Totals) {
        let mut due = self.poll(totals);
        for _ in 0..EVENTS {
            match self.random.below(100) {
                0..40 => self.process_messages(),
                40..60 => self.advance(due),
                60..70 => self.change_instance(),
                70..73 => self.command(JobCommand::Pause),
                73..82 => self.command(JobCommand::Resume),
                82..84 => self.crash(),
                84 if self.random.one_in(12) => self.command(JobCommand::Cancel),
                84..86 if self.checkpoint.status.is_finished() && self.checkpoint.pass < 3 => {
                    self.command(JobCommand::RetryFailed);
                    totals.retried += 1;
                }
                _ => {}
            }
            due = self.poll(totals);
        }
        self.finish(due, totals);
    }

    fn finish(&mut self, mut due: Option<Duration>, totals: &mut Totals) {
        self.is_favourable = true;
        for instance in &mut self.instances {
            instance.state = InstanceState::Connected;
        }
        self.command(JobCommand::Resume);
        let limit = 2_000 + 4 * self.results.len();
        for _ in 0..limit {
            due = self.poll(totals);
            if self.checkpoint.status.is_finished() && self.messages.is_empty() && self.outcomes.is_empty() {
                // The successor of an ended job's actor finds no row that could still get an outcome.
                self.crash();
                assert!(self.open_rows.is_empty(), "{:?}", self.open_rows);
                if self.checkpoint.status != JobStatus::Failed {
                    return self.check_end(totals);
                }
                self.command(JobCommand::RetryFailed);
            }
            self.process_messages();
            if self.outcomes.is_empty() {
                self.advance(due);
            }
        }
        panic!("the job does not end: {:?}, due in {due:?}", self.checkpoint);
    }

    fn check_end(&self, totals: &mut Totals) {
        match self.checkpoint.status {
            JobStatus::Completed => totals.completed += 1,
            JobStatus::Cancelled => totals.cancelled += 1,
            status => panic!("{status}"),
        }
        assert!(self.sent.iter().all(|&count| count <= 1), "a row was sent twice");
        assert!(self.checkpoint.returned.is_empty(), "{:?}", self.checkpoint.returned);
        let taken = self.checkpoint.cursor.row as usize;
        for (row, record) in self.results[..taken].iter().enumerate() {
            let record = record.as_ref().unwrap();
            assert_ne!(record.status, RowStatus::Open, "row {row} has no outcome");
            assert_ne!(
                record.status,
                RowStatus::Message(Status::Expired),
                "row {row} was not handed over again"
            );
            let was_sent = matches!(record.status, RowStatus::Message(Status::Sent));
            assert!(!was_sent || self.sent[row] == 1, "row {row}");
        }
        if self.checkpoint.status == JobStatus::Completed {
            assert_eq!(taken, self.results.len(), "a row was skipped");
        }
    }

    fn inputs<'a>(&'a self, instances: &'a [SenderInstance], is_contended: bool) -> Inputs<'a> {
        Inputs {
            now: self.now,
            record: &self.record,
            checkpoint: &self.checkpoint,
            open_rows: &self.open_rows,
            instances,
            is_contended,
            options: &self.options,
        }
    }

    fn is_active(&self) -> bool {
        matches!(self.checkpoint.status, JobStatus::Pending | JobStatus::Processing)
    }

    /// Whether no row is left to hand over, and none is open.
    fn is_done(&self) -> bool {
        self.checkpoint.cursor.row == self.record.total
            && self.checkpoint.retry.is_none()
            && self.checkpoint.returned.is_empty()
            && self.open_rows.is_empty()
    }

    fn hours(&self) -> Option<HoursState> {
        self.record.window.as_ref().map(|hours| hours.state_at(self.now))
    }

    /// Whether the job may use an instance.
    fn is_selected(&self, instance: &SenderInstance) -> bool {
        match &self.record.senders {
            SenderSelection::Named(ids) => ids.contains(&instance.id),
            SenderSelection::Any { .. } => true,
        }
    }

    fn has_connected_sender(&self) -> bool {
        self.instances
            .iter()
            .any(|instance| instance.state == InstanceState::Connected && self.is_selected(instance))
    }

    /// Whether an instance may send for the job now.
    fn can_send(&self, sender: &SenderInstance) -> bool {
        self.is_selected(sender)
            && matches!(sender.state, InstanceState::Connected | InstanceState::Connecting)
    }
}
