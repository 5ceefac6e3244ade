//! Accepting messages, and withdrawing them before their first attempt.

use serde::{Deserialize, Serialize};

use relevo_domain::{InstanceNumber, MessageId, Status, Timestamp};
use relevo_store::{self as store, Error, Tx};

use super::records::{InFlight, Job, LedgerEntry, LedgerStep, QueueCounters, lane_head};
use super::{Acceptance, IdempotencyKey, Submission, item_outcomes, keys, schedule};

/// The record of an idempotency key: the message that it was used for.
#[derive(Debug, Serialize, Deserialize)]
struct IdempotencyRecord {
    id: MessageId,
    body: [u8; 16],
    expires: Timestamp,
}

/// What an idempotency key was used for before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyUse {
    Unused,
    /// Its time to live is over; its expiry entry is at this time.
    Expired(Timestamp),
    /// The same request, which created this message.
    SameRequest(MessageId),
    OtherRequest,
}

/// Looks an idempotency key up.
pub(super) fn find_key(
    tx: &Tx,
    instance: InstanceNumber,
    idempotency: &IdempotencyKey,
    now: Timestamp,
) -> Result<KeyUse, Error> {
    let Some(bytes) = tx.get(&keys::idempotency(instance, &idempotency.key))? else {
        return Ok(KeyUse::Unused);
    };
    let known: IdempotencyRecord = store::decode(&bytes)?;
    Ok(match known {
        IdempotencyRecord { expires, .. } if expires <= now => KeyUse::Expired(expires),
        IdempotencyRecord { id, body, .. } if body == idempotency.body => KeyUse::SameRequest(id),
        _ => KeyUse::OtherRequest,
    })
}

/// Why a submission was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EnqueueRefusal {
    Full,
    KeyReused,
}

/// The inputs of acceptance besides the submission.
#[derive(Debug, Clone, Copy)]
pub(super) struct EnqueueContext {
    pub now: Timestamp,
    pub capacity: u64,
    pub idempotency_expires: Timestamp,
    pub random: u64,
}

/// Accepts a submission: writes its job, its idempotency key and the counters, or nothing.
pub(super) fn accept(
    tx: &mut Tx,
    submission: Submission,
    context: EnqueueContext,
) -> Result<Result<Acceptance, EnqueueRefusal>, Error> {
    let (instance, class) = (submission.instance, submission.class());
    let mut expired_key = None;
    if let Some(idempotency) = &submission.idempotency {
        match find_key(tx, instance, idempotency, context.now)? {
            KeyUse::Unused => {}
            KeyUse::Expired(at) => {
                expired_key = Some(keys::idempotency_expiry(at, instance, &idempotency.key));
            }
            KeyUse::SameRequest(id) => return Ok(Ok(Acceptance::Duplicate(id))),
            KeyUse::OtherRequest => return Ok(Err(EnqueueRefusal::KeyReused)),
        }
    }
    let mut counters = QueueCounters::read(tx, instance)?;
    if counters.depth.iter().sum::<u64>() >= context.capacity {
        return Ok(Err(EnqueueRefusal::Full));
    }
    if let Some(expired_key) = expired_key {
        // The key is used again: the old expiry entry must not delete the new record.
        tx.delete(expired_key)?;
    }
    let id = insert_job(tx, submission, context)?;
    *counters.depth(class) += 1;
    counters.write(tx, instance)?;
    Ok(Ok(Acceptance::New(id)))
}

/// Writes the job of an accepted submission. The caller updates the counters.
pub(super) fn insert_job(
    tx: &mut Tx,
    submission: Submission,
    context: EnqueueContext,
) -> Result<MessageId, Error> {
    let id = next_id(tx, &submission, context)?;
    let Submission { instance, message, mode, idempotency, expires_at, send_at, item, .. } = submission;
    let (on_ambiguous, repeatable) = (submission.on_ambiguous, submission.repeatable);
    if let Some(item) = item {
        item_outcomes::open_slot(tx, item, id)?;
    }
    if let Some(idempotency) = &idempotency {
        let record = IdempotencyRecord { id, body: idempotency.body, expires: context.idempotency_expires };
        tx.put(keys::idempotency(instance, &idempotency.key), store::encode(&record)?)?;
        tx.put(keys::idempotency_expiry(record.expires, instance, &idempotency.key), Vec::new())?;
    }
    let send_at = send_at.filter(|at| *at > context.now);
    let job = Job {
        message,
        mode,
        expires_at,
        on_ambiguous,
        repeatable,
        scheduled: send_at.is_some(),
        idempotency: idempotency.map(|idempotency| idempotency.key),
    };
    job.write(tx, keys::job(id))?;
    if let Some(at) = send_at {
        schedule::schedule(tx, id, &job, at)?;
    }
    Ok(id)
}

/// The next message id. Ids grow monotonically, also across restarts and when the clock steps back, because the cursor
/// over arrivals relies on that.
fn next_id(tx: &mut Tx, submission: &Submission, context: EnqueueContext) -> Result<MessageId, Error> {
    let last = tx.get(&keys::last_id())?.and_then(|bytes| keys::message_id(&bytes));
    let (at, counter) = match last {
        Some(last) if last.accepted_at() >= context.now => {
            if last.counter() < MessageId::MAX_COUNTER {
                (last.accepted_at(), last.counter() + 1)
            } else {
                (Timestamp(last.accepted_at().millis() + 1), 0)
            }
        }
        _ => (context.now, 0),
    };
    let id = match submission.item {
        Some(item) => MessageId::for_bulk_item(at, counter, submission.instance, item),
        None => MessageId::new(at, counter, submission.instance, submission.class, context.random),
    };
    tx.put(keys::last_id(), id.as_bytes().to_vec())?;
    Ok(id)
}

/// Deletes a job's idempotency key, so that a caller who was refused can repeat the request with the same key.
pub(super) fn free_key(tx: &mut Tx, id: MessageId, job: &Job) -> Result<(), Error> {
    let Some(key) = &job.idempotency else { return Ok(()) };
    let stored = keys::idempotency(id.instance(), key);
    if let Some(bytes) = tx.get(&stored)? {
        let record: IdempotencyRecord = store::decode(&bytes)?;
        if record.id == id {
            tx.delete(stored)?;
            tx.delete(keys::idempotency_expiry(record.expires, id.instance(), key))?;
        }
    }
    Ok(())
}

/// Withdraws a message. Returns `true` when it was not attempted and never will be, and `false` when an attempt has
/// begun or the job does not exist.
pub(super) fn withdraw(tx: &mut Tx, id: MessageId, now: Timestamp) -> Result<bool, Error> {
    let Some(job) = Job::read(tx, id)? else { return Ok(false) };
    let lane = job.lane(id);
    if InFlight::read(tx, lane)?.is_some_and(|flight| flight.id == id) {
        return Ok(false);
    }
    let mut entry = LedgerEntry::read(tx, id)?.unwrap_or_else(|| LedgerEntry::new(&job));
    if !entry.advance(LedgerStep::new(Status::Cancelled, now)) {
        return Ok(false);
    }
    let mut counters = QueueCounters::read(tx, id.instance())?;
    leave_lane(tx, &mut counters, &job, id, now)?;
    if let Some(due) = entry.due.take() {
        tx.delete(keys::due(id, due))?;
    }
    free_key(tx, id, &job)?;
    tx.delete(keys::job(id))?;
    *counters.depth(id.class()) = counters.depth(id.class()).saturating_sub(1);
    counters.write(tx, id.instance())?;
    item_outcomes::persist(tx, id, &mut entry)?;
    Ok(true)
}

/// Removes a waiting job from its lane, whatever its position.
pub(super) fn leave_lane(
    tx: &mut Tx,
    counters: &mut QueueCounters,
    job: &Job,
    id: MessageId,
    now: Timestamp,
) -> Result<(), Error> {
    let lane = job.lane(id);
    let unread = !job.scheduled && !counters.has_read_arrival(id);
    if *counters.waiting(lane.class) == 0 || unread {
        return Ok(());
    }
    let mut position = None;
    let mut is_head = true;
    for entry in tx.range(&lane.waiting(), &lane.waiting().after_prefix()) {
        let (key, value) = entry?;
        if let Some((found, not_before)) = keys::parse_waiting(&value)
            && found == id
        {
            position = keys::trailing_order(&key).map(|order| (order, not_before));
            break;
        }
        is_head = false;
    }
    let Some((order, not_before)) = position else { return Ok(()) };
    tx.delete(lane.waiting_at(order))?;
    *counters.waiting(lane.class) -= 1;
    if is_head && tx.get(&lane.in_flight())?.is_none() {
        // The wake-up of the lane was for this head. A wake-up that is already due is deleted by the next lease.
        if let Some(moment) = not_before {
            tx.delete(lane.wake(moment))?;
        }
        if lane_head(tx, lane)?.is_some() {
            tx.put(lane.wake(now), keys::set_at_value(now))?;
        }
    }
    Ok(())
}
