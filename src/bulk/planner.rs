//! The planner of a job: decides what its actor does next. Pure: time, instances and contention are arguments, and the actor
//! does the I/O.
//!
//! The actor runs *rounds*: it calls [`Planner::begin_round`] and executes the steps of [`Planner::next_step`] until one
//! ends the round. A round runs when outcomes arrive, after a command, and when the wait of the previous round is over.
//!
//! Guarantees:
//! - At most [`Options::window`] rows are open.
//! - Rows are handed over only while the job is processing, after `send_at` and within the sending hours.
//! - The job completes when no row is left to hand over and no row is open.
//! - A round ends after a bounded number of steps, and its last step says when the next round is due.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use relevo_domain::{InstanceNumber, InstanceState, LaneId, MessageId, Timestamp};

use super::Options;
use super::job::{JobSender, JobStatus};
use super::row_selection::{CHUNK_ROWS, RowGroup};
use super::senders::{self, SenderInstance};
use super::sending_hours::HoursState;
use super::storage::{Checkpoint, JobRecord};

/// Number of rows per commit while the store is contended: single messages may have to wait behind a page, several times.
pub(super) const CONTENDED_PAGE: usize = 32;

/// Number of rows per commit otherwise. A larger page has a lower cost per row.
pub(super) const UNCONTENDED_PAGE: usize = 256;

/// Interval at which a running job checks its instances, and retries after the queue was full.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// The queue should have rows for this many polls. Otherwise the job is limited by its window.
const LOOKAHEAD_POLLS: usize = 4;

/// Maximum number of open rows at the start of a job.
const INITIAL_WINDOW: usize = UNCONTENDED_PAGE;

/// Maximum wait. The wall clock may be changed in the meantime.
const MAX_SLEEP: Duration = Duration::from_secs(600);

/// The reason of rows that were not sent because no instance could send for `bulk.stalled_after`.
pub(super) const STALLED: &str = "stalled";

/// Minimum wait before the round after the sending hours have ended.
const MIN_SLEEP: Duration = Duration::from_millis(1);

/// The number of rows per commit.
pub(super) fn page_size(is_contended: bool) -> usize {
    if is_contended { CONTENDED_PAGE } else { UNCONTENDED_PAGE }
}

/// A row that is in the queue.
#[derive(Debug, Clone, Default)]
pub(super) struct OpenRow {
    /// `None`: the row has an outcome that is not recorded yet.
    pub message: Option<MessageId>,
    /// The recipient as the source spells it; empty after a restart.
    pub phone: String,
}

/// What the planner decides from.
pub(super) struct Inputs<'a> {
    pub now: Timestamp,
    pub record: &'a JobRecord,
    /// As it was committed last.
    pub checkpoint: &'a Checkpoint,
    /// The rows that are in the queue.
    pub open_rows: &'a BTreeMap<u32, OpenRow>,
    /// The instances of the node, listed once per round.
    pub instances: &'a [SenderInstance],
    /// Whether urgent commits wait for the store.
    pub is_contended: bool,
    pub options: &'a Options,
}

/// What the actor does next.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Set the status to processing, and the start time.
    Start,
    /// Commit these senders of the job.
    SetSenders(Vec<JobSender>),
    /// Withdraw these messages from the queue. Those without an attempt come back as outcomes.
    Withdraw(Vec<MessageId>),
    /// Read a batch of rows and enqueue it.
    HandOver(HandOver),
    /// All rows have an outcome: the job has completed.
    Complete,
    /// The rows cannot be read: the job has failed.
    Fail(String),
    /// No instance could send for too long: the job has failed, and its rows can be tried again.
    Stall(String),
    /// End the round. The next one is due after this time, if nothing happens before.
    Wait(Duration, Option<WaitReason>),
    /// End the round. There is nothing to do until a command or an outcome arrives.
    Rest,
}

/// A batch of rows to hand over.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct HandOver {
    pub group: RowGroup,
    /// Maximum number of rows.
    pub limit: u32,
    /// When the sending hours end.
    pub expires_at: Option<Timestamp>,
    /// The available senders; not empty.
    pub pool: Arc<[SenderInstance]>,
}

impl HandOver {
    /// The sender for a recipient.
    pub fn sender_for(&self, recipient: LaneId) -> Option<&SenderInstance> {
        senders::choose(&self.pool, recipient)
    }
}

/// What a job waits for, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WaitReason {
    /// The sending hours start at this time.
    SendingHours(Timestamp),
    /// No instance of the job can send; the text says which and why.
    NoSender(String),
    /// The queue did not accept rows; the text of its error.
    QueueFull(String),
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitReason::SendingHours(opens) => write!(f, "the sending hours start at {opens}"),
            WaitReason::NoSender(text) | WaitReason::QueueFull(text) => f.write_str(text),
        }
    }
}

/// The state of the planner. It is lost in a crash; its successor starts with [`Planner::default`].
#[derive(Debug, Default)]
pub(super) struct Planner {
    /// Number of rows that were closed since the window was computed last.
    closed_since_fill: usize,
    /// Since when senders have not been connected.
    disconnected_since: HashMap<InstanceNumber, Timestamp>,
    blocked: Blocked,
    phase: RoundPhase,
}

/// For how long none of the senders could send, without the time in which the job would not have sent anyway.
#[derive(Debug, Default)]
struct Blocked {
    total: Duration,
    /// The last round that found the job blocked.
    last: Option<Timestamp>,
}

impl Blocked {
    /// A round found the job blocked. Rounds are [`POLL_INTERVAL`] apart; a longer time is a step of the clock.
    fn add(&mut self, now: Timestamp) -> Duration {
        let since_last = self.last.map_or(Duration::ZERO, |last| now.since(last));
        self.total += since_last.min(2 * POLL_INTERVAL);
        self.last = Some(now);
        self.total
    }

    /// Time passes that does not count.
    fn pause(&mut self) {
        self.last = None;
    }
}

/// How far a round is.
#[derive(Debug, Default)]
enum RoundPhase {
    /// The schedule and the senders are checked.
    #[default]
    Preparing,
    /// Like `Preparing`; open rows were withdrawn because the sending hours have ended.
    Withdrawn,
    /// Rows are handed over until `window` rows are open.
    Filling { pool: Arc<[SenderInstance]>, window: usize },
    /// The queue did not accept rows.
    QueueFull(String),
    /// Rows could not be read.
    SourceFailed(String),
}

impl Planner {
    /// Begins a round.
    pub fn begin_round(&mut self) {
        self.phase = RoundPhase::Preparing;
    }

    /// `count` open rows were closed by outcomes.
    pub fn on_rows_closed(&mut self, count: usize) {
        self.closed_since_fill += count;
    }

    /// The queue did not accept the batch of this round.
    pub fn on_queue_full(&mut self, error: String) {
        self.phase = RoundPhase::QueueFull(error);
    }

    /// The batch of this round could not be read.
    pub fn on_source_failed(&mut self, cause: String) {
        self.phase = RoundPhase::SourceFailed(cause);
    }

    /// The next step of the round. The caller executes it, and passes its effects as inputs of the next call.
    pub fn next_step(&mut self, inputs: &Inputs<'_>) -> Step {
        match inputs.checkpoint.status {
            JobStatus::Pending | JobStatus::Processing => {}
            JobStatus::Paused | JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => {
                self.blocked.pause();
                return Step::Rest;
            }
        }
        match &self.phase {
            RoundPhase::Preparing | RoundPhase::Withdrawn => self.prepare(inputs),
            RoundPhase::Filling { pool, window } => fill(inputs, pool, *window),
            RoundPhase::QueueFull(error) => {
                Step::Wait(inputs.until_next_poll(), Some(WaitReason::QueueFull(error.clone())))
            }
            RoundPhase::SourceFailed(cause) => Step::Fail(cause.clone()),
        }
    }

    /// Checks the schedule and the senders; then begins to fill the window.
    fn prepare(&mut self, inputs: &Inputs<'_>) -> Step {
        let Inputs { now, record, checkpoint, .. } = *inputs;
        if let Some(send_at) = record.send_at
            && send_at > now
        {
            return Step::Wait(send_at.since(now).min(MAX_SLEEP), None);
        }
        if checkpoint.status == JobStatus::Processing && inputs.is_done() {
            return Step::Complete;
        }
        if let Some(HoursState::Closed { opens }) = inputs.hours() {
            self.blocked.pause();
            let open = inputs.open_messages();
            if !open.is_empty() && !matches!(self.phase, RoundPhase::Withdrawn) {
                self.phase = RoundPhase::Withdrawn;
                return Step::Withdraw(open);
            }
            return Step::Wait(opens.since(now).min(MAX_SLEEP), Some(WaitReason::SendingHours(opens)));
        }
        if checkpoint.status == JobStatus::Pending {
            return Step::Start;
        }
        let available = self.available_instances(inputs);
        let is_available = |number: InstanceNumber| available.contains(&number);
        let mut senders = checkpoint.senders.clone();
        let pool = senders::sender_pool(&record.senders, &mut senders, inputs.instances, |instance| {
            is_available(instance.number)
        });
        if senders != checkpoint.senders {
            return Step::SetSenders(senders);
        }
        let blocked_by = inputs.blocked_by();
        if let Some(text) = &blocked_by {
            let limit = inputs.options.stalled_after;
            if self.blocked.add(now) >= limit && !limit.is_zero() {
                return self.stall(inputs, text);
            }
        } else {
            self.blocked = Blocked::default();
        }
        if pool.is_empty() && RowGroup::next(checkpoint, record.total).is_some() {
            return Step::Wait(POLL_INTERVAL, blocked_by.map(WaitReason::NoSender));
        }
        // Rows of unavailable instances move to the others, if there are any.
        let mut stranded = inputs.open_messages();
        stranded.retain(|message| !pool.is_empty() && !is_available(message.instance()));
        let (pool, window) = (pool.into(), self.compute_window(inputs));
        let step = if stranded.is_empty() { fill(inputs, &pool, window) } else { Step::Withdraw(stranded) };
        self.phase = RoundPhase::Filling { pool, window };
        step
    }

    /// Withdraws the open rows, then ends the job.
    fn stall(&mut self, inputs: &Inputs<'_>, text: &str) -> Step {
        let open = inputs.open_messages();
        if !open.is_empty() && !matches!(self.phase, RoundPhase::Withdrawn) {
            self.phase = RoundPhase::Withdrawn;
            return Step::Withdraw(open);
        }
        Step::Stall(format!("{STALLED}: {text}"))
    }

    /// Updates since when senders are disconnected; returns the instances that can send.
    fn available_instances(&mut self, inputs: &Inputs<'_>) -> Vec<InstanceNumber> {
        let is_connected = |number: InstanceNumber| {
            inputs
                .instances
                .iter()
                .any(|instance| instance.number == number && instance.state == InstanceState::Connected)
        };
        self.disconnected_since.retain(|number, _| !is_connected(*number));
        for sender in &inputs.checkpoint.senders {
            if !is_connected(sender.number) {
                self.disconnected_since.entry(sender.number).or_insert(inputs.now);
            }
        }
        let patience = inputs.options.instance_patience;
        let mut available = Vec::new();
        for instance in inputs.instances {
            let since = self.disconnected_since.get(&instance.number).copied().unwrap_or(inputs.now);
            if senders::is_available(instance, inputs.now.since(since), patience) {
                available.push(instance.number);
            }
        }
        available
    }

    /// The maximum number of open rows in this round. It grows with the rows that were closed since the last round: twice
    /// as fast if the open rows may not last for [`LOOKAHEAD_POLLS`] rounds like the last one, otherwise slowly, so that
    /// a job does not enqueue thousands of rows at once.
    fn compute_window(&mut self, inputs: &Inputs<'_>) -> usize {
        let closed = std::mem::take(&mut self.closed_since_fill);
        let open = inputs.open_rows.len();
        let growth = if open < LOOKAHEAD_POLLS * closed { 2 * closed } else { closed + closed / 8 + 1 };
        let limit = usize::try_from(inputs.options.window).unwrap_or(usize::MAX);
        (open + growth).max(INITIAL_WINDOW).min(limit)
    }
}

/// Hands over rows until the window is full; completes the job when no row is left.
fn fill(inputs: &Inputs<'_>, pool: &Arc<[SenderInstance]>, window: usize) -> Step {
    let open = inputs.open_rows.len();
    let Some(group) = RowGroup::next(inputs.checkpoint, inputs.record.total) else {
        return if open == 0 { Step::Complete } else { inputs.wait_for_outcomes() };
    };
    let room = window.saturating_sub(open);
    if room == 0 {
        return inputs.wait_for_outcomes();
    }
    let expires_at = match inputs.hours() {
        None => None,
        Some(HoursState::Open { closes }) => Some(closes),
        // The hours ended in this round. The next round withdraws the open rows.
        Some(HoursState::Closed { .. }) => return Step::Wait(MIN_SLEEP, None),
    };
    let limit = u32::try_from(room.min(page_size(inputs.is_contended))).unwrap_or(CHUNK_ROWS);
    Step::HandOver(HandOver { group, limit, expires_at, pool: pool.clone() })
}

impl Inputs<'_> {
    /// Whether no row is left to hand over, and none is open.
    fn is_done(&self) -> bool {
        RowGroup::next(self.checkpoint, self.record.total).is_none() && self.open_rows.is_empty()
    }

    fn hours(&self) -> Option<HoursState> {
        self.record.window.as_ref().map(|hours| hours.state_at(self.now))
    }

    /// Why none of the job's senders can send now; `None` if one can.
    fn blocked_by(&self) -> Option<String> {
        senders::blocked_by(&self.checkpoint.senders, self.instances)
    }

    /// Waits for the outcomes of open rows; says so if they cannot be sent now.
    fn wait_for_outcomes(&self) -> Step {
        Step::Wait(self.until_next_poll(), self.blocked_by().map(WaitReason::NoSender))
    }

    fn open_messages(&self) -> Vec<MessageId> {
        self.open_rows.values().filter_map(|open| open.message).collect()
    }

    /// Until the poll interval or the sending hours end.
    fn until_next_poll(&self) -> Duration {
        match self.hours() {
            None => POLL_INTERVAL,
            Some(HoursState::Open { closes }) => closes.since(self.now).max(MIN_SLEEP).min(POLL_INTERVAL),
            Some(HoursState::Closed { .. }) => MIN_SLEEP,
        }
    }
}
