use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a message stands: the node's own states, and WhatsApp's facts about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for the moment that its sender chose.
    Scheduled,
    /// Waits for its turn.
    Queued,
    /// An attempt is under way.
    Sending,
    /// An attempt went out and nobody knows what became of it.
    Ambiguous,
    /// Left its lane for hours, because WhatsApp said so.
    Deferred,
    /// Not sent, or sent and refused later; nobody will try again.
    Failed,
    /// Too old to be sent.
    Expired,
    /// Taken back by its sender before an attempt.
    Cancelled,
    /// Given up by the node and kept for inspection and redrive.
    DeadLetter,
    /// WhatsApp took it.
    Sent,
    /// It reached a device of the recipient.
    Delivered,
    /// The recipient saw it.
    Read,
    /// The recipient played it (voice notes).
    Played,
}

/// A fact that WhatsApp reports about a message after it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Receipt {
    Sent,
    Delivered,
    Read,
    Played,
    Failed,
}

impl From<Receipt> for Status {
    fn from(receipt: Receipt) -> Status {
        match receipt {
            Receipt::Sent => Status::Sent,
            Receipt::Delivered => Status::Delivered,
            Receipt::Read => Status::Read,
            Receipt::Played => Status::Played,
            Receipt::Failed => Status::Failed,
        }
    }
}

impl Status {
    pub const ALL: [Status; 13] = [
        Status::Scheduled,
        Status::Queued,
        Status::Sending,
        Status::Ambiguous,
        Status::Deferred,
        Status::Failed,
        Status::Expired,
        Status::Cancelled,
        Status::DeadLetter,
        Status::Sent,
        Status::Delivered,
        Status::Read,
        Status::Played,
    ];

    /// Whether a message may go from this status to `next`. The only place where that is decided.
    ///
    /// Facts only move forward, whatever order they arrive in. A late fact settles an ambiguous message and even
    /// a dead letter; `failed` yields only to proof from the recipient's own device, because a late `sent` may
    /// simply have been overtaken by the failure that followed it.
    pub fn may_become(self, next: Status) -> bool {
        use Status::*;
        match self {
            Scheduled => matches!(next, Queued | Cancelled | Expired | DeadLetter),
            Queued => matches!(next, Sending | Deferred | Failed | Cancelled | Expired | DeadLetter),
            Sending => matches!(
                next,
                Queued | Ambiguous | Deferred | Failed | DeadLetter | Sent | Delivered | Read | Played
            ),
            Ambiguous => matches!(next, Queued | Failed | DeadLetter | Sent | Delivered | Read | Played),
            Deferred => matches!(next, Queued | Cancelled | Expired | DeadLetter),
            DeadLetter => matches!(next, Queued | Sent | Delivered | Read | Played),
            Sent => matches!(next, Delivered | Read | Played | Failed),
            Delivered => matches!(next, Read | Played),
            Read => matches!(next, Played),
            Failed => matches!(next, Delivered | Read | Played),
            Expired | Cancelled | Played => false,
        }
    }

    /// Whether the node has nothing left to do for the message. A fact may still arrive.
    pub fn is_settled(self) -> bool {
        use Status::*;
        matches!(self, Failed | Expired | Cancelled | DeadLetter | Sent | Delivered | Read | Played)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Status::Scheduled => "scheduled",
            Status::Queued => "queued",
            Status::Sending => "sending",
            Status::Ambiguous => "ambiguous",
            Status::Deferred => "deferred",
            Status::Failed => "failed",
            Status::Expired => "expired",
            Status::Cancelled => "cancelled",
            Status::DeadLetter => "dead_letter",
            Status::Sent => "sent",
            Status::Delivered => "delivered",
            Status::Read => "read",
            Status::Played => "played",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Status::{self, *};

    /// Every permitted step, written out by hand; every pair that is not here must be refused.
    const STEPS: &[(Status, &[Status])] = &[
        (Scheduled, &[Queued, Cancelled, Expired, DeadLetter]),
        (Queued, &[Sending, Deferred, Failed, Cancelled, Expired, DeadLetter]),
        (Sending, &[Queued, Ambiguous, Deferred, Failed, DeadLetter, Sent, Delivered, Read, Played]),
        (Ambiguous, &[Queued, Failed, DeadLetter, Sent, Delivered, Read, Played]),
        (Deferred, &[Queued, Cancelled, Expired, DeadLetter]),
        (Failed, &[Delivered, Read, Played]),
        (Expired, &[]),
        (Cancelled, &[]),
        (DeadLetter, &[Queued, Sent, Delivered, Read, Played]),
        (Sent, &[Delivered, Read, Played, Failed]),
        (Delivered, &[Read, Played]),
        (Read, &[Played]),
        (Played, &[]),
    ];

    #[test]
    fn transition_table_covers_every_pair() {
        assert_eq!(STEPS.len(), Status::ALL.len());
        for (from, allowed) in STEPS {
            for to in Status::ALL {
                assert_eq!(from.may_become(to), allowed.contains(&to), "{from} -> {to}");
            }
        }
    }

    #[test]
    fn receipts_converge_in_any_order() {
        let facts = [Sent, Delivered, Read];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let end = order
                .iter()
                .map(|&i| facts[i])
                .fold(Sending, |now, fact| if now.may_become(fact) { fact } else { now });
            assert_eq!(end, Read, "{order:?}");
        }
    }
}
