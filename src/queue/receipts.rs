//! What WhatsApp reports about messages after they went out.

use serde_json::{Map, Value, json};

use relevo_domain::{Failure, MessageId, Receipt, Status, Timestamp};
use relevo_store::{self as store, Error, Tx};

use super::record::{Book, Flight, Job, Row, Step};
use super::{Outcome, ReceiptReport, Recorded, accept, items, keys, settle};

/// Records one report. Beside what changed, tells the outcome for a caller who still waits for it.
pub(super) fn record(
    tx: &mut Tx,
    report: &ReceiptReport,
    now: Timestamp,
) -> Result<(Recorded, Option<Outcome>), Error> {
    let ours = report.id.filter(|id| id.instance() == report.instance);
    let id = match ours {
        Some(id) => Some(id),
        None => {
            let found = tx.get(&keys::provider_id(report.instance, &report.provider_id))?;
            found.and_then(|bytes| keys::message_id(&bytes))
        }
    };
    let Some(id) = id else { return Ok((Recorded::Unknown, None)) };
    let row = Row::read(tx, id)?;
    if row.as_ref().is_some_and(|row| row.status.is_settled()) {
        return Ok((on_settled(tx, id, row, report, now)?, None));
    }
    let Some(job) = Job::read(tx, id)? else { return Ok((items::hear(tx, id, report)?, None)) };
    let row = row.unwrap_or_else(|| Row::new(&job));
    on_open(tx, id, &job, row, report, now)
}

/// A fact about a message that the node had nothing left to do for.
fn on_settled(
    tx: &mut Tx,
    id: MessageId,
    row: Option<Row>,
    report: &ReceiptReport,
    now: Timestamp,
) -> Result<Recorded, Error> {
    let Some(mut row) = row else { return Ok(Recorded::Unknown) };
    let was = row.status;
    if !row.advance(step(report)) {
        return Ok(Recorded::Unchanged(id));
    }
    settle::note_provider_id(tx, id, &mut row, &report.provider_id)?;
    match was {
        Status::DeadLetter | Status::Failed => {
            // It arrived after all; nothing is left to redrive.
            store::delete_large(tx, keys::dead_letter(id))?;
            row.buried = None;
            row.failure = None;
            settle::announce_sent(tx, id, &report.provider_id, now)?;
        }
        _ => {}
    }
    announce(tx, id, &row, report, now)?;
    if report.receipt == Receipt::Failed {
        row.failure = Some(failure_of(report));
    }
    row.write(tx, id)?;
    Ok(Recorded::Moved(id))
}

/// A fact about a message that is still ours to send: whatever we believed, it has gone out.
fn on_open(
    tx: &mut Tx,
    id: MessageId,
    job: &Job,
    mut row: Row,
    report: &ReceiptReport,
    now: Timestamp,
) -> Result<(Recorded, Option<Outcome>), Error> {
    let lane = job.lane(id);
    let flight = Flight::read(tx, lane)?.filter(|flight| flight.id == id);
    match &flight {
        Some(flight) => {
            row.attempted(flight);
            settle::end_flight(tx, lane, flight, now)?;
        }
        None => {
            // It waits for a retry of an attempt that did arrive.
            let mut book = Book::read(tx, id.instance())?;
            accept::leave_lane(tx, &mut book, job, id, now)?;
            if let Some(due) = row.due {
                tx.delete(keys::due(id, due));
            }
            store::delete_large(tx, keys::job(id))?;
            *book.depth(id.class()) = book.depth(id.class()).saturating_sub(1);
            book.write(tx, id.instance())?;
            row.requeue(report.at);
            row.advance(Step::new(Status::Sending, report.at));
        }
    }
    row.due = None;
    settle::note_provider_id(tx, id, &mut row, &report.provider_id)?;
    row.advance(step(report));
    let outcome = if report.receipt == Receipt::Failed {
        row.failure = Some(failure_of(report));
        accept::free_key(tx, id, job)?;
        announce(tx, id, &row, report, now)?;
        Outcome::Failed(failure_of(report))
    } else {
        row.failure = None;
        settle::announce_sent(tx, id, &report.provider_id, now)?;
        if report.receipt != Receipt::Sent {
            announce(tx, id, &row, report, now)?;
        }
        Outcome::Sent(report.provider_id.clone())
    };
    row.keep(tx, id)?;
    Ok((Recorded::Moved(id), Some(outcome)))
}

fn step(report: &ReceiptReport) -> Step {
    match report.receipt {
        Receipt::Failed => Step::about(Status::Failed, report.at, &failure_of(report)),
        receipt => Step::new(receipt.into(), report.at),
    }
}

pub(super) fn failure_of(report: &ReceiptReport) -> Failure {
    report
        .failure
        .clone()
        .unwrap_or_else(|| Failure::permanent("WhatsApp reported a failure without a reason"))
}

fn announce(
    tx: &mut Tx,
    id: MessageId,
    row: &Row,
    report: &ReceiptReport,
    now: Timestamp,
) -> Result<(), Error> {
    if report.receipt == Receipt::Failed {
        settle::announce_failure(tx, id, &failure_of(report), None, now)?;
    }
    let mut data = receipt_data(report, &row.to.address());
    data.insert("id".to_owned(), json!(id.to_string()));
    data.insert("correlation_id".to_owned(), json!(id.correlation_id()));
    settle::announce(tx, id, "receipt", data.into(), now)
}

/// What the event `receipt` tells, of a message of ours or of one that the ledger does not know. `type` and `ids` are
/// the legacy words: an empty type is "delivered".
pub fn receipt_data(report: &ReceiptReport, to: &str) -> Map<String, Value> {
    let status = Status::from(report.receipt).as_str();
    let legacy = if report.receipt == Receipt::Delivered { "" } else { status };
    let mut data = Map::from_iter([
        ("message_id".to_owned(), json!(report.provider_id)),
        ("ids".to_owned(), json!([report.provider_id])),
        ("from".to_owned(), json!(to)),
        ("type".to_owned(), json!(legacy)),
        ("status".to_owned(), json!(status)),
        ("timestamp".to_owned(), json!(report.at.seconds())),
    ]);
    if report.receipt == Receipt::Failed {
        let failure = failure_of(report);
        data.insert("error".to_owned(), json!({ "code": failure.code, "message": failure.message }));
    }
    data
}
