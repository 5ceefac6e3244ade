//! A job's files, as its actor works on them. Everything here blocks.
//!
//! Whatever is written is synced before the commit that counts on it, and can be written again if that commit does not
//! come: rows behind the checkpoint are overwritten, and what a record says already changes nothing.

use std::sync::Arc;

use crate::queue::ItemOutcome;
use relevo_domain::{self as domain, Content, LaneId, MessageId, MessageOptions, OutboundMessage, Timestamp};

use super::Error;
use super::context::SuppressionCheck;
use super::error_log::{ErrorLog, ErrorLogEntry};
use super::folders::JobFolder;
use super::job::{JobSender, LastRow, Plan, RowStatus};
use super::provider_id_index::ProviderIdIndex;
use super::results::{ResultFile, ResultSummary};
use super::row_record::{RowRecord, StoredId};
use super::source::{RowPayload, SourceRow};
use super::storage::{Checkpoint, JobRecord};
use relevo_recipients_file::TextTemplate;

/// Rows of one checkpoint.
pub(super) const CHUNK_ROWS: u32 = 1_000;

pub(super) struct JobFiles {
    record: Arc<JobRecord>,
    folder: JobFolder,
    results: ResultFile,
    error_log: ErrorLog,
    provider_ids: ProviderIdIndex,
    /// Of jobs whose message has places for values.
    template: Option<TextTemplate>,
}

/// A row that the queue has.
#[derive(Debug, Clone, Default)]
pub(super) struct OpenRow {
    /// `None` when it has ended and that is not noted yet.
    pub message: Option<MessageId>,
    /// As the source spells it; empty after a restart.
    pub phone: String,
}

/// What came of a page of outcomes.
#[derive(Debug, Default)]
pub(super) struct RecordedOutcomes {
    /// Rows that the queue has no more.
    pub closed: Vec<u32>,
    pub last_row: Option<LastRow>,
}

/// A row that goes to the queue.
#[derive(Debug)]
pub(super) struct OutgoingRow {
    pub row: u32,
    pub phone: String,
    pub lane: LaneId,
    pub message: OutboundMessage,
}

/// Rows that were taken, and the checkpoint under which they are handed over.
#[derive(Debug)]
pub(super) struct Batch {
    pub outgoing: Vec<OutgoingRow>,
    pub next: Checkpoint,
}

impl JobFiles {
    /// Opens the files, cuts off what lies behind the checkpoint, and counts the rest.
    pub fn open(
        record: Arc<JobRecord>,
        files: JobFolder,
        standing: &Checkpoint,
    ) -> Result<(Self, ResultSummary), Error> {
        let opened = || {
            let mut results = ResultFile::open(&files.results())?;
            results.truncate(standing.cursor.row)?;
            let mut census = results.summarize(standing.cursor.row)?;
            let notes = ErrorLog::open(&files.error_log(), census.last_log_offset)?;
            // Rows that were marked for another try, and not handed over, are not in the queue.
            if let Some(from) = standing.retry {
                let (results, pass) = (&results, standing.pass);
                let marked = |row: &u32| {
                    *row >= from
                        && results
                            .get(*row)
                            .is_ok_and(|record| record.is_some_and(|record| record.pass == pass))
                };
                census.open_rows.retain(|row| !marked(row));
            }
            // While a job runs a power cut may take some of them, and an older version of the node wrote none.
            let are_whole = standing.status.is_finished() || standing.cursor.row == 0;
            let names = match are_whole && files.provider_ids().exists() {
                true => ProviderIdIndex::open(&files.provider_ids())?,
                false => {
                    ProviderIdIndex::rebuild(&files, record.total, &results, &notes, standing.cursor.row)?
                }
            };
            Ok((results, notes, names, census))
        };
        let (results, notes, names, census) = opened().map_err(|cause| io_error(&files, cause))?;
        let template = match &record.plan {
            Plan::Text(text) => Some(record.format.template(text)?),
            Plan::Common(_) | Plan::PerRow => None,
        };
        Ok((Self { record, folder: files, results, error_log: notes, provider_ids: names, template }, census))
    }

    pub fn errors_end(&self) -> u64 {
        self.error_log.end()
    }

    fn io_error(&self, cause: std::io::Error) -> Error {
        io_error(&self.folder, cause)
    }
}

fn io_error(files: &JobFolder, cause: std::io::Error) -> Error {
    Error::io("cannot use the files of a job, such as", &files.results(), cause)
}

/// Ends of rows.
impl JobFiles {
    /// Writes down how rows ended, each with its phone if that is known. `next` is the checkpoint that will say so.
    pub fn record_outcomes(
        &mut self,
        outcomes: &[(ItemOutcome, String)],
        next: &mut Checkpoint,
    ) -> Result<RecordedOutcomes, Error> {
        self.error_log.rewind(next.errors_end);
        let mut noted = RecordedOutcomes::default();
        let mut written = false;
        for (outcome, phone) in outcomes {
            let row = outcome.item.row;
            if row >= next.cursor.row {
                continue;
            }
            let known = self.results.get(row).map_err(|cause| self.io_error(cause))?;
            let Some(known) = known else { continue };
            if !outcome_supersedes(&known, outcome) {
                continue;
            }
            let came_back = self.needs_requeue(outcome, next);
            if known.status == RowStatus::Open || !came_back {
                noted.closed.push(row);
            }
            if came_back {
                if known.status == RowStatus::Open && !next.returned.contains(&row) {
                    next.returned.push(row);
                }
                continue;
            }
            let changed = self.updated_record(row, &known, outcome, phone, next)?;
            let named = outcome.provider_id.iter().try_for_each(|id| self.provider_ids.insert(id, row));
            named.and_then(|()| self.results.put(row, &changed)).map_err(|cause| self.io_error(cause))?;
            next.counts.apply_change(Some(&known), &changed);
            noted.last_row = Some(last_row(row, &changed, phone.clone(), next));
            written = true;
        }
        if written {
            self.sync()?;
        }
        if written && next.status.is_finished() {
            self.sync_index()?;
        }
        next.errors_end = self.error_log.end();
        Ok(noted)
    }

    /// Whether the row is to be handed over again: it was taken back, or its hours ended, and the job goes on.
    fn needs_requeue(&self, outcome: &ItemOutcome, standing: &Checkpoint) -> bool {
        let goes_on = standing.status != super::JobStatus::Cancelled;
        match outcome.status {
            domain::Status::Cancelled => goes_on,
            domain::Status::Expired => goes_on && self.record.window.is_some(),
            _ => false,
        }
    }

    fn updated_record(
        &mut self,
        row: u32,
        known: &RowRecord,
        outcome: &ItemOutcome,
        phone: &str,
        standing: &Checkpoint,
    ) -> Result<RowRecord, Error> {
        let place = standing.senders.iter().position(|sender| sender.number == outcome.instance);
        let device = place.and_then(|place| u8::try_from(place + 1).ok()).unwrap_or(0);
        let mut changed = RowRecord {
            status: RowStatus::Message(outcome.status),
            ambiguous: outcome.ambiguous,
            device,
            at: outcome.at,
            log_offset: None,
            code: None,
            message: Some(outcome.id),
            provider_id: StoredId::new(outcome.provider_id.as_ref()),
            ..known.clone()
        };
        let is_same = known.message == Some(outcome.id);
        if outcome.provider_id.is_none() && is_same {
            changed.provider_id.clone_from(&known.provider_id);
        }
        if changed.provider_id == StoredId::InErrorLog
            && is_same
            && known.provider_id == StoredId::InErrorLog
            && !changed.status.is_failure()
        {
            changed.log_offset = known.log_offset;
            return Ok(changed);
        }
        let error = changed.status.is_failure().then(|| error_text(outcome));
        if error.is_some() || changed.provider_id == StoredId::InErrorLog {
            let phone =
                if phone.is_empty() { self.phone(row, known).unwrap_or_default() } else { phone.to_owned() };
            changed.code =
                outcome.failure.as_ref().filter(|_| error.is_some()).and_then(|failure| failure.code);
            let note = ErrorLogEntry {
                row,
                line: known.line,
                phone,
                error,
                code: changed.code,
                ambiguous: outcome.ambiguous,
                at: outcome.at,
                device,
                id: outcome.provider_id.clone().filter(|_| changed.provider_id == StoredId::InErrorLog),
            };
            changed.log_offset = Some(self.error_log.append(note).map_err(|cause| self.io_error(cause))?);
        }
        Ok(changed)
    }

    /// The recipient of a row as the source spells it.
    fn phone(&self, row: u32, known: &RowRecord) -> Option<String> {
        let page = self.record.format.page(&self.folder.source(), known.position(row), 1).ok()?;
        page.rows.into_iter().next().map(|row| row.phone)
    }

    /// Writes down that rows which nobody has handed over will not be.
    pub fn cancel(&mut self, rows: &[u32], next: &mut Checkpoint) -> Result<(), Error> {
        for &row in rows {
            let known = self.results.get(row).map_err(|cause| self.io_error(cause))?;
            let Some(known) = known.filter(|known| known.status == RowStatus::Open) else { continue };
            let status = RowStatus::Message(domain::Status::Cancelled);
            let changed = RowRecord { status, at: next.updated_at, ..known.clone() };
            self.results.put(row, &changed).map_err(|cause| self.io_error(cause))?;
            next.counts.apply_change(Some(&known), &changed);
        }
        self.sync().and_then(|()| self.sync_index())
    }

    /// No power cut takes anything of what rows are called from now on; before, it is written again where it was lost.
    pub fn sync_index(&self) -> Result<(), Error> {
        self.provider_ids.sync().map_err(|cause| self.io_error(cause))
    }

    /// Makes room for the names of another pass over failed rows.
    pub fn rebuild_index(&mut self, standing: &Checkpoint) -> Result<(), Error> {
        let end = standing.cursor.row;
        let names =
            ProviderIdIndex::rebuild(&self.folder, self.record.total, &self.results, &self.error_log, end);
        self.provider_ids = names.map_err(|cause| self.io_error(cause))?;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.error_log.sync().and_then(|()| self.results.sync()).map_err(|cause| self.io_error(cause))
    }
}

/// Whether an outcome says more about a row than is known.
fn outcome_supersedes(known: &RowRecord, outcome: &ItemOutcome) -> bool {
    match (known.status, known.message) {
        (RowStatus::Open, None) => true,
        (RowStatus::Open, Some(before)) => outcome.id >= before,
        (RowStatus::Message(status), Some(id)) => outcome.supersedes(id, status),
        _ => false,
    }
}

fn error_text(outcome: &ItemOutcome) -> String {
    match (&outcome.failure, outcome.status) {
        (Some(failure), _) => failure.to_string(),
        (None, domain::Status::Expired) => "it was too old before it could be sent".to_owned(),
        (None, _) if outcome.ambiguous => "an attempt went out and nobody knows what became of it".to_owned(),
        (None, _) => "it was not sent".to_owned(),
    }
}

fn last_row(row: u32, record: &RowRecord, phone: String, standing: &Checkpoint) -> LastRow {
    let sender = JobSender::find(&standing.senders, record.device);
    LastRow {
        row,
        phone,
        status: record.status,
        device_id: sender.map(|_| record.device),
        instance: sender.map(|sender| sender.id.clone()),
    }
}

/// Beginnings of rows.
impl JobFiles {
    /// Takes up to `limit` rows that were not handed over yet, in one of three ways: rows that came back, rows that are
    /// tried again, rows that nobody has come to. `None` when there are none left.
    pub fn next_batch(
        &mut self,
        standing: &Checkpoint,
        limit: u32,
        now: Timestamp,
        suppressed: &SuppressionCheck,
    ) -> Result<Option<Batch>, Error> {
        self.error_log.rewind(standing.errors_end);
        let mut next = standing.clone();
        next.updated_at = now;
        let rows = if !standing.returned.is_empty() {
            self.take_returned(&mut next, limit)
        } else if standing.retry.is_some() {
            self.take_failed(&mut next, limit)
        } else if standing.cursor.row < self.record.total {
            self.take_next(&mut next, limit)
        } else {
            return Ok(None);
        };
        let rows = rows.map_err(|cause| Error::Source(cause.to_string()))?;
        let outgoing = self.prepare_rows(rows, &mut next, now, suppressed)?;
        self.sync()?;
        next.errors_end = self.error_log.end();
        Ok(Some(Batch { outgoing, next }))
    }

    fn take_returned(&self, next: &mut Checkpoint, limit: u32) -> std::io::Result<Vec<CandidateRow>> {
        let keep = next.returned.len().saturating_sub(limit as usize);
        let mut rows = next.returned.split_off(keep);
        rows.sort_unstable();
        let mut known = Vec::with_capacity(rows.len());
        for row in rows {
            // What became known of it meanwhile, late, is better than a second message.
            let open = self.results.get(row)?.filter(|known| known.status == RowStatus::Open);
            known.extend(open.map(|open| (row, open)));
        }
        self.reread(known)
    }

    fn take_failed(&self, next: &mut Checkpoint, limit: u32) -> std::io::Result<Vec<CandidateRow>> {
        let from = next.retry.unwrap_or(0);
        let end = next.cursor.row.min(from.saturating_add(CHUNK_ROWS));
        let mut failed = Vec::new();
        let mut reached = from;
        for (row, known) in (from..end).zip(self.results.page(from, end.saturating_sub(from).max(1))?) {
            if failed.len() >= limit as usize {
                break;
            }
            reached = row + 1;
            if let Some(known) = known.filter(|known| is_retryable(known, next.pass)) {
                failed.push((row, known));
            }
        }
        next.retry = (reached < next.cursor.row).then_some(reached.max(from + u32::from(from == end)));
        self.reread(failed)
    }

    /// Reads rows once more, in the order of their numbers; those that follow one another at once, because opening and
    /// finding costs more than reading.
    fn reread(&self, known: Vec<(u32, RowRecord)>) -> std::io::Result<Vec<CandidateRow>> {
        let mut taken = Vec::with_capacity(known.len());
        for mut run in known.chunk_by(|(before, _), (row, _)| before + 1 == *row) {
            // A page of long rows has fewer than were asked for.
            while let Some((number, begins)) = run.first() {
                let page =
                    self.record.format.page(&self.folder.source(), begins.position(*number), run.len())?;
                if page.rows.is_empty() {
                    let short = format!("the source has no row {number} any more");
                    return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, short));
                }
                let (read, left) = run.split_at(page.rows.len().min(run.len()));
                let rows = page.rows.into_iter().zip(read);
                taken.extend(
                    rows.map(|(row, (_, known))| CandidateRow { row, previous: Some(known.clone()) }),
                );
                run = left;
            }
        }
        Ok(taken)
    }

    fn take_next(&self, next: &mut Checkpoint, limit: u32) -> std::io::Result<Vec<CandidateRow>> {
        let to_chunk = CHUNK_ROWS - next.cursor.row % CHUNK_ROWS;
        let left = self.record.total.saturating_sub(next.cursor.row);
        let limit = limit.min(to_chunk).min(left);
        let page = self.record.format.page(&self.folder.source(), next.cursor, limit as usize)?;
        if page.rows.is_empty() {
            let short = format!("the source ends after {} rows", next.cursor.row);
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, short));
        }
        next.cursor = page.next;
        Ok(page.rows.into_iter().map(|row| CandidateRow { row, previous: None }).collect())
    }

    /// Decides about each row, and writes that down.
    fn prepare_rows(
        &mut self,
        rows: Vec<CandidateRow>,
        next: &mut Checkpoint,
        now: Timestamp,
        suppressed: &SuppressionCheck,
    ) -> Result<Vec<OutgoingRow>, Error> {
        let mut outgoing = Vec::with_capacity(rows.len());
        let first = rows.first().filter(|taken| taken.previous.is_none()).map(|taken| taken.row.position.row);
        let mut run = Vec::new();
        for CandidateRow { row, previous: known } in rows {
            let place = row.position;
            let mut record = match &known {
                Some(known) => RowRecord {
                    status: RowStatus::Open,
                    ambiguous: false,
                    log_offset: None,
                    code: None,
                    provider_id: StoredId::None,
                    ..known.clone()
                },
                None => RowRecord::new(place, RowStatus::Open, now),
            };
            record.pass = next.pass;
            let phone = row.phone.clone();
            match self.decide_row(row, suppressed)? {
                RowDecision::Send(lane, message) => {
                    outgoing.push(OutgoingRow { row: place.row, phone, lane, message: *message });
                }
                RowDecision::Skip => record.status = RowStatus::Skipped,
                RowDecision::Reject(error) => {
                    record.status = RowStatus::Invalid;
                    let note = ErrorLogEntry {
                        row: place.row,
                        line: place.line,
                        phone,
                        error: Some(error),
                        code: None,
                        ambiguous: false,
                        at: now,
                        device: 0,
                        id: None,
                    };
                    record.log_offset =
                        Some(self.error_log.append(note).map_err(|cause| self.io_error(cause))?);
                }
            }
            next.counts.apply_change(known.as_ref(), &record);
            match first {
                Some(_) => run.push(record),
                None => self.results.put(place.row, &record).map_err(|cause| self.io_error(cause))?,
            }
        }
        if let Some(first) = first {
            self.results.put_range(first, run.iter()).map_err(|cause| self.io_error(cause))?;
        }
        Ok(outgoing)
    }

    fn decide_row(&self, row: SourceRow, suppressed: &SuppressionCheck) -> Result<RowDecision, Error> {
        let to = match row.to {
            Ok(to) => to,
            Err(reason) => return Ok(RowDecision::Reject(reason)),
        };
        if self.record.suppressed == super::OnSuppressed::Skip && suppressed(&to)? {
            return Ok(RowDecision::Skip);
        }
        let content = match (&self.record.plan, row.payload) {
            (Plan::Common(content), _) => content.clone(),
            (Plan::PerRow, RowPayload::Content(content)) => *content,
            (Plan::PerRow, _) => return Ok(RowDecision::Reject("the row has no message".to_owned())),
            (Plan::Text(text), body) => {
                let body = match (&self.template, body) {
                    (Some(template), RowPayload::Cells(row)) => template.render(&row),
                    _ => text.clone(),
                };
                Content::Text { body, preview_url: false }
            }
        };
        Ok(RowDecision::Send(
            to.lane(),
            Box::new(OutboundMessage { to, content, quote: None, options: MessageOptions::default() }),
        ))
    }
}

/// A row from the source, with what is known of it from before.
struct CandidateRow {
    row: SourceRow,
    previous: Option<RowRecord>,
}

/// What happens to a row that was taken.
enum RowDecision {
    Send(LaneId, Box<OutboundMessage>),
    Skip,
    Reject(String),
}

/// Whether a row failed for certain, or was marked for this very pass and not handed over.
fn is_retryable(known: &RowRecord, pass: u8) -> bool {
    use domain::Status::{DeadLetter, Expired, Failed};
    match known.status {
        RowStatus::Open => known.pass == pass,
        RowStatus::Message(DeadLetter | Expired | Failed) => !known.ambiguous,
        _ => false,
    }
}
