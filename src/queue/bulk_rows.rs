//! Rows of bulk jobs: accepting, withdrawing and listing them. Their outcomes are in [`item_outcomes`](super::item_outcomes).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use relevo_domain::{Class, InstanceNumber, MessageId, Timestamp};
use relevo_store::{Error, Store, Tx};

use super::accept::{self, EnqueueContext, EnqueueRefusal};
use super::records::QueueCounters;
use super::{Submission, keys};

/// Accepts rows and counts them, all or none.
pub(super) fn accept(
    tx: &mut Tx,
    submissions: Vec<Submission>,
    context: EnqueueContext,
) -> Result<Result<Vec<MessageId>, EnqueueRefusal>, Error> {
    let mut counters_of = BTreeMap::new();
    for submission in &submissions {
        let counters = match counters_of.entry(submission.instance) {
            Entry::Occupied(read) => read.into_mut(),
            Entry::Vacant(unread) => unread.insert(QueueCounters::read(tx, submission.instance)?),
        };
        if counters.depth.iter().sum::<u64>() >= context.capacity {
            return Ok(Err(EnqueueRefusal::Full));
        }
        *counters.depth(submission.class()) += 1;
    }
    let mut ids = Vec::with_capacity(submissions.len());
    for submission in submissions {
        ids.push(accept::insert_job(tx, submission, context)?);
    }
    for (instance, counters) in counters_of {
        counters.write(tx, instance)?;
    }
    Ok(Ok(ids))
}

/// Withdraws the messages that were not attempted yet, and returns their ids.
pub(super) fn withdraw(tx: &mut Tx, ids: &[MessageId], now: Timestamp) -> Result<Vec<MessageId>, Error> {
    let mut withdrawn = Vec::new();
    for &id in ids {
        if accept::withdraw(tx, id, now)? {
            withdrawn.push(id);
        }
    }
    Ok(withdrawn)
}

/// Messages of a bulk job that an instance has not settled, in the order of acceptance, up to `limit`, after `after`.
pub(super) fn open_messages(
    store: &Store,
    instance: InstanceNumber,
    job: u16,
    after: Option<MessageId>,
    limit: usize,
) -> Result<Vec<MessageId>, Error> {
    let all = keys::jobs(instance, Class::Bulk);
    let start = after.map_or(all.clone(), |id| all.clone().bytes(id.as_bytes()).successor());
    let mut found = Vec::new();
    for entry in store.range(&start, &all.after_prefix()) {
        if found.len() >= limit {
            break;
        }
        let id = keys::trailing_id(&entry?.0);
        found.extend(id.filter(|id| id.item().is_some_and(|item| item.job == job)));
    }
    Ok(found)
}
