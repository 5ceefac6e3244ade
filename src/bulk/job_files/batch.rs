//! Batches of rows to hand over: they are read from the source, checked, and marked in the result file.

use std::io;

use relevo_domain::{Content, LaneId, MessageOptions, OutboundMessage, Timestamp};

use super::JobFiles;
use crate::bulk::Error;
use crate::bulk::context::SuppressionCheck;
use crate::bulk::error_log::ErrorLogEntry;
use crate::bulk::job::{OnSuppressed, Plan, RowStatus};
use crate::bulk::row_record::RowRecord;
use crate::bulk::row_selection::{RowGroup, reopened};
use crate::bulk::source::{RowPayload, SourceRow};
use crate::bulk::storage::Checkpoint;

/// A row that goes to the queue.
#[derive(Debug)]
pub(in crate::bulk) struct OutgoingRow {
    pub row: u32,
    /// The recipient as the source spells it.
    pub phone: String,
    pub lane: LaneId,
    pub message: OutboundMessage,
}

/// Rows that were marked, and the checkpoint under which they are handed over.
#[derive(Debug)]
pub(in crate::bulk) struct Batch {
    /// Without the rows that are invalid or suppressed.
    pub outgoing: Vec<OutgoingRow>,
    pub next: Checkpoint,
}

/// A row from the source, with its record if it has one.
struct CandidateRow {
    row: SourceRow,
    previous: Option<RowRecord>,
}

/// What happens to a row that was read.
enum RowDecision {
    Send(LaneId, Box<OutboundMessage>),
    Skip,
    Reject(String),
}

impl JobFiles {
    /// Reads and marks up to `limit` rows of a group.
    pub fn next_batch(
        &mut self,
        checkpoint: &Checkpoint,
        group: RowGroup,
        limit: u32,
        now: Timestamp,
        is_suppressed: &SuppressionCheck,
    ) -> Result<Batch, Error> {
        self.check_source().map_err(|cause| Error::Source(cause.to_string()))?;
        self.error_log.rewind(checkpoint.errors_end);
        let mut next = checkpoint.clone();
        next.updated_at = now;
        let rows = match group {
            RowGroup::Returned => self.read_returned(&mut next, limit),
            RowGroup::Failed => self.read_failed(&mut next, limit),
            RowGroup::New => self.read_new(&mut next, limit),
        };
        let rows = rows.map_err(|cause| Error::Source(cause.to_string()))?;
        let outgoing = self.mark_rows(rows, group, &mut next, now, is_suppressed)?;
        self.sync()?;
        next.errors_end = self.error_log.end();
        Ok(Batch { outgoing, next })
    }

    fn read_returned(&self, next: &mut Checkpoint, limit: u32) -> io::Result<Vec<CandidateRow>> {
        let rows = next.take_returned(limit);
        let mut selected = Vec::with_capacity(rows.len());
        for row in rows {
            // A late outcome may have closed the row. It is not sent a second time.
            if let Some(record) = self.results.get(row)?
                && record.status == RowStatus::Open
            {
                selected.push((row, record));
            }
        }
        self.reread(&selected)
    }

    fn read_failed(&self, next: &mut Checkpoint, limit: u32) -> io::Result<Vec<CandidateRow>> {
        let range = next.retry_range();
        let count = range.end.saturating_sub(range.start).max(1);
        let records = self.results.page(range.start, count)?;
        self.reread(&next.take_failed(records, limit))
    }

    /// Reads rows again, in the order of their numbers. Consecutive rows are read at once, because opening and seeking cost
    /// more than reading.
    fn reread(&self, selected: &[(u32, RowRecord)]) -> io::Result<Vec<CandidateRow>> {
        let mut candidates = Vec::with_capacity(selected.len());
        for mut run in selected.chunk_by(|(previous, _), (row, _)| previous + 1 == *row) {
            // A page of long rows has fewer rows than requested.
            while let Some((number, record)) = run.first() {
                let position = record.position(*number);
                let page = self.record.format.page(&self.folder.source(), position, run.len())?;
                if page.rows.is_empty() {
                    let text = format!("the source has no row {number}");
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                }
                let (read, rest) = run.split_at(page.rows.len().min(run.len()));
                for (row, (_, record)) in page.rows.into_iter().zip(read) {
                    candidates.push(CandidateRow { row, previous: Some(record.clone()) });
                }
                run = rest;
            }
        }
        Ok(candidates)
    }

    fn read_new(&self, next: &mut Checkpoint, limit: u32) -> io::Result<Vec<CandidateRow>> {
        let limit = next.new_rows(self.record.total, limit);
        let page = self.record.format.page(&self.folder.source(), next.cursor, limit as usize)?;
        if page.rows.is_empty() {
            let text = format!("the source ends after {} rows", next.cursor.row);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        next.cursor = page.next;
        Ok(page.rows.into_iter().map(|row| CandidateRow { row, previous: None }).collect())
    }

    /// Decides about each row and writes its record.
    fn mark_rows(
        &mut self,
        rows: Vec<CandidateRow>,
        group: RowGroup,
        next: &mut Checkpoint,
        now: Timestamp,
        is_suppressed: &SuppressionCheck,
    ) -> Result<Vec<OutgoingRow>, Error> {
        let mut outgoing = Vec::with_capacity(rows.len());
        let mut new_records = Vec::new();
        let mut first_new = None;
        for CandidateRow { row, previous } in rows {
            let (position, phone) = (row.position, row.phone.clone());
            let mut record = match &previous {
                Some(previous) => reopened(previous, group, next.pass),
                None => RowRecord { pass: next.pass, ..RowRecord::new(position, RowStatus::Open, now) },
            };
            match self.decide(row, is_suppressed)? {
                RowDecision::Send(lane, message) => {
                    outgoing.push(OutgoingRow { row: position.row, phone, lane, message: *message });
                }
                RowDecision::Skip => record.status = RowStatus::Skipped,
                RowDecision::Reject(error) => {
                    record.status = RowStatus::Invalid;
                    record.log_offset = Some(self.append_error(ErrorLogEntry {
                        row: position.row,
                        line: position.line,
                        phone,
                        error: Some(error),
                        code: None,
                        ambiguous: false,
                        at: now,
                        device: 0,
                        id: None,
                    })?);
                }
            }
            next.counts.apply_change(previous.as_ref(), &record);
            if previous.is_some() {
                self.put(position.row, &record)?;
            } else {
                first_new.get_or_insert(position.row);
                new_records.push(record);
            }
        }
        if let Some(first) = first_new {
            self.results.put_range(first, new_records.iter()).map_err(|cause| self.io_error(cause))?;
        }
        Ok(outgoing)
    }

    fn decide(&self, row: SourceRow, is_suppressed: &SuppressionCheck) -> Result<RowDecision, Error> {
        let to = match row.to {
            Ok(to) => to,
            Err(reason) => return Ok(RowDecision::Reject(reason)),
        };
        if self.record.suppressed == OnSuppressed::Skip && is_suppressed(&to)? {
            return Ok(RowDecision::Skip);
        }
        let content = match (&self.record.plan, row.payload) {
            (Plan::Common(content), _) => content.clone(),
            (Plan::PerRow, RowPayload::Content(content)) => *content,
            (Plan::PerRow, _) => return Ok(RowDecision::Reject("the row has no message".to_owned())),
            (Plan::Text(text), payload) => {
                let body = match (&self.template, payload) {
                    (Some(template), RowPayload::Cells(row)) => template.render(&row),
                    _ => text.clone(),
                };
                Content::Text { body, preview_url: false }
            }
        };
        let lane = to.lane();
        let message = OutboundMessage { to, content, quote: None, options: MessageOptions::default() };
        Ok(RowDecision::Send(lane, Box::new(message)))
    }
}
