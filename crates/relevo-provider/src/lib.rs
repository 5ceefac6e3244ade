//! The interface between the node and a WhatsApp network.
//!
//! A provider translates an [`OutboundMessage`] into its network's format, and the network's answers into a
//! [`ProviderMessageId`] or a [`Failure`]. It classifies each failure once, by what is known about the message; the
//! caller decides on retries. A provider keeps no queue and retries nothing. What it stores, such as the ids of media
//! that WhatsApp already has, is a cache that may be lost.

mod connection;
pub mod limits;
mod login_gate;
mod resources;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use url::Url;

use relevo_domain::{
    Capabilities, Failure, MessageId, OutboundMessage, PhoneNumber, ProviderKind, ProviderMessageId,
    Recipient, ValidationError,
};

pub use connection::{ConnectionEvent, LinkEnd, LinkEvent, LinkedAccount, PairCode};
pub use login_gate::{LoginGate, LoginPermit};
pub use resources::{DirectClient, LinkedOptions, ProviderResources};

/// The client of one account on one network. Its instance actor owns it.
pub trait Provider: Send + Sync + 'static {
    /// The network of this client.
    fn kind(&self) -> ProviderKind;

    /// The capabilities of the network's clients.
    fn capabilities(&self) -> Capabilities {
        self.kind().capabilities()
    }

    /// This client as a linked device. `Some` exactly if [`Capabilities::keeps_connection`] holds.
    fn linked(&self) -> Option<&dyn LinkedProvider>;

    /// Checks whether the network can take this message: limits, formats, capabilities. Pure, so that a message that
    /// cannot be sent is rejected before it is accepted.
    ///
    /// # Errors
    ///
    /// The message breaks a limit of the network, or the network has no such message.
    fn check(&self, message: &OutboundMessage) -> Result<(), CheckError>;

    /// Asks WhatsApp whether the account can be used; `Ok` means connected.
    fn probe(&self) -> BoxFuture<'_, Result<(), Failure>>;

    /// Makes one attempt to send. `id` travels with the message where the network permits it, so that a later status
    /// can be matched to it.
    ///
    /// The caller bounds its duration; when the future is dropped, the outcome is unknown.
    fn send<'a>(
        &'a self,
        id: MessageId,
        message: &'a OutboundMessage,
    ) -> BoxFuture<'a, Result<ProviderMessageId, Failure>>;

    /// Marks a received message as read; `typing` also shows the recipient that an answer is being written.
    fn mark_read<'a>(&'a self, read: &'a MarkReadRequest, typing: bool)
    -> BoxFuture<'a, Result<(), Failure>>;

    /// Describes a file at WhatsApp. The failure is [`Permanent`](relevo_domain::FailureKind::Permanent) when WhatsApp
    /// does not have the file, or no longer has it.
    fn media<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<RemoteMedia, Failure>>;

    /// Describes a file at WhatsApp and opens it for reading. The size is not limited here: the caller stops reading
    /// at its own limit.
    fn open_media<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(RemoteMedia, MediaStream), Failure>>;
}

/// A provider with a lasting connection, whose client is a device that a phone pairs.
pub trait LinkedProvider: Provider {
    /// Begins the connection and sends its events to `inbox`; a full `inbox` holds the connection back. Called once. The
    /// connection ends when `inbox` is closed or the provider is dropped.
    fn connect(&self, inbox: mpsc::Sender<ConnectionEvent>);

    /// Asks WhatsApp to prompt for the returned code on the phone of that number.
    fn pair_by_code<'a>(&'a self, phone: &'a PhoneNumber) -> BoxFuture<'a, Result<PairCode, Failure>>;

    /// Ends the link between this device and the account: at WhatsApp if it can be reached, and here in any case, by
    /// deleting the keys.
    fn unlink(&self) -> BoxFuture<'_, Result<(), Failure>>;
}

/// A received message that is marked as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkReadRequest {
    pub message: ProviderMessageId,
    /// The chat of the message. A linked device needs it; the Cloud API does not.
    pub chat: Option<Recipient>,
    /// The sender of the message. A linked device needs it in groups; the Cloud API does not.
    pub sender: Option<Recipient>,
}

/// The description of a file at WhatsApp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteMedia {
    /// The address of the file. It expires after minutes and requires the account's token.
    pub url: Url,
    /// The media type, for example `image/jpeg`.
    pub mime: String,
    /// SHA-256 in WhatsApp's notation.
    pub sha256: Option<String>,
    /// Size in bytes.
    pub size: Option<u64>,
}

/// The content of a file at WhatsApp, chunk by chunk. It ends after a failure.
pub type MediaStream = BoxStream<'static, Result<Bytes, Failure>>;

/// The reason why a message is rejected before it is accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// It breaks a limit or a format of the network.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// The network has no such message.
    #[error("{provider} cannot send {what}", provider = .provider.as_str())]
    Unsupported { provider: ProviderKind, what: String },
}

/// The reason why no provider can be created from an instance's settings.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    #[error("this binary was built without the provider {}", .0.as_str())]
    NotBuilt(ProviderKind),
}
