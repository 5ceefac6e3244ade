//! The handle of the webhooks: endpoints, parked events, replays, and lag.

use std::ops::Add;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::events::{self, Envelope, Event};
use crate::supervisor::ActorSlot;
use relevo_domain::{InstanceId, InstanceNumber, Secret, Timestamp, ValidationError};
use relevo_store::{self as store, Store};

use super::Error;
use super::endpoint::{
    CheckedConfig, EndpointConfig, EndpointId, EndpointRuntime, EndpointScope, EndpointUpdate, EndpointView,
    check_url,
};
use super::health::{EndpointTotals, WebhookCounts};
use super::primary::PrimaryChange;
use super::retry::DeliveryOutcome;
use super::signature::Signer;
use super::storage::{self, EventRef, ParkReason};
use super::supervisor::{EndpointContext, EndpointDirectory, Msg};

/// Maximum number of parked events that are listed or outcome at once.
const MAX_PARKED: usize = 100;

/// The handle of the webhooks. Cheap to clone. Reads do not wait for an actor.
#[derive(Clone)]
pub struct Handle {
    pub(super) slot: ActorSlot<Msg>,
    pub(super) directory: watch::Receiver<Arc<EndpointDirectory>>,
    pub(super) shared: EndpointContext,
}

/// The backlog of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// Number of events after its cursors, whether its filter matches them or not.
    pub events: u64,
    /// Age of the oldest of them.
    pub oldest: Option<Duration>,
}

/// The position from which events are delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayFrom {
    /// Sequence of the first event. It requires an instance, because each log has its own sequence.
    Sequence(u64),
    /// The first event at or after this time.
    Time(Timestamp),
}

/// A parked event.
#[derive(Debug, Clone, PartialEq)]
pub struct ParkedView {
    /// Instance and sequence of the event.
    pub event_ref: EventRef,
    /// Name of the instance; `None` if it was deleted.
    pub instance: Option<InstanceId>,
    /// Time at which it was parked.
    pub at: Timestamp,
    /// Why it was parked.
    pub reason: ParkReason,
    /// Number of failed attempts.
    pub attempts: u32,
    /// Error of the last attempt.
    pub error: String,
    /// The event; `None` after retention has deleted it.
    pub event: Option<Event>,
}

/// Result of a replay of parked events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplayOutcome {
    /// Events that were delivered and are no longer parked.
    pub delivered: Vec<EventRef>,
    /// The first event that failed, with its error. It and the events after it stay parked.
    pub failed: Option<(EventRef, String)>,
}

impl Handle {
    /// Sets the primary endpoint of an instance, which is its `webhook` resource. A new configuration keeps the cursors,
    /// and so the backlog, of the previous one.
    ///
    /// # Errors
    ///
    /// There are too many endpoints, or the store failed.
    pub async fn set_primary(
        &self,
        instance: InstanceNumber,
        config: CheckedConfig,
        keeps_secret: bool,
    ) -> Result<EndpointView, Error> {
        self.slot.call(|reply| Msg::SetPrimary(instance, Box::new(config), keeps_secret, reply)).await?
    }

    /// Decides how the primary endpoint of an instance gets the URL of `config`, or is deleted; `None` if nothing changes. A
    /// new endpoint has the rest of `config`, too. A new instance has no number yet and no endpoint.
    ///
    /// # Errors
    ///
    /// There are too many endpoints.
    pub fn plan_primary(
        &self,
        instance: Option<InstanceNumber>,
        config: Option<CheckedConfig>,
    ) -> Result<Option<PrimaryChange>, Error> {
        let primary = instance.and_then(|instance| self.primary_of(instance));
        Ok(match (primary, config) {
            (None, None) => None,
            (Some(primary), None) => Some(PrimaryChange::Delete(primary.id)),
            (Some(primary), Some(config)) if primary.endpoint.url == config.0.url => None,
            (Some(primary), Some(config)) => {
                let new_id = EndpointId::generate(&self.shared.random);
                Some(PrimaryChange::SetUrl { id: primary.id, new_id, config })
            }
            (None, Some(config)) => {
                let existing =
                    instance.map_or(0, |instance| self.list(Some(EndpointScope::Instance(instance))).len());
                let limit = self.shared.options.max_endpoints;
                if existing >= limit {
                    return Err(Error::TooMany { limit });
                }
                Some(PrimaryChange::Create(EndpointId::generate(&self.shared.random), config))
            }
        })
    }

    /// Makes the supervisor follow the record of an endpoint that a commit of another module has created, changed or
    /// deleted, as at the start of the node.
    ///
    /// # Errors
    ///
    /// The record could not be read.
    pub async fn reload(&self, id: EndpointId) -> Result<(), Error> {
        self.slot.call(|reply| Msg::Reload(id, reply)).await?
    }

    /// Makes the supervisor follow the deletion of an instance and of its endpoints: deletes their cursors and parked
    /// events, and those of other endpoints for the instance.
    ///
    /// # Errors
    ///
    /// The supervisor does not run.
    pub async fn forget_instance(&self, instance: InstanceNumber) -> Result<(), Error> {
        self.slot.call(|reply| Msg::ForgetInstance(instance, reply)).await?
    }

    /// The primary endpoint of an instance, if there is one.
    pub fn primary(&self, instance: InstanceNumber) -> Option<EndpointView> {
        self.primary_of(instance).map(|runtime| runtime.view())
    }

    /// Deletes the primary endpoint of an instance. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub async fn remove_primary(&self, instance: InstanceNumber) -> Result<bool, Error> {
        match self.primary_of(instance) {
            None => Ok(false),
            Some(runtime) => self.delete(runtime.id).await.map(|()| true),
        }
    }

    /// Creates an endpoint, which receives the events from now on.
    ///
    /// # Errors
    ///
    /// There are too many endpoints, or the store failed.
    pub async fn create(&self, scope: EndpointScope, config: CheckedConfig) -> Result<EndpointView, Error> {
        self.slot.call(|reply| Msg::Create(scope, Box::new(config), reply)).await?
    }

    /// All endpoints, or those of one scope, oldest first.
    pub fn list(&self, scope: Option<EndpointScope>) -> Vec<EndpointView> {
        let directory = self.directory.borrow().clone();
        let matches =
            |runtime: &&Arc<EndpointRuntime>| scope.is_none_or(|scope| runtime.endpoint.scope == scope);
        let mut views: Vec<_> = directory.values().filter(matches).map(|runtime| runtime.view()).collect();
        views.sort_by_key(|view| (view.created_at, view.id));
        views
    }

    /// The endpoint with this id.
    ///
    /// # Errors
    ///
    /// It does not exist.
    pub fn get(&self, id: EndpointId) -> Result<EndpointView, Error> {
        Ok(self.runtime(id)?.view())
    }

    /// Changes an endpoint. It keeps its cursors, and the next attempt follows at once.
    ///
    /// # Errors
    ///
    /// It does not exist, the URL or the secret is refused, or the store failed.
    pub async fn update(&self, id: EndpointId, update: EndpointUpdate) -> Result<EndpointView, Error> {
        self.check_parts(update.url.as_ref(), update.secret.as_ref().and_then(Option::as_ref)).await?;
        self.slot.call(|reply| Msg::Update(id, Box::new(update), reply)).await?
    }

    /// Deletes an endpoint with its cursors and parked events.
    ///
    /// # Errors
    ///
    /// It does not exist, or the store failed.
    pub async fn delete(&self, id: EndpointId) -> Result<(), Error> {
        self.slot.call(|reply| Msg::Delete(id, reply)).await?
    }

    /// Enables an endpoint, which then receives its backlog. For an enabled endpoint, the next attempt follows at once.
    ///
    /// # Errors
    ///
    /// As [`update`](Self::update).
    pub async fn enable(&self, id: EndpointId) -> Result<EndpointView, Error> {
        self.update(id, EndpointUpdate { enabled: Some(true), ..EndpointUpdate::default() }).await
    }

    /// Up to `limit` (at most 100) parked events of an endpoint after `after`.
    ///
    /// # Errors
    ///
    /// The endpoint does not exist, or the store cannot be read.
    pub async fn parked(
        &self,
        id: EndpointId,
        after: Option<EventRef>,
        limit: usize,
    ) -> Result<Vec<ParkedView>, Error> {
        self.runtime(id)?;
        let (store, names) = (self.shared.store.clone(), self.shared.instances.borrow().clone());
        run_blocking(move || {
            let page = storage::parked_page(&store, id, after, limit.min(MAX_PARKED))?;
            let view = |(event_ref, parked): (EventRef, storage::ParkedRecord)| {
                let event = event_at(&store, event_ref)?.map(|envelope| envelope.event);
                let named = names.iter().find(|(number, _)| *number == event_ref.instance);
                let storage::ParkedRecord { at, reason, attempts, error } = parked;
                let instance = named.map(|(_, name)| name.clone());
                Ok(ParkedView { event_ref, instance, at, reason, attempts, error, event })
            };
            page.into_iter().map(view).collect()
        })
        .await
    }

    /// Makes one attempt to deliver a parked event, and discards its entry on success. Works for a disabled endpoint, too.
    ///
    /// # Errors
    ///
    /// The event is not parked, retention has deleted it, or the store failed.
    pub async fn replay_parked(&self, id: EndpointId, event_ref: EventRef) -> Result<ReplayOutcome, Error> {
        let runtime = self.runtime(id)?;
        let store = self.shared.store.clone();
        let found = run_blocking(move || {
            let parked = store.get(&storage::parked_key(id, event_ref))?.is_some();
            Ok((parked, event_at(&store, event_ref)?))
        });
        let envelope = match found.await? {
            (false, _) => return Err(Error::NotParked(event_ref)),
            (true, None) => return Err(Error::EventExpired(event_ref)),
            (true, Some(envelope)) => envelope,
        };
        let names = self.shared.instances.borrow().clone();
        let named = names.iter().find(|(number, _)| *number == event_ref.instance);
        let (_, name) = named.ok_or(Error::EventExpired(event_ref))?;
        match self.shared.deliverer().deliver(&runtime, event_ref.instance, name, &envelope).await {
            DeliveryOutcome::Delivered => {
                runtime.health.record_delivered(self.shared.clock.now());
                self.discard_parked_if_present(id, event_ref).await?;
                Ok(ReplayOutcome { delivered: vec![event_ref], failed: None })
            }
            DeliveryOutcome::Refused { cause }
            | DeliveryOutcome::Gone { cause }
            | DeliveryOutcome::Failed { cause, .. } => {
                runtime.health.record_failed();
                Ok(ReplayOutcome { delivered: Vec::new(), failed: Some((event_ref, cause)) })
            }
        }
    }

    /// Replays up to 100 parked events, in order, until one fails. Discards the entries of events that retention has
    /// deleted.
    ///
    /// # Errors
    ///
    /// The endpoint does not exist, or the store failed.
    pub async fn replay_all_parked(&self, id: EndpointId) -> Result<ReplayOutcome, Error> {
        let mut outcome = ReplayOutcome::default();
        for parked in self.parked(id, None, MAX_PARKED).await? {
            match self.replay_parked(id, parked.event_ref).await {
                Ok(ReplayOutcome { failed: Some(failed), .. }) => {
                    outcome.failed = Some(failed);
                    break;
                }
                Ok(replayed) => outcome.delivered.extend(replayed.delivered),
                Err(Error::EventExpired(event_ref)) => self.discard_parked_if_present(id, event_ref).await?,
                // A concurrent call has outcome or discarded it.
                Err(Error::NotParked(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(outcome)
    }

    /// Deletes the entry of a parked event.
    ///
    /// # Errors
    ///
    /// The event is not parked, or the store failed.
    pub async fn discard_parked(&self, id: EndpointId, event_ref: EventRef) -> Result<(), Error> {
        self.runtime(id)?;
        let delete = move |tx: &mut store::Tx| {
            let key = storage::parked_key(id, event_ref);
            let parked = tx.get(&key)?.is_some();
            tx.delete(key)?;
            Ok(parked)
        };
        if self.shared.store.write(delete).await? { Ok(()) } else { Err(Error::NotParked(event_ref)) }
    }

    /// [`discard_parked`](Self::discard_parked) that ignores a missing entry.
    async fn discard_parked_if_present(&self, id: EndpointId, event_ref: EventRef) -> Result<(), Error> {
        match self.discard_parked(id, event_ref).await {
            Err(Error::NotParked(_)) => Ok(()),
            outcome => outcome,
        }
    }

    /// Moves the cursors of an endpoint, or its cursor for one `instance`, backward or forward. All events from that
    /// position on are delivered, including those that were delivered before.
    ///
    /// # Errors
    ///
    /// A sequence is given without an instance for an endpoint of all instances, the endpoint does not serve the instance,
    /// or the store failed.
    pub async fn replay_from(
        &self,
        id: EndpointId,
        instance: Option<InstanceNumber>,
        from: ReplayFrom,
    ) -> Result<(), Error> {
        let scope = self.runtime(id)?.endpoint.scope;
        let instances = match (scope, instance) {
            (_, Some(instance)) if !scope.includes(instance) => {
                return Err(
                    ValidationError::new("instance_id", "the endpoint does not serve this instance").into()
                );
            }
            (_, Some(instance)) | (EndpointScope::Instance(instance), None) => vec![instance],
            (EndpointScope::All, None) if matches!(from, ReplayFrom::Time(_)) => {
                self.shared.instances.borrow().iter().map(|(instance, _)| *instance).collect()
            }
            (EndpointScope::All, None) => {
                let reason = "each instance has its own sequence; name one, or give a time";
                return Err(ValidationError::new("instance_id", reason).into());
            }
        };
        let store = self.shared.store.clone();
        let cursors = run_blocking(move || {
            let find = |instance| Ok((instance, cursor_before(&store, instance, from)?));
            instances.into_iter().map(find).collect()
        });
        let cursors = cursors.await?;
        self.slot.call(|reply| Msg::Rewind(id, cursors, reply)).await?
    }

    /// Checks that an endpoint may have this configuration: its URL leads to a permitted address, and its secret is a valid
    /// key.
    ///
    /// # Errors
    ///
    /// The URL or the secret is refused; the error contains the reason.
    pub async fn check(&self, config: EndpointConfig) -> Result<CheckedConfig, Error> {
        self.check_parts(Some(&config.url), config.secret.as_ref()).await?;
        Ok(CheckedConfig(config))
    }

    /// The backlog of an endpoint.
    ///
    /// # Errors
    ///
    /// The endpoint does not exist, or the store cannot be read.
    pub async fn lag(&self, id: EndpointId) -> Result<Lag, Error> {
        self.runtime(id)?;
        let (store, now) = (self.shared.store.clone(), self.shared.clock.now());
        run_blocking(move || {
            let mut lag = Lag::default();
            for (instance, cursor) in storage::cursors(&store, id)? {
                let last = events::last_sequence(&store, instance)?;
                lag.events += last.saturating_sub(cursor.sequence);
                let oldest = events::read(&store, instance, cursor.sequence, 1)?;
                let age = oldest.first().map(|envelope| now.since(envelope.event.at));
                lag.oldest = lag.oldest.max(age);
            }
            Ok(lag)
        })
        .await
    }

    /// Sums over all endpoints.
    pub fn totals(&self) -> EndpointTotals {
        let directory = self.directory.borrow().clone();
        let disabled = directory.values().filter(|runtime| runtime.endpoint.disabled.is_some()).count();
        let is_failing = |runtime: &&Arc<EndpointRuntime>| {
            runtime.endpoint.disabled.is_none() && runtime.health.longest_failing().is_some()
        };
        let failing = directory.values().filter(is_failing).count();
        let counts = directory
            .values()
            .map(|runtime| runtime.health.counts())
            .fold(WebhookCounts::default(), Add::add);
        EndpointTotals { counts, endpoints: directory.len(), disabled, failing }
    }

    /// Starts no further attempts, and waits until none is in flight or `deadline` has passed.
    pub async fn drain(&self, deadline: Duration) {
        if tokio::time::timeout(deadline, self.slot.call(Msg::Drain)).await.is_err() {
            tracing::warn!(
                ?deadline,
                "webhook drain timed out; deliveries in flight are repeated after the next start"
            );
        }
    }

    pub(super) fn runtime(&self, id: EndpointId) -> Result<Arc<EndpointRuntime>, Error> {
        self.directory.borrow().get(&id).cloned().ok_or(Error::Unknown(id))
    }

    fn primary_of(&self, instance: InstanceNumber) -> Option<Arc<EndpointRuntime>> {
        let scope = EndpointScope::Instance(instance);
        let directory = self.directory.borrow().clone();
        directory
            .values()
            .find(|runtime| runtime.endpoint.primary && runtime.endpoint.scope == scope)
            .cloned()
    }

    /// Checks that a URL leads to a permitted address, and that a secret is a valid key. A name that cannot be resolved now
    /// is accepted: each delivery resolves it again, behind the guard, and is retried.
    async fn check_parts(&self, url: Option<&url::Url>, secret: Option<&Secret>) -> Result<(), Error> {
        if let Some(secret) = secret.filter(|secret| !secret.is_empty()) {
            Signer::new(secret)?;
        }
        if let Some(url) = url {
            check_url(url)?;
            match self.shared.egress.check(url).await {
                Err(cause) if cause.is_refusal() => return Err(Error::Url(cause)),
                Err(cause) => tracing::warn!(%cause, "webhook URL not checked; its deliveries are retried"),
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

/// Runs reads that may access the disk on a blocking thread.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, store::Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.unwrap_or(Err(store::Error::Panicked))?)
}

fn event_at(store: &Store, event_ref: EventRef) -> Result<Option<Envelope>, store::Error> {
    let found = events::read(store, event_ref.instance, event_ref.sequence.saturating_sub(1), 1)?;
    Ok(found.into_iter().find(|envelope| envelope.sequence == event_ref.sequence))
}

/// The cursor whose next event is the first one of `from`.
fn cursor_before(store: &Store, instance: InstanceNumber, from: ReplayFrom) -> Result<u64, store::Error> {
    let last = events::last_sequence(store, instance)?;
    let oldest = events::read(store, instance, 0, 1)?;
    let Some(oldest) = oldest.first() else { return Ok(last) };
    let before_all = oldest.sequence.saturating_sub(1);
    match from {
        ReplayFrom::Sequence(sequence) => Ok(sequence.saturating_sub(1).clamp(before_all, last)),
        ReplayFrom::Time(time) => {
            // The events of a log are in the order of time, so a binary search finds the first one.
            let (mut start, mut end) = (before_all, last);
            while start < end {
                let middle = start + (end - start) / 2;
                match events::read(store, instance, middle, 1)?.first() {
                    Some(next) if next.event.at < time => start = next.sequence,
                    _ => end = middle,
                }
            }
            Ok(start)
        }
    }
}
