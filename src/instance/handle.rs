//! The handle to all instances: commands go to the supervisor; reads use the published directory and never wait for an
//! actor.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::inbound::WebhookAccount;
use crate::media::MediaCache;
use crate::queue::{self, Acceptance, Depth, IdempotencyKey, MessageView, SendOutcome};
use crate::supervisor::ActorSlot;
use relevo_domain::{
    AmbiguousPolicy, BlobRef, Failure, InstanceConfig, InstanceId, InstanceNumber, InstanceState, MessageId,
    MessageRef, Mode, ProviderMessageId,
};
use relevo_egress::Egress;
use relevo_store::Blobs;

use super::admission::{self, MessageChecker, SendRequest};
use super::directory::{DirectoryEntry, InstanceDirectory, InstanceView};
use super::supervisor::{InstanceNames, Msg, OpenProvider};
use super::{Error, StateView};

/// Handle to all instances. Cheap to clone; reads never wait for an actor.
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
    pub(super) open_provider: OpenProvider,
}

/// Outcome of a synchronous send.
#[derive(Debug, Clone, PartialEq)]
pub enum SyncSendOutcome {
    /// WhatsApp accepted the message.
    Sent(ProviderMessageId),
    /// WhatsApp rejected the message, or could not be reached. It was not sent.
    Failed(Failure),
    /// An attempt began and its outcome is not known yet. The status of the message tells it later.
    Unknown,
    /// No attempt began in time, and none will: the queue is too long, or the instance is not connected.
    NotStarted(StateView),
}

impl SyncSendOutcome {
    fn new(outcome: SendOutcome, instance: &DirectoryEntry) -> Self {
        match outcome {
            SendOutcome::Sent(provider_id) => SyncSendOutcome::Sent(provider_id),
            SendOutcome::Failed(failure) => SyncSendOutcome::Failed(failure),
            SendOutcome::Unknown => SyncSendOutcome::Unknown,
            SendOutcome::Cancelled => SyncSendOutcome::NotStarted(instance.state.borrow().clone()),
        }
    }
}

impl Handle {
    /// Checks that a provider accepts the configuration of an instance.
    ///
    /// # Errors
    ///
    /// A setting is invalid, or this node does not have the provider.
    pub fn check(&self, config: &InstanceConfig) -> Result<(), Error> {
        // Creating a client checks the configuration. The number does not matter for that.
        (self.open_provider)(InstanceNumber::FIRST, config)?;
        Ok(())
    }

    /// Makes the supervisor follow a record that a commit of another module has created or changed, as at the start of the
    /// node.
    ///
    /// # Errors
    ///
    /// The record could not be read, or the provider refuses the configuration.
    pub async fn reload(&self, number: InstanceNumber) -> Result<(), Error> {
        self.slot.call(|reply| Msg::Reload(number, reply)).await?
    }

    /// Connects an instance, also if it is paused.
    ///
    /// # Errors
    ///
    /// The instance does not exist or is being logged out.
    pub async fn connect(&self, id: InstanceId) -> Result<InstanceView, Error> {
        self.slot.call(|reply| Msg::Connect(id, reply)).await?
    }

    /// Disconnects an instance. Its queue is kept.
    ///
    /// # Errors
    ///
    /// The instance does not exist or is being logged out.
    pub async fn disconnect(&self, id: InstanceId) -> Result<InstanceView, Error> {
        self.slot.call(|reply| Msg::Disconnect(id, reply)).await?
    }

    /// Replaces the actor and the client of an instance in any state, and resets its crash count.
    ///
    /// # Errors
    ///
    /// The instance does not exist or is being logged out.
    pub async fn restart(&self, id: InstanceId) -> Result<InstanceView, Error> {
        self.slot.call(|reply| Msg::Restart(id, reply)).await?
    }

    /// All instances, sorted by id.
    pub fn list(&self) -> Vec<InstanceView> {
        let mut views: Vec<_> = self.directory.borrow().by_id.values().map(|entry| entry.view()).collect();
        views.sort_by(|a, b| a.config.id.cmp(&b.config.id));
        views
    }

    /// One instance.
    ///
    /// # Errors
    ///
    /// The instance does not exist.
    pub fn get(&self, id: &InstanceId) -> Result<InstanceView, Error> {
        Ok(self.find(id)?.view())
    }

    /// The ids of all instances by number, updated when instances are created or deleted.
    pub fn names(&self) -> watch::Receiver<InstanceNames> {
        self.names.clone()
    }

    /// The Cloud API accounts to which Meta's webhooks may belong.
    pub fn accounts(&self) -> Arc<[WebhookAccount]> {
        self.directory.borrow().accounts.clone()
    }

    /// Accepts a message into the queue, in any state of the instance. The message is durable when this returns.
    ///
    /// # Errors
    ///
    /// The instance does not exist, WhatsApp would reject the message, or the queue refuses it.
    pub async fn enqueue(&self, id: &InstanceId, send: SendRequest) -> Result<Acceptance, Error> {
        let entry = self.find(id)?;
        let submission =
            admission::build_submission(&entry, &self.egress, send, Mode::Async, self.on_ambiguous).await?;
        Ok(self.queue.enqueue(submission).await?)
    }

    /// Sends a message and waits a bounded time for the outcome of its one attempt.
    ///
    /// # Errors
    ///
    /// Those of [`enqueue`](Self::enqueue); also if the instance is neither connected nor connecting.
    pub async fn send_now(
        &self,
        id: &InstanceId,
        send: SendRequest,
    ) -> Result<(MessageId, SyncSendOutcome), Error> {
        let entry = self.find(id)?;
        let submission =
            admission::build_submission(&entry, &self.egress, send, Mode::Sync, self.on_ambiguous).await?;
        let StateView { state, reason, .. } = entry.state.borrow().clone();
        if !matches!(state, InstanceState::Connected | InstanceState::Connecting) {
            return Err(Error::NotConnected { state, reason });
        }
        let (message, outcome) = self.queue.send_now(submission, self.sync_wait).await?;
        Ok((message, SyncSendOutcome::new(outcome, &entry)))
    }

    /// The message that an earlier request with this idempotency key created. It is looked up before a request is
    /// judged, because the answer to a repetition does not depend on the present: the message may be sent already, its
    /// `send_at` may be past, and the instance may be disconnected.
    ///
    /// # Errors
    ///
    /// The instance does not exist, the key belongs to a different request, or the queue is not available.
    pub async fn find_repeated(
        &self,
        id: &InstanceId,
        key: &IdempotencyKey,
    ) -> Result<Option<MessageId>, Error> {
        Ok(self.queue.find_repeated(self.find(id)?.number, key).await?)
    }

    /// Waits a bounded time for the outcome of a message that was accepted before.
    ///
    /// # Errors
    ///
    /// The instance does not exist, or the queue is not available.
    pub async fn await_outcome(&self, id: &InstanceId, message: MessageId) -> Result<SyncSendOutcome, Error> {
        let entry = self.find(id)?;
        let outcome = self.queue.await_outcome(message, self.sync_wait).await?;
        Ok(SyncSendOutcome::new(outcome, &entry))
    }

    /// A checker for many messages of one instance.
    ///
    /// # Errors
    ///
    /// The instance does not exist.
    pub fn message_checker(&self, id: &InstanceId) -> Result<MessageChecker, Error> {
        Ok(MessageChecker::new(self.find(id)?, self.egress.clone()))
    }

    /// Stores media of a request. The file is durable when this returns.
    ///
    /// # Errors
    ///
    /// The file could not be written.
    pub async fn store_media(&self, bytes: Bytes, mime: &str) -> Result<BlobRef, Error> {
        Ok(self.blobs.put(bytes, mime).await?)
    }

    /// The status of a message of an instance.
    ///
    /// # Errors
    ///
    /// The instance or the message does not exist.
    pub fn message(&self, id: &InstanceId, message: &MessageRef) -> Result<MessageView, Error> {
        Ok(self.queue.find(self.find(id)?.number, message)?)
    }

    /// The number of messages in the queue of an instance.
    ///
    /// # Errors
    ///
    /// The instance does not exist, or the store could not be read.
    pub fn depth(&self, id: &InstanceId) -> Result<Depth, Error> {
        Ok(self.queue.depth(self.find(id)?.number)?)
    }

    /// Begins no more attempts. Returns when none is in flight, or after `deadline`.
    pub async fn drain(&self, deadline: Duration) {
        let drained = self.slot.call(Msg::Drain);
        if tokio::time::timeout(deadline, drained).await.is_err() {
            tracing::warn!(
                ?deadline,
                "drain deadline passed with attempts in flight; retry decides about them after the next start"
            );
        }
    }

    /// The published entry of an instance.
    ///
    /// # Errors
    ///
    /// The instance does not exist.
    pub(super) fn find(&self, id: &InstanceId) -> Result<Arc<DirectoryEntry>, Error> {
        let entry = self.directory.borrow().by_id.get(id).cloned();
        entry.ok_or_else(|| Error::Unknown(id.clone()))
    }
}
