//! Accounts: an instance together with its webhook endpoints.
//!
//! Guarantees: creating, reconfiguring or deleting an instance with its webhook is one commit, so a crash at any point
//! leaves neither an instance without the webhook that was asked for nor an endpoint without its instance. After the commit
//! the supervisors of instances and webhooks follow what is stored, as they do at the start of the node; a crash before
//! that is repaired by the next start. A caller that stops waiting interrupts nothing.
//!
//! One actor runs these changes one after another, so each is decided on what the previous one has published. Checks that
//! ask the network (where a URL leads) run before, in the task of the caller.

mod actor;
mod handle;
mod orphans;

use relevo_domain::{ErrorKind, InstanceId, ValidationError};
use relevo_store as store;

use crate::supervisor::ActorUnavailable;
use crate::{instance, webhook};

pub use actor::{AccountsActor, Arguments, ChangeStep, Msg};
pub use handle::{Account, Handle};

/// Why an operation on an account failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A setting is invalid.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// The URL of the instance's webhook is refused.
    #[error("webhook_url: {0}")]
    WebhookUrl(webhook::Error),
    /// The instance has no webhook.
    #[error("the instance {0} has no webhook; set one with POST /instances/{{id}}/webhook")]
    NoWebhook(InstanceId),
    /// Error of the instance.
    #[error(transparent)]
    Instance(#[from] instance::Error),
    /// Error of an endpoint.
    #[error(transparent)]
    Webhook(#[from] webhook::Error),
    /// Error of the store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The actor does not run.
    #[error(transparent)]
    Gone(#[from] ActorUnavailable),
}

impl Error {
    /// The kind of the error, for the HTTP status.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Invalid(_) => ErrorKind::Invalid,
            Error::NoWebhook(_) => ErrorKind::NotFound,
            Error::Instance(error) => error.kind(),
            Error::WebhookUrl(error) | Error::Webhook(error) => error.kind(),
            Error::Store(error) => error.kind(),
            Error::Gone(_) => ErrorKind::Unavailable,
        }
    }
}
