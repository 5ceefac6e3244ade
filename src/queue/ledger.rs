//! Reading the status of messages. Reads the store directly, so it never waits for the actor.

use relevo_domain::{
    BuryReason, Failure, MessageId, MessageRef, Mode, ProviderMessageId, Recipient, Status, Timestamp,
    is_outcome_unknown,
};
use relevo_store::{self as store, Error, Key, Store};

use super::records::{InFlight, Job, LedgerEntry, LedgerStep};
use super::{InstanceNumber, SendOutcome, keys};

/// The status and history of a message.
#[derive(Debug, Clone, PartialEq)]
pub struct MessageView {
    /// Its id.
    pub id: MessageId,
    /// Its recipient.
    pub to: Recipient,
    /// `text`, `image`, …
    pub kind: String,
    /// Whether a caller waits for the outcome.
    pub mode: Mode,
    /// Its current status.
    pub status: Status,
    /// Number of attempts, including the current one.
    pub attempts: u32,
    /// WhatsApp's id, once it is known.
    pub provider_id: Option<ProviderMessageId>,
    /// The last failure, unless a later attempt succeeded.
    pub failure: Option<Failure>,
    /// Why it is a dead letter.
    pub buried: Option<BuryReason>,
    /// When the node will continue with it.
    pub due: Option<Timestamp>,
    /// Its status changes since acceptance, oldest first.
    pub history: Vec<LedgerStep>,
    /// Number of steps removed from the middle of a long history.
    pub elided: u32,
}

/// Finds a message of an instance by either id.
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

/// The status and history of a message; `None` when there is no such message.
pub(super) fn view(store: &Store, id: MessageId) -> Result<Option<MessageView>, Error> {
    // The job is read first: a message that is settled between the two reads then has its entry.
    let job = store.get(&keys::job(id))?;
    let job: Option<Job> = job.map(|bytes| store::decode(&bytes)).transpose()?;
    let entry: Option<LedgerEntry> = read(store, &keys::ledger(id))?;
    let entry = match (entry, &job) {
        (Some(entry), _) => entry,
        (None, Some(job)) => LedgerEntry::new(job),
        (None, None) => return Ok(None),
    };
    let mut view = MessageView {
        id,
        to: entry.to,
        kind: entry.kind,
        mode: entry.mode,
        status: entry.status,
        attempts: entry.attempts,
        provider_id: entry.provider_id,
        failure: entry.failure,
        buried: entry.buried,
        due: entry.due,
        history: entry.history,
        elided: entry.elided,
    };
    if view.history.first().is_none_or(|step| step.status != Status::Scheduled) {
        view.history.insert(0, LedgerStep::new(Status::Queued, id.accepted_at()));
    }
    if let Some(job) = &job {
        include_attempt(store, &mut view, job)?;
    }
    Ok(Some(view))
}

/// The outcome of a message; `None` while it is not settled.
pub(super) fn outcome(store: &Store, id: MessageId) -> Result<Option<SendOutcome>, Error> {
    let Some(view) = view(store, id)? else { return Ok(Some(SendOutcome::Unknown)) };
    if is_outcome_unknown(view.status, view.buried) {
        return Ok(Some(SendOutcome::Unknown));
    }
    Ok(match view.status {
        Status::Sent | Status::Delivered | Status::Read | Status::Played => {
            view.provider_id.map(SendOutcome::Sent)
        }
        Status::Failed | Status::DeadLetter => {
            let default = || Failure::permanent(format!("the message is {}", view.status));
            Some(SendOutcome::Failed(view.failure.unwrap_or_else(default)))
        }
        Status::Cancelled | Status::Expired => Some(SendOutcome::Cancelled),
        Status::Ambiguous => Some(SendOutcome::Unknown),
        Status::Scheduled | Status::Queued | Status::Sending | Status::Deferred => None,
    })
}

/// Adds the attempt under way: it is stored only as [`InFlight`], and the entry is written when it ends.
fn include_attempt(store: &Store, view: &mut MessageView, job: &Job) -> Result<(), Error> {
    let flight: Option<InFlight> = read(store, &job.lane(view.id).in_flight())?;
    let current = flight.filter(|flight| flight.id == view.id && flight.held_until.is_none());
    if let Some(flight) = current
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
