//! The commit of one delivery: dedupe, events, media locations, relay frames, suppressions and quarantine.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::events::{self, Event};
use crate::media;
use crate::queue::{ReceiptReport, ReceiptResult, receipt_data};
use crate::relay::FrameQueue;
use crate::suppression::SuppressionReason;
use relevo_cloud_api::AccountChange;
use relevo_domain::{
    EventKind, InboundMessage, InstanceId, InstanceNumber, Recipient, StatusUpdate, Timestamp,
};
use relevo_store::{Error, Tx};

use super::dedupe;
use super::frames::{NewParts, WebhookFrames};
use super::keywords::Keywords;
use super::opt_out::{self, Consent};
use super::quarantine::{NewQuarantineEntry, QuarantineId};

/// One part of a delivery, with its instance.
#[derive(Debug)]
pub(super) enum DeliveryPart {
    Message {
        instance: InstanceNumber,
        name: InstanceId,
        message: Box<InboundMessage>,
        /// Whether the secret of the account signed the delivery.
        signed: bool,
    },
    /// A status of a sent message, and the result of the ledger; `None` if the ledger did not process it.
    Status {
        instance: InstanceNumber,
        status: Box<StatusUpdate>,
        recorded: Option<ReceiptResult>,
    },
    Change {
        instance: InstanceNumber,
        change: AccountChange,
        signed: bool,
    },
}

/// Everything that one delivery changes except the ledger.
#[derive(Debug)]
pub(super) struct InboundDelivery {
    pub parts: Vec<DeliveryPart>,
    pub quarantine: Option<(NewQuarantineEntry, QuarantineId)>,
    /// Frames for the relay; `None` if it is disabled.
    pub frames: Option<WebhookFrames>,
    pub relay: FrameQueue,
    pub keywords: Arc<Keywords>,
    pub now: Timestamp,
}

/// Numbers of new and repeated parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CommitCounts {
    pub events: usize,
    pub duplicates: usize,
}

impl InboundDelivery {
    /// Whether there is anything to commit.
    pub fn has_changes(&self) -> bool {
        !self.parts.is_empty() || self.quarantine.is_some()
    }

    /// Applies the delivery within a transaction.
    pub fn commit(self, tx: &mut Tx) -> Result<CommitCounts, Error> {
        let InboundDelivery { parts, quarantine, frames, relay, keywords, now } = self;
        let mut writer = PartWriter {
            tx,
            keywords: &keywords,
            now,
            counts: CommitCounts::default(),
            new_parts: NewParts::default(),
        };
        for part in &parts {
            writer.write_part(part)?;
        }
        let PartWriter { tx, counts, new_parts, .. } = writer;
        for frame in frames.map(|frames| frames.into_new(new_parts)).unwrap_or_default() {
            relay.push(tx, &frame.webhook, frame.sender.as_deref(), now)?;
        }
        if let Some((entry, id)) = quarantine {
            entry.insert(tx, id)?;
        }
        Ok(counts)
    }
}

/// Writes the parts of a delivery within a transaction.
struct PartWriter<'a, 't> {
    tx: &'a mut Tx<'t>,
    keywords: &'a Keywords,
    now: Timestamp,
    counts: CommitCounts,
    new_parts: NewParts,
}

impl PartWriter<'_, '_> {
    /// Writes one part, unless it was delivered before.
    fn write_part(&mut self, part: &DeliveryPart) -> Result<(), Error> {
        let (instance, digest) = match part {
            DeliveryPart::Message { instance, message, .. } => (*instance, dedupe::message_key(message)),
            DeliveryPart::Status { instance, status, .. } => (*instance, dedupe::status_key(status)),
            DeliveryPart::Change { instance, change, .. } => (*instance, dedupe::change_key(change)),
        };
        if !dedupe::insert_if_new(self.tx, instance, &digest, self.now)? {
            self.counts.duplicates += 1;
            return Ok(());
        }
        match part {
            DeliveryPart::Message { name, message, signed, .. } => {
                self.write_message(instance, name, message, *signed)
            }
            DeliveryPart::Status { status, recorded, .. } => self.write_status(instance, status, *recorded),
            DeliveryPart::Change { change, signed, .. } => self.write_change(instance, change, *signed),
        }
    }

    fn write_message(
        &mut self,
        instance: InstanceNumber,
        name: &InstanceId,
        message: &InboundMessage,
        signed: bool,
    ) -> Result<(), Error> {
        self.emit(instance, EventKind::Message, super::message_event::data(message, name)?)?;
        if let Some(media) = message.media() {
            let location = media::MediaLocation {
                media_id: media.id.clone(),
                mime: media.mime_type.clone(),
                sha256: media.sha256.clone(),
                file_name: media.filename.clone(),
                at: message.at,
            };
            media::record_location(self.tx, instance, &message.id, &location)?;
        }
        if message.is_from_me() {
            self.new_parts.others = true;
        } else {
            self.new_parts.messages.insert(message.id.clone());
        }
        if let Some(change) = message.identity_change() {
            opt_out::apply_identity_change(self.tx, instance, &change, signed, self.now)?;
        }
        match self.keywords.consent_of(message) {
            Some(consent) if is_trusted_consent(consent, signed) => {
                let names: Vec<_> = message.sender.identity.recipients().collect();
                let change = (consent, SuppressionReason::Keyword);
                opt_out::apply_consent(self.tx, instance, &names, change, self.now)
            }
            _ => Ok(()),
        }
    }

    fn write_status(
        &mut self,
        instance: InstanceNumber,
        status: &StatusUpdate,
        recorded: Option<ReceiptResult>,
    ) -> Result<(), Error> {
        self.new_parts.others = true;
        if status.participant.is_some() || matches!(recorded, None | Some(ReceiptResult::Unknown)) {
            let address =
                |name: &String| name.parse().map_or(name.clone(), |recipient: Recipient| recipient.address());
            let to = status.recipient.as_ref().map(address).unwrap_or_default();
            let mut data = receipt_data(&receipt_report(instance, status), &to);
            if let Some(participant) = &status.participant {
                data.insert("participant".to_owned(), json!(address(participant)));
            }
            self.emit(instance, EventKind::Receipt, data.into())?;
        }
        match status.opted_out_recipient() {
            Some(recipient) => opt_out::apply_consent(
                self.tx,
                instance,
                &[recipient],
                (Consent::OptOut, SuppressionReason::OptedOut),
                self.now,
            ),
            None => Ok(()),
        }
    }

    fn write_change(
        &mut self,
        instance: InstanceNumber,
        change: &AccountChange,
        signed: bool,
    ) -> Result<(), Error> {
        self.new_parts.others = true;
        self.emit(instance, change.kind.clone(), change.data())?;
        for identity_change in change.identity_changes() {
            opt_out::apply_identity_change(self.tx, instance, &identity_change, signed, self.now)?;
        }
        for preference in change.preferences() {
            let names: Vec<_> = preference.user.recipients().collect();
            let consent = if preference.opted_out { Consent::OptOut } else { Consent::OptIn };
            if is_trusted_consent(consent, signed) {
                opt_out::apply_consent(
                    self.tx,
                    instance,
                    &names,
                    (consent, SuppressionReason::Preference),
                    self.now,
                )?;
            }
        }
        Ok(())
    }

    fn emit(&mut self, instance: InstanceNumber, kind: EventKind, data: Value) -> Result<(), Error> {
        events::append(self.tx, instance, &Event { kind, at: self.now, data })?;
        self.counts.events += 1;
        Ok(())
    }
}

/// Whether a consent is applied. The suppression list belongs to the whole node, and deliveries to an account without a
/// secret can be forged. So an unsigned opt-out is applied, and an unsigned opt-in is not.
fn is_trusted_consent(consent: Consent, signed: bool) -> bool {
    signed || consent == Consent::OptOut
}

/// The status in the form of the ledger.
pub(super) fn receipt_report(instance: InstanceNumber, status: &StatusUpdate) -> ReceiptReport {
    ReceiptReport {
        instance,
        id: status.our_id,
        provider_id: status.provider_id.clone(),
        receipt: status.receipt,
        at: status.at,
        failure: status.failure.clone(),
    }
}
