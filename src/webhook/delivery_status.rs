//! The delivery state of each event at an endpoint. It is derived from the cursor and the parked events; nothing else is
//! stored.

use crate::events::{self, Envelope, Event, LogCursor, LogPageQuery};
use relevo_domain::{EventKind, InstanceId, InstanceNumber, Timestamp};
use relevo_store::{self as store, Store};

use super::delivery::{encode_body, webhook_id};
use super::endpoint::{EndpointRuntime, EndpointScope};
use super::handle::{Handle, run_blocking};
use super::storage::{self, Cursor, EventRef, ParkedRecord};
use super::{EndpointId, Error};

/// Maximum number of events in one page.
const MAX_PAGE: usize = 100;
/// Approximate bytes of one page of the log.
const PAGE_BYTES: usize = 1 << 20;

/// Maximum number of pages of the log that are read for one page of deliveries.
const MAX_READS: usize = 8;

/// Delivery state of an event at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// The cursor of the endpoint is past it. After the cursor was moved forward, this includes skipped events.
    Delivered,
    /// The cursor of the endpoint has not reached it.
    Pending,
    /// At least one attempt failed, and further ones follow.
    Retrying,
    /// Parked after it was refused or failed for too long.
    Parked,
}

impl DeliveryState {
    /// All states.
    pub const ALL: [DeliveryState; 4] = [Self::Delivered, Self::Pending, Self::Retrying, Self::Parked];

    /// The name that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Pending => "pending",
            Self::Retrying => "retrying",
            Self::Parked => "parked",
        }
    }
}

/// An event with its delivery state at an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct EventDelivery {
    /// Sequence of the event in the log of the instance.
    pub sequence: u64,
    /// The event.
    pub event: Event,
    /// Its delivery state.
    pub state: DeliveryState,
    /// Number of failed attempts and the last error, if it is retried or parked.
    pub failures: Option<(u32, String)>,
    /// Time of the next attempt, if it is retried.
    pub next_attempt: Option<Timestamp>,
}

/// A delivery with the parts that the receiver gets.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryView {
    /// The event and its state.
    pub delivery: EventDelivery,
    /// The `webhook-id` of every attempt.
    pub webhook_id: String,
    /// The exact body of every attempt.
    pub body: String,
}

/// A page of deliveries.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EventDeliveryPage {
    /// The deliveries in the order of the log.
    pub deliveries: Vec<EventDelivery>,
    /// Sequence after which the next page begins; `None` on the last page.
    pub next: Option<u64>,
}

impl Handle {
    /// Up to `limit` (at most 100) events of an instance after the sequence `after` that match the filter of the endpoint
    /// and, if it is given, `state`. Events from before the creation of the endpoint are omitted unless the cursor is
    /// before them, because they were never delivered.
    ///
    /// # Errors
    ///
    /// The endpoint does not exist or does not serve the instance, or the store cannot be read.
    pub async fn deliveries(
        &self,
        id: EndpointId,
        instance: InstanceNumber,
        after: Option<u64>,
        state: Option<DeliveryState>,
        limit: usize,
    ) -> Result<EventDeliveryPage, Error> {
        let lookup = self.delivery_lookup(id, instance)?;
        run_blocking(move || lookup.page(after, state, limit.clamp(1, MAX_PAGE))).await
    }

    /// One delivery, with its body.
    ///
    /// # Errors
    ///
    /// The event does not exist, does not match the filter of the endpoint, or was never delivered to it; or the store
    /// cannot be read.
    pub async fn delivery(&self, id: EndpointId, event_ref: EventRef) -> Result<DeliveryView, Error> {
        let lookup = self.delivery_lookup(id, event_ref.instance)?;
        let names = self.shared.instances.borrow().clone();
        let named = names.iter().find(|(number, _)| *number == event_ref.instance);
        let name = named.map(|(_, name)| name.clone()).ok_or(Error::NotDelivered(event_ref))?;
        run_blocking(move || lookup.find(event_ref.sequence, &name))
            .await?
            .ok_or(Error::NotDelivered(event_ref))
    }

    fn delivery_lookup(&self, id: EndpointId, instance: InstanceNumber) -> Result<DeliveryLookup, Error> {
        let runtime = self.runtime(id)?;
        if !runtime.endpoint.scope.includes(instance) {
            return Err(Error::NotServed);
        }
        Ok(DeliveryLookup {
            runtime,
            instance,
            store: self.shared.store.clone(),
            now: self.shared.clock.now(),
        })
    }

    /// The instance of an endpoint with the scope of one instance; `None` for an endpoint of all instances.
    ///
    /// # Errors
    ///
    /// The endpoint does not exist.
    pub fn only_instance(&self, id: EndpointId) -> Result<Option<InstanceNumber>, Error> {
        match self.runtime(id)?.endpoint.scope {
            EndpointScope::Instance(instance) => Ok(Some(instance)),
            EndpointScope::All => Ok(None),
        }
    }
}

/// Reads the deliveries of one instance to one endpoint.
struct DeliveryLookup {
    runtime: std::sync::Arc<EndpointRuntime>,
    instance: InstanceNumber,
    store: Store,
    now: Timestamp,
}

impl DeliveryLookup {
    fn page(
        &self,
        after: Option<u64>,
        state: Option<DeliveryState>,
        limit: usize,
    ) -> Result<EventDeliveryPage, store::Error> {
        let cursor = self.cursor()?;
        let mut page = EventDeliveryPage::default();
        let mut from = after.map_or_else(LogCursor::default, |after| LogCursor::single(self.instance, after));
        for _ in 0..MAX_READS {
            let kinds = self.runtime.endpoint.events.clone();
            let query = LogPageQuery { kinds, limit, bytes: PAGE_BYTES, now: self.now };
            let read = events::page(&self.store, &[self.instance], &from, &query)?;
            for item in read.items {
                let sequence = item.envelope.sequence;
                let delivery = self.delivery_of(item.envelope, &cursor)?;
                page.deliveries
                    .extend(delivery.filter(|delivery| state.is_none_or(|state| delivery.state == state)));
                page.next = Some(sequence);
                if page.deliveries.len() >= limit {
                    return Ok(page);
                }
            }
            page.next = read.next.get(self.instance);
            from = read.next;
            if read.at_end {
                return Ok(EventDeliveryPage { next: None, ..page });
            }
        }
        Ok(page)
    }

    fn find(&self, sequence: u64, name: &InstanceId) -> Result<Option<DeliveryView>, store::Error> {
        let cursor = self.cursor()?;
        let found = events::read(&self.store, self.instance, sequence.saturating_sub(1), 1)?;
        let matches = |envelope: &Envelope| {
            envelope.sequence == sequence && self.runtime.endpoint.events.matches(&envelope.event.kind)
        };
        let Some(envelope) = found.into_iter().find(matches) else { return Ok(None) };
        let webhook_id = webhook_id(self.runtime.id, self.instance, &envelope);
        let body = encode_body(name, &envelope).map_err(|cause| store::Error::Codec(cause.to_string()))?;
        let body = String::from_utf8_lossy(&body).into_owned();
        let delivery = self.delivery_of(envelope, &cursor)?;
        Ok(delivery.map(|delivery| DeliveryView { delivery, webhook_id, body }))
    }

    fn cursor(&self) -> Result<Cursor, store::Error> {
        let all = storage::cursors(&self.store, self.runtime.id)?;
        let ours = all.into_iter().find(|(instance, _)| *instance == self.instance);
        Ok(ours.map(|(_, cursor)| cursor).unwrap_or_default())
    }

    /// The delivery state of an event. `None` if it was never delivered to the endpoint, and for most gaps.
    fn delivery_of(
        &self,
        envelope: Envelope,
        cursor: &Cursor,
    ) -> Result<Option<EventDelivery>, store::Error> {
        let first = envelope.sequence.saturating_sub(envelope.missing().unwrap_or(1)) + 1;
        let Envelope { sequence, event } = envelope;
        let event_ref = EventRef { instance: self.instance, sequence };
        let mut delivery = EventDelivery {
            sequence,
            state: DeliveryState::Pending,
            failures: None,
            next_attempt: None,
            event,
        };
        if sequence <= cursor.sequence {
            let parked = self.store.get(&storage::parked_key(self.runtime.id, event_ref))?;
            if let Some(bytes) = parked {
                let ParkedRecord { attempts, error, .. } = store::decode(&bytes)?;
                (delivery.state, delivery.failures) = (DeliveryState::Parked, Some((attempts, error)));
            } else if delivery.event.at < self.runtime.endpoint.created_at
                || delivery.event.kind == EventKind::Gap
            {
                return Ok(None);
            } else {
                delivery.state = DeliveryState::Delivered;
            }
        } else if let Some(failures) = cursor.trouble.as_ref().filter(|_| first == cursor.sequence + 1) {
            delivery.state = DeliveryState::Retrying;
            delivery.failures = Some((failures.attempts, failures.error.clone()));
            delivery.next_attempt =
                self.runtime.health.failures_of(self.instance).map(|shown| shown.next_attempt);
        } else if delivery.event.kind == EventKind::Gap {
            return Ok(None);
        }
        Ok(Some(delivery))
    }
}
