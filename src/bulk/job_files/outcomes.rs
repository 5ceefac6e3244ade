//! Recording of outcomes: what the queue reports about a row becomes the row's record, or makes the row come back.

use crate::queue::ItemOutcome;
use relevo_domain as domain;

use super::JobFiles;
use crate::bulk::Error;
use crate::bulk::error_log::ErrorLogEntry;
use crate::bulk::job::{JobSender, JobStatus, LastRow, RowStatus};
use crate::bulk::row_record::{RowRecord, StoredId};
use crate::bulk::storage::Checkpoint;

/// The result of recording a page of outcomes.
#[derive(Debug, Default)]
pub(in crate::bulk) struct RecordedOutcomes {
    /// Rows that are not in the queue any more.
    pub closed: Vec<u32>,
    /// The row that was recorded last.
    pub last_row: Option<LastRow>,
}

/// What an outcome means for its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bulk) enum OutcomeEffect {
    /// Nothing: a newer fact is recorded already.
    None,
    /// The row was not attempted and is handed over again.
    Return,
    /// The outcome becomes the row's record.
    Record,
}

/// Decides what an outcome means for a row. `has_hours`: the job has sending hours, so that its rows expire when these end.
pub(in crate::bulk) fn effect_of(
    record: &RowRecord,
    outcome: &ItemOutcome,
    status: JobStatus,
    has_hours: bool,
) -> OutcomeEffect {
    if !supersedes(record, outcome) {
        return OutcomeEffect::None;
    }
    let was_not_attempted = match outcome.status {
        domain::Status::Cancelled => true,
        domain::Status::Expired => has_hours,
        _ => false,
    };
    if !was_not_attempted || status == JobStatus::Cancelled {
        OutcomeEffect::Record
    } else if record.status == RowStatus::Open {
        OutcomeEffect::Return
    } else {
        OutcomeEffect::None
    }
}

/// Whether an outcome is newer than the record of its row.
fn supersedes(record: &RowRecord, outcome: &ItemOutcome) -> bool {
    match (record.status, record.message) {
        (RowStatus::Open, None) => true,
        (RowStatus::Open, Some(previous)) => outcome.id >= previous,
        (RowStatus::Message(status), Some(id)) => outcome.supersedes(id, status),
        _ => false,
    }
}

impl JobFiles {
    /// Records outcomes, each with the phone of its row if that is known. `next` becomes the checkpoint after them.
    pub fn record_outcomes(
        &mut self,
        outcomes: &[(ItemOutcome, String)],
        next: &mut Checkpoint,
    ) -> Result<RecordedOutcomes, Error> {
        self.error_log.rewind(next.errors_end);
        let mut recorded = RecordedOutcomes::default();
        let mut is_written = false;
        for (outcome, phone) in outcomes {
            let row = outcome.item.row;
            if row >= next.cursor.row {
                continue;
            }
            let Some(previous) = self.record_of(row)? else { continue };
            match effect_of(&previous, outcome, next.status, self.record.window.is_some()) {
                OutcomeEffect::None => {}
                OutcomeEffect::Return => {
                    recorded.closed.push(row);
                    next.return_rows([row]);
                }
                OutcomeEffect::Record => {
                    recorded.closed.push(row);
                    let changed = self.updated_record(row, &previous, outcome, phone, next)?;
                    if let Some(id) = &outcome.provider_id {
                        self.provider_ids.insert(id, row).map_err(|cause| self.io_error(cause))?;
                    }
                    self.put(row, &changed)?;
                    next.counts.apply_change(Some(&previous), &changed);
                    recorded.last_row = Some(last_row(row, &changed, phone.clone(), next));
                    is_written = true;
                }
            }
        }
        if is_written {
            self.sync()?;
            if next.status.is_finished() {
                self.sync_index()?;
            }
        }
        next.errors_end = self.error_log.end();
        Ok(recorded)
    }

    /// The record of a row after an outcome. Appends to the error log if the row failed or its provider id is long.
    fn updated_record(
        &mut self,
        row: u32,
        previous: &RowRecord,
        outcome: &ItemOutcome,
        phone: &str,
        checkpoint: &Checkpoint,
    ) -> Result<RowRecord, Error> {
        let sender = checkpoint.senders.iter().position(|sender| sender.number == outcome.instance);
        let device = sender.and_then(|index| u8::try_from(index + 1).ok()).unwrap_or(0);
        let mut changed = RowRecord {
            status: RowStatus::Message(outcome.status),
            ambiguous: outcome.ambiguous,
            device,
            at: outcome.at,
            log_offset: None,
            code: None,
            message: Some(outcome.id),
            provider_id: StoredId::new(outcome.provider_id.as_ref()),
            ..previous.clone()
        };
        let is_same_message = previous.message == Some(outcome.id);
        if is_same_message && outcome.provider_id.is_none() {
            changed.provider_id.clone_from(&previous.provider_id);
        }
        let is_failure = changed.status.is_failure();
        let has_logged_id = is_same_message && previous.provider_id == StoredId::InErrorLog;
        if changed.provider_id == StoredId::InErrorLog && has_logged_id && !is_failure {
            changed.log_offset = previous.log_offset;
            return Ok(changed);
        }
        if !is_failure && changed.provider_id != StoredId::InErrorLog {
            return Ok(changed);
        }
        if is_failure {
            changed.code = outcome.failure.as_ref().and_then(|failure| failure.code);
        }
        let phone =
            if phone.is_empty() { self.phone(row, previous).unwrap_or_default() } else { phone.to_owned() };
        let entry = ErrorLogEntry {
            row,
            line: previous.line,
            phone,
            error: is_failure.then(|| error_text(outcome)),
            code: changed.code,
            ambiguous: outcome.ambiguous,
            at: outcome.at,
            device,
            id: outcome.provider_id.clone().filter(|_| changed.provider_id == StoredId::InErrorLog),
        };
        changed.log_offset = Some(self.append_error(entry)?);
        Ok(changed)
    }

    /// Appends an entry to the error log; returns its offset.
    pub(super) fn append_error(&mut self, entry: ErrorLogEntry) -> Result<u64, Error> {
        self.error_log.append(entry).map_err(|cause| super::io_error(&self.folder, cause))
    }

    /// The recipient of a row as the source spells it.
    fn phone(&self, row: u32, record: &RowRecord) -> Option<String> {
        let page = self.record.format.page(&self.folder.source(), record.position(row), 1).ok()?;
        page.rows.into_iter().next().map(|row| row.phone)
    }
}

fn error_text(outcome: &ItemOutcome) -> String {
    match (&outcome.failure, outcome.status) {
        (Some(failure), _) => failure.to_string(),
        (None, domain::Status::Expired) => "it expired before it could be sent".to_owned(),
        (None, _) if outcome.ambiguous => "an attempt was made and its outcome is unknown".to_owned(),
        (None, _) => "it was not sent".to_owned(),
    }
}

fn last_row(row: u32, record: &RowRecord, phone: String, checkpoint: &Checkpoint) -> LastRow {
    let sender = JobSender::find(&checkpoint.senders, record.device);
    LastRow {
        row,
        phone,
        status: record.status,
        device_id: sender.map(|_| record.device),
        instance: sender.map(|sender| sender.id.clone()),
    }
}
