//! The words of the node: phone numbers, messages, statuses, failures and the rules between them.
//!
//! Pure data and pure functions. Nothing here does I/O, reads a clock or knows another room; whatever comes
//! from outside is parsed into these types once, at the door, and is trusted from there on.

mod capabilities;
mod content;
mod error;
mod failure;
mod inbound;
mod instance;
mod message;
mod mime;
mod phone;
mod recipient;
mod retry;
mod status;
mod status_update;
mod time;

pub use capabilities::Capabilities;
pub use content::{
    BlobRef, Button, Content, Header, Interactive, ListRow, ListSection, Location, Media, MediaKind,
    MediaSource, Poll, Template,
};
pub use error::{ErrorKind, ValidationError};
pub use failure::{Failure, FailureKind, FailureScope};
pub use inbound::{
    ButtonReply, Chat, Choice, FormReply, Identity, InboundContent, InboundLocation, InboundMedia,
    InboundMediaKind, InboundMessage, InboundPoll, InteractiveReply, MessageContext, Order, OrderItem,
    PollVote, Reaction, ReferredProduct, Sender, SystemNotice,
};
pub use instance::{
    CloudApiSettings, InstanceConfig, InstanceId, InstanceNumber, InstanceState, LinkedDeviceSettings,
    ProviderKind, RateLimit, Reason, Secret,
};
pub use message::{
    BulkItem, Class, MessageId, MessageOptions, MessageRef, Mode, OutboundMessage, ProviderMessageId,
};
pub use mime::mime_essence;
pub use phone::PhoneNumber;
pub use recipient::{Jid, LaneId, Recipient, UserId};
pub use retry::{
    AmbiguousPolicy, BuryReason, FailedAttempt, RetryDecision, RetryPolicy, decide_expired_hold, decide_retry,
};
pub use status::{Receipt, Status};
pub use status_update::StatusUpdate;
pub use time::Timestamp;
