//! Changes of endpoints, by operators and (disabling) by the node. Each change reads the record in its own commit, is then
//! published to readers, and then restarts or stops the actor of the endpoint.

use ractor::ActorRef;
use serde_json::json;

use crate::events::{self, Event};
use relevo_domain::{EventKind, InstanceNumber};
use relevo_store::Tx;

use super::endpoint::{
    CheckedConfig, DisabledInfo, Endpoint, EndpointConfig, EndpointId, EndpointRuntime, EndpointScope,
    EndpointUpdate, EndpointView,
};
use super::retry::Failures;
use super::supervisor::{Msg, State, purge};
use super::{Error, storage};

impl State {
    /// Follows the record of an endpoint that a commit of another module has created, changed or deleted.
    pub(super) async fn reload(&mut self, me: &ActorRef<Msg>, id: EndpointId) -> Result<(), Error> {
        match storage::get_endpoint(&self.arguments.shared.store, id)? {
            Some(endpoint) => self.follow(me, id, endpoint).await?,
            None if self.endpoints.contains_key(&id) => self.finish_deletion(id),
            None => {}
        }
        Ok(())
    }

    /// Runs an endpoint as its new record requires.
    async fn follow(&mut self, me: &ActorRef<Msg>, id: EndpointId, endpoint: Endpoint) -> Result<(), Error> {
        self.register(id, endpoint)?;
        self.restart(me, id, "endpoint changed").await;
        self.publish();
        Ok(())
    }

    /// Creates the primary endpoint of an instance, or updates it. `keeps_secret`: an existing one keeps its secret.
    pub(super) async fn set_primary(
        &mut self,
        me: &ActorRef<Msg>,
        instance: InstanceNumber,
        config: CheckedConfig,
        keeps_secret: bool,
    ) -> Result<EndpointView, Error> {
        let scope = EndpointScope::Instance(instance);
        let is_primary =
            |runtime: &EndpointRuntime| runtime.endpoint.primary && runtime.endpoint.scope == scope;
        let primary = self.endpoints.values().find(|entry| is_primary(&entry.runtime));
        match primary.map(|entry| entry.runtime.id) {
            None => self.create(me, scope, true, config).await,
            Some(id) => {
                let EndpointConfig { url, secret, events, enabled } = config.0;
                let update = EndpointUpdate {
                    url: Some(url),
                    secret: (!keeps_secret).then_some(secret),
                    events: Some(events),
                    enabled: Some(enabled),
                };
                self.update(me, id, update).await
            }
        }
    }

    /// Creates an endpoint, which receives the events from now on.
    pub(super) async fn create(
        &mut self,
        me: &ActorRef<Msg>,
        scope: EndpointScope,
        primary: bool,
        CheckedConfig(config): CheckedConfig,
    ) -> Result<EndpointView, Error> {
        let limit = self.arguments.shared.options.max_endpoints;
        let existing = self.endpoints.values().filter(|entry| entry.runtime.endpoint.scope == scope).count();
        if existing >= limit {
            return Err(Error::TooMany { limit });
        }
        let shared = self.arguments.shared.clone();
        let id = EndpointId::generate(&shared.random);
        let endpoint = Endpoint::new(scope, primary, config, shared.clock.now());
        let instances = match scope {
            EndpointScope::Instance(instance) => vec![instance],
            EndpointScope::All => shared.instances.borrow().iter().map(|(instance, _)| *instance).collect(),
        };
        let record = endpoint.clone();
        let write = move |tx: &mut Tx| storage::create_endpoint(tx, &shared.store, id, &record, &instances);
        self.arguments.shared.store.write(write).await?;
        self.follow(me, id, endpoint).await?;
        tracing::info!(endpoint = %id, ?scope, "webhook endpoint created");
        Ok(self.entry(id)?.runtime.view())
    }

    /// Changes an endpoint. It keeps its cursors; its failures are reset.
    pub(super) async fn update(
        &mut self,
        me: &ActorRef<Msg>,
        id: EndpointId,
        update: EndpointUpdate,
    ) -> Result<EndpointView, Error> {
        let now = self.arguments.shared.clock.now();
        let write = move |tx: &mut Tx| {
            let endpoint = storage::modify_endpoint(tx, id, |endpoint| endpoint.with_update(update, now))?;
            if endpoint.is_some() {
                storage::reset_cursors(tx, id)?;
            }
            Ok(endpoint)
        };
        let endpoint = self.arguments.shared.store.write(write).await?.ok_or(Error::Unknown(id))?;
        self.follow(me, id, endpoint).await?;
        Ok(self.entry(id)?.runtime.view())
    }

    /// Deletes an endpoint.
    pub(super) async fn delete(&mut self, id: EndpointId) -> Result<(), Error> {
        self.entry(id)?;
        self.arguments.shared.store.write(move |tx| storage::delete_endpoints(tx, &[id])).await?;
        self.finish_deletion(id);
        Ok(())
    }

    /// Stops an endpoint whose record is deleted. A task deletes its cursors and parked events.
    fn finish_deletion(&mut self, id: EndpointId) {
        self.stop(id, "endpoint deleted");
        self.endpoints.remove(&id);
        self.publish();
        let store = self.arguments.shared.store.clone();
        tokio::spawn(async move { purge(&store, id, None).await });
        tracing::info!(endpoint = %id, "webhook endpoint deleted");
    }

    /// Moves cursors of an endpoint and restarts it.
    pub(super) async fn rewind(
        &mut self,
        me: &ActorRef<Msg>,
        id: EndpointId,
        cursors: Vec<(InstanceNumber, u64)>,
    ) -> Result<(), Error> {
        self.entry(id)?;
        let write = move |tx: &mut Tx| {
            cursors
                .iter()
                .try_for_each(|&(instance, sequence)| storage::move_cursor(tx, id, instance, sequence))
        };
        self.arguments.shared.store.write(write).await?;
        self.restart(me, id, "cursor moved").await;
        Ok(())
    }

    /// Stops the endpoints of a deleted instance, whose records are deleted. A task deletes their cursors and parked events,
    /// and those of other endpoints for the instance.
    pub(super) fn forget_instance(&mut self, instance: InstanceNumber) {
        let (own, shared) = (self.ids_of(EndpointScope::Instance(instance)), self.ids_of(EndpointScope::All));
        own.into_iter().for_each(|id| self.finish_deletion(id));
        let store = self.arguments.shared.store.clone();
        tokio::spawn(async move {
            for id in shared {
                purge(&store, id, Some(instance)).await;
            }
        });
    }

    fn ids_of(&self, scope: EndpointScope) -> Vec<EndpointId> {
        let endpoints = self.endpoints.values().filter(|entry| entry.runtime.endpoint.scope == scope);
        endpoints.map(|entry| entry.runtime.id).collect()
    }

    /// Disables an endpoint, and appends an event `webhook_disabled` to the log of the instance whose event failed, in one
    /// commit.
    pub(super) async fn disable(
        &mut self,
        id: EndpointId,
        instance: InstanceNumber,
        failures: Failures,
    ) -> Result<(), Error> {
        let now = self.arguments.shared.clock.now();
        let data = json!({
            "endpoint_id": id.to_string(),
            "host": self.entry(id)?.runtime.endpoint.url.host_str(),
            "reason": failures.error,
            "failing_since": failures.since.seconds(),
            "attempts": failures.attempts,
        });
        let event = Event { kind: EventKind::WebhookDisabled, at: now, data };
        tracing::error!(endpoint = %id, cause = failures.error, attempts = failures.attempts,
            "webhook endpoint disabled after repeated failures; its backlog is kept");
        let disabled = Some(DisabledInfo { at: now, reason: failures.error });
        let write = move |tx: &mut Tx| {
            let endpoint = storage::modify_endpoint(tx, id, |endpoint| Endpoint { disabled, ..endpoint })?;
            if endpoint.is_some() {
                events::append(tx, instance, &event)?;
            }
            Ok(endpoint)
        };
        let endpoint = self.arguments.shared.store.write(write).await?.ok_or(Error::Unknown(id))?;
        self.register(id, endpoint)?;
        self.stop(id, "endpoint disabled");
        self.publish();
        Ok(())
    }
}
