//! What both ways in do with what they understood: facts to the ledger, and the rest in one commit.

use std::sync::Arc;

use crate::queue::Recorded;
use relevo_domain::Receipt;
use relevo_store::Tx;

use super::commit::{self, Delivery, Part};
use super::frames::Frames;
use super::kept::{Keeping, KeptPlace};
use super::{Error, Handle, Received};

impl Handle {
    /// Shows the ledger its facts, and passes on what is left to be done here; `relays`: facts are also told to the
    /// relay.
    ///
    /// What one participant of a group did moves the message like any fact, but for failures: a message that did
    /// not reach one of a group has not failed.
    pub(super) async fn record(
        &self,
        parts: Vec<Part>,
        relays: bool,
        received: &mut Received,
    ) -> Result<Vec<Part>, Error> {
        let for_ledger = |part: &Part| match part {
            Part::Status { instance, status, .. } => {
                let of_one = status.participant.is_some() && status.receipt == Receipt::Failed;
                (!of_one).then(|| commit::report(*instance, status))
            }
            _ => None,
        };
        let reports: Vec<_> = parts.iter().filter_map(for_ledger).collect();
        received.statuses = parts.iter().filter(|part| matches!(part, Part::Status { .. })).count();
        if reports.is_empty() {
            return Ok(parts);
        }
        let mut outcomes = self.queue.record(reports).await?.into_iter();
        let left = parts.into_iter().filter_map(|part| {
            let asked = for_ledger(&part).is_some();
            match part {
                Part::Status { instance, status, .. } if asked => {
                    let recorded = outcomes.next();
                    let ours = !matches!(recorded, None | Some(Recorded::Unknown));
                    let done =
                        ours && !relays && status.participant.is_none() && status.opted_out().is_none();
                    let known = done && matches!(recorded, Some(Recorded::Unchanged(_)));
                    received.duplicates += usize::from(known);
                    (!done).then_some(Part::Status { instance, status, recorded })
                }
                part => Some(part),
            }
        });
        Ok(left.collect())
    }

    /// Makes everything durable that the ledger did not take.
    pub(super) async fn commit(
        &self,
        parts: Vec<Part>,
        keeping: Option<Keeping>,
        frames: Option<Frames>,
        received: &mut Received,
    ) -> Result<(), Error> {
        let now = self.clock.now();
        let delivery = Delivery {
            parts,
            keeping: keeping.map(|keeping| (keeping, KeptPlace { at: now, nonce: rand::random() })),
            frames,
            relay: self.relay.clone(),
            keywords: Arc::clone(&self.keywords),
            now,
        };
        if delivery.changes_anything() {
            let taken = self.store.write(move |tx: &mut Tx| delivery.commit(tx)).await?;
            received.events += taken.events;
            received.duplicates += taken.duplicates;
        }
        Ok(())
    }

    /// Counts what came of a delivery.
    pub(super) fn count(&self, taken: &Result<Received, Error>) {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        match taken {
            Ok(received) => {
                self.metrics.inbound("event", count(received.events));
                self.metrics.inbound("duplicate", count(received.duplicates));
                self.metrics.inbound("odd", count(received.odd));
            }
            Err(Error::Signature) => self.metrics.inbound("forged", 1),
            Err(_) => self.metrics.inbound("refused", 1),
        }
    }
}
