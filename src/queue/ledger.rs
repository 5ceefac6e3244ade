//! Reading where a message stands. Never waits behind work: it reads the store directly.

use relevo_domain::{
    BuryReason, Failure, MessageId, MessageRef, Mode, ProviderMessageId, Recipient, Status, Timestamp,
};
use relevo_store::{self as store, Error, Key, Store};

use super::records::{InFlight, Job, LedgerEntry, LedgerStep};
use super::{InstanceNumber, SendOutcome, keys};

/// A message's present place and its whole story.
#[derive(Debug, Clone, PartialEq)]
pub struct MessageView {
    pub id: MessageId,
    pub to: Recipient,
    /// `text`, `image`, …
    pub kind: String,
    pub mode: Mode,
    pub status: Status,
    /// Tries so far, the one under way included.
    pub attempts: u32,
    pub provider_id: Option<ProviderMessageId>,
    /// The last failure, while it still matters.
    pub failure: Option<Failure>,
    /// Why it is a dead letter.
    pub buried: Option<BuryReason>,
    /// When the node will do something about it by itself.
    pub due: Option<Timestamp>,
    /// From acceptance to now, oldest first.
    pub history: Vec<LedgerStep>,
    /// Steps left out of the middle of a very long history.
    pub elided: u32,
}

/// The message that a caller means, within one instance.
pub(super) fn find(
    store: &Store,
    instance: InstanceNumber,
    message: &MessageRef,
) -> Result<Option<MessageView>, Error> {
    let id = match message {
        MessageRef::Ours(id) => Some(*id),
        MessageRef::Provider(id) => {
            let found = store.get(&keys::provider_id(instance, id))?;
            found.and_then(|bytes| keys::message_id(&bytes))
        }
    };
    match id.filter(|id| id.instance() == instance) {
        Some(id) => view(store, id),
        None => Ok(None),
    }
}

pub(super) fn view(store: &Store, id: MessageId) -> Result<Option<MessageView>, Error> {
    // The job first: a message that is settled between the two reads then shows its row.
    let job = store.get(&keys::job(id))?;
    let job: Option<Job> = job.map(|bytes| store::decode(&bytes)).transpose()?;
    let row: Option<LedgerEntry> = read(store, &keys::ledger(id))?;
    let row = match (row, &job) {
        (Some(row), _) => row,
        (None, Some(job)) => LedgerEntry::new(job),
        (None, None) => return Ok(None),
    };
    let mut view = MessageView {
        id,
        to: row.to,
        kind: row.kind,
        mode: row.mode,
        status: row.status,
        attempts: row.attempts,
        provider_id: row.provider_id,
        failure: row.failure,
        buried: row.buried,
        due: row.due,
        history: row.history,
        elided: row.elided,
    };
    if view.history.first().is_none_or(|step| step.status != Status::Scheduled) {
        view.history.insert(0, LedgerStep::new(Status::Queued, id.accepted_at()));
    }
    if let Some(job) = &job {
        include_attempt(store, &mut view, job)?;
    }
    Ok(Some(view))
}

/// How a message ended; `None` while it has not.
pub(super) fn outcome(store: &Store, id: MessageId) -> Result<Option<SendOutcome>, Error> {
    let Some(view) = view(store, id)? else { return Ok(Some(SendOutcome::Unknown)) };
    Ok(match view.status {
        Status::Sent | Status::Delivered | Status::Read | Status::Played => {
            view.provider_id.map(SendOutcome::Sent)
        }
        Status::DeadLetter if view.buried == Some(BuryReason::Ambiguous) => Some(SendOutcome::Unknown),
        Status::Failed | Status::DeadLetter => {
            let unexplained = || Failure::permanent(format!("the message is {}", view.status));
            Some(SendOutcome::Failed(view.failure.unwrap_or_else(unexplained)))
        }
        Status::Cancelled | Status::Expired => Some(SendOutcome::Cancelled),
        Status::Ambiguous => Some(SendOutcome::Unknown),
        Status::Scheduled | Status::Queued | Status::Sending | Status::Deferred => None,
    })
}

/// An attempt under way is known only by its flight; its row is written when it ends.
fn include_attempt(store: &Store, view: &mut MessageView, job: &Job) -> Result<(), Error> {
    let flight: Option<InFlight> = read(store, &job.lane(view.id).in_flight())?;
    let under_way = flight.filter(|flight| flight.id == view.id && flight.held_until.is_none());
    if let Some(flight) = under_way
        && view.status.may_become(Status::Sending)
    {
        view.status = Status::Sending;
        view.attempts = flight.attempt;
        view.due = None;
        view.history.push(LedgerStep::new(Status::Sending, flight.at));
    }
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(store: &Store, key: &Key) -> Result<Option<T>, Error> {
    store.get(key)?.map(|bytes| store::decode(&bytes)).transpose()
}
