//! Ending an attempt: the new status of the message, its events, and the release of its lane.

use serde_json::json;

use crate::events::{self, Event};
use relevo_domain::{
    BuryReason, EventKind, Failure, MessageId, Mode, ProviderMessageId, RetryDecision, Status, Timestamp,
};
use relevo_store::{Error, Tx};

use super::records::{InFlight, Job, LedgerEntry, LedgerStep, QueueCounters, lane_head};
use super::{Lease, SendOutcome, accept, item_outcomes, keys};

/// The job of a lease, as far as a new ledger entry needs it.
fn job_from_lease(lease: &Lease) -> Job {
    Job {
        message: lease.message.clone(),
        mode: lease.mode,
        expires_at: None,
        on_ambiguous: lease.on_ambiguous,
        repeatable: lease.repeatable,
        scheduled: false,
        idempotency: None,
    }
}

/// The attempt of the lease, if it is still the current one of its lane.
fn current_attempt(tx: &Tx, lease: &Lease) -> Result<Option<(keys::LaneKey, InFlight)>, Error> {
    let lane = keys::LaneKey::new(lease.id, lease.message.to.lane());
    let flight = InFlight::read(tx, lane)?;
    let is_same = |flight: &InFlight| {
        // A postponed attempt never began, so the next one has the same number; the time distinguishes them.
        flight.id == lease.id && flight.attempt == lease.attempt && flight.at == lease.leased_at
    };
    let current = flight.filter(is_same);
    Ok(current.map(|flight| (lane, flight)))
}

/// Records that WhatsApp accepted the message. `None` when the lease was settled before.
pub(super) fn record_sent(
    tx: &mut Tx,
    lease: &Lease,
    provider_id: &ProviderMessageId,
    now: Timestamp,
) -> Result<Option<SendOutcome>, Error> {
    let Some((lane, flight)) = current_attempt(tx, lease)? else { return Ok(None) };
    // In the common case, a first attempt without a receipt, there is no entry to read.
    let has_entry = flight.waits || flight.attempt > 1 || flight.held_until.is_some();
    let known = if has_entry { LedgerEntry::read(tx, lease.id)? } else { None };
    let mut entry = known.unwrap_or_else(|| LedgerEntry::new(&job_from_lease(lease)));
    entry.record_attempt(&flight);
    entry.failure = None;
    entry.advance(LedgerStep::new(Status::Sent, now));
    record_provider_id(tx, lease.id, &mut entry, provider_id)?;
    item_outcomes::persist(tx, lease.id, &mut entry)?;
    end_attempt(tx, lane, &flight, now)?;
    emit_sent(tx, lease.id, provider_id, now)?;
    Ok(Some(SendOutcome::Sent(provider_id.clone())))
}

/// Records that the attempt did not begin: the message returns to the head of its lane and waits until `until`.
pub(super) fn postpone(tx: &mut Tx, lease: &Lease, until: Timestamp, now: Timestamp) -> Result<(), Error> {
    let Some((lane, flight)) = current_attempt(tx, lease)? else { return Ok(()) };
    if flight.held_until.is_some()
        && let Some(mut entry) = LedgerEntry::read(tx, lease.id)?
    {
        // The lease expired before the attempt began, so the message was marked as ambiguous.
        entry.requeue(now);
        entry.due = Some(until);
        entry.write(tx, lease.id)?;
    }
    return_to_lane(tx, lane, &flight, until, now)
}

/// Applies the decision about a failed attempt. `None` when the lease was settled before, or the message is retried.
pub(super) fn apply_decision(
    tx: &mut Tx,
    lease: &Lease,
    decision: RetryDecision,
    failure: &Failure,
    now: Timestamp,
) -> Result<Option<SendOutcome>, Error> {
    let Some((lane, mut flight)) = current_attempt(tx, lease)? else { return Ok(None) };
    let id = lease.id;
    let mut entry = LedgerEntry::read(tx, id)?.unwrap_or_else(|| LedgerEntry::new(&job_from_lease(lease)));
    entry.record_attempt(&flight);
    entry.failure = Some(failure.clone());
    let outcome = match decision {
        RetryDecision::Retry { after, counted } => {
            entry.failures += u32::from(counted);
            entry.advance(LedgerStep::from_failure(Status::Queued, now, failure));
            entry.due = Some(now + after).filter(|_| !after.is_zero());
            return_to_lane(tx, lane, &flight, now + after, now)?;
            None
        }
        RetryDecision::Defer { after } => {
            // An attempt that was held as ambiguous did not happen.
            if entry.status == Status::Ambiguous {
                entry.requeue(now);
            }
            entry.advance(LedgerStep::from_failure(Status::Deferred, now, failure));
            entry.due = Some(now + after);
            tx.put(keys::due(id, now + after), Vec::new())?;
            let mut counters = QueueCounters::read(tx, id.instance())?;
            release_lane(tx, &mut counters, lane, &flight, now)?;
            counters.write(tx, id.instance())?;
            None
        }
        RetryDecision::Hold { wait } => {
            entry.advance(LedgerStep::from_failure(Status::Ambiguous, now, failure));
            flight.held_until = Some(now + wait);
            entry.due = flight.held_until;
            flight.write(tx, lane)?;
            None
        }
        RetryDecision::Bury(reason) => {
            entry.advance(LedgerStep::from_failure(Status::DeadLetter, now, failure));
            entry.buried = Some(reason);
            entry.due = None;
            // The content of a bulk row is in the files of its job.
            if id.item().is_none()
                && let Some(job) = Job::read(tx, id)?
            {
                job.write(tx, keys::dead_letter(id))?;
            }
            end_attempt(tx, lane, &flight, now)?;
            emit_failure(tx, id, failure, Some(reason), now)?;
            Some(SendOutcome::Failed(failure.clone()))
        }
        RetryDecision::Fail => {
            entry.advance(LedgerStep::from_failure(Status::Failed, now, failure));
            if let Some(job) = Job::read(tx, id)? {
                accept::free_key(tx, id, &job)?;
            }
            end_attempt(tx, lane, &flight, now)?;
            emit_failure(tx, id, failure, None, now)?;
            Some(SendOutcome::Failed(failure.clone()))
        }
    };
    item_outcomes::persist(tx, id, &mut entry)?;
    Ok(if decision.reports_unknown() { Some(SendOutcome::Unknown) } else { outcome })
}

/// Ends a message that expired before an attempt. The caller removes it from its lane.
pub(super) fn expire(
    tx: &mut Tx,
    counters: &mut QueueCounters,
    id: MessageId,
    job: &Job,
    now: Timestamp,
) -> Result<(), Error> {
    let mut entry = LedgerEntry::read(tx, id)?.unwrap_or_else(|| LedgerEntry::new(job));
    entry.due = None;
    entry.advance(LedgerStep::new(Status::Expired, now));
    item_outcomes::persist(tx, id, &mut entry)?;
    if job.mode == Mode::Sync {
        // The caller got an error and may repeat the request.
        accept::free_key(tx, id, job)?;
    }
    tx.delete(keys::job(id))?;
    *counters.depth(id.class()) = counters.depth(id.class()).saturating_sub(1);
    emit_failure(tx, id, &Failure::permanent("the message expired before it could be sent"), None, now)
}

/// Deletes the attempt and the job of a settled message, and releases the lane.
pub(super) fn end_attempt(
    tx: &mut Tx,
    lane: keys::LaneKey,
    flight: &InFlight,
    now: Timestamp,
) -> Result<(), Error> {
    let mut counters = QueueCounters::read(tx, lane.instance)?;
    release_lane(tx, &mut counters, lane, flight, now)?;
    tx.delete(keys::job(flight.id))?;
    *counters.depth(lane.class) = counters.depth(lane.class).saturating_sub(1);
    counters.write(tx, lane.instance)
}

/// Deletes the attempt of a lane, and wakes the lane if jobs are waiting.
fn release_lane(
    tx: &mut Tx,
    counters: &mut QueueCounters,
    lane: keys::LaneKey,
    flight: &InFlight,
    now: Timestamp,
) -> Result<(), Error> {
    tx.delete(lane.in_flight())?;
    if flight.waits {
        tx.delete(lane.waiting_at(flight.order))?;
        *counters.waiting(lane.class) = counters.waiting(lane.class).saturating_sub(1);
    }
    if *counters.waiting(lane.class) > 0 && lane_head(tx, lane)?.is_some() {
        tx.put(lane.wake(now), keys::set_at_value(now))?;
    }
    Ok(())
}

/// Returns the job to the head of its lane, with a wake-up at `due`.
fn return_to_lane(
    tx: &mut Tx,
    lane: keys::LaneKey,
    flight: &InFlight,
    due: Timestamp,
    now: Timestamp,
) -> Result<(), Error> {
    tx.delete(lane.in_flight())?;
    if !flight.waits {
        let mut counters = QueueCounters::read(tx, lane.instance)?;
        *counters.waiting(lane.class) += 1;
        counters.write(tx, lane.instance)?;
    }
    tx.put(lane.waiting_at(flight.order), keys::waiting_value(flight.id, Some(due)))?;
    tx.put(lane.wake(due), keys::set_at_value(now))
}

/// Stores the provider's id and indexes the message by it; rows of bulk jobs are found through their outcome and job.
/// The first id is kept, because it was published. Receipts with a later id, after a repeated send, contain the node's
/// id too.
pub(super) fn record_provider_id(
    tx: &mut Tx,
    id: MessageId,
    entry: &mut LedgerEntry,
    provider_id: &ProviderMessageId,
) -> Result<(), Error> {
    if entry.provider_id.is_none() {
        if id.item().is_none() {
            tx.put(keys::provider_id(id.instance(), provider_id), id.as_bytes().to_vec())?;
        }
        entry.provider_id = Some(provider_id.clone());
    }
    Ok(())
}

/// Appends the event of a message that WhatsApp accepted.
pub(super) fn emit_sent(
    tx: &mut Tx,
    id: MessageId,
    provider_id: &ProviderMessageId,
    at: Timestamp,
) -> Result<(), Error> {
    let data = json!({
        "status": "sent",
        "correlation_id": id.correlation_id(),
        "message_id": provider_id.as_str(),
    });
    emit(tx, id, EventKind::MessageAck, data, at)
}

/// Appends the event of a failed message.
pub(super) fn emit_failure(
    tx: &mut Tx,
    id: MessageId,
    failure: &Failure,
    reason: Option<BuryReason>,
    at: Timestamp,
) -> Result<(), Error> {
    let error = match reason {
        Some(BuryReason::Ambiguous) => format!("ambiguous: {}", failure.message),
        _ => failure.message.clone(),
    };
    let data = json!({ "status": "failed", "correlation_id": id.correlation_id(), "error": error });
    emit(tx, id, EventKind::MessageAck, data, at)
}

/// Appends an event about a message. Rows of bulk jobs have no events; their job reports them.
pub(super) fn emit(
    tx: &mut Tx,
    id: MessageId,
    kind: EventKind,
    data: serde_json::Value,
    at: Timestamp,
) -> Result<(), Error> {
    if id.item().is_some() {
        return Ok(());
    }
    events::append(tx, id.instance(), &Event { kind, at, data })?;
    Ok(())
}
