//! Receipts: what WhatsApp reports about messages after they were sent.

use serde_json::{Map, Value, json};

use relevo_domain::{EventKind, MessageId, Receipt, Status, Timestamp};
use relevo_store::{Error, Tx};

use super::records::{InFlight, Job, LedgerEntry, LedgerStep, QueueCounters};
use super::{ReceiptReport, ReceiptResult, SendOutcome, accept, item_outcomes, keys, settle};

/// Records one receipt. Also returns the outcome for a caller that still waits for it.
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
    let entry = LedgerEntry::read(tx, id)?;
    if entry.as_ref().is_some_and(|entry| entry.status.is_settled()) {
        return Ok((record_for_settled(tx, id, entry, report, now)?, None));
    }
    let Some(job) = Job::read(tx, id)? else {
        return Ok((item_outcomes::record_receipt(tx, id, report)?, None));
    };
    let entry = entry.unwrap_or_else(|| LedgerEntry::new(&job));
    record_for_open(tx, id, &job, entry, report, now)
}

/// Records a receipt for a settled message.
fn record_for_settled(
    tx: &mut Tx,
    id: MessageId,
    entry: Option<LedgerEntry>,
    report: &ReceiptReport,
    now: Timestamp,
) -> Result<ReceiptResult, Error> {
    let Some(mut entry) = entry else { return Ok(ReceiptResult::Unknown) };
    let previous = entry.status;
    if !entry.advance(ledger_step_from(report)) {
        return Ok(ReceiptResult::Unchanged(id));
    }
    settle::record_provider_id(tx, id, &mut entry, &report.provider_id)?;
    match previous {
        Status::DeadLetter | Status::Failed => {
            // The message was sent after all; there is nothing to redrive.
            tx.delete(keys::dead_letter(id))?;
            entry.buried = None;
            entry.failure = None;
            settle::emit_sent(tx, id, &report.provider_id, now)?;
        }
        _ => {}
    }
    emit_receipt(tx, id, &entry, report, now)?;
    if report.receipt == Receipt::Failed {
        entry.failure = Some(report.failure_or_default());
    }
    entry.write(tx, id)?;
    Ok(ReceiptResult::Advanced(id))
}

/// Records a receipt for an unsettled message: it proves that an attempt reached WhatsApp.
fn record_for_open(
    tx: &mut Tx,
    id: MessageId,
    job: &Job,
    mut entry: LedgerEntry,
    report: &ReceiptReport,
    now: Timestamp,
) -> Result<(ReceiptResult, Option<SendOutcome>), Error> {
    let lane = job.lane(id);
    let flight = InFlight::read(tx, lane)?.filter(|flight| flight.id == id);
    match &flight {
        Some(flight) => {
            entry.record_attempt(flight);
            settle::end_attempt(tx, lane, flight, now)?;
        }
        None => {
            // The message waits for a retry, but an earlier attempt reached WhatsApp.
            let mut counters = QueueCounters::read(tx, id.instance())?;
            accept::leave_lane(tx, &mut counters, job, id, now)?;
            if let Some(due) = entry.due {
                tx.delete(keys::due(id, due))?;
            }
            tx.delete(keys::job(id))?;
            *counters.depth(id.class()) = counters.depth(id.class()).saturating_sub(1);
            counters.write(tx, id.instance())?;
            entry.requeue(report.at);
            entry.advance(LedgerStep::new(Status::Sending, report.at));
        }
    }
    entry.due = None;
    settle::record_provider_id(tx, id, &mut entry, &report.provider_id)?;
    entry.advance(ledger_step_from(report));
    let outcome = if report.receipt == Receipt::Failed {
        entry.failure = Some(report.failure_or_default());
        accept::free_key(tx, id, job)?;
        emit_receipt(tx, id, &entry, report, now)?;
        SendOutcome::Failed(report.failure_or_default())
    } else {
        entry.failure = None;
        settle::emit_sent(tx, id, &report.provider_id, now)?;
        if report.receipt != Receipt::Sent {
            emit_receipt(tx, id, &entry, report, now)?;
        }
        SendOutcome::Sent(report.provider_id.clone())
    };
    item_outcomes::persist(tx, id, &mut entry)?;
    Ok((ReceiptResult::Advanced(id), Some(outcome)))
}

fn ledger_step_from(report: &ReceiptReport) -> LedgerStep {
    match report.receipt {
        Receipt::Failed => LedgerStep::from_failure(Status::Failed, report.at, &report.failure_or_default()),
        receipt => LedgerStep::new(receipt.into(), report.at),
    }
}

fn emit_receipt(
    tx: &mut Tx,
    id: MessageId,
    entry: &LedgerEntry,
    report: &ReceiptReport,
    now: Timestamp,
) -> Result<(), Error> {
    if report.receipt == Receipt::Failed {
        settle::emit_failure(tx, id, &report.failure_or_default(), None, now)?;
    }
    let mut data = receipt_data(report, &entry.to.address());
    data.insert("id".to_owned(), json!(id.to_string()));
    data.insert("correlation_id".to_owned(), json!(id.correlation_id()));
    settle::emit(tx, id, EventKind::Receipt, data.into(), now)
}

/// The data of a `receipt` event, also for a message that is not in the ledger. `type` and `ids` are legacy fields: an
/// empty type means "delivered".
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
        let failure = report.failure_or_default();
        data.insert("error".to_owned(), json!({ "code": failure.code, "message": failure.message }));
    }
    data
}
