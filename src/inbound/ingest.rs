//! The steps that webhooks and linked devices share: statuses go to the ledger, everything else is one commit.

use std::sync::Arc;

use crate::queue::ReceiptResult;
use relevo_domain::Receipt;
use relevo_store::Tx;

use super::commit::{self, DeliveryPart, InboundDelivery};
use super::frames::WebhookFrames;
use super::quarantine::{NewQuarantineEntry, QuarantineId};
use super::{DeliveryCounts, Error, Handle};

impl Handle {
    /// Records the statuses in the ledger and returns the parts that remain for the commit. With `relays`, statuses that
    /// the ledger has processed remain, too, because the relay receives them.
    ///
    /// A status of one participant of a group moves the message as any status does, except a failure: a message that
    /// failed for one participant has not failed for the group.
    pub(super) async fn record_statuses(
        &self,
        parts: Vec<DeliveryPart>,
        relays: bool,
        received: &mut DeliveryCounts,
    ) -> Result<Vec<DeliveryPart>, Error> {
        let for_ledger = |part: &DeliveryPart| match part {
            DeliveryPart::Status { instance, status, .. } => {
                let failed_for_one = status.participant.is_some() && status.receipt == Receipt::Failed;
                (!failed_for_one).then(|| commit::receipt_report(*instance, status))
            }
            _ => None,
        };
        let reports: Vec<_> = parts.iter().filter_map(for_ledger).collect();
        received.statuses = parts.iter().filter(|part| matches!(part, DeliveryPart::Status { .. })).count();
        if reports.is_empty() {
            return Ok(parts);
        }
        let mut outcomes = self.queue.record_receipts(reports).await?.into_iter();
        let mut remaining = Vec::with_capacity(parts.len());
        for part in parts {
            let in_ledger = for_ledger(&part).is_some();
            match part {
                DeliveryPart::Status { instance, status, .. } if in_ledger => {
                    let recorded = outcomes.next();
                    let known = !matches!(recorded, None | Some(ReceiptResult::Unknown));
                    let complete = known
                        && !relays
                        && status.participant.is_none()
                        && status.opted_out_recipient().is_none();
                    if !complete {
                        remaining.push(DeliveryPart::Status { instance, status, recorded });
                    } else if matches!(recorded, Some(ReceiptResult::Unchanged(_))) {
                        received.duplicates += 1;
                    }
                }
                part => remaining.push(part),
            }
        }
        Ok(remaining)
    }

    /// Commits the parts that the ledger did not process completely.
    pub(super) async fn commit(
        &self,
        parts: Vec<DeliveryPart>,
        quarantine: Option<NewQuarantineEntry>,
        frames: Option<WebhookFrames>,
        received: &mut DeliveryCounts,
    ) -> Result<(), Error> {
        let now = self.clock.now();
        let delivery = InboundDelivery {
            parts,
            quarantine: quarantine.map(|entry| (entry, QuarantineId { at: now, nonce: self.random.value() })),
            frames,
            relay: self.relay.clone(),
            keywords: Arc::clone(&self.keywords),
            now,
        };
        if delivery.has_changes() {
            let counts = self.store.write(move |tx: &mut Tx| delivery.commit(tx)).await?;
            received.events += counts.events;
            received.duplicates += counts.duplicates;
        }
        Ok(())
    }

    /// Counts the result of a delivery.
    pub(super) fn record_metrics(&self, result: &Result<DeliveryCounts, Error>) {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        match result {
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
