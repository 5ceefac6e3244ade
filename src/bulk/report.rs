//! Results and errors of a job, for people: read from its files, a page at a time.

use relevo_domain as domain;

use super::Error;
use super::error_log::ErrorLog;
use super::folders::JobFolder;
use super::handle::ResultPage;
use super::job::{JobSender, JobStatus, RowError, RowResult, RowStatus};
use super::results::{self, RowRecord};
use super::source::{SourcePosition, SourceRow};
use super::storage::{Checkpoint, JobRecord};

/// Rows of a source that are read at once to come to the first that is wanted.
const SEEK_PAGE: usize = 1_000;

pub(super) fn results(
    record: &JobRecord,
    standing: &Checkpoint,
    files: &JobFolder,
    from: u32,
    limit: u32,
) -> Result<ResultPage, Error> {
    let io = |cause| Error::io("cannot read the results in", &files.results(), cause);
    let known = results::ResultFile::read_only(&files.results())
        .and_then(|file| file.page(from, limit))
        .map_err(io)?;
    let source = files.source();
    let in_source = |cause| Error::io("cannot read the rows in", &source, cause);
    let first = match known.first() {
        Some(Some(row)) => row.position(from),
        _ => seek(record, standing, files, from).map_err(in_source)?,
    };
    let rows = record.format.page(&source, first, limit as usize).map_err(in_source)?.rows;
    let notes = ErrorLog::read_only(&files.error_log()).map_err(io)?;
    let mut known = known.into_iter();
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let stands = known.next().flatten().filter(|_| row.position.row < standing.cursor.row);
        let mut row = row_result(row, stands, &notes, &standing.senders).map_err(io)?;
        if row.status == RowStatus::Waiting && standing.status == JobStatus::Cancelled {
            row.status = RowStatus::Message(domain::Status::Cancelled);
        }
        found.push(row);
    }
    let next = found.last().map_or(record.total, |row| row.row + 1);
    Ok(ResultPage { rows: found, next: (next < record.total).then_some(next) })
}

/// The place of a row that nobody has come to yet.
fn seek(
    record: &JobRecord,
    standing: &Checkpoint,
    files: &JobFolder,
    wanted: u32,
) -> std::io::Result<SourcePosition> {
    let mut place = if standing.cursor.row <= wanted { standing.cursor } else { record.format.start() };
    while place.row < wanted {
        let limit = SEEK_PAGE.min((wanted - place.row) as usize);
        let page = record.format.page(&files.source(), place, limit)?;
        if page.rows.is_empty() {
            break;
        }
        place = page.next;
    }
    Ok(place)
}

fn row_result(
    row: SourceRow,
    stands: Option<RowRecord>,
    notes: &ErrorLog,
    senders: &[JobSender],
) -> std::io::Result<RowResult> {
    let Some(record) = stands else {
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
    let note = match record.log_offset {
        Some(at) => notes.get(at)?.map(|(note, _)| note),
        None => None,
    };
    let provider_id = notes.provider_id_of(&record)?;
    let sender = sender(senders, record.device);
    Ok(RowResult {
        row: row.position.row,
        line: row.position.line,
        phone: row.phone,
        status: record.status,
        ambiguous: record.ambiguous,
        at: Some(record.at),
        provider_id,
        error: note.and_then(|note| note.error),
        code: record.code,
        device_id: sender.map(|_| record.device),
        instance: sender.map(|sender| sender.id.clone()),
    })
}

pub(super) fn sender(senders: &[JobSender], device: u8) -> Option<&JobSender> {
    senders.get(usize::from(device).checked_sub(1)?)
}

pub(super) fn errors(
    standing: &Checkpoint,
    files: &JobFolder,
    after: u64,
    end: u64,
    limit: u32,
) -> Result<(Vec<RowError>, u64), Error> {
    let io = |cause| Error::io("cannot read the errors in", &files.error_log(), cause);
    let notes = ErrorLog::read_only(&files.error_log()).map_err(io)?;
    let (mut found, mut at) = (Vec::new(), after);
    while found.len() < limit as usize && at < end {
        let Some((note, next)) = notes.get(at).map_err(io)? else { break };
        at = next;
        let Some(error) = note.error else { continue };
        let sender = sender(&standing.senders, note.device);
        found.push(RowError {
            row: note.row,
            line: note.line,
            phone: note.phone,
            error,
            code: note.code,
            ambiguous: note.ambiguous,
            at: note.at,
            device_id: sender.map(|_| note.device),
            instance: sender.map(|sender| sender.id.clone()),
        });
    }
    Ok((found, at))
}
