//! What one webhook changes, in one commit.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::contacts::Why;
use crate::events::{self, Event};
use crate::media;
use crate::queue::{ReceiptReport, Recorded, receipt_data};
use crate::relay::Intake;
use relevo_cloud_api::Change;
use relevo_domain::{InboundMessage, InstanceId, InstanceNumber, Recipient, StatusUpdate, Timestamp};
use relevo_store::{Error, Tx};

use super::frames::{Frames, Fresh};
use super::kept::{Keeping, KeptPlace};
use super::keywords::Keywords;
use super::opting::{self, Wish};
use super::seen;

/// One part of a webhook, with the instance that it is for.
#[derive(Debug)]
pub(super) enum Part {
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
        recorded: Option<Recorded>,
    },
    Change {
        instance: InstanceNumber,
        change: Change,
        signed: bool,
    },
}

/// Everything that one webhook changes beside the ledger.
#[derive(Debug)]
pub(super) struct Delivery {
    pub parts: Vec<Part>,
    pub keeping: Option<(Keeping, KeptPlace)>,
    /// For the relay; there are none when it is off.
    pub frames: Option<Frames>,
    pub relay: Intake,
    pub keywords: Arc<Keywords>,
    pub now: Timestamp,
}

/// What of a webhook was new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Taken {
    pub events: usize,
    pub duplicates: usize,
}

impl Delivery {
    pub fn changes_anything(&self) -> bool {
        !self.parts.is_empty() || self.keeping.is_some()
    }

    pub fn commit(self, tx: &mut Tx) -> Result<Taken, Error> {
        let Delivery { parts, keeping, frames, relay, keywords, now } = self;
        let mut book =
            Book { tx, keywords: &keywords, now, taken: Taken::default(), fresh: Fresh::default() };
        for part in &parts {
            book.take(part)?;
        }
        let Book { tx, taken, fresh, .. } = book;
        for frame in frames.map(|frames| frames.that_are(fresh)).unwrap_or_default() {
            relay.push(tx, &frame.webhook, frame.sender.as_deref(), now)?;
        }
        if let Some((keeping, place)) = keeping {
            keeping.keep(tx, place)?;
        }
        Ok(taken)
    }
}

/// The commit in the making.
struct Book<'a, 't> {
    tx: &'a mut Tx<'t>,
    keywords: &'a Keywords,
    now: Timestamp,
    taken: Taken,
    fresh: Fresh,
}

impl Book<'_, '_> {
    /// Takes one part, unless it was delivered before.
    fn take(&mut self, part: &Part) -> Result<(), Error> {
        let (instance, digest) = match part {
            Part::Message { instance, message, .. } => (*instance, seen::of_message(message)),
            Part::Status { instance, status, .. } => (*instance, seen::of_status(status)),
            Part::Change { instance, change, .. } => (*instance, seen::of_change(change)),
        };
        if !seen::first_time(self.tx, instance, &digest, self.now)? {
            self.taken.duplicates += 1;
            return Ok(());
        }
        match part {
            Part::Message { name, message, signed, .. } => self.message(instance, name, message, *signed),
            Part::Status { status, recorded, .. } => self.status(instance, status, *recorded),
            Part::Change { change, signed, .. } => self.change(instance, change, *signed),
        }
    }

    fn message(
        &mut self,
        instance: InstanceNumber,
        name: &InstanceId,
        message: &InboundMessage,
        signed: bool,
    ) -> Result<(), Error> {
        self.tell(instance, "message", super::message_event::data(message, name)?)?;
        if let Some(media) = message.media() {
            let note = media::Note {
                media_id: media.id.clone(),
                mime: media.mime_type.clone(),
                sha256: media.sha256.clone(),
                file_name: media.filename.clone(),
                at: message.at,
            };
            media::note(self.tx, instance, &message.id, &note)?;
        }
        if message.is_from_me() {
            self.fresh.others = true;
        } else {
            self.fresh.messages.insert(message.id.clone());
        }
        if let Some(wish) = self.keywords.wish_of(message).filter(|wish| may(*wish, signed)) {
            let names: Vec<_> = message.sender.identity.recipients().collect();
            opting::carry_out(self.tx, instance, &names, (wish, Why::Keyword), self.now)?;
        }
        Ok(())
    }

    fn status(
        &mut self,
        instance: InstanceNumber,
        status: &StatusUpdate,
        recorded: Option<Recorded>,
    ) -> Result<(), Error> {
        self.fresh.others = true;
        if status.participant.is_some() || matches!(recorded, None | Some(Recorded::Unknown)) {
            let address = |name: &String| name.parse().map_or(name.clone(), |who: Recipient| who.address());
            let to = status.recipient.as_ref().map(address).unwrap_or_default();
            let mut data = receipt_data(&report(instance, status), &to);
            if let Some(participant) = &status.participant {
                data.insert("participant".to_owned(), json!(address(participant)));
            }
            self.tell(instance, "receipt", data.into())?;
        }
        match status.opted_out() {
            Some(who) => opting::carry_out(self.tx, instance, &[who], (Wish::Out, Why::OptedOut), self.now),
            None => Ok(()),
        }
    }

    fn change(&mut self, instance: InstanceNumber, change: &Change, signed: bool) -> Result<(), Error> {
        self.fresh.others = true;
        self.tell(instance, change.kind, change.data())?;
        for preference in change.preferences() {
            let names: Vec<_> = preference.who.recipients().collect();
            let wish = if preference.stop { Wish::Out } else { Wish::In };
            if may(wish, signed) {
                opting::carry_out(self.tx, instance, &names, (wish, Why::Preference), self.now)?;
            }
        }
        Ok(())
    }

    fn tell(&mut self, instance: InstanceNumber, kind: &str, data: Value) -> Result<(), Error> {
        events::append(self.tx, instance, &Event { kind: kind.to_owned(), at: self.now, data })?;
        self.taken.events += 1;
        Ok(())
    }
}

/// Whether a wish counts. The list is the whole node's: anybody could say something to an account without a secret, so
/// there a wish to be left alone counts, and a wish to be written to again does not.
fn may(wish: Wish, signed: bool) -> bool {
    signed || wish == Wish::Out
}

/// The status as the ledger takes it.
pub(super) fn report(instance: InstanceNumber, status: &StatusUpdate) -> ReceiptReport {
    ReceiptReport {
        instance,
        id: status.our_id,
        provider_id: status.provider_id.clone(),
        receipt: status.receipt,
        at: status.at,
        failure: status.failure.clone(),
    }
}
