//! Leasing: selects the messages that an instance may attempt now.

use relevo_domain::{Class, InstanceNumber, MessageId, OpenAttempt, Overdue, Timestamp};
use relevo_store::{self as store, Error, Tx};

use super::records::{
    InFlight, Job, LaneHead, LedgerEntry, QueueCounters, append_to_lane, is_lane_busy, lane_head,
};
use super::{Lease, LeaseBatch, keys, settle};

/// In every this many turns, the bulk class comes first once. Otherwise transactional messages come first; so they do not
/// starve bulk ones.
const TURNS_PER_BULK_TURN: u64 = 5;

/// Maximum number of jobs that one request moves without leasing them (arrivals into busy lanes, expired ones), so that
/// it never blocks the writer for long.
const MAX_MOVES: usize = 512;

/// Minimum number of due messages that one request returns to their lanes, if there are as many.
const MIN_DUE_REQUEUED: usize = 16;

/// A request for leases.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaseRequest {
    pub instance: InstanceNumber,
    /// Maximum number of leases.
    pub max: usize,
    /// Maximum number of leases of the bulk class.
    pub max_bulk: usize,
    pub now: Timestamp,
    /// Messages that expire at this time or before are not sent. It differs from `now` while the clock is doubted.
    pub expiry_time: Timestamp,
    /// The current run of the process.
    pub run: u64,
}

/// The result of a request for leases.
#[derive(Debug, Default)]
pub(super) struct LeaseResult {
    pub batch: LeaseBatch,
    /// Messages that expired; callers may be waiting for them.
    pub expired: Vec<MessageId>,
}

/// Grants up to `max` leases, at most `max_bulk` of them for bulk messages. They are durable with this commit.
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
    let LeaseSearch { counters, result: mut found, .. } = search;
    found.batch.next_due = next_due;
    if counters != before {
        counters.write(tx, request.instance)?;
    }
    Ok(found)
}

/// The state of one request while it searches for jobs.
struct LeaseSearch<'a, 'b> {
    tx: &'a mut Tx<'b>,
    request: LeaseRequest,
    counters: QueueCounters,
    /// Bulk messages that may still be leased.
    bulk_left: usize,
    moves: usize,
    result: LeaseResult,
}

impl LeaseSearch<'_, '_> {
    /// Appends due messages to their lanes: a few more than requested, so that the first of very many messages with the
    /// same due time are sent without delay.
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
            let mut entry = LedgerEntry::read(self.tx, id)?.unwrap_or_else(|| LedgerEntry::new(&job));
            entry.due = None;
            entry.requeue(self.request.now);
            entry.write(self.tx, id)?;
            append_to_lane(self.tx, &mut self.counters, job.lane(id), id, self.request.now)?;
        }
        Ok(())
    }

    /// Leases one job of a class. Returns `false` when none may be sent now.
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

    /// Alternates between woken lanes and arrivals, so that busy lanes do not starve new recipients.
    fn lease_any(&mut self, class: Class) -> Result<bool, Error> {
        if !self.counters.turn.is_multiple_of(2) && self.lease_arrival(class)? {
            return Ok(true);
        }
        Ok(self.lease_woken(class)? || self.lease_arrival(class)?)
    }

    /// Leases the head of the first lane whose wake-up is due.
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

    /// Leases the first job of a lane that has not expired.
    fn lease_head(&mut self, lane: keys::LaneKey) -> Result<bool, Error> {
        if self.tx.get(&lane.in_flight())?.is_some() {
            return Ok(false);
        }
        while let Some(LaneHead { order, id, not_before }) = lane_head(self.tx, lane)? {
            if not_before.is_some_and(|moment| moment > self.request.now) {
                // The wake-up was for a deleted job; the head has a later one.
                return Ok(false);
            }
            let Some(job) = Job::read(self.tx, id)? else {
                self.delete_waiting(lane, order)?;
                continue;
            };
            if self.is_expired(&job) {
                if self.moves >= MAX_MOVES {
                    // The next request continues with this lane.
                    self.tx.put(lane.wake(self.request.now), keys::set_at_value(self.request.now))?;
                    return Ok(false);
                }
                self.delete_waiting(lane, order)?;
                self.expire(id, &job)?;
                continue;
            }
            let entry = LedgerEntry::read(self.tx, id)?;
            let (attempts, failures) = entry.map_or((0, 0), |entry| (entry.attempts, entry.failures));
            self.grant_lease(
                lane,
                id,
                job,
                PriorAttempts { attempts, failures },
                LanePosition { order, waits: true },
            )?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Leases the next arrival whose lane is free. Moves the arrivals before it into their busy lanes.
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
            let position = LanePosition { order: self.counters.order, waits: false };
            self.grant_lease(lane, id, job, PriorAttempts { attempts: 0, failures: 0 }, position)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Writes the attempt of a lane and adds the lease to the result.
    fn grant_lease(
        &mut self,
        lane: keys::LaneKey,
        id: MessageId,
        job: Job,
        prior: PriorAttempts,
        position: LanePosition,
    ) -> Result<(), Error> {
        let flight = InFlight {
            id,
            attempt: prior.attempts + 1,
            failures: prior.failures,
            at: self.request.now,
            order: position.order,
            waits: position.waits,
            held_until: None,
            run: self.request.run,
        };
        flight.write(self.tx, lane)?;
        self.result.batch.leases.push(lease_from_attempt(&flight, job));
        Ok(())
    }

    fn is_expired(&self, job: &Job) -> bool {
        job.expires_at.is_some_and(|at| at <= self.request.expiry_time)
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

    /// The earliest moment at which a waiting message may be sent. Bulk messages beyond `max_bulk` wait for a free worker
    /// and do not count.
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

/// Number of earlier attempts of a message.
struct PriorAttempts {
    attempts: u32,
    failures: u32,
}

/// The position of a message in its lane, as [`InFlight`] stores it.
struct LanePosition {
    order: u64,
    waits: bool,
}

/// The lease of an attempt.
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

/// Attempts whose outcome must be decided now, because it will not be reported.
pub(super) fn find_overdue(
    tx: &mut Tx,
    now: Timestamp,
    run: u64,
    lease_timeout: std::time::Duration,
    limit: usize,
) -> Result<Vec<(Lease, Overdue)>, Error> {
    let mut found = Vec::new();
    let all = keys::all_in_flight(None);
    for entry in tx.range(&all, &all.clone().after_prefix()) {
        let flight: InFlight = store::decode(&entry?.1)?;
        let attempt = OpenAttempt {
            leased_at: flight.at,
            is_of_this_run: flight.run == run,
            held_until: flight.held_until,
        };
        if let Some(overdue) = attempt.overdue(now, lease_timeout)
            && let Some(job) = Job::read(tx, flight.id)?
        {
            found.push((lease_from_attempt(&flight, job), overdue));
            if found.len() >= limit {
                break;
            }
        }
    }
    Ok(found)
}
