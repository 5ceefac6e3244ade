//! The handle of the accounts. Reads use what the supervisors publish and wait for no actor.

use url::Url;

use crate::instance::{self, InstanceView};
use crate::supervisor::ActorSlot;
use crate::webhook::{self, CheckedConfig, EndpointConfig, EndpointScope, EndpointView};
use relevo_domain::{InstanceConfig, InstanceId, ValidationError};

use super::Error;
use super::actor::Msg;

/// The handle of the accounts. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) slot: ActorSlot<Msg>,
    pub(super) instances: instance::Handle,
    pub(super) webhooks: webhook::Handle,
}

/// An instance with what the API shows beside it.
#[derive(Debug, Clone)]
pub struct Account {
    /// The instance.
    pub instance: InstanceView,
    /// Number of messages in its queue.
    pub queue_depth: u64,
    /// URL of its primary endpoint.
    pub webhook_url: Option<Url>,
}

impl Handle {
    /// Creates an instance, with a webhook for all events if a URL is given. An instance on the Cloud API connects at once.
    ///
    /// # Errors
    ///
    /// The id is taken, the configuration or the URL is refused, or the commit failed.
    pub async fn create(&self, config: InstanceConfig, webhook_url: Option<Url>) -> Result<Account, Error> {
        let webhook = self.check_webhook_url(webhook_url).await?;
        let created = self.slot.call(|reply| Msg::Create(Box::new(config), webhook, reply)).await?;
        self.describe(created?)
    }

    /// Changes the configuration of an instance as `change` says. New credentials resume a paused instance.
    /// `webhook_url`: `None` keeps the webhook, `Some(None)` deletes it, and a URL creates one for all events or replaces
    /// the URL of the present one, which keeps its backlog.
    ///
    /// # Errors
    ///
    /// The instance does not exist or is being logged out, the configuration or the URL is refused, or the commit failed.
    pub async fn update(
        &self,
        id: InstanceId,
        change: impl FnOnce(InstanceConfig) -> Result<InstanceConfig, ValidationError> + Send + 'static,
        webhook_url: Option<Option<Url>>,
    ) -> Result<Account, Error> {
        self.instances.get(&id)?;
        let webhook = match webhook_url {
            Some(url) => Some(self.check_webhook_url(url).await?),
            None => None,
        };
        let updated = self.slot.call(|reply| Msg::Update(id, Box::new(change), webhook, reply)).await?;
        self.describe(updated?)
    }

    /// Deletes an instance with its endpoints, queue, events and keys. A linked device is unlinked first.
    ///
    /// # Errors
    ///
    /// The instance does not exist, or the commit failed.
    pub async fn delete(&self, id: InstanceId) -> Result<(), Error> {
        self.slot.call(|reply| Msg::Delete(id, reply)).await?
    }

    /// Creates the instance, or changes its configuration if that differs. Its webhook stays.
    ///
    /// # Errors
    ///
    /// The configuration is refused, or the commit failed.
    pub async fn ensure(&self, config: InstanceConfig) -> Result<(), Error> {
        match self.instances.get(&config.id) {
            Ok(view) if view.config == config => Ok(()),
            Ok(view) => self.update(view.config.id, |_| Ok(config), None).await.map(drop),
            Err(_) => self.create(config, None).await.map(drop),
        }
    }

    /// One account.
    ///
    /// # Errors
    ///
    /// The instance does not exist, or the store could not be read.
    pub fn get(&self, id: &InstanceId) -> Result<Account, Error> {
        self.describe(self.instances.get(id)?)
    }

    /// All accounts, sorted by the id of the instance.
    ///
    /// # Errors
    ///
    /// The store could not be read.
    pub fn list(&self) -> Result<Vec<Account>, Error> {
        self.instances.list().into_iter().map(|view| self.describe(view)).collect()
    }

    /// The account of an instance.
    ///
    /// # Errors
    ///
    /// The instance was deleted, or the store could not be read.
    pub fn describe(&self, instance: InstanceView) -> Result<Account, Error> {
        let queue_depth = self.instances.depth(&instance.config.id)?.total();
        let webhook_url = self.webhooks.primary(instance.number).map(|endpoint| endpoint.url);
        Ok(Account { instance, queue_depth, webhook_url })
    }

    /// The webhook of an instance, which is its primary endpoint.
    ///
    /// # Errors
    ///
    /// The instance does not exist, or has no webhook.
    pub fn webhook(&self, id: &InstanceId) -> Result<EndpointView, Error> {
        let number = self.instances.get(id)?.number;
        self.webhooks.primary(number).ok_or_else(|| Error::NoWebhook(id.clone()))
    }

    /// Sets the webhook of an instance. It replaces the previous webhook and takes over its backlog. `keeps_secret`: the
    /// previous webhook's secret stays.
    ///
    /// # Errors
    ///
    /// The instance does not exist, the configuration is refused, there are too many endpoints, or the commit failed.
    pub async fn set_webhook(
        &self,
        id: InstanceId,
        config: EndpointConfig,
        keeps_secret: bool,
    ) -> Result<EndpointView, Error> {
        self.instances.get(&id)?;
        let config = self.webhooks.check(config).await?;
        self.slot.call(|reply| Msg::SetWebhook(id, config, keeps_secret, reply)).await?
    }

    /// Deletes the webhook of an instance with its backlog.
    ///
    /// # Errors
    ///
    /// The instance does not exist or has no webhook, or the commit failed.
    pub async fn delete_webhook(&self, id: InstanceId) -> Result<(), Error> {
        self.slot.call(|reply| Msg::DeleteWebhook(id, reply)).await?
    }

    /// Creates another endpoint for an instance, or for all instances. It receives the events from now on.
    ///
    /// # Errors
    ///
    /// The instance does not exist, the configuration is refused, there are too many endpoints, or the commit failed.
    pub async fn create_endpoint(
        &self,
        instance: Option<InstanceId>,
        config: EndpointConfig,
    ) -> Result<EndpointView, Error> {
        instance.as_ref().map(|id| self.instances.get(id)).transpose()?;
        let config = self.webhooks.check(config).await?;
        match instance {
            None => Ok(self.webhooks.create(EndpointScope::All, config).await?),
            Some(id) => self.slot.call(|reply| Msg::CreateEndpoint(id, config, reply)).await?,
        }
    }

    async fn check_webhook_url(&self, url: Option<Url>) -> Result<Option<CheckedConfig>, Error> {
        let Some(url) = url else { return Ok(None) };
        let checked = self.webhooks.check(EndpointConfig::for_all_events(url)).await;
        checked.map(Some).map_err(Error::WebhookUrl)
    }
}
