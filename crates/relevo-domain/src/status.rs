//! The status of a message, and the table of permitted transitions.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The status of a message: the states of the node, and the receipts of WhatsApp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for the time that its sender chose.
    Scheduled,
    /// Waits in its lane.
    Queued,
    /// An attempt is under way.
    Sending,
    /// An attempt was made, and its outcome is unknown.
    Ambiguous,
    /// Waits outside its lane for hours, because WhatsApp forbids an earlier attempt.
    Deferred,
    /// Rejected by WhatsApp, at once or later; it is not retried.
    Failed,
    /// Too old to be sent.
    Expired,
    /// Withdrawn by its sender before an attempt.
    Cancelled,
    /// Given up after its attempts, and kept for inspection and redrive.
    DeadLetter,
    /// WhatsApp accepted it.
    Sent,
    /// A device of the recipient received it.
    Delivered,
    /// The recipient read it.
    Read,
    /// The recipient played it (voice notes).
    Played,
}

/// What WhatsApp reports about a message that it accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Receipt {
    /// WhatsApp accepted it.
    Sent,
    /// A device of the recipient received it.
    Delivered,
    /// The recipient read it.
    Read,
    /// The recipient played it (voice notes).
    Played,
    /// WhatsApp could not deliver it.
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
    /// Every status.
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

    /// Whether a message may change from this status to `next`. No other function decides that.
    ///
    /// Receipts only move a message forward, in whatever order they arrive. A late receipt settles an ambiguous message
    /// and even a dead letter. `failed` changes only on proof from the recipient's device, because a late `sent` may
    /// have been overtaken by the failure that followed it.
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

    /// Whether the node has nothing left to do for the message. A receipt may still arrive.
    pub fn is_settled(self) -> bool {
        use Status::*;
        matches!(self, Failed | Expired | Cancelled | DeadLetter | Sent | Delivered | Read | Played)
    }

    /// The value in JSON, events and metrics.
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

    /// Every permitted transition, written by hand; every other pair is forbidden.
    const TRANSITIONS: &[(Status, &[Status])] = &[
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
        assert_eq!(TRANSITIONS.len(), Status::ALL.len());
        for (from, allowed) in TRANSITIONS {
            for to in Status::ALL {
                assert_eq!(from.may_become(to), allowed.contains(&to), "{from} -> {to}");
            }
        }
    }

    #[test]
    fn receipts_converge_in_any_order() {
        let receipts = [Sent, Delivered, Read];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let end = order
                .iter()
                .map(|&i| receipts[i])
                .fold(Sending, |status, next| if status.may_become(next) { next } else { status });
            assert_eq!(end, Read, "{order:?}");
        }
    }
}
