//! What became of each event at an endpoint, worked out from its place: nothing is written down for it.

use crate::events::{self, Envelope, Event, LogCursor, LogPageQuery};
use relevo_domain::{InstanceId, InstanceNumber, Timestamp};
use relevo_store::{self as store, Store};

use super::delivery::{encode_body, webhook_id};
use super::endpoint::{EndpointRuntime, EndpointScope};
use super::handle::{Handle, run_blocking};
use super::storage::{self, Cursor, EventRef, ParkedRecord};
use super::{EndpointId, Error};

/// Events of one page, at most; and about how many bytes of them are read at once.
const MAX_PAGE: usize = 100;
const PAGE_BYTES: usize = 1 << 20;

/// Pages of the log that are read for one page of deliveries, at most.
const MAX_READS: usize = 8;

/// Where an event stands with an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// The endpoint's place is behind it. After a replay forward that includes what was skipped.
    Delivered,
    /// Its turn has not come.
    Pending,
    /// It is attempted now, not for the first time.
    Retrying,
    /// Refused, and put aside.
    Parked,
}

impl DeliveryState {
    pub const ALL: [DeliveryState; 4] = [Self::Delivered, Self::Pending, Self::Retrying, Self::Parked];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Pending => "pending",
            Self::Retrying => "retrying",
            Self::Parked => "parked",
        }
    }
}

/// What has become of one event at an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct EventDelivery {
    pub sequence: u64,
    pub event: Event,
    pub state: DeliveryState,
    /// Failed attempts, and what the last one met, while it is retried or parked.
    pub failures: Option<(u32, String)>,
    /// While it is retried.
    pub next_attempt: Option<Timestamp>,
}

/// A delivery as the receiver sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryView {
    pub delivery: EventDelivery,
    /// The `webhook-id` of every attempt.
    pub webhook_id: String,
    /// The body of every attempt, to the byte.
    pub body: String,
}

/// A page of deliveries, and the sequence behind which the next begins, when there is more.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EventDeliveryPage {
    pub deliveries: Vec<EventDelivery>,
    pub next: Option<u64>,
}

impl Handle {
    /// Up to `limit` (at most 100) events of an instance that an endpoint wants, behind the sequence `after`, in
    /// order, of one `state` when one is given. Of what lies behind the endpoint's place only events since its
    /// creation are shown: it was never told of older ones.
    ///
    /// # Errors
    ///
    /// The endpoint does not exist or does not serve the instance.
    pub async fn deliveries(
        &self,
        id: EndpointId,
        instance: InstanceNumber,
        after: Option<u64>,
        state: Option<DeliveryState>,
        limit: usize,
    ) -> Result<EventDeliveryPage, Error> {
        let look = self.delivery_lookup(id, instance)?;
        run_blocking(move || look.page(after, state, limit.clamp(1, MAX_PAGE))).await
    }

    /// One of them, with what is sent.
    ///
    /// # Errors
    ///
    /// There is no such event, the endpoint does not want it, or was never told of it.
    pub async fn delivery(&self, id: EndpointId, place: EventRef) -> Result<DeliveryView, Error> {
        let look = self.delivery_lookup(id, place.instance)?;
        let names = self.shared.instances.borrow().clone();
        let named = names.iter().find(|(number, _)| *number == place.instance);
        let name = named.map(|(_, name)| name.clone()).ok_or(Error::NotDelivered(place))?;
        run_blocking(move || look.find(place.sequence, &name)).await?.ok_or(Error::NotDelivered(place))
    }

    fn delivery_lookup(&self, id: EndpointId, instance: InstanceNumber) -> Result<DeliveryLookup, Error> {
        let known = self.runtime(id)?;
        if !known.endpoint.scope.includes(instance) {
            return Err(Error::NotServed);
        }
        Ok(DeliveryLookup {
            runtime: known,
            instance,
            store: self.shared.store.clone(),
            now: self.shared.clock.now(),
        })
    }

    /// The instance of an endpoint that serves one alone.
    pub fn only_instance(&self, id: EndpointId) -> Result<Option<InstanceNumber>, Error> {
        match self.runtime(id)?.endpoint.scope {
            EndpointScope::Instance(instance) => Ok(Some(instance)),
            EndpointScope::All => Ok(None),
        }
    }
}

/// A look at what an endpoint has done with a log.
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
            let wanted = LogPageQuery { kinds, limit, bytes: PAGE_BYTES, now: self.now };
            let read = events::page(&self.store, &[self.instance], &from, &wanted)?;
            for item in read.items {
                let sequence = item.envelope.sequence;
                let delivery = self.delivery_of(item.envelope, &cursor)?;
                page.deliveries.extend(delivery.filter(|it| state.is_none_or(|state| it.state == state)));
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
        let wanted =
            |it: &Envelope| it.sequence == sequence && self.runtime.endpoint.events.matches(&it.event.kind);
        let Some(envelope) = found.into_iter().find(wanted) else { return Ok(None) };
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

    /// What became of an event; `None` when the endpoint was never told of it, and for gaps.
    fn delivery_of(
        &self,
        envelope: Envelope,
        cursor: &Cursor,
    ) -> Result<Option<EventDelivery>, store::Error> {
        let first = envelope.sequence.saturating_sub(envelope.missing().unwrap_or(1)) + 1;
        let Envelope { sequence, event } = envelope;
        let place = EventRef { instance: self.instance, sequence };
        let mut delivery = EventDelivery {
            sequence,
            state: DeliveryState::Pending,
            failures: None,
            next_attempt: None,
            event,
        };
        if sequence <= cursor.sequence {
            let parked = self.store.get(&storage::parked_key(self.runtime.id, place))?;
            if let Some(bytes) = parked {
                let ParkedRecord { attempts, error, .. } = store::decode(&bytes)?;
                (delivery.state, delivery.failures) = (DeliveryState::Parked, Some((attempts, error)));
            } else if delivery.event.at < self.runtime.endpoint.created_at
                || delivery.event.kind == events::GAP
            {
                return Ok(None);
            } else {
                delivery.state = DeliveryState::Delivered;
            }
        } else if let Some(trouble) = cursor.trouble.as_ref().filter(|_| first == cursor.sequence + 1) {
            delivery.state = DeliveryState::Retrying;
            delivery.failures = Some((trouble.attempts, trouble.error.clone()));
            delivery.next_attempt =
                self.runtime.health.failures_of(self.instance).map(|shown| shown.next_attempt);
        } else if delivery.event.kind == events::GAP {
            return Ok(None);
        }
        Ok(Some(delivery))
    }
}
