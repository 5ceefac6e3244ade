//! What became of each event at an endpoint, worked out from its place: nothing is written down for it.

use crate::events::{self, Envelope, Event, Places, Wanted};
use relevo_domain::{InstanceId, InstanceNumber, Timestamp};
use relevo_store::{self as store, Store};

use super::delivery::{body, webhook_id};
use super::endpoint::{Known, Scope};
use super::handle::{Handle, blocking};
use super::storage::{self, Cursor, Parked, Place};
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
pub struct Delivery {
    pub sequence: u64,
    pub event: Event,
    pub state: DeliveryState,
    /// Failed attempts, and what the last one met, while it is retried or parked.
    pub trouble: Option<(u32, String)>,
    /// While it is retried.
    pub next_attempt: Option<Timestamp>,
}

/// A delivery as the receiver sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryView {
    pub delivery: Delivery,
    /// The `webhook-id` of every attempt.
    pub webhook_id: String,
    /// The body of every attempt, to the byte.
    pub body: String,
}

/// A page of deliveries, and the sequence behind which the next begins, when there is more.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Deliveries {
    pub found: Vec<Delivery>,
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
    ) -> Result<Deliveries, Error> {
        let look = self.look(id, instance)?;
        blocking(move || look.page(after, state, limit.clamp(1, MAX_PAGE))).await
    }

    /// One of them, with what is sent.
    ///
    /// # Errors
    ///
    /// There is no such event, the endpoint does not want it, or was never told of it.
    pub async fn delivery(&self, id: EndpointId, place: Place) -> Result<DeliveryView, Error> {
        let look = self.look(id, place.instance)?;
        let names = self.shared.instances.borrow().clone();
        let named = names.iter().find(|(number, _)| *number == place.instance);
        let name = named.map(|(_, name)| name.clone()).ok_or(Error::NotDelivered(place))?;
        blocking(move || look.one(place.sequence, &name)).await?.ok_or(Error::NotDelivered(place))
    }

    fn look(&self, id: EndpointId, instance: InstanceNumber) -> Result<Look, Error> {
        let known = self.known(id)?;
        if !known.endpoint.scope.includes(instance) {
            return Err(Error::NotServed);
        }
        Ok(Look { known, instance, store: self.shared.store.clone(), now: self.shared.clock.now() })
    }

    /// The instance of an endpoint that serves one alone.
    pub fn only_instance(&self, id: EndpointId) -> Result<Option<InstanceNumber>, Error> {
        match self.known(id)?.endpoint.scope {
            Scope::Instance(instance) => Ok(Some(instance)),
            Scope::All => Ok(None),
        }
    }
}

/// A look at what an endpoint has done with a log.
struct Look {
    known: std::sync::Arc<Known>,
    instance: InstanceNumber,
    store: Store,
    now: Timestamp,
}

impl Look {
    fn page(
        &self,
        after: Option<u64>,
        state: Option<DeliveryState>,
        limit: usize,
    ) -> Result<Deliveries, store::Error> {
        let cursor = self.cursor()?;
        let mut page = Deliveries::default();
        let mut from = after.map_or_else(Places::default, |after| Places::one(self.instance, after));
        for _ in 0..MAX_READS {
            let kinds = self.known.endpoint.events.clone();
            let wanted = Wanted { kinds, limit, bytes: PAGE_BYTES, now: self.now };
            let read = events::page(&self.store, &[self.instance], &from, &wanted)?;
            for item in read.items {
                let sequence = item.envelope.sequence;
                let delivery = self.judge(item.envelope, &cursor)?;
                page.found.extend(delivery.filter(|it| state.is_none_or(|state| it.state == state)));
                page.next = Some(sequence);
                if page.found.len() >= limit {
                    return Ok(page);
                }
            }
            page.next = read.next.get(self.instance);
            from = read.next;
            if read.at_end {
                return Ok(Deliveries { next: None, ..page });
            }
        }
        Ok(page)
    }

    fn one(&self, sequence: u64, name: &InstanceId) -> Result<Option<DeliveryView>, store::Error> {
        let cursor = self.cursor()?;
        let found = events::read(&self.store, self.instance, sequence.saturating_sub(1), 1)?;
        let wanted =
            |it: &Envelope| it.sequence == sequence && self.known.endpoint.events.want(&it.event.kind);
        let Some(envelope) = found.into_iter().find(wanted) else { return Ok(None) };
        let webhook_id = webhook_id(self.known.id, self.instance, &envelope);
        let body = body(name, &envelope).map_err(|cause| store::Error::Codec(cause.to_string()))?;
        let body = String::from_utf8_lossy(&body).into_owned();
        let delivery = self.judge(envelope, &cursor)?;
        Ok(delivery.map(|delivery| DeliveryView { delivery, webhook_id, body }))
    }

    fn cursor(&self) -> Result<Cursor, store::Error> {
        let all = storage::cursors(&self.store, self.known.id)?;
        let ours = all.into_iter().find(|(instance, _)| *instance == self.instance);
        Ok(ours.map(|(_, cursor)| cursor).unwrap_or_default())
    }

    /// What became of an event; `None` when the endpoint was never told of it, and for gaps.
    fn judge(&self, envelope: Envelope, cursor: &Cursor) -> Result<Option<Delivery>, store::Error> {
        let first = envelope.sequence.saturating_sub(envelope.missing().unwrap_or(1)) + 1;
        let Envelope { sequence, event } = envelope;
        let place = Place { instance: self.instance, sequence };
        let mut delivery =
            Delivery { sequence, state: DeliveryState::Pending, trouble: None, next_attempt: None, event };
        if sequence <= cursor.sequence {
            let parked = self.store.get(&storage::parked_key(self.known.id, place))?;
            if let Some(bytes) = parked {
                let Parked { attempts, error, .. } = store::decode(&bytes)?;
                (delivery.state, delivery.trouble) = (DeliveryState::Parked, Some((attempts, error)));
            } else if delivery.event.at < self.known.endpoint.created_at || delivery.event.kind == events::GAP
            {
                return Ok(None);
            } else {
                delivery.state = DeliveryState::Delivered;
            }
        } else if let Some(trouble) = cursor.trouble.as_ref().filter(|_| first == cursor.sequence + 1) {
            delivery.state = DeliveryState::Retrying;
            delivery.trouble = Some((trouble.attempts, trouble.error.clone()));
            delivery.next_attempt =
                self.known.health.trouble_of(self.instance).map(|shown| shown.next_attempt);
        } else if delivery.event.kind == events::GAP {
            return Ok(None);
        }
        Ok(Some(delivery))
    }
}
