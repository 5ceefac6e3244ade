//! Finding work: which messages an instance may attempt now.

use relevo_domain::{Class, InstanceNumber, MessageId, Timestamp};
use relevo_store::{self as store, Error, Tx};

use super::record::{Book, Flight, Head, Job, Row, head, is_busy, wait_in_lane};
use super::{Lease, Leased, keys, settle};

/// Of this many turns, the last belongs to the bulk class first: transactional messages go before bulk ones, and
/// a steady stream of them does not starve the others.
const BULK_TURN: u64 = 5;

/// The most jobs that one request for work moves without handing them out (arrivals into busy lanes, old ones away),
/// so that it never holds up the writer.
const MOVES: usize = 512;

/// Due messages that every request brings back, if there are so many.
const LEAST_BROUGHT_BACK: usize = 16;

/// Who asks for work, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
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
pub(super) struct Found {
    pub leased: Leased,
    /// Messages that had grown too old; somebody may wait for them.
    pub expired: Vec<MessageId>,
}

/// Hands out up to `max` leases, of them up to `max_bulk` of bulk messages; each is durable with this commit.
pub(super) fn lease(tx: &mut Tx, request: Request) -> Result<Found, Error> {
    let before = Book::read(tx, request.instance)?;
    let mut search = Search {
        tx,
        request,
        book: before.clone(),
        bulk_left: request.max_bulk,
        moves: 0,
        found: Found::default(),
    };
    search.bring_back_due()?;
    while search.found.leased.leases.len() < request.max && search.moves < MOVES {
        let bulk_first = search.book.turn % BULK_TURN == BULK_TURN - 1;
        let order = if bulk_first { [Class::Bulk, Class::Transactional] } else { Class::ALL };
        if !search.take(order[0])? && !search.take(order[1])? {
            break;
        }
        search.book.turn += 1;
    }
    let next_due = if search.moves >= MOVES { Some(request.now) } else { search.next_due()? };
    let Search { book, mut found, .. } = search;
    found.leased.next_due = next_due;
    if book != before {
        book.write(tx, request.instance)?;
    }
    Ok(found)
}

struct Search<'a, 'b> {
    tx: &'a mut Tx<'b>,
    request: Request,
    book: Book,
    /// Bulk messages that may still be handed out.
    bulk_left: usize,
    moves: usize,
    found: Found,
}

impl Search<'_, '_> {
    /// Puts messages whose moment has come at the end of their lanes: a few more than are asked for, so that a
    /// hundred thousand with one moment begin to leave at once.
    fn bring_back_due(&mut self) -> Result<(), Error> {
        let limit = self.request.max.saturating_mul(2).clamp(LEAST_BROUGHT_BACK, MOVES);
        let (start, end) =
            (keys::dues(self.request.instance), keys::due_after(self.request.instance, self.request.now));
        let due: Vec<_> = {
            let entries = self.tx.range(&start, &end).take(limit);
            entries.map(|entry| entry.map(|(key, _)| key)).collect::<Result<_, _>>()?
        };
        for key in due {
            let id = keys::parse_due(&key).map(|(_, id)| id);
            self.tx.delete(key.into());
            let Some(id) = id else { continue };
            let Some(job) = Job::read(self.tx, id)? else { continue };
            let mut row = Row::read(self.tx, id)?.unwrap_or_else(|| Row::new(&job));
            row.due = None;
            row.requeue(self.request.now);
            row.write(self.tx, id)?;
            wait_in_lane(self.tx, &mut self.book, job.lane(id), id, self.request.now)?;
        }
        Ok(())
    }

    /// Leases one job of a class; `false` when it has none that may go now.
    fn take(&mut self, class: Class) -> Result<bool, Error> {
        if class == Class::Bulk && self.bulk_left == 0 {
            return Ok(false);
        }
        let taken = self.take_any(class)?;
        if taken && class == Class::Bulk {
            self.bulk_left -= 1;
        }
        Ok(taken)
    }

    /// Lanes that go on and arrivals take turns
    /// at being first: any number of busy lanes leaves room for a recipient who was not written to yet.
    fn take_any(&mut self, class: Class) -> Result<bool, Error> {
        if !self.book.turn.is_multiple_of(2) && self.take_arrival(class)? {
            return Ok(true);
        }
        Ok(self.take_woken(class)? || self.take_arrival(class)?)
    }

    /// The head of the first lane that waited for a moment that has come.
    fn take_woken(&mut self, class: Class) -> Result<bool, Error> {
        let instance = self.request.instance;
        let end = keys::wakes_until(instance, class, Timestamp(self.request.now.millis() + 1));
        while let Some((key, _)) = self.tx.first(&keys::wakes(instance, class), &end)? {
            let woken = keys::parse_wake(&key);
            self.tx.delete(key.into());
            let Some((_, lane)) = woken else { continue };
            if self.take_head(keys::LaneKey { instance, class, lane })? {
                return Ok(true);
            }
            if self.moves >= MOVES {
                break;
            }
        }
        Ok(false)
    }

    /// The first job of a lane, leaving out those that have grown too old.
    fn take_head(&mut self, lane: keys::LaneKey) -> Result<bool, Error> {
        if self.tx.get(&lane.flight())?.is_some() {
            return Ok(false);
        }
        while let Some(Head { order, id, not_before }) = head(self.tx, lane)? {
            if not_before.is_some_and(|moment| moment > self.request.now) {
                // Woken on behalf of a job that is gone; the head has a wake-up of its own, still to come.
                return Ok(false);
            }
            let Some(job) = Job::read(self.tx, id)? else {
                self.forget_waiting(lane, order);
                continue;
            };
            if self.expired(&job) {
                if self.moves >= MOVES {
                    // The lane goes on with the next request.
                    self.tx.put(lane.wake(self.request.now), Vec::new())?;
                    return Ok(false);
                }
                self.forget_waiting(lane, order);
                self.expire(id, &job)?;
                continue;
            }
            let row = Row::read(self.tx, id)?;
            let (tries, failures) = row.map_or((0, 0), |row| (row.attempts, row.failures));
            self.hand_out(lane, id, job, Tried { tries, failures }, Place { order, waits: true })?;
            return Ok(true);
        }
        Ok(false)
    }

    /// The next arrival whose lane is free; those before it join their busy lanes.
    fn take_arrival(&mut self, class: Class) -> Result<bool, Error> {
        let instance = self.request.instance;
        let end = keys::jobs(instance, class).after_prefix();
        while self.moves < MOVES {
            let start = match *self.book.cursor(class) {
                Some(cursor) => keys::job(cursor).successor(),
                None => keys::jobs(instance, class),
            };
            let Some((key, _)) = self.tx.first(&start, &end)? else { return Ok(false) };
            let Some(id) = keys::trailing_id(&key) else { return Ok(false) };
            *self.book.cursor(class) = Some(id);
            let Some(job) = Job::read(self.tx, id)? else { continue };
            if job.scheduled {
                self.moves += 1;
                continue;
            }
            if self.expired(&job) {
                self.expire(id, &job)?;
                continue;
            }
            let lane = job.lane(id);
            if is_busy(self.tx, &mut self.book, lane)? {
                wait_in_lane(self.tx, &mut self.book, lane, id, self.request.now)?;
                self.moves += 1;
                continue;
            }
            self.book.order += 1;
            let place = Place { order: self.book.order, waits: false };
            self.hand_out(lane, id, job, Tried { tries: 0, failures: 0 }, place)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn hand_out(
        &mut self,
        lane: keys::LaneKey,
        id: MessageId,
        job: Job,
        tried: Tried,
        place: Place,
    ) -> Result<(), Error> {
        let flight = Flight {
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
        self.found.leased.leases.push(lease_of(&flight, job));
        Ok(())
    }

    fn expired(&self, job: &Job) -> bool {
        job.expires_at.is_some_and(|at| at <= self.request.now)
    }

    fn expire(&mut self, id: MessageId, job: &Job) -> Result<(), Error> {
        settle::expire(self.tx, &mut self.book, id, job, self.request.now)?;
        self.found.expired.push(id);
        self.moves += 1;
        Ok(())
    }

    fn forget_waiting(&mut self, lane: keys::LaneKey, order: u64) {
        self.tx.delete(lane.waiting_at(order));
        let waiting = self.book.waiting(lane.class);
        *waiting = waiting.saturating_sub(1);
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
        let dues = keys::dues(instance);
        let first = self.tx.first(&dues, &dues.clone().after_prefix())?;
        let due = first.and_then(|(key, _)| keys::parse_due(&key)).map(|(due, _)| due);
        Ok([earliest, due].into_iter().flatten().min())
    }
}

/// How often a message was tried before.
struct Tried {
    tries: u32,
    failures: u32,
}

/// Where in its lane a message stands.
struct Place {
    order: u64,
    waits: bool,
}

pub(super) fn lease_of(flight: &Flight, job: Job) -> Lease {
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
pub(super) fn overdue(
    tx: &mut Tx,
    now: Timestamp,
    run: u64,
    lease_timeout: std::time::Duration,
    limit: usize,
) -> Result<Vec<(Lease, bool)>, Error> {
    let mut found = Vec::new();
    let all = keys::flights(None);
    for entry in tx.range(&all, &all.clone().after_prefix()) {
        let flight: Flight = store::decode(&entry?.1)?;
        let (over, held) = match flight.held_until {
            Some(until) => (until <= now, true),
            None => (flight.run != run || flight.at + lease_timeout <= now, false),
        };
        if over && let Some(job) = Job::read(tx, flight.id)? {
            found.push((lease_of(&flight, job), held));
            if found.len() >= limit {
                break;
            }
        }
    }
    Ok(found)
}
