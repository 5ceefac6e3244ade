//! The actor of the model: executes the steps of the planner as the real one does, and checks them.

use std::time::Duration;

use super::environment::QueuedMessage;
use super::{Model, Totals, recipient};
use crate::bulk::Error;
use crate::bulk::commands::JobCommand;
use crate::bulk::job::{JobSender, JobStatus, RowStatus};
use crate::bulk::job_files::outcomes::{OutcomeEffect, effect_of};
use crate::bulk::planner::{HandOver, OpenRow, Planner, Step, WaitReason, page_size};
use crate::bulk::row_record::RowRecord;
use crate::bulk::row_selection::{RowGroup, after_refusal, reopened};
use crate::bulk::sending_hours::HoursState;
use crate::bulk::source::SourcePosition;
use crate::bulk::storage::Checkpoint;
use relevo_domain::{BulkItem, InstanceState, MessageId, Status};

/// Maximum wait of a round.
const MAX_SLEEP: Duration = Duration::from_secs(600);

impl Model {
    /// What the actor does on a poll.
    pub(super) fn poll(&mut self, totals: &mut Totals) -> Option<Duration> {
        loop {
            let is_full = self.record_page();
            let due = self.round(totals);
            if !is_full {
                return due;
            }
        }
    }

    fn round(&mut self, totals: &mut Totals) -> Option<Duration> {
        let instances = self.instances.clone();
        let limit = 100 + 3 * self.results.len();
        self.planner.begin_round();
        for _ in 0..limit {
            let is_contended = self.random.one_in(3);
            let mut planner = std::mem::take(&mut self.planner);
            let step = planner.next_step(&self.inputs(&instances, is_contended));
            self.planner = planner;
            match step {
                Step::Start => {
                    assert_eq!(self.checkpoint.status, JobStatus::Pending);
                    self.checkpoint.status = JobStatus::Processing;
                    self.checkpoint.started_at = Some(self.now);
                }
                Step::SetSenders(senders) => {
                    assert!(senders.starts_with(&self.checkpoint.senders), "senders only grow");
                    self.checkpoint.senders = senders;
                }
                Step::Withdraw(messages) => {
                    assert!(!messages.is_empty());
                    self.withdraw(&messages);
                }
                Step::HandOver(page) => self.hand_over(&page, is_contended, totals),
                Step::Complete => {
                    assert!(self.is_done(), "completed too early");
                    self.end(JobStatus::Completed);
                    return None;
                }
                Step::Fail(cause) => {
                    assert_eq!(cause, "unreadable");
                    self.end(JobStatus::Failed);
                    totals.failed += 1;
                    return None;
                }
                Step::Stall(cause) => panic!("it never stalls: {cause}"),
                Step::Wait(delay, reason) => {
                    self.check_wait(delay, reason.as_ref(), totals);
                    return Some(delay);
                }
                Step::Rest => {
                    assert!(!self.is_active());
                    return None;
                }
            }
            self.now = self.now + Duration::from_millis(self.random.below(20));
            if self.random.one_in(if self.is_favourable { 100 } else { 20 }) {
                // A slow disk, or a clock that was set.
                self.now = self.now + Duration::from_secs(self.random.below(1_800));
            }
        }
        panic!("the round does not end");
    }

    fn end(&mut self, status: JobStatus) {
        self.checkpoint.status = status;
        self.checkpoint.ended_at = Some(self.now);
    }

    /// A round that ends with a wait says what the job waits for.
    fn check_wait(&self, delay: Duration, reason: Option<&WaitReason>, totals: &mut Totals) {
        assert!(self.is_active());
        assert!(delay > Duration::ZERO && delay <= MAX_SLEEP, "{delay:?}");
        let is_early = self.record.send_at.is_some_and(|send_at| send_at > self.now);
        let is_closed = matches!(self.hours(), Some(HoursState::Closed { .. }));
        match reason {
            None => assert!(is_early || is_closed || !self.open_rows.is_empty(), "it waits for nothing"),
            Some(WaitReason::SendingHours(opens)) => {
                assert!(is_closed && *opens > self.now);
                let is_waiting = |message: &QueuedMessage| !message.in_flight;
                assert!(
                    !self.messages.values().any(is_waiting),
                    "a row stays in the queue outside the hours"
                );
                totals.outside_hours += 1;
            }
            Some(WaitReason::NoSender(text)) => {
                let is_connected = |sender: &JobSender| {
                    let mut instances = self.instances.iter();
                    instances
                        .any(|found| found.number == sender.number && found.state == InstanceState::Connected)
                };
                assert!(!self.checkpoint.senders.iter().any(is_connected), "{text}");
                totals.no_sender += 1;
            }
            Some(WaitReason::QueueFull(error)) => {
                assert_eq!(error, "full");
                totals.queue_full += 1;
            }
        }
        if !is_early && !is_closed && self.has_connected_sender() {
            for (id, message) in &self.messages {
                let mut instances = self.instances.iter();
                let instance = instances.find(|instance| instance.number == id.instance()).unwrap();
                let is_gone =
                    matches!(instance.state, InstanceState::Disconnected | InstanceState::LoggedOut);
                assert!(message.in_flight || !is_gone, "row {} stays with {:?}", message.row, instance.id);
            }
        }
        let has_started = self.checkpoint.status == JobStatus::Processing && !is_early;
        assert!(!(has_started && self.is_done()), "all rows have an outcome, and the job goes on");
    }

    fn hand_over(&mut self, page: &HandOver, is_contended: bool, totals: &mut Totals) {
        assert_eq!(self.checkpoint.status, JobStatus::Processing, "handed over while not running");
        assert!(self.record.send_at.is_none_or(|send_at| send_at <= self.now), "handed over before send_at");
        let expires_at = match self.hours() {
            None => None,
            Some(HoursState::Open { closes }) => Some(closes),
            Some(HoursState::Closed { .. }) => panic!("handed over outside the sending hours"),
        };
        assert_eq!(page.expires_at, expires_at);
        assert!(page.limit >= 1 && page.limit as usize <= page_size(is_contended), "{}", page.limit);
        if !self.is_favourable && self.random.one_in(100) {
            return self.planner.on_source_failed("unreadable".to_owned());
        }
        let mut next = self.checkpoint.clone();
        let rows = self.take_rows(&mut next, page);
        assert!(rows.len() <= page.limit as usize);
        let is_power_cut = !self.is_favourable && self.random.one_in(100);
        let mut outgoing = Vec::new();
        for row in rows {
            // Of an interrupted batch, any of the records may be on the disk.
            if is_power_cut && self.random.one_in(2) {
                continue;
            }
            let previous = self.results[row as usize].clone();
            let position = SourcePosition { offset: 0, row, line: row + 1 };
            let mut record = match &previous {
                Some(previous) => reopened(previous, page.group, next.pass),
                None => RowRecord { pass: next.pass, ..RowRecord::new(position, RowStatus::Open, self.now) },
            };
            record.status = match row % 29 {
                5 => RowStatus::Invalid,
                7 => RowStatus::Skipped,
                _ => RowStatus::Open,
            };
            if record.status == RowStatus::Open {
                outgoing.push(row);
            }
            self.results[row as usize] = Some(record);
        }
        if is_power_cut {
            totals.interrupted += 1;
            return self.crash();
        }
        if !outgoing.is_empty() && !self.is_favourable && self.random.one_in(10) {
            self.planner.on_queue_full("full".to_owned());
            if let Some(next) = after_refusal(page.group, next, outgoing) {
                totals.retry_refused += u32::from(page.group == RowGroup::Failed);
                self.checkpoint = next;
            }
            return;
        }
        self.checkpoint = next;
        for row in outgoing {
            self.enqueue(row, page, totals);
        }
        let window = self.options.window as usize;
        assert!(self.open_rows.len() <= window, "{} open rows", self.open_rows.len());
        assert!(self.messages.len() <= window);
    }

    /// The rows that the files would read for a page.
    fn take_rows(&mut self, next: &mut Checkpoint, page: &HandOver) -> Vec<u32> {
        match page.group {
            RowGroup::Returned => {
                let mut rows = next.take_returned(page.limit);
                rows.retain(|row| self.results[*row as usize].as_ref().unwrap().status == RowStatus::Open);
                rows
            }
            RowGroup::Failed => {
                let range = next.retry_range();
                let records = self.results[range.start as usize..range.end as usize].to_vec();
                next.take_failed(records, page.limit).into_iter().map(|(row, _)| row).collect()
            }
            RowGroup::New => {
                let limit = next.new_rows(self.record.total, page.limit);
                // Pages of long rows are shorter than requested.
                let count = if self.random.one_in(4) {
                    1 + self.random.below(u64::from(limit))
                } else {
                    limit.into()
                };
                let first = next.cursor.row;
                next.cursor.row += u32::try_from(count).unwrap();
                (first..next.cursor.row).collect()
            }
        }
    }

    fn enqueue(&mut self, row: u32, page: &HandOver, totals: &mut Totals) {
        assert_eq!(self.sent[row as usize], 0, "row {row} was sent already");
        assert!(!self.messages.values().any(|message| message.row == row), "row {row} is in the queue");
        assert!(!self.outcomes.contains_key(&row), "row {row} has an outcome that is not recorded");
        let sender = page.sender_for(recipient(row)).unwrap();
        assert!(self.can_send(sender), "{sender:?}");
        let pool: Vec<_> = page.pool.iter().map(|instance| instance.number).collect();
        if let Some((number, previous_pool)) = self.last_sender.get(&recipient(row)) {
            let none_joined = pool.iter().all(|member| previous_pool.contains(member));
            if none_joined && pool.contains(number) {
                assert_eq!(sender.number, *number, "the recipient's sender changed");
            }
            totals.moved += u32::from(sender.number != *number);
        }
        self.last_sender.insert(recipient(row), (sender.number, pool));
        self.next_message += 1;
        let at = self.now + Duration::from_millis(self.next_message);
        let id = MessageId::for_bulk_item(at, 0, sender.number, BulkItem { job: 0, row });
        let message = QueuedMessage { row, expires_at: page.expires_at, in_flight: false };
        self.messages.insert(id, message);
        self.open_rows.insert(row, OpenRow { message: Some(id), phone: String::new() });
    }

    /// Records a page of outcomes; true if it was full.
    fn record_page(&mut self) -> bool {
        let page_size = page_size(self.random.one_in(3));
        let rows: Vec<_> = self.outcomes.keys().copied().take(page_size).collect();
        let mut closed = 0;
        for row in &rows {
            let outcome = self.outcomes.remove(row).unwrap();
            assert!(*row < self.checkpoint.cursor.row);
            let record = self.results[*row as usize].as_mut().unwrap();
            match effect_of(record, &outcome, self.checkpoint.status, self.record.window.is_some()) {
                OutcomeEffect::None => continue,
                OutcomeEffect::Return => {
                    self.checkpoint.return_rows([*row]);
                }
                OutcomeEffect::Record => {
                    record.status = RowStatus::Message(outcome.status);
                    record.ambiguous = outcome.ambiguous;
                    record.message = Some(outcome.id);
                }
            }
            closed += 1;
            self.open_rows.remove(row);
        }
        self.planner.on_rows_closed(closed);
        rows.len() == page_size
    }

    pub(super) fn command(&mut self, command: JobCommand) {
        while self.record_page() {}
        let mut next = match command.apply(&self.checkpoint, self.now) {
            Ok(Some(next)) => next,
            Ok(None) | Err(Error::State { .. }) => return,
            Err(error) => panic!("{error}"),
        };
        if command == JobCommand::Cancel {
            for row in std::mem::take(&mut next.returned) {
                let record = self.results[row as usize].as_mut().unwrap();
                if record.status == RowStatus::Open {
                    record.status = RowStatus::Message(Status::Cancelled);
                }
            }
        }
        self.checkpoint = next;
        if matches!(command, JobCommand::Pause | JobCommand::Cancel) {
            let open: Vec<_> = self.open_rows.values().filter_map(|open| open.message).collect();
            self.withdraw(&open);
        }
    }

    /// The actor loses its state and loads it again.
    pub(super) fn crash(&mut self) {
        self.planner = Planner::default();
        let taken = self.checkpoint.cursor.row as usize;
        for record in &mut self.results[taken..] {
            *record = None;
        }
        self.open_rows.clear();
        for (row, record) in (0..).zip(&self.results) {
            let Some(record) = record else { continue };
            if self.checkpoint.is_uncommitted(row, record) {
                self.checkpoint.return_rows([row]);
            } else if record.status == RowStatus::Open && !self.checkpoint.returned.contains(&row) {
                self.open_rows.insert(row, OpenRow::default());
            }
        }
        for (id, message) in &self.messages {
            if let Some(open) = self.open_rows.get_mut(&message.row) {
                open.message = Some(*id);
            }
        }
    }
}
