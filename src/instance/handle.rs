use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::inbound::WebhookAccount;
use crate::media::MediaCache;
use crate::queue::{self, Acceptance, Depth, MessageView, SendOutcome};
use crate::supervisor::ActorSlot;
use relevo_domain::{
    AmbiguousPolicy, BlobRef, Failure, InstanceConfig, InstanceId, InstanceState, MessageId, MessageRef,
    Mode, ProviderMessageId,
};
use relevo_egress::Egress;
use relevo_store::Blobs;

use super::admission::{self, MessageChecker, SendRequest};
use super::directory::{DirectoryEntry, InstanceDirectory, InstanceView};
use super::supervisor::{InstanceNames, Msg};
use super::{Error, StateView};

/// The way to the instances. Cheap to clone; reading never waits for an actor.
#[derive(Clone)]
pub struct Handle {
    pub(super) slot: ActorSlot<Msg>,
    pub(super) directory: watch::Receiver<Arc<InstanceDirectory>>,
    pub(super) names: watch::Receiver<InstanceNames>,
    pub(super) queue: queue::Handle,
    pub(super) egress: Egress,
    pub(super) blobs: Blobs,
    pub(super) media_cache: MediaCache,
    pub(super) sync_wait: Duration,
    pub(super) on_ambiguous: AmbiguousPolicy,
}

/// How a synchronous send ended.
#[derive(Debug, Clone, PartialEq)]
pub enum SyncSendOutcome {
    Sent(ProviderMessageId),
    /// WhatsApp, or the way to it, said no; it was not sent.
    Failed(Failure),
    /// It went out, and its result is not known yet: ask for the message later.
    Unknown,
    /// It could not begin in time and will not be sent: too much is ahead of it, or the instance is not connected.
    NotStarted(StateView),
}

impl Handle {
    /// Creates an instance; one on the Cloud API connects at once.
    pub async fn create(&self, config: InstanceConfig) -> Result<InstanceView, Error> {
        self.slot.call(|reply| Msg::Create(Box::new(config), reply)).await?
    }

    /// Replaces an instance's configuration. New credentials resume a paused instance.
    pub async fn update(&self, config: InstanceConfig) -> Result<InstanceView, Error> {
        self.slot.call(|reply| Msg::Update(Box::new(config), reply)).await?
    }

    /// Deletes an instance with its queue, events and keys.
    pub async fn delete(&self, id: InstanceId) -> Result<(), Error> {
        self.slot.call(|reply| Msg::Delete(id, reply)).await?
    }

    /// Asks an instance to be connected; resumes it when it is paused.
    pub async fn connect(&self, id: InstanceId) -> Result<InstanceView, Error> {
        self.slot.call(|reply| Msg::Connect(id, reply)).await?
    }

    /// Asks an instance to stay away from WhatsApp; its queue waits.
    pub async fn disconnect(&self, id: InstanceId) -> Result<InstanceView, Error> {
        self.slot.call(|reply| Msg::Disconnect(id, reply)).await?
    }

    /// Replaces an instance's actor and client, whatever state they are in, and forgets earlier crashes.
    pub async fn restart(&self, id: InstanceId) -> Result<InstanceView, Error> {
        self.slot.call(|reply| Msg::Restart(id, reply)).await?
    }

    /// Every instance, by name.
    pub fn list(&self) -> Vec<InstanceView> {
        let mut views: Vec<_> = self.directory.borrow().by_id.values().map(|known| known.view()).collect();
        views.sort_by(|one, other| one.config.id.cmp(&other.config.id));
        views
    }

    pub fn get(&self, id: &InstanceId) -> Result<InstanceView, Error> {
        Ok(self.find(id)?.view())
    }

    /// Every instance by its number, as they come and go.
    pub fn names(&self) -> watch::Receiver<InstanceNames> {
        self.names.clone()
    }

    /// The accounts that Meta's webhooks may be about.
    pub fn accounts(&self) -> Arc<[WebhookAccount]> {
        self.directory.borrow().accounts.clone()
    }

    /// Takes a message in, whatever the instance is doing; when this answers, it is durable.
    pub async fn enqueue(&self, id: &InstanceId, send: SendRequest) -> Result<Acceptance, Error> {
        let known = self.find(id)?;
        let submission =
            admission::build_submission(&known, &self.egress, send, Mode::Async, self.on_ambiguous).await?;
        Ok(self.queue.enqueue(submission).await?)
    }

    /// Sends a message while the caller waits: one attempt, a bounded time.
    pub async fn send_now(
        &self,
        id: &InstanceId,
        send: SendRequest,
    ) -> Result<(MessageId, SyncSendOutcome), Error> {
        let known = self.find(id)?;
        let submission =
            admission::build_submission(&known, &self.egress, send, Mode::Sync, self.on_ambiguous).await?;
        let StateView { state, reason, .. } = known.state.borrow().clone();
        if !matches!(state, InstanceState::Connected | InstanceState::Connecting) {
            return Err(Error::NotConnected { state, reason });
        }
        let (message, outcome) = self.queue.send_now(submission, self.sync_wait).await?;
        let sent = match outcome {
            SendOutcome::Sent(provider_id) => SyncSendOutcome::Sent(provider_id),
            SendOutcome::Failed(failure) => SyncSendOutcome::Failed(failure),
            SendOutcome::Unknown => SyncSendOutcome::Unknown,
            SendOutcome::Cancelled => SyncSendOutcome::NotStarted(known.state.borrow().clone()),
        };
        Ok((message, sent))
    }

    /// A check for many messages that this instance is to send.
    pub fn message_checker(&self, id: &InstanceId) -> Result<MessageChecker, Error> {
        Ok(MessageChecker::new(self.find(id)?, self.egress.clone()))
    }

    /// Keeps media that came with a request; when this answers, it is on the disk.
    pub async fn store_media(&self, bytes: Bytes, mime: &str) -> Result<BlobRef, Error> {
        Ok(self.blobs.put(bytes, mime).await?)
    }

    /// Where a message of an instance stands.
    pub fn message(&self, id: &InstanceId, message: &MessageRef) -> Result<MessageView, Error> {
        Ok(self.queue.find(self.find(id)?.number, message)?)
    }

    /// What waits in an instance's queue.
    pub fn depth(&self, id: &InstanceId) -> Result<Depth, Error> {
        Ok(self.queue.depth(self.find(id)?.number)?)
    }

    /// Resolves when nothing is in flight any more, or when `deadline` has passed: no new attempts begin.
    pub async fn drain(&self, deadline: Duration) {
        let drained = self.slot.call(Msg::Drain);
        if tokio::time::timeout(deadline, drained).await.is_err() {
            tracing::warn!(
                ?deadline,
                "attempts were still under way at the deadline; they are judged on the next start"
            );
        }
    }

    pub(super) fn find(&self, id: &InstanceId) -> Result<Arc<DirectoryEntry>, Error> {
        let known = self.directory.borrow().by_id.get(id).cloned();
        known.ok_or_else(|| Error::Unknown(id.clone()))
    }
}
