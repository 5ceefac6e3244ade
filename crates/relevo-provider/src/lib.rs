//! The roads to WhatsApp.
//!
//! A provider turns an [`OutboundMessage`] into what its network wants, and the network's answers into a
//! [`ProviderMessageId`] or a [`Failure`]. It classifies every failure once, by what can be known about the
//! message; what happens then is decided elsewhere. It keeps no queue and retries nothing; what it remembers, such
//! as the ids of media that WhatsApp already has, is a cache that may be lost.

mod connection;
pub mod limits;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use url::Url;

use relevo_domain::{
    Failure, MessageId, OutboundMessage, PhoneNumber, ProviderKind, ProviderMessageId, Recipient,
    ValidationError,
};
use relevo_egress::Egress;
use relevo_store::{Blobs, Store};

pub use connection::{
    ConnectionEvent, DirectClient, LinkEnd, LinkEvent, LinkedAccount, LinkedOptions, LoginGate, LoginPermit,
    PairCode,
};

/// One account's client on one road. Owned by its instance actor.
pub trait Provider: Send + Sync + 'static {
    fn kind(&self) -> ProviderKind;

    /// Whether WhatsApp could take this message at all: limits, formats, capabilities. Pure, so that a message
    /// that cannot be sent is refused before it is accepted.
    fn check(&self, message: &OutboundMessage) -> Result<(), CheckError>;

    /// Whether the account answers: `Ok` means connected.
    fn probe(&self) -> BoxFuture<'_, Result<(), Failure>>;

    /// One attempt. `id` travels with the message where the network lets it, so that a later status finds it.
    ///
    /// The caller bounds its duration; when the future is dropped the outcome is unknown.
    fn send<'a>(
        &'a self,
        id: MessageId,
        message: &'a OutboundMessage,
    ) -> BoxFuture<'a, Result<ProviderMessageId, Failure>>;

    /// Marks a received message as read; `typing` also shows the recipient that an answer is being written.
    fn mark_read<'a>(&'a self, read: &'a MarkReadRequest, typing: bool)
    -> BoxFuture<'a, Result<(), Failure>>;

    /// What WhatsApp knows about a file that it has. [`Permanent`](relevo_domain::FailureKind::Permanent) when it
    /// has no such file, or no longer.
    fn media<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<RemoteMedia, Failure>>;

    /// The same, and the file itself. Nothing bounds its size but the caller, who may stop reading.
    fn open_media<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(RemoteMedia, MediaStream), Failure>>;

    /// Begins a lasting connection, where the road has one; what happens on it goes to `inbox`, which holds the
    /// connection back when it is full. Called once. The connection ends when nobody hears it any more: when `inbox` is
    /// closed, or the provider is dropped.
    fn connect(&self, _inbox: mpsc::Sender<ConnectionEvent>) {}

    /// Asks WhatsApp to show a prompt on the phone of that number, where the code in the answer is typed in.
    fn pair_by_code<'a>(&'a self, _phone: &'a PhoneNumber) -> BoxFuture<'a, Result<PairCode, Failure>> {
        Box::pin(async { Err(Failure::permanent("only a linked device is paired")) })
    }

    /// Ends the link between this device and the account, at WhatsApp as far as it can be reached, and here for
    /// certain: its keys are forgotten.
    fn unlink(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }
}

/// A received message that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkReadRequest {
    pub message: ProviderMessageId,
    /// Where it was written, and by whom: what a linked device has to say, and the Cloud API knows.
    pub chat: Option<Recipient>,
    pub sender: Option<Recipient>,
}

/// A file at WhatsApp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteMedia {
    /// Where its bytes are, for minutes, and only for who shows the account's token.
    pub url: Url,
    /// For example `image/jpeg`.
    pub mime: String,
    /// SHA-256 as WhatsApp writes it.
    pub sha256: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
}

/// A file at WhatsApp as it arrives. After a failure nothing more comes.
pub type MediaStream = BoxStream<'static, Result<Bytes, Failure>>;

/// Why a message is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// It breaks a limit or a format of the network.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// This road has nothing like it.
    #[error("{provider} cannot send {what}", provider = .provider.as_str())]
    Unsupported { provider: ProviderKind, what: String },
}

/// Why an instance's settings do not make a provider.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    #[error("this binary was built without the provider {}", .0.as_str())]
    NotBuilt(ProviderKind),
}

/// What providers share: the guarded way out, the blobs of accepted media, and a place for what they remember.
#[derive(Clone)]
pub struct ProviderResources {
    pub egress: Egress,
    pub blobs: Blobs,
    pub store: Store,
    pub clock: relevo_clock::Clock,
    pub linked: LinkedOptions,
    pub login_gate: LoginGate,
    pub direct_client: DirectClient,
}
