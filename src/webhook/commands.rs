//! What people change about endpoints, and the one thing that the node changes: each in one commit, then shown, then
//! followed by the endpoint's actor.

use ractor::ActorRef;
use serde_json::json;

use crate::events::{self, Event};
use relevo_domain::InstanceNumber;
use relevo_store::Tx;

use super::endpoint::{
    DisabledInfo, Endpoint, EndpointConfig, EndpointId, EndpointRuntime, EndpointScope, EndpointUpdate,
    EndpointView,
};
use super::retry::Failures;
use super::supervisor::{Msg, State, purge};
use super::{Error, storage};

impl State {
    pub(super) async fn set_primary(
        &mut self,
        me: &ActorRef<Msg>,
        instance: InstanceNumber,
        config: EndpointConfig,
    ) -> Result<EndpointView, Error> {
        let scope = EndpointScope::Instance(instance);
        let is_primary = |known: &EndpointRuntime| known.endpoint.primary && known.endpoint.scope == scope;
        let present = self.endpoints.values().find(|entry| is_primary(&entry.runtime));
        match present.map(|entry| entry.runtime.id) {
            None => self.create(me, scope, true, config).await,
            Some(id) => {
                let EndpointConfig { url, secret, events, enabled } = config;
                let update = EndpointUpdate {
                    url: Some(url),
                    secret: Some(secret),
                    events: Some(events),
                    enabled: Some(enabled),
                };
                self.update(me, id, update).await
            }
        }
    }

    pub(super) async fn create(
        &mut self,
        me: &ActorRef<Msg>,
        scope: EndpointScope,
        primary: bool,
        config: EndpointConfig,
    ) -> Result<EndpointView, Error> {
        let limit = self.arguments.shared.options.max_endpoints;
        let alike = self.endpoints.values().filter(|entry| entry.runtime.endpoint.scope == scope).count();
        if alike >= limit {
            return Err(Error::TooMany { limit });
        }
        let (id, shared) = (EndpointId::random(), self.arguments.shared.clone());
        let endpoint = Endpoint::new(scope, primary, config, shared.clock.now());
        let instances = match scope {
            EndpointScope::Instance(instance) => vec![instance],
            EndpointScope::All => shared.instances.borrow().iter().map(|(instance, _)| *instance).collect(),
        };
        let record = endpoint.clone();
        let write = move |tx: &mut Tx| {
            storage::put_endpoint(tx, id, &record)?;
            for instance in instances {
                // What is appended meanwhile is told.
                let tail = events::last_sequence(&shared.store, instance)?;
                storage::move_cursor(tx, id, instance, tail)?;
            }
            Ok(())
        };
        self.arguments.shared.store.write(write).await?;
        self.register(id, endpoint)?;
        self.start(me, id).await;
        self.publish();
        tracing::info!(endpoint = %id, ?scope, "webhook endpoint created");
        Ok(self.entry(id)?.runtime.view())
    }

    /// Changes an endpoint. It keeps its place in the logs, and forgets what it failed at before.
    pub(super) async fn update(
        &mut self,
        me: &ActorRef<Msg>,
        id: EndpointId,
        update: EndpointUpdate,
    ) -> Result<EndpointView, Error> {
        let entry = self.entry(id)?;
        let endpoint = entry.runtime.endpoint.with_update(update, self.arguments.shared.clock.now());
        let record = endpoint.clone();
        let write = move |tx: &mut Tx| {
            storage::put_endpoint(tx, id, &record)?;
            storage::reset_cursors(tx, id)
        };
        self.arguments.shared.store.write(write).await?;
        self.register(id, endpoint)?;
        self.restart(me, id, "its endpoint changed").await;
        self.publish();
        Ok(self.entry(id)?.runtime.view())
    }

    pub(super) async fn delete(&mut self, id: EndpointId) -> Result<(), Error> {
        self.entry(id)?;
        self.arguments.shared.store.write(move |tx| storage::delete_endpoint(tx, id)).await?;
        self.finish_deletion(id);
        Ok(())
    }

    /// Ends an endpoint whose record is gone; the rest goes in its own time.
    fn finish_deletion(&mut self, id: EndpointId) {
        self.stop(id, "its endpoint is deleted");
        self.endpoints.remove(&id);
        self.publish();
        let store = self.arguments.shared.store.clone();
        tokio::spawn(async move { purge(&store, id, None).await });
        tracing::info!(endpoint = %id, "webhook endpoint deleted");
    }

    pub(super) async fn rewind(
        &mut self,
        me: &ActorRef<Msg>,
        id: EndpointId,
        places: Vec<(InstanceNumber, u64)>,
    ) -> Result<(), Error> {
        self.entry(id)?;
        let write = move |tx: &mut Tx| {
            places
                .iter()
                .try_for_each(|&(instance, sequence)| storage::move_cursor(tx, id, instance, sequence))
        };
        self.arguments.shared.store.write(write).await?;
        self.restart(me, id, "its cursor was moved").await;
        Ok(())
    }

    pub(super) async fn delete_instance(&mut self, instance: InstanceNumber) -> Result<(), Error> {
        let of_scope = |scope: EndpointScope| {
            let fits = move |known: &EndpointRuntime| known.endpoint.scope == scope;
            let found = self.endpoints.values().filter(|entry| fits(&entry.runtime));
            found.map(|entry| entry.runtime.id).collect::<Vec<_>>()
        };
        let (own, of_all) = (of_scope(EndpointScope::Instance(instance)), of_scope(EndpointScope::All));
        let gone = own.clone();
        let delete = move |tx: &mut Tx| gone.iter().try_for_each(|&id| storage::delete_endpoint(tx, id));
        self.arguments.shared.store.write(delete).await?;
        own.into_iter().for_each(|id| self.finish_deletion(id));
        let store = self.arguments.shared.store.clone();
        tokio::spawn(async move {
            for id in of_all {
                purge(&store, id, Some(instance)).await;
            }
        });
        Ok(())
    }

    /// Disables an endpoint and announces it, in one commit, in the log of the instance whose event it would not
    /// take.
    pub(super) async fn disable(
        &mut self,
        id: EndpointId,
        instance: InstanceNumber,
        trouble: Failures,
    ) -> Result<(), Error> {
        let now = self.arguments.shared.clock.now();
        let mut endpoint = self.entry(id)?.runtime.endpoint.clone();
        let data = json!({
            "endpoint_id": id.to_string(),
            "host": endpoint.url.host_str(),
            "reason": trouble.error,
            "failing_since": trouble.since.seconds(),
            "attempts": trouble.attempts,
        });
        let event = Event { kind: "webhook_disabled".to_owned(), at: now, data };
        tracing::error!(endpoint = %id, cause = trouble.error, attempts = trouble.attempts,
            "a webhook endpoint took nothing for too long and is disabled; its events are kept");
        endpoint.disabled = Some(DisabledInfo { at: now, reason: trouble.error });
        let record = endpoint.clone();
        let write = move |tx: &mut Tx| {
            storage::put_endpoint(tx, id, &record)?;
            events::append(tx, instance, &event)
        };
        self.arguments.shared.store.write(write).await?;
        self.register(id, endpoint)?;
        self.stop(id, "its endpoint is disabled");
        self.publish();
        Ok(())
    }
}
