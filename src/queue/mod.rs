//! The durable queue of outbound messages: their jobs, status and outcomes.
//!
//! Guarantees:
//! - *Accepted means durable.* Every method of [`Handle`] that changes something returns after the change is on disk.
//!   Changes that belong together are one commit: job, ledger entry, idempotency key and event.
//! - *Order.* Jobs of one instance, class and recipient form a lane. A lane is first in, first out, and at most one of
//!   its jobs is in flight. A waiting lane does not delay other lanes.
//! - *One attempt at a time, and none is lost.* A lease is durable before an instance gets it. An attempt that a crash
//!   interrupts is found at the next start, and the retry supervisor decides about it.
//! - *Rows of bulk jobs leave no records.* Only their outcomes are kept, until their job has noted them
//!   ([`ItemOutcome`]).
//! - *Bounded memory.* Queue state is in the store; the actor keeps only pending replies.
//!
//! How jobs are found: new jobs are *arrivals*, which a cursor reads in the order of their ids. An arrival whose lane is
//! busy is moved into its lane (`Lane`), and the cursor advances. A lane whose head may be sent has one wake-up
//! (`Wake`), sorted by due time. Jobs outside lanes (scheduled, deferred) are sorted by due time (`Due`). So the common
//! case, a free lane, costs one record at acceptance, and leasing never scans waiting jobs.

mod accept;
mod actor;
mod blobs;
mod bulk_rows;
mod clock_steps;
mod dead_letters;
mod dispatch;
mod due_times;
mod handle;
mod item_outcomes;
mod keys;
mod ledger;
mod notifier;
mod receipts;
mod records;
mod retention;
mod schedule;
mod settle;
mod stats;
#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use crate::supervisor;
use relevo_domain::{
    AmbiguousPolicy, BulkItem, Class, ErrorKind, Failure, InstanceNumber, MessageId, Mode, OutboundMessage,
    ProviderMessageId, Receipt, Timestamp,
};
use relevo_store as store;

pub use actor::{Arguments, Msg, QueueActor};
pub use dead_letters::{DeadLetter, DeadLetterFilter};
pub use handle::{BulkRowLookup, Handle};
pub use item_outcomes::ItemOutcome;
pub use ledger::MessageView;
pub use notifier::WorkNotifier;
pub use receipts::receipt_data;
pub use records::LedgerStep;
pub use schedule::ScheduleCursor;
pub use stats::{COUNT_LIMIT, LaneStats, QueueStats};

/// Limits and retention of the queue.
#[derive(Debug, Clone)]
pub struct Options {
    /// A lease that is not settled within this time expires, and `retry` decides about it. Longer than any send takes.
    pub lease_timeout: Duration,
    /// How long an idempotency key is remembered.
    pub idempotency_ttl: Duration,
    /// Maximum number of unsettled messages of one instance; further ones are refused with 429.
    pub capacity: u64,
    /// Default age at which a transactional message expires, if its sender set none.
    pub transactional_expiry: Option<Duration>,
    /// Default age at which a bulk message expires.
    pub bulk_expiry: Option<Duration>,
    /// How long the ledger entry of a settled message is kept.
    pub ledger_retention: Duration,
    /// How long events are kept in the log of their instance.
    pub event_retention: Duration,
    /// Maximum size of an event log in bytes, without the overhead of the store. The oldest events are deleted first.
    pub event_log_size: u64,
}

impl Default for Options {
    fn default() -> Self {
        let days = |n: u64| Duration::from_secs(n * 24 * 3600);
        Self {
            lease_timeout: Duration::from_secs(90),
            idempotency_ttl: days(1),
            capacity: 2_000_000,
            transactional_expiry: None,
            bulk_expiry: None,
            ledger_retention: days(30),
            event_retention: days(7),
            event_log_size: 256 << 20,
        }
    }
}

impl Options {
    fn expiry(&self, class: Class) -> Option<Duration> {
        match class {
            Class::Transactional => self.transactional_expiry,
            Class::Bulk => self.bulk_expiry,
        }
    }
}

/// A message to enqueue.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The instance that sends it.
    pub instance: InstanceNumber,
    /// Recipient, content and options.
    pub message: OutboundMessage,
    /// Its urgency.
    pub class: Class,
    /// Whether a caller waits for the outcome.
    pub mode: Mode,
    /// Makes a repeated request return the first message.
    pub idempotency: Option<IdempotencyKey>,
    /// After this moment no attempt may begin.
    pub expires_at: Option<Timestamp>,
    /// Before this moment no attempt may begin; the message joins its lane then.
    pub send_at: Option<Timestamp>,
    /// What happens if its outcome stays unknown.
    pub on_ambiguous: AmbiguousPolicy,
    /// Whether WhatsApp recognises it when it is sent again under the same id.
    pub repeatable: bool,
    /// The row of a bulk job that it represents. Then its class is bulk, whatever `class` says.
    pub item: Option<BulkItem>,
}

impl Submission {
    /// The effective class.
    fn class(&self) -> Class {
        self.item.map_or(self.class, |_| Class::Bulk)
    }
}

/// A caller's idempotency key and a digest of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Digest of the key.
    pub key: [u8; 16],
    /// Digest of the request body.
    pub body: [u8; 16],
}

/// The result of an accepted submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// The message was enqueued.
    New(MessageId),
    /// The idempotency key was used before with the same request, which created this message.
    Duplicate(MessageId),
}

impl Acceptance {
    /// The id of the message.
    pub fn id(self) -> MessageId {
        match self {
            Acceptance::New(id) | Acceptance::Duplicate(id) => id,
        }
    }
}

/// The exclusive permission to attempt one message. It is settled exactly once, or it expires.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The message.
    pub id: MessageId,
    /// Recipient, content and options.
    pub message: OutboundMessage,
    /// Whether a caller waits for the outcome.
    pub mode: Mode,
    /// What happens if its outcome stays unknown.
    pub on_ambiguous: AmbiguousPolicy,
    /// Whether WhatsApp recognises it when it is sent again under the same id.
    pub repeatable: bool,
    /// Number of failed attempts that count towards the policy's limit.
    pub failures: u32,
    /// Number of this attempt, including uncounted ones; distinguishes this lease from earlier ones of the message.
    pub attempt: u32,
    /// When the lease was granted.
    pub leased_at: Timestamp,
}

/// The reply to a request for leases.
#[derive(Debug, Default)]
pub struct LeaseBatch {
    /// The granted leases.
    pub leases: Vec<Lease>,
    /// When another request can return more, if nothing new arrives before.
    pub next_due: Option<Timestamp>,
}

/// The outcome of a synchronous send.
#[derive(Debug, Clone, PartialEq)]
pub enum SendOutcome {
    /// WhatsApp accepted it.
    Sent(ProviderMessageId),
    /// It failed and is not retried.
    Failed(Failure),
    /// An attempt was made, and its outcome is not known yet.
    Unknown,
    /// The wait ended before an attempt began; the message is never sent.
    Cancelled,
}

/// A receipt for a message of an instance.
#[derive(Debug, Clone)]
pub struct ReceiptReport {
    /// The instance that sent the message.
    pub instance: InstanceNumber,
    /// The id of this node, if the receipt contains it.
    pub id: Option<MessageId>,
    /// WhatsApp's id.
    pub provider_id: ProviderMessageId,
    /// What is reported.
    pub receipt: Receipt,
    /// When it happened.
    pub at: Timestamp,
    /// The cause, for [`Receipt::Failed`].
    pub failure: Option<Failure>,
}

/// WhatsApp's id of a message, which is unique within an instance.
type ProviderMessageKey = (InstanceNumber, ProviderMessageId);

impl ReceiptReport {
    fn provider_message_key(&self) -> ProviderMessageKey {
        (self.instance, self.provider_id.clone())
    }

    /// The reported cause of a failure, or a default.
    fn failure_or_default(&self) -> Failure {
        match &self.failure {
            Some(failure) => failure.clone(),
            None => Failure::permanent("WhatsApp reported a failure without a reason"),
        }
    }
}

/// The effect of a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptResult {
    /// The status of the message changed.
    Advanced(MessageId),
    /// The status was already the same or later.
    Unchanged(MessageId),
    /// The queue has no such message.
    Unknown,
}

/// Number of unsettled messages of an instance, in flight or waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Of the transactional class.
    pub transactional: u64,
    /// Of the bulk class.
    pub bulk: u64,
}

impl Depth {
    /// The number in both classes.
    pub fn total(self) -> u64 {
        self.transactional + self.bulk
    }
}

/// Why a request to the queue failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("the queue of this instance is full ({capacity} messages); try again later")]
    Full { capacity: u64 },
    #[error("the disk has too little free space to accept messages; free some, then try again")]
    DiskFull,
    #[error("this Idempotency-Key was used before with a different request")]
    KeyReused,
    #[error("no such message")]
    UnknownMessage,
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Unavailable(#[from] supervisor::ActorUnavailable),
}

impl Error {
    /// The class of the error for callers.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Full { .. } => ErrorKind::Throttled(Duration::from_secs(5)),
            Error::DiskFull | Error::Unavailable(_) => ErrorKind::Unavailable,
            Error::KeyReused => ErrorKind::Conflict,
            Error::UnknownMessage => ErrorKind::NotFound,
            Error::Store(error) => error.kind(),
        }
    }
}
