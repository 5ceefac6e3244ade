//! Taking messages in, and giving them back before they are tried.

use serde::{Deserialize, Serialize};

use relevo_domain::{MessageId, Status, Timestamp};
use relevo_store::{self as store, Error, Tx};

use super::records::{InFlight, Job, LedgerEntry, LedgerStep, QueueCounters, lane_head};
use super::{Acceptance, Submission, bulk_rows, keys, schedule};

/// What an idempotency key stands for.
#[derive(Debug, Serialize, Deserialize)]
struct IdempotencyRecord {
    id: MessageId,
    body: [u8; 16],
    expires: Timestamp,
}

/// Why a submission was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EnqueueRefusal {
    Full,
    KeyReused,
}

/// What acceptance depends on beside the submission.
#[derive(Debug, Clone, Copy)]
pub(super) struct EnqueueContext {
    pub now: Timestamp,
    pub capacity: u64,
    pub idempotency_expires: Timestamp,
    pub random: u64,
}

/// Takes a submission in: one job, its idempotency key, and the counters, or nothing.
pub(super) fn accept(
    tx: &mut Tx,
    submission: Submission,
    terms: EnqueueContext,
) -> Result<Result<Acceptance, EnqueueRefusal>, Error> {
    let (instance, class) = (submission.instance, submission.class());
    let mut ended = None;
    if let Some(asked) = &submission.idempotency
        && let Some(bytes) = tx.get(&keys::idempotency(instance, &asked.key))?
    {
        let known: IdempotencyRecord = store::decode(&bytes)?;
        if known.expires > terms.now {
            let same = known.body == asked.body;
            return Ok(if same {
                Ok(Acceptance::Duplicate(known.id))
            } else {
                Err(EnqueueRefusal::KeyReused)
            });
        }
        ended = Some(keys::idempotency_expiry(known.expires, instance, &asked.key));
    }
    let mut book = QueueCounters::read(tx, instance)?;
    if book.depth.iter().sum::<u64>() >= terms.capacity {
        return Ok(Err(EnqueueRefusal::Full));
    }
    if let Some(ended) = ended {
        // The key begins a new life; the end of its old one must not cut that short.
        tx.delete(ended)?;
    }
    let id = insert_job(tx, submission, terms)?;
    *book.depth(class) += 1;
    book.write(tx, instance)?;
    Ok(Ok(Acceptance::New(id)))
}

/// Writes a submission down that nothing speaks against. To count it is the caller's part.
pub(super) fn insert_job(
    tx: &mut Tx,
    submission: Submission,
    terms: EnqueueContext,
) -> Result<MessageId, Error> {
    let id = next_id(tx, &submission, terms)?;
    let Submission { instance, message, mode, idempotency, expires_at, send_at, item, .. } = submission;
    let (on_ambiguous, repeatable) = (submission.on_ambiguous, submission.repeatable);
    if let Some(item) = item {
        bulk_rows::open_slot(tx, item, id)?;
    }
    if let Some(asked) = &idempotency {
        let answer = IdempotencyRecord { id, body: asked.body, expires: terms.idempotency_expires };
        tx.put(keys::idempotency(instance, &asked.key), store::encode(&answer)?)?;
        tx.put(keys::idempotency_expiry(answer.expires, instance, &asked.key), Vec::new())?;
    }
    let send_at = send_at.filter(|at| *at > terms.now);
    let job = Job {
        message,
        mode,
        expires_at,
        on_ambiguous,
        repeatable,
        scheduled: send_at.is_some(),
        idempotency: idempotency.map(|asked| asked.key),
    };
    job.write(tx, keys::job(id))?;
    if let Some(at) = send_at {
        schedule::schedule(tx, id, &job, at)?;
    }
    Ok(id)
}

/// The next message id. Ids only grow, over restarts and clocks that step back, because the cursor over arrivals
/// relies on it.
fn next_id(tx: &mut Tx, submission: &Submission, terms: EnqueueContext) -> Result<MessageId, Error> {
    let last = tx.get(&keys::last_id())?.and_then(|bytes| keys::message_id(&bytes));
    let (at, counter) = match last {
        Some(last) if last.accepted_at() >= terms.now => {
            if last.counter() < MessageId::MAX_COUNTER {
                (last.accepted_at(), last.counter() + 1)
            } else {
                (Timestamp(last.accepted_at().millis() + 1), 0)
            }
        }
        _ => (terms.now, 0),
    };
    let id = match submission.item {
        Some(item) => MessageId::for_bulk_item(at, counter, submission.instance, item),
        None => MessageId::new(at, counter, submission.instance, submission.class, terms.random),
    };
    tx.put(keys::last_id(), id.as_bytes().to_vec())?;
    Ok(id)
}

/// Frees a job's idempotency key: what was refused may be asked again under the same key.
pub(super) fn free_key(tx: &mut Tx, id: MessageId, job: &Job) -> Result<(), Error> {
    let Some(key) = &job.idempotency else { return Ok(()) };
    let stored = keys::idempotency(id.instance(), key);
    if let Some(bytes) = tx.get(&stored)? {
        let answer: IdempotencyRecord = store::decode(&bytes)?;
        if answer.id == id {
            tx.delete(stored)?;
            tx.delete(keys::idempotency_expiry(answer.expires, id.instance(), key))?;
        }
    }
    Ok(())
}

/// Takes a message back. `Ok(true)`: it was not tried and will not be. `Ok(false)`: an attempt is under way or
/// over, or there is no such job.
pub(super) fn withdraw(tx: &mut Tx, id: MessageId, now: Timestamp) -> Result<bool, Error> {
    let Some(job) = Job::read(tx, id)? else { return Ok(false) };
    let lane = job.lane(id);
    if InFlight::read(tx, lane)?.is_some_and(|flight| flight.id == id) {
        return Ok(false);
    }
    let mut row = LedgerEntry::read(tx, id)?.unwrap_or_else(|| LedgerEntry::new(&job));
    if !row.advance(LedgerStep::new(Status::Cancelled, now)) {
        return Ok(false);
    }
    let mut book = QueueCounters::read(tx, id.instance())?;
    leave_lane(tx, &mut book, &job, id, now)?;
    if let Some(due) = row.due.take() {
        tx.delete(keys::due(id, due))?;
    }
    free_key(tx, id, &job)?;
    tx.delete(keys::job(id))?;
    *book.depth(id.class()) = book.depth(id.class()).saturating_sub(1);
    book.write(tx, id.instance())?;
    row.persist(tx, id)?;
    Ok(true)
}

/// Takes a waiting job out of its lane, wherever in the lane it stands.
pub(super) fn leave_lane(
    tx: &mut Tx,
    book: &mut QueueCounters,
    job: &Job,
    id: MessageId,
    now: Timestamp,
) -> Result<(), Error> {
    let lane = job.lane(id);
    let unread = !job.scheduled && !book.has_read_arrival(id);
    if *book.waiting(lane.class) == 0 || unread {
        return Ok(());
    }
    let mut place = None;
    let mut first = true;
    for entry in tx.range(&lane.waiting(), &lane.waiting().after_prefix()) {
        let (key, value) = entry?;
        if let Some((found, not_before)) = keys::parse_waiting(&value)
            && found == id
        {
            place = keys::trailing_order(&key).map(|order| (order, not_before));
            break;
        }
        first = false;
    }
    let Some((order, not_before)) = place else { return Ok(()) };
    tx.delete(lane.waiting_at(order))?;
    *book.waiting(lane.class) -= 1;
    if first && tx.get(&lane.in_flight())?.is_none() {
        // The lane's wake-up was its head's. One that is due already is noticed and forgotten with the next look.
        if let Some(moment) = not_before {
            tx.delete(lane.wake(moment))?;
        }
        if lane_head(tx, lane)?.is_some() {
            tx.put(lane.wake(now), Vec::new())?;
        }
    }
    Ok(())
}
