//! Ingestion of what linked devices receive: messages, statuses and other events.

use serde_json::value::to_raw_value;
use serde_json::{Value, json};

use crate::events::{self, Event};
use crate::queue;
use relevo_domain::{EventKind, InboundMessage, InstanceId, InstanceNumber, StatusUpdate, Timestamp};
use relevo_store::Tx;

use super::commit::DeliveryPart;
use super::frames::{WebhookFrame, WebhookFrames};
use super::{DeliveryCounts, Error, Handle, to_cloud_webhook};

/// The linked device that received something.
#[derive(Debug, Clone)]
pub struct ReceivingDevice {
    pub instance: InstanceNumber,
    pub name: InstanceId,
    /// The digits of the phone number of its account, once they are known.
    pub phone: Option<String>,
}

impl Handle {
    /// Ingests messages. `Ok` means that all of them are durable and can be acknowledged to WhatsApp; a repeated message
    /// changes nothing. They are end-to-end encrypted, so their consents are trusted.
    ///
    /// # Errors
    ///
    /// The disk is nearly full or the commit failed. Nothing is stored then, and the messages must not be acknowledged.
    pub async fn receive_messages(
        &self,
        device: &ReceivingDevice,
        messages: Vec<InboundMessage>,
    ) -> Result<DeliveryCounts, Error> {
        let result = self.ingest_messages(device, messages).await;
        self.record_metrics(&result);
        result
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
            let mut frames = Vec::new();
            for message in messages.iter().filter(|message| !message.is_from_me()) {
                // The encoding of a `Value` does not fail.
                if let Ok(webhook) = to_raw_value(&to_cloud_webhook::build_webhook(device, message)) {
                    frames.push((message.id.clone(), WebhookFrame::from_webhook(webhook)));
                }
            }
            WebhookFrames::Split { messages: frames, rest: None }
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

    /// Ingests statuses of sent messages, in order: the ledger records them, and those that it does not announce become
    /// events. Works with a nearly full disk, too, because settled messages need less space.
    ///
    /// # Errors
    ///
    /// Not all statuses could be made durable.
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
        let result = self.commit(parts, None, None, &mut received).await.map(|()| received);
        self.record_metrics(&result);
        result
    }

    /// Appends another event to the log without waiting for its commit. Drops the event if the disk is nearly full. Adds
    /// `timestamp` in seconds to `data` if it has none.
    pub async fn record_event(
        &self,
        device: &ReceivingDevice,
        kind: EventKind,
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
        let event = Event { kind, at: now, data };
        self.store.submit(move |tx: &mut Tx| events::append(tx, instance, &event), |_| {}).await;
        self.metrics.record_inbound("event", 1);
    }
}
