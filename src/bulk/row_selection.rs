//! Which rows of a job are handed over next, as changes of its checkpoint. Pure.
//!
//! There are three groups of rows, in this order: rows that came back from the queue, failed rows that are retried, and
//! rows that were never handed over.

use std::ops::Range;

use relevo_domain as domain;

use super::job::RowStatus;
use super::row_record::{RowRecord, StoredId};
use super::storage::Checkpoint;

/// Maximum number of rows of one checkpoint; a batch of new rows does not cross a multiple of it.
pub(super) const CHUNK_ROWS: u32 = 1_000;

/// A group of rows that can be handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowGroup {
    /// Rows that came back from the queue without an attempt.
    Returned,
    /// Failed rows of an earlier pass.
    Failed,
    /// Rows that were never handed over.
    New,
}

impl RowGroup {
    /// The group of the next rows; `None`: no row is left.
    pub fn next(checkpoint: &Checkpoint, total: u32) -> Option<Self> {
        if !checkpoint.returned.is_empty() {
            Some(RowGroup::Returned)
        } else if checkpoint.retry.is_some() {
            Some(RowGroup::Failed)
        } else if checkpoint.cursor.row < total {
            Some(RowGroup::New)
        } else {
            None
        }
    }
}

impl Checkpoint {
    /// Removes up to `limit` returned rows and returns them in order.
    pub fn take_returned(&mut self, limit: u32) -> Vec<u32> {
        let rest = self.returned.len().saturating_sub(limit as usize);
        let mut rows = self.returned.split_off(rest);
        rows.sort_unstable();
        rows
    }

    /// The rows that are examined next for a retry.
    pub fn retry_range(&self) -> Range<u32> {
        let from = self.retry.unwrap_or(0);
        from..self.cursor.row.min(from.saturating_add(CHUNK_ROWS))
    }

    /// Selects up to `limit` rows to retry from `records`, the records of [`retry_range`](Self::retry_range), and moves
    /// the retry position past the examined rows.
    pub fn take_failed(&mut self, records: Vec<Option<RowRecord>>, limit: u32) -> Vec<(u32, RowRecord)> {
        let range = self.retry_range();
        let mut position = range.start;
        let mut selected = Vec::new();
        let mut records = records.into_iter();
        for row in range {
            if selected.len() >= limit as usize {
                break;
            }
            position = row + 1;
            if let Some(record) = records.next().flatten().filter(is_retryable) {
                selected.push((row, record));
            }
        }
        self.retry = (position < self.cursor.row).then_some(position);
        selected
    }

    /// Whether a batch of the running retry marked a row, and was not committed: the row is not in the queue.
    pub fn is_uncommitted(&self, row: u32, record: &RowRecord) -> bool {
        self.retry.is_some_and(|from| row >= from)
            && record.status == RowStatus::Open
            && record.pass == self.pass
    }

    /// Adds rows that are not in the queue to the returned rows.
    pub fn return_rows(&mut self, rows: impl IntoIterator<Item = u32>) {
        for row in rows {
            if !self.returned.contains(&row) {
                self.returned.push(row);
            }
        }
    }

    /// The number of new rows to read, at most `limit`.
    pub fn new_rows(&self, total: u32, limit: u32) -> u32 {
        let rest_of_chunk = CHUNK_ROWS - self.cursor.row % CHUNK_ROWS;
        limit.min(rest_of_chunk).min(total.saturating_sub(self.cursor.row))
    }
}

/// The record of a row that is handed over again. It keeps the position of the row and its previous message.
///
/// A returned row loses its pass: it may be after the retry position, and [`Checkpoint::is_uncommitted`] would find it
/// while it is in the queue.
pub(super) fn reopened(previous: &RowRecord, group: RowGroup, pass: u8) -> RowRecord {
    RowRecord {
        status: RowStatus::Open,
        ambiguous: false,
        log_offset: None,
        code: None,
        provider_id: StoredId::None,
        pass: if group == RowGroup::Returned { 0 } else { pass },
        ..previous.clone()
    }
}

/// The checkpoint to commit after the queue did not accept `rows`, the rows of a batch whose checkpoint was to be `next`.
///
/// `None`: nothing changes. New rows are taken from the source again, and their records are overwritten. The records of
/// other rows were changed in place: such rows are returned rows, so that none of them stays open when the job ends.
pub(super) fn after_refusal(
    group: RowGroup,
    mut next: Checkpoint,
    rows: impl IntoIterator<Item = u32>,
) -> Option<Checkpoint> {
    match group {
        RowGroup::New => None,
        RowGroup::Returned | RowGroup::Failed => {
            next.return_rows(rows);
            Some(next)
        }
    }
}

/// Whether a row failed for certain.
fn is_retryable(record: &RowRecord) -> bool {
    use domain::Status::{DeadLetter, Expired, Failed};
    matches!(record.status, RowStatus::Message(DeadLetter | Expired | Failed)) && !record.ambiguous
}
