//! Finding work: which messages an instance may attempt now.

use relevo_domain::{Class, InstanceNumber, MessageId, Timestamp};
use relevo_store::{self as store, Error, Tx};

use super::records::{
    InFlight, Job, LaneHead, LedgerEntry, QueueCounters, append_to_lane, is_lane_busy, lane_head,
};
use super::{Lease, LeaseBatch, keys, settle};

/// Of this many turns, the last belongs to the bulk class first: transactional messages go before bulk ones, and
/// a steady stream of them does not starve the others.
const TURNS_PER_BULK_TURN: u64 = 5;

/// The most jobs that one request for work moves without handing them out (arrivals into busy lanes, old ones away),
/// so that it never holds up the writer.
const MAX_MOVES: usize = 512;

/// Due messages that every request brings back, if there are so many.
const MIN_DUE_REQUEUED: usize = 16;

/// Who asks for work, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaseRequest {
    pub instance: InstanceNumber,
    pub max: usize,
    /// Of them, at most so many of the bulk class.
    pub max_bulk: usize,
    pub now: Timestamp,
    /// This run of the process.
    pub run: u64,
}

/// What a look for work brought to light.
#[derive(Debug, Default)]
pub(super) struct LeaseResult {
    pub batch: LeaseBatch,
    /// Messages that had grown too old; somebody may wait for them.
    pub expired: Vec<MessageId>,
}

/// Hands out up to `max` leases, of them up to `max_bulk` of bulk messages; each is durable with this commit.
pub(super) fn lease(tx: &mut Tx, request: LeaseRequest) -> Result<LeaseResult, Error> {
    let before = QueueCounters::read(tx, request.instance)?;
    let mut search = LeaseSearch {
        tx,
        request,
        counters: before.clone(),
        bulk_left: request.max_bulk,
        moves: 0,
        result: LeaseResult::default(),
    };
    search.requeue_due()?;
    while search.result.batch.leases.len() < request.max && search.moves < MAX_MOVES {
        let bulk_first = search.counters.turn % TURNS_PER_BULK_TURN == TURNS_PER_BULK_TURN - 1;
        let order = if bulk_first { [Class::Bulk, Class::Transactional] } else { Class::ALL };
        if !search.lease_one(order[0])? && !search.lease_one(order[1])? {
            break;
        }
        search.counters.turn += 1;
    }
    let next_due = if search.moves >= MAX_MOVES { Some(request.now) } else { search.next_due()? };
    let LeaseSearch { counters: book, result: mut found, .. } = search;
    found.batch.next_due = next_due;
    if book != before {
        book.write(tx, request.instance)?;
    }
    Ok(found)
}

struct LeaseSearch<'a, 'b> {
    tx: &'a mut Tx<'b>,
    request: LeaseRequest,
    counters: QueueCounters,
    /// Bulk messages that may still be handed out.
    bulk_left: usize,
    moves: usize,
    result: LeaseResult,
}

impl LeaseSearch<'_, '_> {
    /// Puts messages whose moment has come at the end of their lanes: a few more than are asked for, so that a
    /// hundred thousand with one moment begin to leave at once.
    fn requeue_due(&mut self) -> Result<(), Error> {
        let limit = self.request.max.saturating_mul(2).clamp(MIN_DUE_REQUEUED, MAX_MOVES);
        let (start, end) =
            (keys::all_due(self.request.instance), keys::due_after(self.request.instance, self.request.now));
        let due: Vec<_> = {
            let entries = self.tx.range(&start, &end).take(limit);
            entries.map(|entry| entry.map(|(key, _)| key)).collect::<Result<_, _>>()?
        };
        for key in due {
            let id = keys::parse_due(&key).map(|(_, id)| id);
            self.tx.delete(key.into())?;
            let Some(id) = id else { continue };
            let Some(job) = Job::read(self.tx, id)? else { continue };
            let mut row = LedgerEntry::read(self.tx, id)?.unwrap_or_else(|| LedgerEntry::new(&job));
            row.due = None;
            row.requeue(self.request.now);
            row.write(self.tx, id)?;
            append_to_lane(self.tx, &mut self.counters, job.lane(id), id, self.request.now)?;
        }
        Ok(())
    }

    /// Leases one job of a class; `false` when it has none that may go now.
    fn lease_one(&mut self, class: Class) -> Result<bool, Error> {
        if class == Class::Bulk && self.bulk_left == 0 {
            return Ok(false);
        }
        let taken = self.lease_any(class)?;
        if taken && class == Class::Bulk {
            self.bulk_left -= 1;
        }
        Ok(taken)
    }

    /// Lanes that go on and arrivals take turns
    /// at being first: any number of busy lanes leaves room for a recipient who was not written to yet.
    fn lease_any(&mut self, class: Class) -> Result<bool, Error> {
        if !self.counters.turn.is_multiple_of(2) && self.lease_arrival(class)? {
            return Ok(true);
        }
        Ok(self.lease_woken(class)? || self.lease_arrival(class)?)
    }

    /// The head of the first lane that waited for a moment that has come.
    fn lease_woken(&mut self, class: Class) -> Result<bool, Error> {
        let instance = self.request.instance;
        let end = keys::wakes_until(instance, class, Timestamp(self.request.now.millis() + 1));
        while let Some((key, _)) = self.tx.first(&keys::wakes(instance, class), &end)? {
            let woken = keys::parse_wake(&key);
            self.tx.delete(key.into())?;
            let Some((_, lane)) = woken else { continue };
            if self.lease_head(keys::LaneKey { instance, class, lane })? {
                return Ok(true);
            }
            if self.moves >= MAX_MOVES {
                break;
            }
        }
        Ok(false)
    }

    /// The first job of a lane, leaving out those that have grown too old.
    fn lease_head(&mut self, lane: keys::LaneKey) -> Result<bool, Error> {
        if self.tx.get(&lane.in_flight())?.is_some() {
            return Ok(false);
        }
        while let Some(LaneHead { order, id, not_before }) = lane_head(self.tx, lane)? {
            if not_before.is_some_and(|moment| moment > self.request.now) {
                // Woken on behalf of a job that is gone; the head has a wake-up of its own, still to come.
                return Ok(false);
            }
            let Some(job) = Job::read(self.tx, id)? else {
                self.delete_waiting(lane, order)?;
                continue;
            };
            if self.is_expired(&job) {
                if self.moves >= MAX_MOVES {
                    // The lane goes on with the next request.
                    self.tx.put(lane.wake(self.request.now), Vec::new())?;
                    return Ok(false);
                }
                self.delete_waiting(lane, order)?;
                self.expire(id, &job)?;
                continue;
            }
            let row = LedgerEntry::read(self.tx, id)?;
            let (tries, failures) = row.map_or((0, 0), |row| (row.attempts, row.failures));
            self.grant_lease(
                lane,
                id,
                job,
                PriorAttempts { tries, failures },
                LanePosition { order, waits: true },
            )?;
            return Ok(true);
        }
        Ok(false)
    }

    /// The next arrival whose lane is free; those before it join their busy lanes.
    fn lease_arrival(&mut self, class: Class) -> Result<bool, Error> {
        let instance = self.request.instance;
        let end = keys::jobs(instance, class).after_prefix();
        while self.moves < MAX_MOVES {
            let start = match *self.counters.cursor(class) {
                Some(cursor) => keys::job(cursor).successor(),
                None => keys::jobs(instance, class),
            };
            let Some((key, _)) = self.tx.first(&start, &end)? else { return Ok(false) };
            let Some(id) = keys::trailing_id(&key) else { return Ok(false) };
            *self.counters.cursor(class) = Some(id);
            let Some(job) = Job::read(self.tx, id)? else { continue };
            if job.scheduled {
                self.moves += 1;
                continue;
            }
            if self.is_expired(&job) {
                self.expire(id, &job)?;
                continue;
            }
            let lane = job.lane(id);
            if is_lane_busy(self.tx, &mut self.counters, lane)? {
                append_to_lane(self.tx, &mut self.counters, lane, id, self.request.now)?;
                self.moves += 1;
                continue;
            }
            self.counters.order += 1;
            let place = LanePosition { order: self.counters.order, waits: false };
            self.grant_lease(lane, id, job, PriorAttempts { tries: 0, failures: 0 }, place)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn grant_lease(
        &mut self,
        lane: keys::LaneKey,
        id: MessageId,
        job: Job,
        tried: PriorAttempts,
        place: LanePosition,
    ) -> Result<(), Error> {
        let flight = InFlight {
            id,
            attempt: tried.tries + 1,
            failures: tried.failures,
            at: self.request.now,
            order: place.order,
            waits: place.waits,
            held_until: None,
            run: self.request.run,
        };
        flight.write(self.tx, lane)?;
        self.result.batch.leases.push(lease_from_attempt(&flight, job));
        Ok(())
    }

    fn is_expired(&self, job: &Job) -> bool {
        job.expires_at.is_some_and(|at| at <= self.request.now)
    }

    fn expire(&mut self, id: MessageId, job: &Job) -> Result<(), Error> {
        settle::expire(self.tx, &mut self.counters, id, job, self.request.now)?;
        self.result.expired.push(id);
        self.moves += 1;
        Ok(())
    }

    fn delete_waiting(&mut self, lane: keys::LaneKey, order: u64) -> Result<(), Error> {
        self.tx.delete(lane.waiting_at(order))?;
        let waiting = self.counters.waiting(lane.class);
        *waiting = waiting.saturating_sub(1);
        Ok(())
    }

    /// The earliest moment at which something that waits now may go. Bulk messages for which there is no room wait
    /// for that, not for a moment.
    fn next_due(&self) -> Result<Option<Timestamp>, Error> {
        let instance = self.request.instance;
        let mut earliest: Option<Timestamp> = None;
        for class in Class::ALL {
            if class == Class::Bulk && self.bulk_left == 0 && self.request.max_bulk < self.request.max {
                continue;
            }
            let wakes = keys::wakes(instance, class);
            let first = self.tx.first(&wakes, &wakes.clone().after_prefix())?;
            let due = first.and_then(|(key, _)| keys::parse_wake(&key)).map(|(due, _)| due);
            earliest = [earliest, due].into_iter().flatten().min();
        }
        let dues = keys::all_due(instance);
        let first = self.tx.first(&dues, &dues.clone().after_prefix())?;
        let due = first.and_then(|(key, _)| keys::parse_due(&key)).map(|(due, _)| due);
        Ok([earliest, due].into_iter().flatten().min())
    }
}

/// How often a message was tried before.
struct PriorAttempts {
    tries: u32,
    failures: u32,
}

/// Where in its lane a message stands.
struct LanePosition {
    order: u64,
    waits: bool,
}

pub(super) fn lease_from_attempt(flight: &InFlight, job: Job) -> Lease {
    Lease {
        id: flight.id,
        message: job.message,
        mode: job.mode,
        on_ambiguous: job.on_ambiguous,
        repeatable: job.repeatable,
        failures: flight.failures,
        attempt: flight.attempt,
        leased_at: flight.at,
    }
}

/// Leases that nobody will settle: those of an earlier run of the process, those older than `lease_timeout`, and
/// unknown outcomes that were held long enough.
pub(super) fn find_overdue(
    tx: &mut Tx,
    now: Timestamp,
    run: u64,
    lease_timeout: std::time::Duration,
    limit: usize,
) -> Result<Vec<(Lease, bool)>, Error> {
    let mut found = Vec::new();
    let all = keys::all_in_flight(None);
    for entry in tx.range(&all, &all.clone().after_prefix()) {
        let flight: InFlight = store::decode(&entry?.1)?;
        let (over, held) = match flight.held_until {
            Some(until) => (until <= now, true),
            None => (flight.run != run || flight.at + lease_timeout <= now, false),
        };
        if over && let Some(job) = Job::read(tx, flight.id)? {
            found.push((lease_from_attempt(&flight, job), held));
            if found.len() >= limit {
                break;
            }
        }
    }
    Ok(found)
}
