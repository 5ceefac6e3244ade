//! What one webhook changes, in one commit.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::events::{self, Event};
use crate::media;
use crate::queue::{ReceiptReport, ReceiptResult, receipt_data};
use crate::relay::FrameQueue;
use crate::suppression::SuppressionReason;
use relevo_cloud_api::AccountChange;
use relevo_domain::{InboundMessage, InstanceId, InstanceNumber, Recipient, StatusUpdate, Timestamp};
use relevo_store::{Error, Tx};

use super::dedupe;
use super::frames::{NewParts, WebhookFrames};
use super::keywords::Keywords;
use super::opt_out::{self, Consent};
use super::quarantine::{NewQuarantineEntry, QuarantineId};

/// One part of a webhook, with the instance that it is for.
#[derive(Debug)]
pub(super) enum DeliveryPart {
    Message {
        instance: InstanceNumber,
        name: InstanceId,
        message: Box<InboundMessage>,
        /// Whether the account's secret vouches for it.
        signed: bool,
    },
    /// A fact about a message that was sent, and what the ledger made of it; `None` when it was not asked.
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

/// Everything that one webhook changes beside the ledger.
#[derive(Debug)]
pub(super) struct InboundDelivery {
    pub parts: Vec<DeliveryPart>,
    pub quarantine: Option<(NewQuarantineEntry, QuarantineId)>,
    /// For the relay; there are none when it is off.
    pub frames: Option<WebhookFrames>,
    pub relay: FrameQueue,
    pub keywords: Arc<Keywords>,
    pub now: Timestamp,
}

/// What of a webhook was new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CommitCounts {
    pub events: usize,
    pub duplicates: usize,
}

impl InboundDelivery {
    pub fn has_changes(&self) -> bool {
        !self.parts.is_empty() || self.quarantine.is_some()
    }

    pub fn commit(self, tx: &mut Tx) -> Result<CommitCounts, Error> {
        let InboundDelivery { parts, quarantine: keeping, frames, relay, keywords, now } = self;
        let mut book = PartWriter {
            tx,
            keywords: &keywords,
            now,
            counts: CommitCounts::default(),
            new_parts: NewParts::default(),
        };
        for part in &parts {
            book.write_part(part)?;
        }
        let PartWriter { tx, counts: taken, new_parts: fresh, .. } = book;
        for frame in frames.map(|frames| frames.into_new(fresh)).unwrap_or_default() {
            relay.push(tx, &frame.webhook, frame.sender.as_deref(), now)?;
        }
        if let Some((keeping, place)) = keeping {
            keeping.insert(tx, place)?;
        }
        Ok(taken)
    }
}

/// The commit in the making.
struct PartWriter<'a, 't> {
    tx: &'a mut Tx<'t>,
    keywords: &'a Keywords,
    now: Timestamp,
    counts: CommitCounts,
    new_parts: NewParts,
}

impl PartWriter<'_, '_> {
    /// Takes one part, unless it was delivered before.
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
        self.emit(instance, "message", super::message_event::data(message, name)?)?;
        if let Some(media) = message.media() {
            let note = media::MediaLocation {
                media_id: media.id.clone(),
                mime: media.mime_type.clone(),
                sha256: media.sha256.clone(),
                file_name: media.filename.clone(),
                at: message.at,
            };
            media::record_location(self.tx, instance, &message.id, &note)?;
        }
        if message.is_from_me() {
            self.new_parts.others = true;
        } else {
            self.new_parts.messages.insert(message.id.clone());
        }
        if let Some(wish) = self.keywords.consent_of(message).filter(|wish| is_trusted_consent(*wish, signed))
        {
            let names: Vec<_> = message.sender.identity.recipients().collect();
            opt_out::apply_consent(self.tx, instance, &names, (wish, SuppressionReason::Keyword), self.now)?;
        }
        Ok(())
    }

    fn write_status(
        &mut self,
        instance: InstanceNumber,
        status: &StatusUpdate,
        recorded: Option<ReceiptResult>,
    ) -> Result<(), Error> {
        self.new_parts.others = true;
        if status.participant.is_some() || matches!(recorded, None | Some(ReceiptResult::Unknown)) {
            let address = |name: &String| name.parse().map_or(name.clone(), |who: Recipient| who.address());
            let to = status.recipient.as_ref().map(address).unwrap_or_default();
            let mut data = receipt_data(&receipt_report(instance, status), &to);
            if let Some(participant) = &status.participant {
                data.insert("participant".to_owned(), json!(address(participant)));
            }
            self.emit(instance, "receipt", data.into())?;
        }
        match status.opted_out_recipient() {
            Some(who) => opt_out::apply_consent(
                self.tx,
                instance,
                &[who],
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
        self.emit(instance, change.kind, change.data())?;
        for preference in change.preferences() {
            let names: Vec<_> = preference.user.recipients().collect();
            let wish = if preference.opted_out { Consent::OptOut } else { Consent::OptIn };
            if is_trusted_consent(wish, signed) {
                opt_out::apply_consent(
                    self.tx,
                    instance,
                    &names,
                    (wish, SuppressionReason::Preference),
                    self.now,
                )?;
            }
        }
        Ok(())
    }

    fn emit(&mut self, instance: InstanceNumber, kind: &str, data: Value) -> Result<(), Error> {
        events::append(self.tx, instance, &Event { kind: kind.to_owned(), at: self.now, data })?;
        self.counts.events += 1;
        Ok(())
    }
}

/// Whether a wish counts. The list is the whole node's: anybody could say something to an account without a secret, so
/// there a wish to be left alone counts, and a wish to be written to again does not.
fn is_trusted_consent(wish: Consent, signed: bool) -> bool {
    signed || wish == Consent::OptOut
}

/// The status as the ledger takes it.
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
