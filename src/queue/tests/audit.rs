//! Holding every record in the store to what the model knows, and to each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::events;
use crate::queue::keys;
use crate::queue::records::{InFlight, LedgerEntry, QueueCounters};
use crate::queue::tests::reference_model::{ModelMessage, ModelState, QueueModel, number};
use relevo_domain::{Class, MessageId, Status, Timestamp};
use relevo_store::{self as store, Key, KeyValue, Space};

/// What waits in each lane: order, message, and when it may go.
type LaneContents = BTreeMap<Vec<u8>, Vec<(u64, MessageId, Option<Timestamp>)>>;

type Flights = BTreeMap<Vec<u8>, InFlight>;

/// The store's records by space.
struct RecordsBySpace(BTreeMap<u8, Vec<KeyValue>>);

impl RecordsBySpace {
    fn in_space(&self, space: Space) -> &[KeyValue] {
        self.0.get(&(space as u8)).map_or(&[], Vec::as_slice)
    }
}

fn trailing_id(key: &[u8]) -> MessageId {
    keys::trailing_id(key).unwrap()
}

/// Instance, class and lane as they stand in the keys of lanes and flights.
fn lane_bytes(key: &[u8]) -> Vec<u8> {
    key[1..14].to_vec()
}

impl QueueModel<'_> {
    fn records(&self) -> RecordsBySpace {
        let mut records: BTreeMap<u8, Vec<KeyValue>> = BTreeMap::new();
        for entry in self.store.entries() {
            records.entry(entry.0[0]).or_default().push(entry);
        }
        RecordsBySpace(records)
    }

    fn counters(&self, instance: usize) -> QueueCounters {
        self.store.write(|tx| QueueCounters::read(tx, number(instance))).unwrap()
    }

    /// Everything that must be true between any two commits.
    pub fn audit(&self) {
        let records = self.records();
        self.audit_jobs(&records);
        self.audit_lanes(&records);
        self.audit_rows(&records);
        self.audit_keys(&records);
        self.audit_outcomes(records.in_space(Space::ItemOutcome));
        audit_parts(&records);
    }

    fn audit_jobs(&self, records: &RecordsBySpace) {
        let jobs: BTreeSet<_> =
            records.in_space(Space::Job).iter().map(|(key, _)| trailing_id(key)).collect();
        let open: BTreeSet<_> =
            self.messages.iter().filter(|known| known.is_open()).map(|known| known.id).collect();
        assert_eq!(jobs, open, "jobs are exactly the open messages");
        for instance in 0..2 {
            let mut book = self.counters(instance);
            for class in Class::ALL {
                let open = self.open(instance).filter(|known| known.id.class() == class).count();
                assert_eq!(*book.depth(class), open as u64, "depth of {class:?}");
            }
        }
        for (_, bytes) in records.in_space(Space::DeadLetter) {
            // Whole jobs, which can be sent again.
            assert!(bytes.len() > 2);
        }
        let dead: BTreeSet<_> =
            records.in_space(Space::DeadLetter).iter().map(|(key, _)| trailing_id(key)).collect();
        let expected: BTreeSet<_> = (0..self.messages.len())
            .filter(|&message| self.is_dead_letter(message))
            .map(|message| self.messages[message].id)
            .collect();
        assert_eq!(dead, expected, "dead letters");
    }

    /// Every open message is in exactly one place, and every lane that may go on will be woken.
    fn audit_lanes(&self, records: &RecordsBySpace) {
        let mut flights: Flights = Flights::new();
        for (key, value) in records.in_space(Space::InFlight) {
            flights.insert(lane_bytes(key), store::decode(value).unwrap());
        }
        let mut lanes: LaneContents = LaneContents::new();
        for (key, value) in records.in_space(Space::Lane) {
            let (id, not_before) = keys::parse_waiting(value).unwrap();
            let place = (keys::trailing_order(key).unwrap(), id, not_before);
            lanes.entry(lane_bytes(key)).or_default().push(place);
        }
        let dues: BTreeMap<_, _> = records
            .in_space(Space::Due)
            .iter()
            .map(|(key, _)| keys::parse_due(key).unwrap())
            .map(|(at, id)| (id, at))
            .collect();
        for known in self.messages.iter().filter(|known| known.is_open()) {
            self.audit_place(known, &flights, &lanes, &dues);
        }
        for instance in (0..2).filter(|&instance| !self.purged[instance]) {
            let mut book = self.counters(instance);
            for class in Class::ALL {
                let prefix =
                    [&number(instance).get().to_be_bytes()[..], &[u8::from(class == Class::Bulk)]].concat();
                let waiting =
                    lanes.iter().filter(|(lane, _)| lane.starts_with(&prefix)).map(|(_, jobs)| jobs.len());
                assert_eq!(*book.waiting(class), waiting.sum::<usize>() as u64, "waiting of {class:?}");
            }
        }
        let placed =
            lanes.values().flatten().map(|(_, id, _)| *id).chain(flights.values().map(|flight| flight.id));
        for id in placed.chain(dues.keys().copied()) {
            assert!(self.messages.iter().any(|known| known.id == id && known.is_open()), "an orphan: {id}");
        }
        self.audit_wakes(records, &flights, &lanes);
    }

    fn audit_place(
        &self,
        known: &ModelMessage,
        flights: &Flights,
        lanes: &LaneContents,
        dues: &BTreeMap<MessageId, Timestamp>,
    ) {
        let unread = !known.scheduled && !self.counters(known.instance).has_read_arrival(known.id);
        let flight = flights.iter().find(|(_, flight)| flight.id == known.id);
        let waits: Vec<_> = lanes
            .iter()
            .flat_map(|(lane, jobs)| jobs.iter().map(move |job| (lane, job)))
            .filter(|(_, job)| job.1 == known.id)
            .collect();
        let due = dues.get(&known.id).copied();
        match &known.state {
            ModelState::InFlight { attempt, at, run, held_until } => {
                let (lane, flight) = flight.unwrap();
                let expected = (*attempt, *at, *run, *held_until, known.failures);
                assert_eq!(
                    (flight.attempt, flight.at, flight.run, flight.held_until, flight.failures),
                    expected
                );
                assert!(!unread && due.is_none());
                assert_eq!(waits.len(), usize::from(flight.waits));
                let behind = lanes.get(lane).into_iter().flatten().filter(|job| job.1 != known.id);
                assert!(
                    behind.map(|job| job.0).all(|order| order > flight.order),
                    "a flight is first in its lane"
                );
            }
            ModelState::Waiting => {
                assert!(flight.is_none() && due.is_none(), "{known:?}");
                assert_eq!(usize::from(unread) + waits.len(), 1, "in one place: {known:?}");
                let not_before = waits.first().and_then(|(_, job)| job.2).unwrap_or_default();
                assert_eq!(not_before, known.not_before, "{known:?}");
            }
            // One whose moment has come lies there until the next look.
            ModelState::Deferred(at) => {
                assert!(flight.is_none() && waits.is_empty() && !unread, "{known:?}");
                assert_eq!(due, Some(*at));
            }
            ModelState::Settled => panic!("an open message that is over"),
        }
    }

    fn audit_wakes(&self, records: &RecordsBySpace, flights: &Flights, lanes: &LaneContents) {
        let mut wakes: BTreeMap<Vec<u8>, Vec<Timestamp>> = BTreeMap::new();
        for (key, _) in records.in_space(Space::Wake) {
            let (due, lane) = keys::parse_wake(key).unwrap();
            let lane = [&key[1..6], &lane.0.to_be_bytes()[..]].concat();
            wakes.entry(lane).or_default().push(due);
        }
        for (lane, jobs) in lanes.iter().filter(|(lane, _)| !flights.contains_key(*lane)) {
            let not_before = jobs[0].2.unwrap_or_default();
            let soon = wakes
                .get(lane)
                .into_iter()
                .flatten()
                .any(|&due| due >= not_before && (due == not_before || due <= self.latest));
            assert!(soon, "a lane that nobody will wake: {jobs:?}");
        }
        for (lane, dues) in wakes {
            let head = lanes.get(&lane).filter(|_| !flights.contains_key(&lane)).and_then(|jobs| jobs[0].2);
            for due in dues {
                assert!(due <= self.latest || Some(due) == head, "a wake-up for nobody");
            }
        }
    }

    fn audit_rows(&self, records: &RecordsBySpace) {
        let mut rows: BTreeMap<MessageId, LedgerEntry> = BTreeMap::new();
        for (key, value) in records.in_space(Space::Ledger) {
            rows.insert(trailing_id(key), store::decode(value).unwrap());
        }
        let mut named = BTreeMap::new();
        for known in &self.messages {
            if known.id.item().is_some() && !known.is_open() {
                assert_eq!(rows.remove(&known.id), None, "a row of the ledger for a settled row of a job");
                continue;
            }
            let Some(row) = rows.remove(&known.id) else {
                let plain = known.status == Status::Queued && known.attempts == 0;
                assert!(
                    plain || known.entry_deleted || self.purged[known.instance],
                    "a row is missing: {known:?}"
                );
                continue;
            };
            assert!(!known.entry_deleted, "a row stayed: {known:?}");
            let mut status = Status::Queued;
            if known.scheduled {
                status = Status::Scheduled;
            }
            for step in row.history.iter().skip(usize::from(known.scheduled)) {
                assert!(status.may_become(step.status), "{status} -> {}: {known:?}", step.status);
                status = step.status;
            }
            assert_eq!(status, row.status, "the history ends where the message stands");
            if self.purged[known.instance] {
                continue;
            }
            assert_eq!(
                (row.status, row.attempts, row.failures),
                (known.status, known.attempts, known.failures)
            );
            assert_eq!(row.provider_id, known.provider_id);
            assert_eq!(row.buried.is_some(), row.status == Status::DeadLetter);
            let went_out =
                matches!(row.status, Status::Sent | Status::Delivered | Status::Read | Status::Played);
            assert!(!went_out || row.failure.is_none(), "a failure that no longer matters");
            if let Some(provider_id) = row.provider_id.as_ref().filter(|_| known.id.item().is_none()) {
                let key = keys::provider_id(number(known.instance), provider_id);
                named.insert(key.as_slice().to_vec(), known.id);
            }
        }
        assert!(rows.is_empty(), "rows of nobody");
        let index: BTreeMap<_, _> = records
            .in_space(Space::ProviderId)
            .iter()
            .map(|(key, value)| (key.clone(), keys::message_id(value).unwrap()))
            .collect();
        assert_eq!(index, named, "the index of provider ids");
    }

    fn audit_keys(&self, records: &RecordsBySpace) {
        let (mut answers, mut expiries) = (Vec::new(), Vec::new());
        for (&(instance, key), &(_, _, expires)) in &self.keys {
            let (instance, key) = (number(instance), [key; 16]);
            answers.push(keys::idempotency(instance, &key).as_slice().to_vec());
            expiries.push(keys::idempotency_expiry(expires, instance, &key).as_slice().to_vec());
        }
        expiries.sort();
        let stored: Vec<_> =
            records.in_space(Space::Idempotency).iter().map(|(key, _)| key.clone()).collect();
        assert_eq!(stored, answers, "idempotency keys");
        // A deleted instance leaves these to time.
        let purged =
            |key: &[u8]| (0..2).any(|at| self.purged[at] && key[9..13] == number(at).get().to_be_bytes());
        let stored = records.in_space(Space::IdempotencyExpiry).iter().map(|(key, _)| key.clone());
        assert_eq!(
            stored.filter(|key| !purged(key)).collect::<Vec<_>>(),
            expiries,
            "ends of idempotency keys"
        );
    }

    /// The log says of each message what became of it, as often as it became that.
    pub fn check_announcements(&self) {
        let records = self.records();
        let mut acks: BTreeMap<String, usize> = BTreeMap::new();
        for (key, _) in records.in_space(Space::Event) {
            let key = Key::from(key.clone());
            let bytes = self.store.write(|tx| tx.get(&key)).unwrap().unwrap();
            let event = events::decode(&bytes).unwrap();
            if event.kind == relevo_domain::EventKind::MessageAck {
                let id = event.data["correlation_id"].as_str().unwrap().to_owned();
                *acks.entry(id).or_default() += 1;
            }
        }
        for known in self.messages.iter().filter(|known| !self.purged[known.instance]) {
            let heard = acks.get(&known.id.correlation_id().to_string()).copied().unwrap_or_default();
            assert_eq!(heard, known.acks, "announcements of {known:?}");
        }
    }

    pub fn check_only_counters_are_left(&self) {
        let expected = [Space::QueueCounters, Space::NodeCounters, Space::EventTail].map(|space| space as u8);
        for (key, _) in self.store.entries() {
            assert!(expected.contains(&key[0]), "left behind: {:?}", String::from_utf8_lossy(&key));
        }
        for instance in 0..2 {
            let book = self.counters(instance);
            assert_eq!((book.depth, book.waiting), ([0, 0], [0, 0]));
        }
    }

    pub fn check_only_the_node_is_left(&self) {
        for (key, _) in self.store.entries() {
            assert_eq!(key[0], Space::NodeCounters as u8, "left behind: {:?}", String::from_utf8_lossy(&key));
        }
    }
}

/// Every part of a large value belongs to one that is there.
fn audit_parts(records: &RecordsBySpace) {
    let owners: BTreeSet<&[u8]> = records.0.values().flatten().map(|(key, _)| key.as_slice()).collect();
    for (key, _) in records.in_space(Space::Part) {
        let owner = &key[1..key.len() - 2];
        assert!(owners.contains(owner), "a part of nothing");
    }
    for (key, value) in records.in_space(Space::Job) {
        let parts = u16::from_be_bytes(*value.first_chunk().unwrap());
        let mut found = records.in_space(Space::Part).iter().filter(|(part, _)| part[1..].starts_with(key));
        assert_eq!(found.by_ref().count(), usize::from(parts));
    }
}
