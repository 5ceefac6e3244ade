//! What WhatsApp reports about messages after they went out.

use serde_json::{Map, Value, json};

use relevo_domain::{EventKind, Failure, MessageId, Receipt, Status, Timestamp};
use relevo_store::{Error, Tx};

use super::records::{InFlight, Job, LedgerEntry, LedgerStep, QueueCounters};
use super::{ReceiptReport, ReceiptResult, SendOutcome, accept, bulk_rows, keys, settle};

/// Records one report. Beside what changed, tells the outcome for a caller who still waits for it.
pub(super) fn record(
    tx: &mut Tx,
    report: &ReceiptReport,
    now: Timestamp,
) -> Result<(ReceiptResult, Option<SendOutcome>), Error> {
    let ours = report.id.filter(|id| id.instance() == report.instance);
    let id = match ours {
        Some(id) => Some(id),
        None => {
            let found = tx.get(&keys::provider_id(report.instance, &report.provider_id))?;
            found.and_then(|bytes| keys::message_id(&bytes))
        }
    };
    let Some(id) = id else { return Ok((ReceiptResult::Unknown, None)) };
    let row = LedgerEntry::read(tx, id)?;
    if row.as_ref().is_some_and(|row| row.status.is_settled()) {
        return Ok((record_for_settled(tx, id, row, report, now)?, None));
    }
    let Some(job) = Job::read(tx, id)? else { return Ok((bulk_rows::record_receipt(tx, id, report)?, None)) };
    let row = row.unwrap_or_else(|| LedgerEntry::new(&job));
    record_for_open(tx, id, &job, row, report, now)
}

/// A fact about a message that the node had nothing left to do for.
fn record_for_settled(
    tx: &mut Tx,
    id: MessageId,
    row: Option<LedgerEntry>,
    report: &ReceiptReport,
    now: Timestamp,
) -> Result<ReceiptResult, Error> {
    let Some(mut row) = row else { return Ok(ReceiptResult::Unknown) };
    let was = row.status;
    if !row.advance(ledger_step_from(report)) {
        return Ok(ReceiptResult::Unchanged(id));
    }
    settle::record_provider_id(tx, id, &mut row, &report.provider_id)?;
    match was {
        Status::DeadLetter | Status::Failed => {
            // It arrived after all; nothing is left to redrive.
            tx.delete(keys::dead_letter(id))?;
            row.buried = None;
            row.failure = None;
            settle::emit_sent(tx, id, &report.provider_id, now)?;
        }
        _ => {}
    }
    emit_receipt(tx, id, &row, report, now)?;
    if report.receipt == Receipt::Failed {
        row.failure = Some(failure_from(report));
    }
    row.write(tx, id)?;
    Ok(ReceiptResult::Advanced(id))
}

/// A fact about a message that is still ours to send: whatever we believed, it has gone out.
fn record_for_open(
    tx: &mut Tx,
    id: MessageId,
    job: &Job,
    mut row: LedgerEntry,
    report: &ReceiptReport,
    now: Timestamp,
) -> Result<(ReceiptResult, Option<SendOutcome>), Error> {
    let lane = job.lane(id);
    let flight = InFlight::read(tx, lane)?.filter(|flight| flight.id == id);
    match &flight {
        Some(flight) => {
            row.record_attempt(flight);
            settle::end_attempt(tx, lane, flight, now)?;
        }
        None => {
            // It waits for a retry of an attempt that did arrive.
            let mut book = QueueCounters::read(tx, id.instance())?;
            accept::leave_lane(tx, &mut book, job, id, now)?;
            if let Some(due) = row.due {
                tx.delete(keys::due(id, due))?;
            }
            tx.delete(keys::job(id))?;
            *book.depth(id.class()) = book.depth(id.class()).saturating_sub(1);
            book.write(tx, id.instance())?;
            row.requeue(report.at);
            row.advance(LedgerStep::new(Status::Sending, report.at));
        }
    }
    row.due = None;
    settle::record_provider_id(tx, id, &mut row, &report.provider_id)?;
    row.advance(ledger_step_from(report));
    let outcome = if report.receipt == Receipt::Failed {
        row.failure = Some(failure_from(report));
        accept::free_key(tx, id, job)?;
        emit_receipt(tx, id, &row, report, now)?;
        SendOutcome::Failed(failure_from(report))
    } else {
        row.failure = None;
        settle::emit_sent(tx, id, &report.provider_id, now)?;
        if report.receipt != Receipt::Sent {
            emit_receipt(tx, id, &row, report, now)?;
        }
        SendOutcome::Sent(report.provider_id.clone())
    };
    row.persist(tx, id)?;
    Ok((ReceiptResult::Advanced(id), Some(outcome)))
}

fn ledger_step_from(report: &ReceiptReport) -> LedgerStep {
    match report.receipt {
        Receipt::Failed => LedgerStep::from_failure(Status::Failed, report.at, &failure_from(report)),
        receipt => LedgerStep::new(receipt.into(), report.at),
    }
}

pub(super) fn failure_from(report: &ReceiptReport) -> Failure {
    report
        .failure
        .clone()
        .unwrap_or_else(|| Failure::permanent("WhatsApp reported a failure without a reason"))
}

fn emit_receipt(
    tx: &mut Tx,
    id: MessageId,
    row: &LedgerEntry,
    report: &ReceiptReport,
    now: Timestamp,
) -> Result<(), Error> {
    if report.receipt == Receipt::Failed {
        settle::emit_failure(tx, id, &failure_from(report), None, now)?;
    }
    let mut data = receipt_data(report, &row.to.address());
    data.insert("id".to_owned(), json!(id.to_string()));
    data.insert("correlation_id".to_owned(), json!(id.correlation_id()));
    settle::emit(tx, id, EventKind::Receipt, data.into(), now)
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
        let failure = failure_from(report);
        data.insert("error".to_owned(), json!({ "code": failure.code, "message": failure.message }));
    }
    data
}
