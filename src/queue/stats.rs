//! Statistics of a queue for operators.

use std::collections::HashMap;

use relevo_domain::{Class, InstanceNumber, MessageId, Recipient, Timestamp};
use relevo_store::{self as store, Error, Store};

use super::records::{InFlight, Job, QueueCounters};
use super::{Depth, keys};

/// Statistics of an instance's queue.
#[derive(Debug, Clone, Default)]
pub struct QueueStats {
    /// Number of unsettled messages.
    pub depth: Depth,
    /// When the oldest unsettled message was accepted.
    pub oldest: Option<Timestamp>,
    /// Attempts under way.
    pub in_flight: u64,
    /// Attempts with an unknown outcome that hold their lane.
    pub held: u64,
    /// Scheduled and deferred messages, counted up to [`COUNT_LIMIT`].
    pub due_later: u64,
    /// The lanes with the most waiting jobs among the first [`COUNT_LIMIT`] waiting jobs, longest first.
    pub lanes: Vec<LaneStats>,
}

/// The waiting messages of one recipient.
#[derive(Debug, Clone)]
pub struct LaneStats {
    /// The recipient.
    pub to: Recipient,
    /// The class of the lane.
    pub class: Class,
    /// Number of waiting messages.
    pub waiting: u64,
    /// When the head of the lane was accepted.
    pub oldest: Timestamp,
}

/// Maximum number of records of each kind that are read, so that the cost does not grow with the queue.
pub const COUNT_LIMIT: usize = 10_000;

/// Maximum number of lanes in the result.
const MAX_LANES: usize = 20;

/// Collects the statistics. Reads tens of thousands of records, so it must run on a blocking thread.
pub(super) fn count(store: &Store, instance: InstanceNumber) -> Result<QueueStats, Error> {
    let mut stats = QueueStats { depth: depth(store, instance)?, ..QueueStats::default() };
    stats.oldest = oldest(store, instance)?;
    for class in Class::ALL {
        stats.lanes.extend(lanes(store, instance, class)?);
    }
    let flights = keys::all_in_flight(Some(instance));
    for entry in store.range(&flights, &flights.clone().after_prefix()) {
        let flight: InFlight = store::decode(&entry?.1)?;
        if flight.held_until.is_some() { stats.held += 1 } else { stats.in_flight += 1 }
    }
    let dues = keys::all_due(instance);
    stats.due_later = store.range(&dues, &dues.clone().after_prefix()).take(COUNT_LIMIT).map(|_| 1).sum();
    stats.lanes.sort_by_key(|lane| std::cmp::Reverse(lane.waiting));
    stats.lanes.truncate(MAX_LANES);
    Ok(stats)
}

/// When the oldest unsettled message was accepted.
pub(super) fn oldest(store: &Store, instance: InstanceNumber) -> Result<Option<Timestamp>, Error> {
    let mut oldest = None;
    for class in Class::ALL {
        let jobs = keys::jobs(instance, class);
        if let Some(first) = store.range(&jobs, &jobs.clone().after_prefix()).next() {
            let accepted = keys::trailing_id(&first?.0).map(MessageId::accepted_at);
            oldest = [oldest, accepted].into_iter().flatten().min();
        }
    }
    Ok(oldest)
}

/// Number of unsettled messages.
pub(super) fn depth(store: &Store, instance: InstanceNumber) -> Result<Depth, Error> {
    let Some(bytes) = store.get(&keys::counters(instance))? else { return Ok(Depth::default()) };
    let counters = QueueCounters::decode(&bytes)?;
    let [transactional, bulk] = counters.depth;
    Ok(Depth { transactional, bulk })
}

/// The longest lanes of a class.
fn lanes(store: &Store, instance: InstanceNumber, class: Class) -> Result<Vec<LaneStats>, Error> {
    let all = keys::waiting_jobs(instance, class);
    let mut found: HashMap<Vec<u8>, (u64, MessageId)> = HashMap::new();
    for entry in store.range(&all, &all.clone().after_prefix()).take(COUNT_LIMIT) {
        let (key, value) = entry?;
        let (Some(lane), Some((id, _))) = (key.get(6..14), keys::parse_waiting(&value)) else { continue };
        found.entry(lane.to_vec()).and_modify(|(waiting, _)| *waiting += 1).or_insert((1, id));
    }
    let mut found: Vec<_> = found.into_values().collect();
    found.sort_by_key(|(waiting, _)| std::cmp::Reverse(*waiting));
    let mut lanes = Vec::new();
    for (waiting, head) in found.into_iter().take(MAX_LANES) {
        let Some(bytes) = store.get(&keys::job(head))? else { continue };
        let job: Job = store::decode(&bytes)?;
        lanes.push(LaneStats { to: job.message.to, class, waiting, oldest: head.accepted_at() });
    }
    Ok(lanes)
}
