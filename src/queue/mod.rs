//! The durable queue: what was accepted, where it stands, and what became of it.
//!
//! What it promises:
//! - *Accepted means durable.* Every answer of a [`Handle`] that changes something is given after the change is on
//!   the disk. What changes together is one commit: job, ledger row, idempotency key and announcing event.
//! - *Order.* Jobs of one instance, class and recipient form a lane. A lane is first in, first out, and at most one
//!   of its jobs is in flight. A lane that waits delays no other.
//! - *One attempt at a time, and never forgotten.* A lease is durable before it is handed out. Whatever the process
//!   dies in the middle of is found on the next start and judged.
//! - *Rows of bulk jobs leave no trace.* Only their outcomes, until their job has noted them ([`ItemOutcome`]).
//! - *Bounded memory.* Queue state lives in the store; the actor remembers only who waits for an answer.
//!
//! How jobs are found: new jobs are *arrivals*, read in order of their ids by a cursor. An arrival whose lane is busy
//! is moved into its lane (`Lane`) and the cursor goes on; a lane that may move has one entry among the wake-ups
//! (`Wake`), sorted by due time; jobs outside any lane (scheduled, deferred) are sorted by their moment (`Due`). So
//! the common case, a free lane, costs one record at acceptance, and looking for work never scans what waits.

mod accept;
mod actor;
mod blobs;
mod bulk_rows;
mod dead_letters;
mod dispatch;
mod handle;
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
pub use bulk_rows::ItemOutcome;
pub use dead_letters::{DeadLetter, DeadLetterFilter};
pub use handle::{BulkRowLookup, Handle};
pub use ledger::MessageView;
pub use notifier::WorkNotifier;
pub use receipts::receipt_data;
pub use records::LedgerStep;
pub use schedule::ScheduleCursor;
pub use stats::{COUNT_LIMIT, LaneStats, QueueStats};

/// How long things are kept and held.
#[derive(Debug, Clone)]
pub struct Options {
    /// A lease that nobody settled for this long is judged by `retry`. Longer than any send can take.
    pub lease_timeout: Duration,
    /// How long an idempotency key answers.
    pub idempotency_ttl: Duration,
    /// Messages of one instance that may wait; more are refused with 429.
    pub capacity: u64,
    /// How old a message may get before it is not sent any more, where its sender said nothing.
    pub transactional_expiry: Option<Duration>,
    pub bulk_expiry: Option<Duration>,
    /// How long a settled message can be asked for.
    pub ledger_retention: Duration,
    /// How long events stay in the log of their instance ...
    pub event_retention: Duration,
    /// ... and how many bytes of them, without the bookkeeping of the store. The oldest go first.
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

/// A message that somebody wants sent.
#[derive(Debug, Clone)]
pub struct Submission {
    pub instance: InstanceNumber,
    pub message: OutboundMessage,
    pub class: Class,
    pub mode: Mode,
    pub idempotency: Option<IdempotencyKey>,
    /// After this moment it must not be sent any more.
    pub expires_at: Option<Timestamp>,
    /// Not before this moment; it joins its lane then.
    pub send_at: Option<Timestamp>,
    /// What becomes of it if its outcome stays unknown.
    pub on_ambiguous: AmbiguousPolicy,
    /// WhatsApp recognises it when it is sent again under the same id.
    pub repeatable: bool,
    /// The row of a bulk job that it is. It belongs to the bulk class, whatever `class` says.
    pub item: Option<BulkItem>,
}

impl Submission {
    /// The class that it is sent in.
    fn class(&self) -> Class {
        self.item.map_or(self.class, |_| Class::Bulk)
    }
}

/// A caller's key for "this is the same request", with a digest of the request itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    pub key: [u8; 16],
    pub body: [u8; 16],
}

/// A submission's place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    New(MessageId),
    /// The idempotency key was used before with the same request: that message stands.
    Duplicate(MessageId),
}

impl Acceptance {
    pub fn id(self) -> MessageId {
        match self {
            Acceptance::New(id) | Acceptance::Duplicate(id) => id,
        }
    }
}

/// The exclusive right, and duty, to attempt one message. Settled exactly once; what is not settled expires.
#[derive(Debug, Clone)]
pub struct Lease {
    pub id: MessageId,
    pub message: OutboundMessage,
    pub mode: Mode,
    pub on_ambiguous: AmbiguousPolicy,
    /// WhatsApp recognises it when it is sent again under the same id.
    pub repeatable: bool,
    /// Failed attempts so far that count against the policy's limit.
    pub failures: u32,
    /// Which try this is, the uncounted ones included; tells this lease from an earlier one of the same message.
    pub attempt: u32,
    pub leased_at: Timestamp,
}

/// What an instance gets when it asks for work.
#[derive(Debug, Default)]
pub struct LeaseBatch {
    pub leases: Vec<Lease>,
    /// When asking again will find more, if nothing new arrives before.
    pub next_due: Option<Timestamp>,
}

/// How a synchronous send ended.
#[derive(Debug, Clone, PartialEq)]
pub enum SendOutcome {
    Sent(ProviderMessageId),
    Failed(Failure),
    /// An attempt went out and its result is not known (yet).
    Unknown,
    /// Its time ended before an attempt began; it will not be sent.
    Cancelled,
}

/// What WhatsApp reports about a message after it was handed over.
#[derive(Debug, Clone)]
pub struct ReceiptReport {
    pub instance: InstanceNumber,
    /// Our id, when the report carries it.
    pub id: Option<MessageId>,
    pub provider_id: ProviderMessageId,
    pub receipt: Receipt,
    pub at: Timestamp,
    /// Why, for [`Receipt::Failed`].
    pub failure: Option<Failure>,
}

/// A message as WhatsApp calls it.
type ProviderMessageKey = (InstanceNumber, ProviderMessageId);

impl ReceiptReport {
    fn provider_message_key(&self) -> ProviderMessageKey {
        (self.instance, self.provider_id.clone())
    }
}

/// What a report changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptResult {
    /// The message moved.
    Advanced(MessageId),
    /// The message knew that already, or knows better.
    Unchanged(MessageId),
    /// No such message here.
    Unknown,
}

/// What waits in an instance's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Jobs not yet settled, in flight or waiting, by class.
    pub transactional: u64,
    pub bulk: u64,
}

impl Depth {
    pub fn total(self) -> u64 {
        self.transactional + self.bulk
    }
}

/// Why the queue did not do what it was asked.
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
