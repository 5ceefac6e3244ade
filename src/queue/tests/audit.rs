//! Checks that all records in the store are consistent with the model and with each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::events;
use crate::queue::keys;
use crate::queue::records::{InFlight, LedgerEntry, QueueCounters};
use crate::queue::tests::reference_model::{ModelMessage, ModelState, QueueModel, number};
use relevo_domain::{Class, MessageId, Status, Timestamp};
use relevo_store::{self as store, Key, KeyValue, Space};

/// The waiting entries of each lane: position, message, and earliest time of the next attempt.
type LaneContents = BTreeMap<Vec<u8>, Vec<(u64, MessageId, Option<Timestamp>)>>;

type Flights = BTreeMap<Vec<u8>, InFlight>;

/// The records of the store by space.
struct RecordsBySpace(BTreeMap<u8, Vec<KeyValue>>);

impl RecordsBySpace {
    fn in_space(&self, space: Space) -> &[KeyValue] {
        self.0.get(&(space as u8)).map_or(&[], Vec::as_slice)
    }
}

fn trailing_id(key: &[u8]) -> MessageId {
    keys::trailing_id(key).unwrap()
}

/// Instance, class and lane in the key of a waiting entry or an attempt in flight.
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

    /// Checks all invariants that hold between two commits.
    pub fn audit(&self) {
        let records = self.records();
        self.audit_jobs(&records);
        self.audit_lanes(&records);
        self.audit_ledger(&records);
        self.audit_keys(&records);
        self.audit_outcomes(records.in_space(Space::ItemOutcome));
        audit_parts(&records);
    }

    fn audit_jobs(&self, records: &RecordsBySpace) {
        let jobs: BTreeSet<_> =
            records.in_space(Space::Job).iter().map(|(key, _)| trailing_id(key)).collect();
        let open: BTreeSet<_> =
            self.messages.iter().filter(|known| known.is_open()).map(|known| known.id).collect();
        assert_eq!(jobs, open, "jobs and open messages differ");
        for instance in 0..2 {
            let mut counters = self.counters(instance);
            for class in Class::ALL {
                let open = self.open(instance).filter(|known| known.id.class() == class).count();
                assert_eq!(*counters.depth(class), open as u64, "depth of {class:?}");
            }
        }
        for (_, bytes) in records.in_space(Space::DeadLetter) {
            // A dead letter is a complete job.
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

    /// Checks that every open message is in exactly one place, and that every free lane has a wake-up.
    fn audit_lanes(&self, records: &RecordsBySpace) {
        let mut flights: Flights = Flights::new();
        for (key, value) in records.in_space(Space::InFlight) {
            flights.insert(lane_bytes(key), store::decode(value).unwrap());
        }
        let mut lanes: LaneContents = LaneContents::new();
        for (key, value) in records.in_space(Space::Lane) {
            let (id, not_before) = keys::parse_waiting(value).unwrap();
            let waiting = (keys::trailing_order(key).unwrap(), id, not_before);
            lanes.entry(lane_bytes(key)).or_default().push(waiting);
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
            let mut counters = self.counters(instance);
            for class in Class::ALL {
                let prefix =
                    [&number(instance).get().to_be_bytes()[..], &[u8::from(class == Class::Bulk)]].concat();
                let waiting =
                    lanes.iter().filter(|(lane, _)| lane.starts_with(&prefix)).map(|(_, jobs)| jobs.len());
                assert_eq!(*counters.waiting(class), waiting.sum::<usize>() as u64, "waiting of {class:?}");
            }
        }
        let placed =
            lanes.values().flatten().map(|(_, id, _)| *id).chain(flights.values().map(|flight| flight.id));
        for id in placed.chain(dues.keys().copied()) {
            assert!(
                self.messages.iter().any(|known| known.id == id && known.is_open()),
                "record without an open message: {id}"
            );
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
                    "an attempt in flight precedes its lane"
                );
            }
            ModelState::Waiting => {
                assert!(flight.is_none() && due.is_none(), "{known:?}");
                assert_eq!(usize::from(unread) + waits.len(), 1, "not in exactly one place: {known:?}");
                let not_before = waits.first().and_then(|(_, job)| job.2).unwrap_or_default();
                assert_eq!(not_before, known.not_before, "{known:?}");
            }
            // A due message stays there until the next lease.
            ModelState::Deferred(at) => {
                assert!(flight.is_none() && waits.is_empty() && !unread, "{known:?}");
                assert_eq!(due, Some(*at));
            }
            ModelState::Settled => panic!("a settled message is open"),
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
            let is_woken = wakes
                .get(lane)
                .into_iter()
                .flatten()
                .any(|&due| due >= not_before && (due == not_before || due <= self.latest));
            assert!(is_woken, "a lane without a wake-up: {jobs:?}");
        }
        for (lane, dues) in wakes {
            let head = lanes.get(&lane).filter(|_| !flights.contains_key(&lane)).and_then(|jobs| jobs[0].2);
            for due in dues {
                assert!(due <= self.latest || Some(due) == head, "a wake-up without a waiting job");
            }
        }
    }

    fn audit_ledger(&self, records: &RecordsBySpace) {
        let mut entries: BTreeMap<MessageId, LedgerEntry> = BTreeMap::new();
        for (key, value) in records.in_space(Space::Ledger) {
            entries.insert(trailing_id(key), store::decode(value).unwrap());
        }
        let mut expected_index = BTreeMap::new();
        for known in &self.messages {
            if known.id.item().is_some() && !known.is_open() {
                assert_eq!(entries.remove(&known.id), None, "a ledger entry of a settled row of a job");
                continue;
            }
            let Some(entry) = entries.remove(&known.id) else {
                let is_untouched = known.status == Status::Queued && known.attempts == 0;
                assert!(
                    is_untouched || known.entry_deleted || self.purged[known.instance],
                    "a ledger entry is missing: {known:?}"
                );
                continue;
            };
            assert!(!known.entry_deleted, "a ledger entry was not deleted: {known:?}");
            let mut status = Status::Queued;
            if known.scheduled {
                status = Status::Scheduled;
            }
            for step in entry.history.iter().skip(usize::from(known.scheduled)) {
                assert!(status.may_become(step.status), "{status} -> {}: {known:?}", step.status);
                status = step.status;
            }
            assert_eq!(status, entry.status, "the last step of the history differs from the status");
            if self.purged[known.instance] {
                continue;
            }
            assert_eq!(
                (entry.status, entry.attempts, entry.failures),
                (known.status, known.attempts, known.failures)
            );
            assert_eq!(entry.provider_id, known.provider_id);
            assert_eq!(entry.buried.is_some(), entry.status == Status::DeadLetter);
            let is_sent =
                matches!(entry.status, Status::Sent | Status::Delivered | Status::Read | Status::Played);
            assert!(!is_sent || entry.failure.is_none(), "a sent message has a failure");
            if let Some(provider_id) = entry.provider_id.as_ref().filter(|_| known.id.item().is_none()) {
                let key = keys::provider_id(number(known.instance), provider_id);
                expected_index.insert(key.as_slice().to_vec(), known.id);
            }
        }
        assert!(entries.is_empty(), "ledger entries without a message");
        let index: BTreeMap<_, _> = records
            .in_space(Space::ProviderId)
            .iter()
            .map(|(key, value)| (key.clone(), keys::message_id(value).unwrap()))
            .collect();
        assert_eq!(index, expected_index, "the index of provider ids");
    }

    fn audit_keys(&self, records: &RecordsBySpace) {
        let (mut records_of_keys, mut expiries) = (Vec::new(), Vec::new());
        for (&(instance, key), &(_, _, expires)) in &self.keys {
            let (instance, key) = (number(instance), [key; 16]);
            records_of_keys.push(keys::idempotency(instance, &key).as_slice().to_vec());
            expiries.push(keys::idempotency_expiry(expires, instance, &key).as_slice().to_vec());
        }
        expiries.sort();
        let stored: Vec<_> =
            records.in_space(Space::Idempotency).iter().map(|(key, _)| key.clone()).collect();
        assert_eq!(stored, records_of_keys, "idempotency keys");
        // Those of a deleted instance stay until they expire.
        let purged = |key: &[u8]| {
            (0..2).any(|instance| self.purged[instance] && key[9..13] == number(instance).get().to_be_bytes())
        };
        let stored = records.in_space(Space::IdempotencyExpiry).iter().map(|(key, _)| key.clone());
        assert_eq!(
            stored.filter(|key| !purged(key)).collect::<Vec<_>>(),
            expiries,
            "expiries of idempotency keys"
        );
    }

    /// Checks that the log has one event for each outcome of a message.
    pub fn check_events(&self) {
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
            let logged = acks.get(&known.id.correlation_id().to_string()).copied().unwrap_or_default();
            assert_eq!(logged, known.acks, "events of {known:?}");
        }
    }

    pub fn check_only_counters_are_left(&self) {
        let expected = [Space::QueueCounters, Space::NodeCounters, Space::EventTail].map(|space| space as u8);
        for (key, _) in self.store.entries() {
            assert!(expected.contains(&key[0]), "not deleted: {:?}", String::from_utf8_lossy(&key));
        }
        for instance in 0..2 {
            let counters = self.counters(instance);
            assert_eq!((counters.depth, counters.waiting), ([0, 0], [0, 0]));
        }
    }

    pub fn check_only_the_node_is_left(&self) {
        for (key, _) in self.store.entries() {
            assert_eq!(key[0], Space::NodeCounters as u8, "not deleted: {:?}", String::from_utf8_lossy(&key));
        }
    }
}

/// Checks that every part of a large value belongs to an existing record.
fn audit_parts(records: &RecordsBySpace) {
    let owners: BTreeSet<&[u8]> = records.0.values().flatten().map(|(key, _)| key.as_slice()).collect();
    for (key, _) in records.in_space(Space::Part) {
        let owner = &key[1..key.len() - 2];
        assert!(owners.contains(owner), "a part without a record");
    }
    for (key, value) in records.in_space(Space::Job) {
        let parts = u16::from_be_bytes(*value.first_chunk().unwrap());
        let mut found = records.in_space(Space::Part).iter().filter(|(part, _)| part[1..].starts_with(key));
        assert_eq!(found.by_ref().count(), usize::from(parts));
    }
}
