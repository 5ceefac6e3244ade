//! The actor that changes accounts, one command after another.
//!
//! Each command has the same steps: decide, commit, make the supervisors follow, reply.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::instance::{self, InstanceView};
use crate::supervisor::ActorSlot;
use crate::webhook::{self, CheckedConfig, EndpointId, EndpointScope, EndpointView};
use relevo_clock::Clock;
use relevo_domain::{InstanceConfig, InstanceId, InstanceNumber, ValidationError};
use relevo_store::{Store, Tx};

use super::orphans::delete_orphans;
use super::{Error, Handle};

type Reply<T> = RpcReplyPort<Result<T, Error>>;

/// Derives the new configuration of an instance from the present one.
pub(super) type ConfigChange =
    Box<dyn FnOnce(InstanceConfig) -> Result<InstanceConfig, ValidationError> + Send>;

/// Commands, all from the API. The replies follow the commit and the supervisors.
pub enum Msg {
    /// Create an instance, with a webhook if one is given.
    Create(Box<InstanceConfig>, Option<CheckedConfig>, Reply<InstanceView>),
    /// Change the configuration of an instance, and its webhook if the outer option is set; `Some(None)` deletes it.
    Update(InstanceId, ConfigChange, Option<Option<CheckedConfig>>, Reply<InstanceView>),
    /// Delete an instance with its endpoints. Its other data is deleted later.
    Delete(InstanceId, Reply<()>),
    /// Create another endpoint for an instance.
    CreateEndpoint(InstanceId, CheckedConfig, Reply<EndpointView>),
    /// Set the webhook of an instance; an existing one keeps its secret if this is true.
    SetWebhook(InstanceId, CheckedConfig, bool, Reply<EndpointView>),
    /// Delete the webhook of an instance.
    DeleteWebhook(InstanceId, Reply<()>),
}

/// The steps of a command after which the process can be killed in tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeStep {
    /// Nothing is written yet.
    Decided,
    /// The change is durable, and no supervisor follows it yet.
    Committed,
    /// The supervisor of the instances follows it, the one of the webhooks does not yet.
    InstanceFollows,
    /// Both follow it, and the caller has no reply yet.
    WebhookFollows,
}

/// The actor that changes accounts.
pub struct AccountsActor;

/// Arguments of the actor, and its state.
#[derive(Clone)]
pub struct Arguments {
    store: Store,
    clock: Clock,
    instances: instance::Handle,
    webhooks: webhook::Handle,
    /// Called after each step. Tests replace it with a kill.
    pub(crate) after_step: Arc<dyn Fn(ChangeStep) + Send + Sync>,
}

impl Arguments {
    /// Creates the arguments of the actor and the handle to it.
    pub fn new(
        store: Store,
        clock: Clock,
        instances: instance::Handle,
        webhooks: webhook::Handle,
        slot: ActorSlot<Msg>,
    ) -> (Self, Handle) {
        let handle = Handle { slot, instances: instances.clone(), webhooks: webhooks.clone() };
        (Self { store, clock, instances, webhooks, after_step: Arc::new(|_| {}) }, handle)
    }
}

impl Actor for AccountsActor {
    type Msg = Msg;
    type State = Arguments;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        _: ActorRef<Msg>,
        arguments: Arguments,
    ) -> Result<Arguments, ActorProcessingErr> {
        delete_orphans(&arguments.store).await?;
        Ok(arguments)
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        state: &mut Arguments,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Create(config, webhook, reply) => drop(reply.send(state.create(*config, webhook).await)),
            Msg::Update(id, change, webhook, reply) => {
                drop(reply.send(state.update(&id, change, webhook).await));
            }
            Msg::Delete(id, reply) => drop(reply.send(state.delete(&id).await)),
            Msg::CreateEndpoint(id, config, reply) => {
                drop(reply.send(state.create_endpoint(&id, config).await));
            }
            Msg::SetWebhook(id, config, keeps_secret, reply) => {
                drop(reply.send(state.set_webhook(&id, config, keeps_secret).await));
            }
            Msg::DeleteWebhook(id, reply) => drop(reply.send(state.delete_webhook(id).await)),
        }
        Ok(())
    }
}

impl Arguments {
    async fn create(
        &self,
        config: InstanceConfig,
        webhook: Option<CheckedConfig>,
    ) -> Result<InstanceView, Error> {
        let id = config.id.clone();
        if self.instances.get(&id).is_ok() {
            return Err(instance::Error::Exists(id).into());
        }
        self.instances.check(&config)?;
        let change = self.webhooks.plan_primary(None, webhook)?;
        (self.after_step)(ChangeStep::Decided);
        let (store, now) = (self.store.clone(), self.clock.now());
        let write = move |tx: &mut Tx| {
            let Some(number) = instance::create(tx, config, now)? else { return Ok(None) };
            let endpoint = change.map(|change| change.write(tx, &store, number, now)).transpose()?;
            Ok(Some((number, endpoint)))
        };
        let created = self.store.write(write).await?;
        let (number, endpoint) = created.ok_or(instance::Error::NumbersExhausted(0xFF_FFFF))?;
        (self.after_step)(ChangeStep::Committed);
        self.follow(number, endpoint).await?;
        tracing::info!(instance = %id, "instance created");
        Ok(self.instances.get(&id)?)
    }

    async fn update(
        &self,
        id: &InstanceId,
        change: ConfigChange,
        webhook: Option<Option<CheckedConfig>>,
    ) -> Result<InstanceView, Error> {
        let InstanceView { number, config, .. } = self.instances.get(id)?;
        let config = change(config)?;
        self.instances.check(&config)?;
        let change = match webhook {
            Some(webhook) => self.webhooks.plan_primary(Some(number), webhook)?,
            None => None,
        };
        (self.after_step)(ChangeStep::Decided);
        let (store, now) = (self.store.clone(), self.clock.now());
        let write = move |tx: &mut Tx| {
            if let Err(refusal) = instance::replace_config(tx, number, config, now)? {
                return Ok(Err(refusal));
            }
            change.map(|change| change.write(tx, &store, number, now)).transpose().map(Ok)
        };
        let endpoint = self.store.write(write).await??;
        (self.after_step)(ChangeStep::Committed);
        self.follow(number, endpoint).await?;
        Ok(self.instances.get(id)?)
    }

    async fn delete(&self, id: &InstanceId) -> Result<(), Error> {
        let number = self.instances.get(id)?.number;
        let endpoints = self.webhooks.list(Some(EndpointScope::Instance(number)));
        let endpoints: Vec<_> = endpoints.iter().map(|endpoint| endpoint.id).collect();
        (self.after_step)(ChangeStep::Decided);
        let write = move |tx: &mut Tx| {
            instance::mark_deleted(tx, number)?;
            webhook::delete_endpoints(tx, &endpoints)
        };
        self.store.write(write).await?;
        (self.after_step)(ChangeStep::Committed);
        self.instances.reload(number).await?;
        (self.after_step)(ChangeStep::InstanceFollows);
        self.webhooks.forget_instance(number).await?;
        (self.after_step)(ChangeStep::WebhookFollows);
        tracing::info!(instance = %id, "instance deleted");
        Ok(())
    }

    /// Makes the supervisors follow a commit.
    async fn follow(&self, number: InstanceNumber, endpoint: Option<EndpointId>) -> Result<(), Error> {
        self.instances.reload(number).await?;
        (self.after_step)(ChangeStep::InstanceFollows);
        if let Some(endpoint) = endpoint {
            self.webhooks.reload(endpoint).await?;
        }
        (self.after_step)(ChangeStep::WebhookFollows);
        Ok(())
    }

    async fn create_endpoint(&self, id: &InstanceId, config: CheckedConfig) -> Result<EndpointView, Error> {
        let scope = EndpointScope::Instance(self.instances.get(id)?.number);
        Ok(self.webhooks.create(scope, config).await?)
    }

    async fn set_webhook(
        &self,
        id: &InstanceId,
        config: CheckedConfig,
        keeps_secret: bool,
    ) -> Result<EndpointView, Error> {
        let number = self.instances.get(id)?.number;
        Ok(self.webhooks.set_primary(number, config, keeps_secret).await?)
    }

    async fn delete_webhook(&self, id: InstanceId) -> Result<(), Error> {
        let number = self.instances.get(&id)?.number;
        match self.webhooks.remove_primary(number).await? {
            true => Ok(()),
            false => Err(Error::NoWebhook(id)),
        }
    }
}
