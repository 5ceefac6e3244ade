//! Ending an attempt: what becomes of a message, its lane and everybody behind it.

use serde_json::json;

use crate::events::{self, Event};
use relevo_domain::{
    BuryReason, EventKind, Failure, MessageId, Mode, ProviderMessageId, RetryDecision, Status, Timestamp,
};
use relevo_store::{Error, Tx};

use super::records::{InFlight, Job, LedgerEntry, LedgerStep, QueueCounters, lane_head};
use super::{Lease, SendOutcome, accept, keys};

/// The job that a lease was made of.
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

/// The lease's attempt, if it is still the one under way.
fn current_attempt(tx: &Tx, lease: &Lease) -> Result<Option<(keys::LaneKey, InFlight)>, Error> {
    let lane = keys::LaneKey::new(lease.id, lease.message.to.lane());
    let flight = InFlight::read(tx, lane)?;
    let same = |flight: &InFlight| {
        // A postponed attempt never began, so its number comes again; the moment tells the two apart.
        flight.id == lease.id && flight.attempt == lease.attempt && flight.at == lease.leased_at
    };
    let current = flight.filter(same);
    Ok(current.map(|flight| (lane, flight)))
}

/// WhatsApp took the message. `None` when the lease was settled before.
pub(super) fn record_sent(
    tx: &mut Tx,
    lease: &Lease,
    provider_id: &ProviderMessageId,
    now: Timestamp,
) -> Result<Option<SendOutcome>, Error> {
    let Some((lane, flight)) = current_attempt(tx, lease)? else { return Ok(None) };
    // The common case, a first attempt that nothing was said about yet, has no row to read.
    let has_row = flight.waits || flight.attempt > 1 || flight.held_until.is_some();
    let known = if has_row { LedgerEntry::read(tx, lease.id)? } else { None };
    let mut row = known.unwrap_or_else(|| LedgerEntry::new(&job_from_lease(lease)));
    row.record_attempt(&flight);
    row.failure = None;
    row.advance(LedgerStep::new(Status::Sent, now));
    record_provider_id(tx, lease.id, &mut row, provider_id)?;
    row.persist(tx, lease.id)?;
    end_attempt(tx, lane, &flight, now)?;
    emit_sent(tx, lease.id, provider_id, now)?;
    Ok(Some(SendOutcome::Sent(provider_id.clone())))
}

/// The attempt did not begin after all: the message goes back to the head of its lane until `until`, untouched.
pub(super) fn postpone(tx: &mut Tx, lease: &Lease, until: Timestamp, now: Timestamp) -> Result<(), Error> {
    let Some((lane, flight)) = current_attempt(tx, lease)? else { return Ok(()) };
    if flight.held_until.is_some()
        && let Some(mut row) = LedgerEntry::read(tx, lease.id)?
    {
        // It was taken for ambiguous, because its lease ended while it waited to begin.
        row.requeue(now);
        row.due = Some(until);
        row.write(tx, lease.id)?;
    }
    return_to_lane(tx, lane, &flight, until)
}

/// Carries out a verdict on a failed attempt. `None`: the lease was settled before, or the message goes on.
pub(super) fn apply_decision(
    tx: &mut Tx,
    lease: &Lease,
    verdict: RetryDecision,
    failure: &Failure,
    now: Timestamp,
) -> Result<Option<SendOutcome>, Error> {
    let Some((lane, mut flight)) = current_attempt(tx, lease)? else { return Ok(None) };
    let id = lease.id;
    let mut row = LedgerEntry::read(tx, id)?.unwrap_or_else(|| LedgerEntry::new(&job_from_lease(lease)));
    row.record_attempt(&flight);
    row.failure = Some(failure.clone());
    let outcome = match verdict {
        RetryDecision::Retry { after, counted } => {
            row.failures += u32::from(counted);
            row.advance(LedgerStep::from_failure(Status::Queued, now, failure));
            row.due = Some(now + after).filter(|_| !after.is_zero());
            return_to_lane(tx, lane, &flight, now + after)?;
            None
        }
        RetryDecision::Defer { after } => {
            // An attempt that was held as ambiguous turned out not to have happened.
            if row.status == Status::Ambiguous {
                row.requeue(now);
            }
            row.advance(LedgerStep::from_failure(Status::Deferred, now, failure));
            row.due = Some(now + after);
            tx.put(keys::due(id, now + after), Vec::new())?;
            let mut book = QueueCounters::read(tx, id.instance())?;
            release_lane(tx, &mut book, lane, &flight, now)?;
            book.write(tx, id.instance())?;
            None
        }
        RetryDecision::Hold { wait } => {
            row.advance(LedgerStep::from_failure(Status::Ambiguous, now, failure));
            flight.held_until = Some(now + wait);
            row.due = flight.held_until;
            flight.write(tx, lane)?;
            Some(SendOutcome::Unknown)
        }
        RetryDecision::Bury(reason) => {
            row.advance(LedgerStep::from_failure(Status::DeadLetter, now, failure));
            row.buried = Some(reason);
            row.due = None;
            // A row of a bulk job lies in the job's own file.
            if id.item().is_none()
                && let Some(job) = Job::read(tx, id)?
            {
                job.write(tx, keys::dead_letter(id))?;
            }
            end_attempt(tx, lane, &flight, now)?;
            emit_failure(tx, id, failure, Some(reason), now)?;
            Some(outcome_from_burial(reason, failure))
        }
        RetryDecision::Fail => {
            row.advance(LedgerStep::from_failure(Status::Failed, now, failure));
            if let Some(job) = Job::read(tx, id)? {
                accept::free_key(tx, id, &job)?;
            }
            end_attempt(tx, lane, &flight, now)?;
            emit_failure(tx, id, failure, None, now)?;
            Some(SendOutcome::Failed(failure.clone()))
        }
    };
    row.persist(tx, id)?;
    Ok(outcome)
}

fn outcome_from_burial(reason: BuryReason, failure: &Failure) -> SendOutcome {
    match reason {
        BuryReason::Ambiguous => SendOutcome::Unknown,
        BuryReason::Permanent | BuryReason::Exhausted => SendOutcome::Failed(failure.clone()),
    }
}

/// A message that grew too old before its turn. Its place in the lane is the caller's to clear.
pub(super) fn expire(
    tx: &mut Tx,
    book: &mut QueueCounters,
    id: MessageId,
    job: &Job,
    now: Timestamp,
) -> Result<(), Error> {
    let mut row = LedgerEntry::read(tx, id)?.unwrap_or_else(|| LedgerEntry::new(job));
    row.due = None;
    row.advance(LedgerStep::new(Status::Expired, now));
    row.persist(tx, id)?;
    if job.mode == Mode::Sync {
        // Its caller was refused, and may ask again.
        accept::free_key(tx, id, job)?;
    }
    tx.delete(keys::job(id))?;
    *book.depth(id.class()) = book.depth(id.class()).saturating_sub(1);
    emit_failure(tx, id, &Failure::permanent("the message expired before it could be sent"), None, now)
}

/// The job is over: its attempt, its record and its place in the lane go; the lane goes on.
pub(super) fn end_attempt(
    tx: &mut Tx,
    lane: keys::LaneKey,
    flight: &InFlight,
    now: Timestamp,
) -> Result<(), Error> {
    let mut book = QueueCounters::read(tx, lane.instance)?;
    release_lane(tx, &mut book, lane, flight, now)?;
    tx.delete(keys::job(flight.id))?;
    *book.depth(lane.class) = book.depth(lane.class).saturating_sub(1);
    book.write(tx, lane.instance)
}

/// Clears the lane for the next of its jobs.
fn release_lane(
    tx: &mut Tx,
    book: &mut QueueCounters,
    lane: keys::LaneKey,
    flight: &InFlight,
    now: Timestamp,
) -> Result<(), Error> {
    tx.delete(lane.in_flight())?;
    if flight.waits {
        tx.delete(lane.waiting_at(flight.order))?;
        *book.waiting(lane.class) = book.waiting(lane.class).saturating_sub(1);
    }
    if *book.waiting(lane.class) > 0 && lane_head(tx, lane)?.is_some() {
        tx.put(lane.wake(now), Vec::new())?;
    }
    Ok(())
}

/// Back to the head of the lane, which may go on at `due`.
fn return_to_lane(tx: &mut Tx, lane: keys::LaneKey, flight: &InFlight, due: Timestamp) -> Result<(), Error> {
    tx.delete(lane.in_flight())?;
    if !flight.waits {
        let mut book = QueueCounters::read(tx, lane.instance)?;
        *book.waiting(lane.class) += 1;
        book.write(tx, lane.instance)?;
    }
    tx.put(lane.waiting_at(flight.order), keys::waiting_value(flight.id, Some(due)))?;
    tx.put(lane.wake(due), Vec::new())
}

/// Notes the provider's id, and makes the message findable by it; a row of a bulk job is found through its outcome and
/// its job. The first one stays, because it was announced: another one, of a message that was sent again, comes with
/// our own id beside it.
pub(super) fn record_provider_id(
    tx: &mut Tx,
    id: MessageId,
    row: &mut LedgerEntry,
    provider_id: &ProviderMessageId,
) -> Result<(), Error> {
    if row.provider_id.is_none() {
        if id.item().is_none() {
            tx.put(keys::provider_id(id.instance(), provider_id), id.as_bytes().to_vec())?;
        }
        row.provider_id = Some(provider_id.clone());
    }
    Ok(())
}

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

/// Appends an event about a message. Rows of bulk jobs have none of their own: their job tells of them.
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
