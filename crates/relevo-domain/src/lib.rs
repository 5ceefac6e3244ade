//! The types that all parts of the node share: ids, phone numbers, messages, statuses, failures, and the rules between
//! them.
//!
//! Pure data and pure functions: no I/O, no clock, no random numbers, no other relevo crate. External input is parsed
//! into these types once, at the boundary; code behind it relies on their guarantees.

mod backoff;
mod capabilities;
mod content;
mod error;
mod event;
mod failure;
mod identity;
mod inbound;
mod instance;
mod instance_id;
mod message;
mod mime;
mod numbering_plan;
mod phone;
mod reason;
mod recipient;
mod retry;
mod status;
mod status_update;
mod time;
mod unknown_outcome;

pub use backoff::Backoff;
pub use capabilities::Capabilities;
pub use content::{
    BlobRef, Button, Content, Header, Interactive, ListRow, ListSection, Location, Media, MediaKind,
    MediaSource, Poll, Template,
};
pub use error::{ErrorKind, ValidationError};
pub use event::{EventKind, UnknownEventKind};
pub use failure::{Failure, FailureKind, FailureScope};
pub use identity::{Identity, IdentityChange};
pub use inbound::{
    ButtonReply, Chat, Choice, FormReply, InboundContent, InboundLocation, InboundMedia, InboundMediaKind,
    InboundMessage, InboundPoll, InteractiveReply, MessageContext, Order, OrderItem, PollVote, Reaction,
    ReferredProduct, Sender, SystemNotice,
};
pub use instance::{
    CloudApiSettings, InstanceConfig, InstanceState, LinkedDeviceSettings, ProviderConfig, ProviderKind,
    RateLimit, Reason, Secret,
};
pub use instance_id::{InstanceId, InstanceNumber};
pub use message::{
    BulkItem, Class, MessageId, MessageOptions, MessageRef, Mode, OutboundMessage, ProviderMessageId,
};
pub use mime::mime_essence;
pub use numbering_plan::{Country, PlanMismatch};
pub use phone::PhoneNumber;
pub use reason::ReasonCode;
pub use recipient::{Jid, LaneId, Recipient, RecipientParser, UserId};
pub use retry::{BuryReason, FailedAttempt, RetryDecision, RetryPolicy, decide_retry};
pub use status::{Receipt, Status};
pub use status_update::StatusUpdate;
pub use time::Timestamp;
pub use unknown_outcome::{AmbiguousPolicy, OpenAttempt, Overdue, is_outcome_unknown};
