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
    EndpointConfig, EndpointId, EndpointRuntime, EndpointScope, EndpointUpdate, EndpointView, check_url,
};
use super::health::{EndpointTotals, WebhookCounts};
use super::retry::DeliveryOutcome;
use super::signature::Signer;
use super::storage::{self, EventRef, ParkReason};
use super::supervisor::{EndpointContext, EndpointDirectory, Msg};

/// The most parked events that are shown or replayed at once.
const MAX_PARKED: usize = 100;

/// The way to the endpoints. Cheap to clone; reading never waits for an actor.
#[derive(Clone)]
pub struct Handle {
    pub(super) slot: ActorSlot<Msg>,
    pub(super) directory: watch::Receiver<Arc<EndpointDirectory>>,
    pub(super) shared: EndpointContext,
}

/// How far an endpoint is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// Events of the logs that it was not told of yet, wanted or not.
    pub events: u64,
    /// The age of the oldest of them.
    pub oldest: Option<Duration>,
}

/// From where an endpoint is told again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayFrom {
    /// The sequence of the first event; of one instance alone, because every log counts for itself.
    Sequence(u64),
    /// The first event that is not older.
    Time(Timestamp),
}

/// An event that was put aside.
#[derive(Debug, Clone, PartialEq)]
pub struct ParkedView {
    pub event_ref: EventRef,
    /// The instance's name, unless it is gone.
    pub instance: Option<InstanceId>,
    pub at: Timestamp,
    pub reason: ParkReason,
    pub attempts: u32,
    /// What the last attempt met.
    pub error: String,
    /// `None` once the log has forgotten it.
    pub event: Option<Event>,
}

/// How another attempt at parked events ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplayOutcome {
    /// Taken now, and parked no more.
    pub delivered: Vec<EventRef>,
    /// The first that was not taken, with what it met. It and those behind it stay parked.
    pub failed: Option<(EventRef, String)>,
}

impl Handle {
    /// Sets the one endpoint of an instance that its `webhook` resource shows; replaces the one before, whose
    /// backlog the new one gets.
    ///
    /// # Errors
    ///
    /// The URL or the secret is refused.
    pub async fn set_primary(
        &self,
        instance: InstanceNumber,
        config: EndpointConfig,
    ) -> Result<EndpointView, Error> {
        self.check(Some(&config.url), config.secret.as_ref()).await?;
        self.slot.call(|reply| Msg::SetPrimary(instance, Box::new(config), reply)).await?
    }

    /// The endpoint that [`set_primary`](Self::set_primary) set.
    pub fn primary(&self, instance: InstanceNumber) -> Option<EndpointView> {
        self.primary_of(instance).map(|known| known.view())
    }

    /// Deletes that endpoint; tells whether there was one.
    pub async fn remove_primary(&self, instance: InstanceNumber) -> Result<bool, Error> {
        match self.primary_of(instance) {
            None => Ok(false),
            Some(known) => self.delete(known.id).await.map(|()| true),
        }
    }

    /// Creates an endpoint. It is told of what happens from now on.
    pub async fn create(&self, scope: EndpointScope, config: EndpointConfig) -> Result<EndpointView, Error> {
        self.check(Some(&config.url), config.secret.as_ref()).await?;
        self.slot.call(|reply| Msg::Create(scope, Box::new(config), reply)).await?
    }

    /// The endpoints, or those of one scope, oldest first.
    pub fn list(&self, scope: Option<EndpointScope>) -> Vec<EndpointView> {
        let directory = self.directory.borrow().clone();
        let fits = |known: &&Arc<EndpointRuntime>| scope.is_none_or(|scope| known.endpoint.scope == scope);
        let mut views: Vec<_> = directory.values().filter(fits).map(|known| known.view()).collect();
        views.sort_by_key(|view| (view.created_at, view.id));
        views
    }

    pub fn get(&self, id: EndpointId) -> Result<EndpointView, Error> {
        Ok(self.runtime(id)?.view())
    }

    /// Changes an endpoint. It keeps its place, and is attempted anew.
    pub async fn update(&self, id: EndpointId, update: EndpointUpdate) -> Result<EndpointView, Error> {
        self.check(update.url.as_ref(), update.secret.as_ref().and_then(Option::as_ref)).await?;
        self.slot.call(|reply| Msg::Update(id, Box::new(update), reply)).await?
    }

    /// Deletes an endpoint with its place and what it has parked.
    pub async fn delete(&self, id: EndpointId) -> Result<(), Error> {
        self.slot.call(|reply| Msg::Delete(id, reply)).await?
    }

    /// Enables an endpoint; it gets what it missed. One that is enabled is attempted at once.
    pub async fn enable(&self, id: EndpointId) -> Result<EndpointView, Error> {
        self.update(id, EndpointUpdate { enabled: Some(true), ..EndpointUpdate::default() }).await
    }

    /// Deletes the endpoints of an instance that is deleted, and what others know of it.
    pub async fn delete_instance(&self, instance: InstanceNumber) -> Result<(), Error> {
        self.slot.call(|reply| Msg::DeleteInstance(instance, reply)).await?
    }

    /// Up to `limit` (at most 100) events that an endpoint has parked, behind the place `after`.
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
            let view = |(place, parked): (EventRef, storage::ParkedRecord)| {
                let event = event_at(&store, place)?.map(|envelope| envelope.event);
                let named = names.iter().find(|(number, _)| *number == place.instance);
                let storage::ParkedRecord { at, reason, attempts, error } = parked;
                let instance = named.map(|(_, name)| name.clone());
                Ok(ParkedView { event_ref: place, instance, at, reason, attempts, error, event })
            };
            page.into_iter().map(view).collect()
        })
        .await
    }

    /// Attempts one parked event again, now and once; it is parked no more when the receiver takes it. Works for a
    /// disabled endpoint too.
    ///
    /// # Errors
    ///
    /// It is not parked, or the log has forgotten it.
    pub async fn replay_parked(&self, id: EndpointId, place: EventRef) -> Result<ReplayOutcome, Error> {
        let known = self.runtime(id)?;
        let store = self.shared.store.clone();
        let found = run_blocking(move || {
            let parked = store.get(&storage::parked_key(id, place))?.is_some();
            Ok((parked, event_at(&store, place)?))
        });
        let envelope = match found.await? {
            (false, _) => return Err(Error::NotParked(place)),
            (true, None) => return Err(Error::EventExpired(place)),
            (true, Some(envelope)) => envelope,
        };
        let names = self.shared.instances.borrow().clone();
        let named = names.iter().find(|(number, _)| *number == place.instance);
        let (_, name) = named.ok_or(Error::EventExpired(place))?;
        match self.shared.deliverer().deliver(&known, place.instance, name, &envelope).await {
            DeliveryOutcome::Delivered => {
                known.health.record_delivered(self.shared.clock.now());
                self.discard_parked_if_present(id, place).await?;
                Ok(ReplayOutcome { delivered: vec![place], failed: None })
            }
            DeliveryOutcome::Refused { cause } | DeliveryOutcome::Failed { cause, .. } => {
                known.health.record_failed();
                Ok(ReplayOutcome { delivered: Vec::new(), failed: Some((place, cause)) })
            }
        }
    }

    /// Attempts up to 100 parked events again, in order, until one is not taken. What the log has forgotten is
    /// discarded.
    pub async fn replay_all_parked(&self, id: EndpointId) -> Result<ReplayOutcome, Error> {
        let mut replayed = ReplayOutcome::default();
        for parked in self.parked(id, None, MAX_PARKED).await? {
            match self.replay_parked(id, parked.event_ref).await {
                Ok(ReplayOutcome { failed: Some(failed), .. }) => {
                    replayed.failed = Some(failed);
                    break;
                }
                Ok(one) => replayed.delivered.extend(one.delivered),
                Err(Error::EventExpired(place)) => self.discard_parked_if_present(id, place).await?,
                // Somebody else was faster.
                Err(Error::NotParked(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(replayed)
    }

    /// Forgets that an event was parked, for good.
    ///
    /// # Errors
    ///
    /// It is not parked.
    pub async fn discard_parked(&self, id: EndpointId, place: EventRef) -> Result<(), Error> {
        self.runtime(id)?;
        let delete = move |tx: &mut store::Tx| {
            let key = storage::parked_key(id, place);
            let parked = tx.get(&key)?.is_some();
            tx.delete(key)?;
            Ok(parked)
        };
        if self.shared.store.write(delete).await? { Ok(()) } else { Err(Error::NotParked(place)) }
    }

    /// The same where it is no matter whether somebody else was faster.
    async fn discard_parked_if_present(&self, id: EndpointId, place: EventRef) -> Result<(), Error> {
        match self.discard_parked(id, place).await {
            Err(Error::NotParked(_)) => Ok(()),
            outcome => outcome,
        }
    }

    /// Puts an endpoint back (or forward) to a place in its logs, or in that of one `instance`. Everything from
    /// there on is delivered, again if it was before.
    ///
    /// # Errors
    ///
    /// A sequence without an instance for an endpoint of all of them; an instance that it does not serve.
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
                let reason = "every instance counts its events for itself; name one, or give a time";
                return Err(ValidationError::new("instance_id", reason).into());
            }
        };
        let store = self.shared.store.clone();
        let places = run_blocking(move || {
            let find = |instance| Ok((instance, cursor_before(&store, instance, from)?));
            instances.into_iter().map(find).collect()
        });
        let places = places.await?;
        self.slot.call(|reply| Msg::Rewind(id, places, reply)).await?
    }

    /// Whether endpoints may have this URL.
    ///
    /// # Errors
    ///
    /// It is refused; the error says why.
    pub async fn check_url(&self, url: &url::Url) -> Result<(), Error> {
        self.check(Some(url), None).await
    }

    /// How far an endpoint is behind.
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

    /// All endpoints in numbers.
    pub fn totals(&self) -> EndpointTotals {
        let directory = self.directory.borrow().clone();
        let disabled = directory.values().filter(|known| known.endpoint.disabled.is_some()).count();
        let in_trouble = |known: &&Arc<EndpointRuntime>| {
            known.endpoint.disabled.is_none() && known.health.longest_failing().is_some()
        };
        let failing = directory.values().filter(in_trouble).count();
        let counts =
            directory.values().map(|known| known.health.counts()).fold(WebhookCounts::default(), Add::add);
        EndpointTotals { counts, endpoints: directory.len(), disabled, failing }
    }

    /// Resolves when no attempt is under way any more, or when `deadline` has passed: no new ones begin.
    pub async fn drain(&self, deadline: Duration) {
        if tokio::time::timeout(deadline, self.slot.call(Msg::Drain)).await.is_err() {
            tracing::warn!(
                ?deadline,
                "webhooks were still under way at the deadline; they are delivered again"
            );
        }
    }

    pub(super) fn runtime(&self, id: EndpointId) -> Result<Arc<EndpointRuntime>, Error> {
        self.directory.borrow().get(&id).cloned().ok_or(Error::Unknown(id))
    }

    fn primary_of(&self, instance: InstanceNumber) -> Option<Arc<EndpointRuntime>> {
        let scope = EndpointScope::Instance(instance);
        let directory = self.directory.borrow().clone();
        directory.values().find(|known| known.endpoint.primary && known.endpoint.scope == scope).cloned()
    }

    /// Whether a URL leads somewhere that may be reached, and a secret is a key.
    async fn check(&self, url: Option<&url::Url>, secret: Option<&Secret>) -> Result<(), Error> {
        if let Some(secret) = secret.filter(|secret| !secret.is_empty()) {
            Signer::new(secret)?;
        }
        if let Some(url) = url {
            check_url(url)?;
            self.shared.egress.check(url).await.map_err(Error::Url)?;
        }
        Ok(())
    }
}

/// Reads that may have to come from the disk, on a thread that may wait for it.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, store::Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.unwrap_or(Err(store::Error::Panicked))?)
}

fn event_at(store: &Store, place: EventRef) -> Result<Option<Envelope>, store::Error> {
    let found = events::read(store, place.instance, place.sequence.saturating_sub(1), 1)?;
    Ok(found.into_iter().find(|envelope| envelope.sequence == place.sequence))
}

/// The sequence behind which to go on, so that the next event is the first one asked for.
fn cursor_before(store: &Store, instance: InstanceNumber, from: ReplayFrom) -> Result<u64, store::Error> {
    let last = events::last_sequence(store, instance)?;
    let oldest = events::read(store, instance, 0, 1)?;
    let Some(oldest) = oldest.first() else { return Ok(last) };
    let before_all = oldest.sequence.saturating_sub(1);
    match from {
        ReplayFrom::Sequence(sequence) => Ok(sequence.saturating_sub(1).clamp(before_all, last)),
        ReplayFrom::Time(moment) => {
            // Logs are written in the order of time: halve the part that may hold the first event.
            let (mut older, mut end) = (before_all, last);
            while older < end {
                let middle = older + (end - older) / 2;
                match events::read(store, instance, middle, 1)?.first() {
                    Some(next) if next.event.at < moment => older = next.sequence,
                    _ => end = middle,
                }
            }
            Ok(older)
        }
    }
}
