//! What both ways in do with what they understood: facts to the ledger, and the rest in one commit.

use std::sync::Arc;

use crate::queue::ReceiptResult;
use relevo_domain::Receipt;
use relevo_store::Tx;

use super::commit::{self, DeliveryPart, InboundDelivery};
use super::frames::WebhookFrames;
use super::quarantine::{NewQuarantineEntry, QuarantineId};
use super::{DeliveryCounts, Error, Handle};

impl Handle {
    /// Shows the ledger its facts, and passes on what is left to be done here; `relays`: facts are also told to the
    /// relay.
    ///
    /// What one participant of a group did moves the message like any fact, but for failures: a message that did
    /// not reach one of a group has not failed.
    pub(super) async fn record_statuses(
        &self,
        parts: Vec<DeliveryPart>,
        relays: bool,
        received: &mut DeliveryCounts,
    ) -> Result<Vec<DeliveryPart>, Error> {
        let for_ledger = |part: &DeliveryPart| match part {
            DeliveryPart::Status { instance, status, .. } => {
                let of_one = status.participant.is_some() && status.receipt == Receipt::Failed;
                (!of_one).then(|| commit::receipt_report(*instance, status))
            }
            _ => None,
        };
        let reports: Vec<_> = parts.iter().filter_map(for_ledger).collect();
        received.statuses = parts.iter().filter(|part| matches!(part, DeliveryPart::Status { .. })).count();
        if reports.is_empty() {
            return Ok(parts);
        }
        let mut outcomes = self.queue.record_receipts(reports).await?.into_iter();
        let left = parts.into_iter().filter_map(|part| {
            let asked = for_ledger(&part).is_some();
            match part {
                DeliveryPart::Status { instance, status, .. } if asked => {
                    let recorded = outcomes.next();
                    let ours = !matches!(recorded, None | Some(ReceiptResult::Unknown));
                    let done = ours
                        && !relays
                        && status.participant.is_none()
                        && status.opted_out_recipient().is_none();
                    let known = done && matches!(recorded, Some(ReceiptResult::Unchanged(_)));
                    received.duplicates += usize::from(known);
                    (!done).then_some(DeliveryPart::Status { instance, status, recorded })
                }
                part => Some(part),
            }
        });
        Ok(left.collect())
    }

    /// Makes everything durable that the ledger did not take.
    pub(super) async fn commit(
        &self,
        parts: Vec<DeliveryPart>,
        keeping: Option<NewQuarantineEntry>,
        frames: Option<WebhookFrames>,
        received: &mut DeliveryCounts,
    ) -> Result<(), Error> {
        let now = self.clock.now();
        let delivery = InboundDelivery {
            parts,
            quarantine: keeping.map(|keeping| (keeping, QuarantineId { at: now, nonce: rand::random() })),
            frames,
            relay: self.relay.clone(),
            keywords: Arc::clone(&self.keywords),
            now,
        };
        if delivery.has_changes() {
            let taken = self.store.write(move |tx: &mut Tx| delivery.commit(tx)).await?;
            received.events += taken.events;
            received.duplicates += taken.duplicates;
        }
        Ok(())
    }

    /// Counts what came of a delivery.
    pub(super) fn record_metrics(&self, taken: &Result<DeliveryCounts, Error>) {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        match taken {
            Ok(received) => {
                self.metrics.record_inbound("event", count(received.events));
                self.metrics.record_inbound("duplicate", count(received.duplicates));
                self.metrics.record_inbound("odd", count(received.unprocessable));
            }
            Err(Error::Signature) => self.metrics.record_inbound("forged", 1),
            Err(_) => self.metrics.record_inbound("refused", 1),
        }
    }
}
