//! The results and errors of a job, read from its files page by page.

use relevo_domain as domain;

use super::Error;
use super::error_log::ErrorLog;
use super::folders::JobFolder;
use super::job::{JobSender, JobStatus, ResultPage, RowError, RowResult, RowStatus};
use super::planner::STALLED;
use super::results::ResultFile;
use super::row_record::RowRecord;
use super::source::{SourcePosition, SourceRow};
use super::storage::{Checkpoint, JobRecord};

/// Number of rows of a source that are read at once to reach the first row of a page.
const SEEK_PAGE: usize = 1_000;

/// Up to `limit` results from the row `from`. Blocks.
pub(super) fn results(
    record: &JobRecord,
    checkpoint: &Checkpoint,
    folder: &JobFolder,
    from: u32,
    limit: u32,
) -> Result<ResultPage, Error> {
    let results_error = |cause| Error::io("cannot read the results in", &folder.results(), cause);
    let records = ResultFile::read_only(&folder.results())
        .and_then(|file| file.page(from, limit))
        .map_err(results_error)?;
    let source = folder.source();
    let source_error = |cause| Error::io("cannot read the rows in", &source, cause);
    let first = match records.first() {
        Some(Some(row)) => row.position(from),
        _ => seek(record, checkpoint, folder, from).map_err(source_error)?,
    };
    let rows = record.format.page(&source, first, limit as usize).map_err(source_error)?.rows;
    let error_log = ErrorLog::read_only(&folder.error_log()).map_err(results_error)?;
    let mut records = records.into_iter();
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let number = row.position.row;
        // Records after the checkpoint are not committed. Returned rows wait as if they had not been taken.
        let is_waiting = |record: &RowRecord| {
            number >= checkpoint.cursor.row
                || (record.status == RowStatus::Open && checkpoint.returned.contains(&number))
        };
        let record = records.next().flatten().filter(|record| !is_waiting(record));
        let mut result = row_result(row, record, &error_log, &checkpoint.senders).map_err(results_error)?;
        if result.status == RowStatus::Waiting && checkpoint.status == JobStatus::Cancelled {
            result.status = RowStatus::Message(domain::Status::Cancelled);
        }
        let is_unsent = match result.status {
            RowStatus::Waiting => true,
            RowStatus::Open => checkpoint.returned.contains(&result.row),
            _ => false,
        };
        if checkpoint.stalled && is_unsent {
            result.status = RowStatus::Message(domain::Status::Failed);
            result.at = checkpoint.ended_at;
            result.error = Some(STALLED.to_owned());
        }
        found.push(result);
    }
    let next = found.last().map_or(record.total, |row| row.row + 1);
    Ok(ResultPage { rows: found, next: (next < record.total).then_some(next) })
}

/// The position of a row that has no record yet.
fn seek(
    record: &JobRecord,
    checkpoint: &Checkpoint,
    folder: &JobFolder,
    row: u32,
) -> std::io::Result<SourcePosition> {
    let mut position = if checkpoint.cursor.row <= row { checkpoint.cursor } else { record.format.start() };
    while position.row < row {
        let limit = SEEK_PAGE.min((row - position.row) as usize);
        let page = record.format.page(&folder.source(), position, limit)?;
        if page.rows.is_empty() {
            break;
        }
        position = page.next;
    }
    Ok(position)
}

/// The result of one row; `record` is `None` if the row was not handed over yet.
fn row_result(
    row: SourceRow,
    record: Option<RowRecord>,
    error_log: &ErrorLog,
    senders: &[JobSender],
) -> std::io::Result<RowResult> {
    let Some(record) = record else {
        return Ok(RowResult {
            row: row.position.row,
            line: row.position.line,
            phone: row.phone,
            status: RowStatus::Waiting,
            ambiguous: false,
            at: None,
            provider_id: None,
            error: None,
            code: None,
            device_id: None,
            instance: None,
        });
    };
    let entry = match record.log_offset {
        Some(offset) => error_log.get(offset)?.map(|(entry, _)| entry),
        None => None,
    };
    let provider_id = error_log.provider_id_of(&record)?;
    let sender = JobSender::find(senders, record.device);
    Ok(RowResult {
        row: row.position.row,
        line: row.position.line,
        phone: row.phone,
        status: record.status,
        ambiguous: record.ambiguous,
        at: Some(record.at),
        provider_id,
        error: entry.and_then(|entry| entry.error),
        code: record.code,
        device_id: sender.map(|_| record.device),
        instance: sender.map(|sender| sender.id.clone()),
    })
}

/// Up to `limit` errors between the offsets `after` and `end`, and the offset of the next page. Blocks.
pub(super) fn errors(
    checkpoint: &Checkpoint,
    folder: &JobFolder,
    after: u64,
    end: u64,
    limit: u32,
) -> Result<(Vec<RowError>, u64), Error> {
    let io_error = |cause| Error::io("cannot read the errors in", &folder.error_log(), cause);
    let error_log = ErrorLog::read_only(&folder.error_log()).map_err(io_error)?;
    let (mut found, mut offset) = (Vec::new(), after);
    while found.len() < limit as usize && offset < end {
        let Some((entry, next)) = error_log.get(offset).map_err(io_error)? else { break };
        offset = next;
        // Entries without an error store long provider ids.
        let Some(error) = entry.error else { continue };
        let sender = JobSender::find(&checkpoint.senders, entry.device);
        found.push(RowError {
            row: entry.row,
            line: entry.line,
            phone: entry.phone,
            error,
            code: entry.code,
            ambiguous: entry.ambiguous,
            at: entry.at,
            device_id: sender.map(|_| entry.device),
            instance: sender.map(|sender| sender.id.clone()),
        });
    }
    Ok((found, offset))
}
