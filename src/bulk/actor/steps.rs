//! Execution of the planner's steps: everything that a round reads, writes and enqueues.

use std::time::Duration;

use serde_json::json;

use crate::events::{self, Event};
use crate::queue::{self, Submission};
use relevo_domain::{BulkItem, Class, EventKind, Mode, Timestamp};
use relevo_store as store;

use super::{OutcomePage, State};
use crate::bulk::Error;
use crate::bulk::job::JobStatus;
use crate::bulk::job_files::batch::{Batch, OutgoingRow};
use crate::bulk::planner::{HandOver, Inputs, OpenRow, Step};
use crate::bulk::row_selection::after_refusal;
use crate::bulk::senders::SenderInstance;
use crate::bulk::storage::Checkpoint;

impl State {
    /// Runs one round of the planner. Returns the delay until the next one is due.
    pub(super) async fn run_round(&mut self) -> Result<Option<Duration>, Error> {
        if !matches!(self.checkpoint.status, JobStatus::Pending | JobStatus::Processing) {
            return Ok(None);
        }
        self.waits_for = None;
        let instances = (self.arguments.context.instances)();
        self.planner.begin_round();
        loop {
            match self.next_step(&instances) {
                Step::Start => self.start().await?,
                Step::SetSenders(senders) => {
                    self.commit(Checkpoint { senders, ..self.checkpoint.clone() }).await?;
                }
                Step::Withdraw(messages) => self.withdraw(messages).await?,
                Step::HandOver(page) => self.hand_over(&page).await?,
                Step::Complete => {
                    self.finish(JobStatus::Completed, None).await?;
                    return Ok(None);
                }
                Step::Fail(cause) => {
                    self.finish(JobStatus::Failed, Some(cause)).await?;
                    return Ok(None);
                }
                Step::Stall(cause) => {
                    // The withdrawn rows come back first.
                    while self.record_outcomes().await? == OutcomePage::Full {}
                    let stalled = Checkpoint { stalled: true, ..self.checkpoint.clone() };
                    self.finish_from(stalled, JobStatus::Failed, Some(cause)).await?;
                    return Ok(None);
                }
                Step::Wait(delay, reason) => {
                    self.waits_for = reason.map(|reason| reason.to_string());
                    return Ok(Some(delay));
                }
                Step::Rest => return Ok(None),
            }
        }
    }

    fn next_step(&mut self, instances: &[SenderInstance]) -> Step {
        let context = &self.arguments.context;
        self.planner.next_step(&Inputs {
            now: context.clock.now(),
            record: &self.record,
            checkpoint: &self.checkpoint,
            open_rows: &self.open_rows,
            instances,
            is_contended: context.store.is_contended(),
            options: &context.options,
        })
    }

    /// Reads a batch of rows and enqueues it, under the checkpoint that says so.
    async fn hand_over(&mut self, page: &HandOver) -> Result<(), Error> {
        let (checkpoint, now) = (self.checkpoint.clone(), self.now());
        let is_suppressed = self.arguments.context.is_suppressed.clone();
        let (group, limit) = (page.group, page.limit);
        let read = self
            .with_files(move |files| files.next_batch(&checkpoint, group, limit, now, &is_suppressed))
            .await;
        let batch = match read {
            Ok(batch) => batch,
            Err(Error::Source(cause)) => {
                self.planner.on_source_failed(cause);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.enqueue(batch, page).await?;
        self.publish();
        Ok(())
    }

    async fn enqueue(&mut self, batch: Batch, page: &HandOver) -> Result<(), Error> {
        let Batch { outgoing, next } = batch;
        let mut submissions = Vec::with_capacity(outgoing.len());
        let mut opened = Vec::with_capacity(outgoing.len());
        for row in outgoing {
            let Some(sender) = page.sender_for(row.lane) else {
                return Err(Error::NoDevices);
            };
            opened.push((row.row, row.phone.clone()));
            submissions.push(self.submission(row, sender, page.expires_at));
        }
        if submissions.is_empty() {
            return self.commit(next).await;
        }
        let (slot, checkpoint) = (self.slot(), next.clone());
        let queue = &self.arguments.context.queue;
        match queue.enqueue_items(submissions, move |tx| checkpoint.put(tx, slot)).await {
            Ok(ids) => {
                self.checkpoint = next;
                for ((row, phone), id) in opened.into_iter().zip(ids) {
                    self.open_rows.insert(row, OpenRow { message: Some(id), phone });
                }
                Ok(())
            }
            Err(error @ (queue::Error::Full { .. } | queue::Error::DiskFull)) => {
                self.planner.on_queue_full(error.to_string());
                let rows = opened.into_iter().map(|(row, _)| row);
                match after_refusal(page.group, next, rows) {
                    Some(next) => self.commit(next).await,
                    None => Ok(()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    fn submission(
        &self,
        row: OutgoingRow,
        sender: &SenderInstance,
        expires_at: Option<Timestamp>,
    ) -> Submission {
        Submission {
            instance: sender.number,
            message: row.message,
            class: Class::Bulk,
            mode: Mode::Async,
            idempotency: None,
            expires_at,
            send_at: None,
            on_ambiguous: sender.on_ambiguous.unwrap_or(self.arguments.context.on_ambiguous),
            repeatable: sender.repeatable,
            item: Some(BulkItem { job: self.slot(), row: row.row }),
        }
    }

    async fn start(&mut self) -> Result<(), Error> {
        let now = self.now();
        let next = Checkpoint {
            status: JobStatus::Processing,
            started_at: Some(self.checkpoint.started_at.unwrap_or(now)),
            updated_at: now,
            ..self.checkpoint.clone()
        };
        self.commit_with_event(next, EventKind::JobStarted).await
    }

    async fn finish(&mut self, status: JobStatus, error: Option<String>) -> Result<(), Error> {
        self.finish_from(self.checkpoint.clone(), status, error).await
    }

    async fn finish_from(
        &mut self,
        checkpoint: Checkpoint,
        status: JobStatus,
        error: Option<String>,
    ) -> Result<(), Error> {
        let now = self.now();
        let kind =
            if status == JobStatus::Completed { EventKind::JobCompleted } else { EventKind::JobFailed };
        let next = Checkpoint { status, error, ended_at: Some(now), updated_at: now, ..checkpoint };
        self.with_files(|files| files.sync_index()).await?;
        tracing::info!(job = %self.record.id, %status, "bulk job ended");
        self.commit_with_event(next, kind).await
    }

    /// Commits `next` as the checkpoint, together with an event in the log of the job's first instance.
    async fn commit_with_event(&mut self, next: Checkpoint, kind: EventKind) -> Result<(), Error> {
        let counts = next.progress(self.record.total).counts;
        let data = json!({
            "job_id": self.record.id,
            "status": next.status.as_str(),
            "results": {
                "sent": counts.sent, "failed": counts.failed, "ambiguous": counts.ambiguous,
                "skipped": counts.skipped, "cancelled": counts.cancelled, "total": self.record.total,
            },
            "error": next.error,
        });
        let event = Event { kind, at: next.updated_at, data };
        let (slot, checkpoint) = (self.slot(), next.clone());
        let instance = next.senders.first().map(|sender| sender.number);
        let write = move |tx: &mut store::Tx| {
            if let Some(instance) = instance {
                events::append(tx, instance, &event)?;
            }
            checkpoint.put(tx, slot)
        };
        self.arguments.context.store.write(write).await?;
        self.checkpoint = next;
        Ok(())
    }
}
