//! Brings due times back after the wall clock went back.
//!
//! The queue stores when a lane may continue, when a deferred message returns, and when a hold ends, as wall time. A record
//! that was written at a time that is now in the future is from before the step: its delay is counted again from now, so
//! that nothing waits longer than its own delay, whatever the step. That needs no knowledge of the step and can be repeated.
//! Scheduled messages stay at their time: `send_at` follows the wall clock.

use relevo_domain::{Status, Timestamp};
use relevo_store::{self as store, Error, Key, Space, Store, Tx};

use super::keys;
use super::records::{InFlight, Job, LedgerEntry, lane_head};

/// Maximum number of records that one commit examines.
const PAGE: usize = 500;

/// The spaces with due times, in the order in which they are examined.
const SPACES: [Space; 3] = [Space::Wake, Space::Due, Space::InFlight];

/// Brings back the due times of one page, after the key `from`. Returns where the next page begins; `None` after the last.
pub(super) fn bring_back(tx: &mut Tx, now: Timestamp, from: Option<Key>) -> Result<Option<Key>, Error> {
    let start = from.unwrap_or(Key::new(SPACES[0]));
    let space_of =
        |key: &Key| SPACES.iter().position(|space| key.as_slice().first() == Some(&(*space as u8)));
    let Some(index) = space_of(&start) else { return Ok(None) };
    let Some(&space) = SPACES.get(index) else { return Ok(None) };
    let page: Vec<_> =
        tx.range(&start, &Key::new(space).after_prefix()).take(PAGE).collect::<Result<_, _>>()?;
    let last = page.last().map(|(key, _)| Key::from(key.clone()));
    let is_full = page.len() == PAGE;
    for (key, value) in page {
        match space {
            Space::Wake => bring_back_wake(tx, now, &key, &value)?,
            Space::Due => bring_back_deferred(tx, now, &key)?,
            _ => bring_back_hold(tx, now, Key::from(key), &value)?,
        }
    }
    Ok(match last.filter(|_| is_full) {
        Some(last) => Some(last.successor()),
        None => SPACES.get(index + 1).map(|next| Key::new(*next)),
    })
}

/// The due time that a record has now; `None` if it stays. `set_at`: when the record was written.
fn due_again(due: Timestamp, set_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
    (set_at > now && due > now).then(|| now + due.since(set_at))
}

fn bring_back_wake(tx: &mut Tx, now: Timestamp, key: &[u8], value: &[u8]) -> Result<(), Error> {
    let (Some((due, _)), Some(lane)) = (keys::parse_wake(key), keys::lane_of_wake(key)) else {
        return Ok(());
    };
    // Earlier binaries wrote no time: then the delay is unknown, and the lane continues at once.
    let Some(again) = due_again(due, keys::parse_set_at(value).unwrap_or(due), now) else { return Ok(()) };
    tx.delete(lane.wake(due))?;
    tx.put(lane.wake(again), keys::set_at_value(now))?;
    if let Some(head) = lane_head(tx, lane)?
        && head.not_before.is_some_and(|not_before| not_before > again)
    {
        tx.put(lane.waiting_at(head.order), keys::waiting_value(head.id, Some(again)))?;
        set_shown_due(tx, head.id, again)?;
    }
    Ok(())
}

fn bring_back_deferred(tx: &mut Tx, now: Timestamp, key: &[u8]) -> Result<(), Error> {
    let Some((due, id)) = keys::parse_due(key) else { return Ok(()) };
    let Some(mut entry) = LedgerEntry::read(tx, id)? else { return Ok(()) };
    let set_at = entry.history.last().map_or(now, |step| step.at);
    let Some(again) =
        due_again(due, set_at, now).filter(|_| entry.status == Status::Deferred && due > set_at)
    else {
        return Ok(());
    };
    tx.delete(keys::due(id, due))?;
    tx.put(keys::due(id, again), Vec::new())?;
    entry.due = Some(again);
    entry.write(tx, id)
}

fn bring_back_hold(tx: &mut Tx, now: Timestamp, key: Key, value: &[u8]) -> Result<(), Error> {
    let mut flight: InFlight = store::decode(value)?;
    let Some(again) = flight.held_until.and_then(|until| due_again(until, flight.at, now)) else {
        return Ok(());
    };
    flight.held_until = Some(again);
    tx.put(key, store::encode(&flight)?)?;
    match Job::read(tx, flight.id)? {
        Some(_) => set_shown_due(tx, flight.id, again),
        None => Ok(()),
    }
}

/// Changes the due time that the API shows.
fn set_shown_due(tx: &mut Tx, id: relevo_domain::MessageId, due: Timestamp) -> Result<(), Error> {
    let Some(mut entry) = LedgerEntry::read(tx, id)?.filter(|entry| entry.due.is_some()) else {
        return Ok(());
    };
    entry.due = Some(due);
    entry.write(tx, id)
}

/// The time that the node recorded last, in any run: it was not before that when the node stopped.
pub(super) fn recorded_time(store: &Store) -> Result<Option<Timestamp>, Error> {
    let recorded = store.get(&keys::recorded_time())?.and_then(|bytes| keys::parse_set_at(&bytes));
    let last_id = store.get(&keys::last_id())?.and_then(|bytes| keys::message_id(&bytes));
    Ok(recorded.max(last_id.map(|id| id.accepted_at())))
}

/// Records the time.
pub(super) fn record_time(tx: &mut Tx, now: Timestamp) -> Result<(), Error> {
    tx.put(keys::recorded_time(), keys::set_at_value(now))
}
