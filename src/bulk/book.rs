//! A job's files, as its actor works on them. Everything here blocks.
//!
//! Whatever is written is synced before the commit that counts on it, and can be written again if that commit does not
//! come: rows behind the checkpoint are overwritten, and what a record says already changes nothing.

use std::sync::Arc;

use crate::queue::ItemOutcome;
use relevo_domain::{
    self as domain, Content, LaneId, Manner, MessageId, OutboundMessage, Recipient, Timestamp,
};

use super::Error;
use super::files::Files;
use super::job::{LastRow, Plan, RowStatus};
use super::names::Names;
use super::notes::{Note, Notes};
use super::results::{Census, Id, Record as RowRecord, Results};
use super::source::{Body, Row};
use super::storage::{Record, Standing};
use relevo_recipients_file::Template;

/// Rows of one checkpoint.
pub(super) const CHUNK: u32 = 1_000;

pub(super) struct Book {
    record: Arc<Record>,
    files: Files,
    results: Results,
    notes: Notes,
    names: Names,
    /// Of jobs whose message has places for values.
    template: Option<Template>,
}

/// A row that the queue has.
#[derive(Debug, Clone, Default)]
pub(super) struct Open {
    /// `None` when it has ended and that is not noted yet.
    pub message: Option<MessageId>,
    /// As the source spells it; empty after a restart.
    pub phone: String,
}

/// What came of a page of outcomes.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// Rows that the queue has no more.
    pub closed: Vec<u32>,
    pub last: Option<LastRow>,
}

/// A row that goes to the queue.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub row: u32,
    pub phone: String,
    pub lane: LaneId,
    pub message: OutboundMessage,
}

/// Rows that were taken, and the checkpoint under which they are handed over.
#[derive(Debug)]
pub(super) struct Batch {
    pub outgoing: Vec<Outgoing>,
    pub next: Standing,
}

/// Tells who must not be written to unasked. Reads the disk.
pub type Suppressed = Arc<dyn Fn(&Recipient) -> Result<bool, relevo_store::Error> + Send + Sync>;

impl Book {
    /// Opens the files, cuts off what lies behind the checkpoint, and counts the rest.
    pub fn open(record: Arc<Record>, files: Files, standing: &Standing) -> Result<(Self, Census), Error> {
        let opened = || {
            let mut results = Results::open(&files.results())?;
            results.truncate(standing.cursor.row)?;
            let mut census = results.count(standing.cursor.row)?;
            let notes = Notes::open(&files.notes(), census.last_note)?;
            // Rows that were marked for another try, and not handed over, are not in the queue.
            if let Some(from) = standing.retry {
                let (results, pass) = (&results, standing.pass);
                let marked = |row: &u32| {
                    *row >= from
                        && results
                            .get(*row)
                            .is_ok_and(|record| record.is_some_and(|record| record.pass == pass))
                };
                census.open.retain(|row| !marked(row));
            }
            // While a job runs a power cut may take some of them, and an older version of the node wrote none.
            let are_whole = standing.status.is_finished() || standing.cursor.row == 0;
            let names = match are_whole && files.names().exists() {
                true => Names::open(&files.names())?,
                false => Names::rebuild(&files, record.total, &results, &notes, standing.cursor.row)?,
            };
            Ok((results, notes, names, census))
        };
        let (results, notes, names, census) = opened().map_err(|cause| wrong(&files, cause))?;
        let template = match &record.plan {
            Plan::Text(text) => Some(record.format.template(text)?),
            Plan::Common(_) | Plan::PerRow => None,
        };
        Ok((Self { record, files, results, notes, names, template }, census))
    }

    pub fn errors_end(&self) -> u64 {
        self.notes.end()
    }

    fn wrong(&self, cause: std::io::Error) -> Error {
        wrong(&self.files, cause)
    }
}

fn wrong(files: &Files, cause: std::io::Error) -> Error {
    Error::io("cannot use the files of a job, such as", &files.results(), cause)
}

/// Ends of rows.
impl Book {
    /// Writes down how rows ended, each with its phone if that is known. `next` is the checkpoint that will say so.
    pub fn note(&mut self, outcomes: &[(ItemOutcome, String)], next: &mut Standing) -> Result<Noted, Error> {
        self.notes.rewind(next.errors_end);
        let mut noted = Noted::default();
        let mut written = false;
        for (outcome, phone) in outcomes {
            let row = outcome.item.row;
            if row >= next.cursor.row {
                continue;
            }
            let known = self.results.get(row).map_err(|cause| self.wrong(cause))?;
            let Some(known) = known else { continue };
            if !believes(&known, outcome) {
                continue;
            }
            let came_back = self.comes_back(outcome, next);
            if known.status == RowStatus::Open || !came_back {
                noted.closed.push(row);
            }
            if came_back {
                if known.status == RowStatus::Open && !next.returned.contains(&row) {
                    next.returned.push(row);
                }
                continue;
            }
            let changed = self.settled(row, &known, outcome, phone, next)?;
            let named = outcome.provider_id.iter().try_for_each(|id| self.names.add(id, row));
            named.and_then(|()| self.results.put(row, &changed)).map_err(|cause| self.wrong(cause))?;
            next.counts.moved(Some(&known), &changed);
            noted.last = Some(last_row(row, &changed, phone.clone(), next));
            written = true;
        }
        if written {
            self.sync()?;
        }
        if written && next.status.is_finished() {
            self.finish()?;
        }
        next.errors_end = self.notes.end();
        Ok(noted)
    }

    /// Whether the row is to be handed over again: it was taken back, or its hours ended, and the job goes on.
    fn comes_back(&self, outcome: &ItemOutcome, standing: &Standing) -> bool {
        let goes_on = standing.status != super::Status::Cancelled;
        match outcome.status {
            domain::Status::Cancelled => goes_on,
            domain::Status::Expired => goes_on && self.record.window.is_some(),
            _ => false,
        }
    }

    fn settled(
        &mut self,
        row: u32,
        known: &RowRecord,
        outcome: &ItemOutcome,
        phone: &str,
        standing: &Standing,
    ) -> Result<RowRecord, Error> {
        let place = standing.senders.iter().position(|sender| sender.number == outcome.instance);
        let device = place.and_then(|place| u8::try_from(place + 1).ok()).unwrap_or(0);
        let mut changed = RowRecord {
            status: RowStatus::Message(outcome.status),
            ambiguous: outcome.ambiguous,
            device,
            at: outcome.at,
            note: None,
            code: None,
            message: Some(outcome.id),
            id: Id::of(outcome.provider_id.as_ref()),
            ..known.clone()
        };
        let is_same = known.message == Some(outcome.id);
        if outcome.provider_id.is_none() && is_same {
            changed.id.clone_from(&known.id);
        }
        if changed.id == Id::InNote && is_same && known.id == Id::InNote && !changed.status.is_failure() {
            changed.note = known.note;
            return Ok(changed);
        }
        let error = changed.status.is_failure().then(|| error_of(outcome));
        if error.is_some() || changed.id == Id::InNote {
            let phone =
                if phone.is_empty() { self.phone(row, known).unwrap_or_default() } else { phone.to_owned() };
            changed.code =
                outcome.failure.as_ref().filter(|_| error.is_some()).and_then(|failure| failure.code);
            let note = Note {
                row,
                line: known.line,
                phone,
                error,
                code: changed.code,
                ambiguous: outcome.ambiguous,
                at: outcome.at,
                device,
                id: outcome.provider_id.clone().filter(|_| changed.id == Id::InNote),
            };
            changed.note = Some(self.notes.add(note).map_err(|cause| self.wrong(cause))?);
        }
        Ok(changed)
    }

    /// The recipient of a row as the source spells it.
    fn phone(&self, row: u32, known: &RowRecord) -> Option<String> {
        let page = self.record.format.page(&self.files.source(), known.place(row), 1).ok()?;
        page.rows.into_iter().next().map(|row| row.phone)
    }

    /// Writes down that rows which nobody has handed over will not be.
    pub fn cancel(&mut self, rows: &[u32], next: &mut Standing) -> Result<(), Error> {
        for &row in rows {
            let known = self.results.get(row).map_err(|cause| self.wrong(cause))?;
            let Some(known) = known.filter(|known| known.status == RowStatus::Open) else { continue };
            let status = RowStatus::Message(domain::Status::Cancelled);
            let changed = RowRecord { status, at: next.updated_at, ..known.clone() };
            self.results.put(row, &changed).map_err(|cause| self.wrong(cause))?;
            next.counts.moved(Some(&known), &changed);
        }
        self.sync().and_then(|()| self.finish())
    }

    /// No power cut takes anything of what rows are called from now on; before, it is written again where it was lost.
    pub fn finish(&self) -> Result<(), Error> {
        self.names.sync().map_err(|cause| self.wrong(cause))
    }

    /// Makes room for the names of another pass over failed rows.
    pub fn retry(&mut self, standing: &Standing) -> Result<(), Error> {
        let end = standing.cursor.row;
        let names = Names::rebuild(&self.files, self.record.total, &self.results, &self.notes, end);
        self.names = names.map_err(|cause| self.wrong(cause))?;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.notes.sync().and_then(|()| self.results.sync()).map_err(|cause| self.wrong(cause))
    }
}

/// Whether an outcome says more about a row than is known.
fn believes(known: &RowRecord, outcome: &ItemOutcome) -> bool {
    match (known.status, known.message) {
        (RowStatus::Open, None) => true,
        (RowStatus::Open, Some(before)) => outcome.id >= before,
        (RowStatus::Message(status), Some(id)) => outcome.follows(id, status),
        _ => false,
    }
}

fn error_of(outcome: &ItemOutcome) -> String {
    match (&outcome.failure, outcome.status) {
        (Some(failure), _) => failure.to_string(),
        (None, domain::Status::Expired) => "it was too old before it could be sent".to_owned(),
        (None, _) if outcome.ambiguous => "an attempt went out and nobody knows what became of it".to_owned(),
        (None, _) => "it was not sent".to_owned(),
    }
}

fn last_row(row: u32, record: &RowRecord, phone: String, standing: &Standing) -> LastRow {
    let sender = super::reading::sender(&standing.senders, record.device);
    LastRow {
        row,
        phone,
        status: record.status,
        device_id: sender.map(|_| record.device),
        instance: sender.map(|sender| sender.id.clone()),
    }
}

/// Beginnings of rows.
impl Book {
    /// Takes up to `limit` rows that were not handed over yet, in one of three ways: rows that came back, rows that are
    /// tried again, rows that nobody has come to. `None` when there are none left.
    pub fn take(
        &mut self,
        standing: &Standing,
        limit: u32,
        now: Timestamp,
        suppressed: &Suppressed,
    ) -> Result<Option<Batch>, Error> {
        self.notes.rewind(standing.errors_end);
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
        let outgoing = self.mark(rows, &mut next, now, suppressed)?;
        self.sync()?;
        next.errors_end = self.notes.end();
        Ok(Some(Batch { outgoing, next }))
    }

    fn take_returned(&self, next: &mut Standing, limit: u32) -> std::io::Result<Vec<Taken>> {
        let keep = next.returned.len().saturating_sub(limit as usize);
        let mut rows = next.returned.split_off(keep);
        rows.sort_unstable();
        let mut known = Vec::with_capacity(rows.len());
        for row in rows {
            // What became known of it meanwhile, late, is better than a second message.
            let open = self.results.get(row)?.filter(|known| known.status == RowStatus::Open);
            known.extend(open.map(|open| (row, open)));
        }
        self.again(known)
    }

    fn take_failed(&self, next: &mut Standing, limit: u32) -> std::io::Result<Vec<Taken>> {
        let from = next.retry.unwrap_or(0);
        let end = next.cursor.row.min(from.saturating_add(CHUNK));
        let mut failed = Vec::new();
        let mut reached = from;
        for (row, known) in (from..end).zip(self.results.page(from, end.saturating_sub(from).max(1))?) {
            if failed.len() >= limit as usize {
                break;
            }
            reached = row + 1;
            if let Some(known) = known.filter(|known| is_tried_again(known, next.pass)) {
                failed.push((row, known));
            }
        }
        next.retry = (reached < next.cursor.row).then_some(reached.max(from + u32::from(from == end)));
        self.again(failed)
    }

    /// Reads rows once more, in the order of their numbers; those that follow one another at once, because opening and
    /// finding costs more than reading.
    fn again(&self, known: Vec<(u32, RowRecord)>) -> std::io::Result<Vec<Taken>> {
        let mut taken = Vec::with_capacity(known.len());
        for mut run in known.chunk_by(|(before, _), (row, _)| before + 1 == *row) {
            // A page of long rows has fewer than were asked for.
            while let Some((number, begins)) = run.first() {
                let page = self.record.format.page(&self.files.source(), begins.place(*number), run.len())?;
                if page.rows.is_empty() {
                    let short = format!("the source has no row {number} any more");
                    return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, short));
                }
                let (read, left) = run.split_at(page.rows.len().min(run.len()));
                let rows = page.rows.into_iter().zip(read);
                taken.extend(rows.map(|(row, (_, known))| Taken { row, known: Some(known.clone()) }));
                run = left;
            }
        }
        Ok(taken)
    }

    fn take_next(&self, next: &mut Standing, limit: u32) -> std::io::Result<Vec<Taken>> {
        let to_chunk = CHUNK - next.cursor.row % CHUNK;
        let left = self.record.total.saturating_sub(next.cursor.row);
        let limit = limit.min(to_chunk).min(left);
        let page = self.record.format.page(&self.files.source(), next.cursor, limit as usize)?;
        if page.rows.is_empty() {
            let short = format!("the source ends after {} rows", next.cursor.row);
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, short));
        }
        next.cursor = page.next;
        Ok(page.rows.into_iter().map(|row| Taken { row, known: None }).collect())
    }

    /// Decides about each row, and writes that down.
    fn mark(
        &mut self,
        rows: Vec<Taken>,
        next: &mut Standing,
        now: Timestamp,
        suppressed: &Suppressed,
    ) -> Result<Vec<Outgoing>, Error> {
        let mut outgoing = Vec::with_capacity(rows.len());
        let first = rows.first().filter(|taken| taken.known.is_none()).map(|taken| taken.row.place.row);
        let mut run = Vec::new();
        for Taken { row, known } in rows {
            let place = row.place;
            let mut record = match &known {
                Some(known) => RowRecord {
                    status: RowStatus::Open,
                    ambiguous: false,
                    note: None,
                    code: None,
                    id: Id::None,
                    ..known.clone()
                },
                None => RowRecord::taken(place, RowStatus::Open, now),
            };
            record.pass = next.pass;
            let phone = row.phone.clone();
            match self.judge(row, suppressed)? {
                Fate::Send(lane, message) => {
                    outgoing.push(Outgoing { row: place.row, phone, lane, message: *message });
                }
                Fate::Skip => record.status = RowStatus::Skipped,
                Fate::Refuse(error) => {
                    record.status = RowStatus::Invalid;
                    let note = Note {
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
                    record.note = Some(self.notes.add(note).map_err(|cause| self.wrong(cause))?);
                }
            }
            next.counts.moved(known.as_ref(), &record);
            match first {
                Some(_) => run.push(record),
                None => self.results.put(place.row, &record).map_err(|cause| self.wrong(cause))?,
            }
        }
        if let Some(first) = first {
            self.results.put_run(first, run.iter()).map_err(|cause| self.wrong(cause))?;
        }
        Ok(outgoing)
    }

    fn judge(&self, row: Row, suppressed: &Suppressed) -> Result<Fate, Error> {
        let to = match row.to {
            Ok(to) => to,
            Err(reason) => return Ok(Fate::Refuse(reason)),
        };
        if self.record.suppressed == super::OnSuppressed::Skip && suppressed(&to)? {
            return Ok(Fate::Skip);
        }
        let content = match (&self.record.plan, row.body) {
            (Plan::Common(content), _) => content.clone(),
            (Plan::PerRow, Body::Content(content)) => *content,
            (Plan::PerRow, _) => return Ok(Fate::Refuse("the row has no message".to_owned())),
            (Plan::Text(text), body) => {
                let body = match (&self.template, body) {
                    (Some(template), Body::Cells(row)) => template.render(&row),
                    _ => text.clone(),
                };
                Content::Text { body, preview_url: false }
            }
        };
        Ok(Fate::Send(
            to.lane(),
            Box::new(OutboundMessage { to, content, quote: None, manner: Manner::default() }),
        ))
    }
}

/// A row from the source, with what is known of it from before.
struct Taken {
    row: Row,
    known: Option<RowRecord>,
}

/// What happens to a row that was taken.
enum Fate {
    Send(LaneId, Box<OutboundMessage>),
    Skip,
    Refuse(String),
}

/// Whether a row failed for certain, or was marked for this very pass and not handed over.
fn is_tried_again(known: &RowRecord, pass: u8) -> bool {
    use domain::Status::{DeadLetter, Expired, Failed};
    match known.status {
        RowStatus::Open => known.pass == pass,
        RowStatus::Message(DeadLetter | Expired | Failed) => !known.ambiguous,
        _ => false,
    }
}
