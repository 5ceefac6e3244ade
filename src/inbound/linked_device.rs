//! What linked devices hear on their connections.

use serde_json::value::to_raw_value;
use serde_json::{Value, json};

use crate::events::{self, Event};
use crate::queue;
use relevo_domain::{InboundMessage, InstanceId, InstanceNumber, StatusUpdate, Timestamp};
use relevo_store::Tx;

use super::commit::DeliveryPart;
use super::frames::{WebhookFrame, WebhookFrames};
use super::{DeliveryCounts, Error, Handle, to_cloud_webhook};

/// A linked device that hears something.
#[derive(Debug, Clone)]
pub struct ReceivingDevice {
    pub instance: InstanceNumber,
    pub name: InstanceId,
    /// The digits of its account's number, once they are known.
    pub phone: Option<String>,
}

impl Handle {
    /// Takes messages in. When this answers `Ok`, all of them are durable and WhatsApp may forget them; one that came
    /// before changes nothing. Nobody but their authors can have written them, so what they ask for counts.
    ///
    /// # Errors
    ///
    /// They could not be made durable: nothing of them is kept, and WhatsApp is to keep them.
    pub async fn receive_messages(
        &self,
        device: &ReceivingDevice,
        messages: Vec<InboundMessage>,
    ) -> Result<DeliveryCounts, Error> {
        let taken = self.ingest_messages(device, messages).await;
        self.record_metrics(&taken);
        taken
    }

    async fn ingest_messages(
        &self,
        device: &ReceivingDevice,
        messages: Vec<InboundMessage>,
    ) -> Result<DeliveryCounts, Error> {
        if self.store.is_full() {
            return Err(queue::Error::DiskFull.into());
        }
        let frames = self.relay.is_enabled().then(|| {
            let of_others = messages.iter().filter(|message| !message.is_from_me());
            // A value can always be written.
            let frame = |message| {
                to_raw_value(&to_cloud_webhook::build_webhook(device, message))
                    .ok()
                    .map(WebhookFrame::from_webhook)
            };
            let frames = of_others.filter_map(|message| Some((message.id.clone(), frame(message)?)));
            WebhookFrames::Split { messages: frames.collect(), rest: None }
        });
        let part = |message| DeliveryPart::Message {
            instance: device.instance,
            name: device.name.clone(),
            message: Box::new(message),
            signed: true,
        };
        let mut received = DeliveryCounts::default();
        self.commit(messages.into_iter().map(part).collect(), None, frames, &mut received).await?;
        Ok(received)
    }

    /// Takes facts about sent messages in, in order: the ledger moves, and what it does not tell becomes an event. Also
    /// with a full disk, because what is settled needs less of it.
    ///
    /// # Errors
    ///
    /// Not all of it could be made durable.
    pub async fn receive_statuses(
        &self,
        device: &ReceivingDevice,
        statuses: Vec<StatusUpdate>,
    ) -> Result<DeliveryCounts, Error> {
        let part = |status| DeliveryPart::Status {
            instance: device.instance,
            status: Box::new(status),
            recorded: None,
        };
        let mut received = DeliveryCounts::default();
        let parts =
            self.record_statuses(statuses.into_iter().map(part).collect(), false, &mut received).await?;
        let taken = self.commit(parts, None, None, &mut received).await.map(|()| received);
        self.record_metrics(&taken);
        taken
    }

    /// Writes down what else happened, soon: nobody waits for it, and on a full disk it is left out. `data` gains the
    /// second in which it happened, where it does not say so itself.
    pub async fn record_event(
        &self,
        device: &ReceivingDevice,
        kind: &'static str,
        at: Timestamp,
        mut data: Value,
    ) {
        if self.store.is_full() {
            return self.metrics.record_inbound("refused", 1);
        }
        if let Some(fields) = data.as_object_mut() {
            fields.entry("timestamp").or_insert_with(|| json!(at.seconds()));
        }
        let (instance, now) = (device.instance, self.clock.now());
        let event = Event { kind: kind.to_owned(), at: now, data };
        self.store.submit(move |tx: &mut Tx| events::append(tx, instance, &event), |_| {}).await;
        self.metrics.record_inbound("event", 1);
    }
}
