//! Changes of the suppression list by users who opt out or opt in again.

use serde_json::{Map, json};

use crate::events::{self, Event};
use crate::suppression::{self, SuppressionReason};
use relevo_domain::{EventKind, InstanceNumber, Recipient, Timestamp};
use relevo_store::{Error, Tx};

/// The consent that a user expresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consent {
    /// No unsolicited messages.
    OptOut,
    /// Unsolicited messages are allowed again.
    OptIn,
}

/// Applies a consent to all names of a user, and appends an event if that changed the list.
pub(super) fn apply_consent(
    tx: &mut Tx,
    instance: InstanceNumber,
    names: &[Recipient],
    (consent, reason): (Consent, SuppressionReason),
    now: Timestamp,
) -> Result<(), Error> {
    let mut changed = false;
    for name in names {
        changed |= match consent {
            Consent::OptOut => suppression::suppress(tx, name, reason, now)?,
            Consent::OptIn => suppression::release(tx, name)?,
        };
    }
    if !changed {
        return Ok(());
    }
    let mut data = Map::from_iter([("why".to_owned(), json!(reason))]);
    for name in names {
        let field = match name {
            Recipient::Phone(_) => "phone",
            Recipient::User(_) => "user_id",
            Recipient::Jid(_) => "jid",
        };
        data.insert(field.to_owned(), json!(name.to_string()));
    }
    let kind = match consent {
        Consent::OptOut => EventKind::OptOut,
        Consent::OptIn => EventKind::OptIn,
    };
    events::append(tx, instance, &Event { kind, at: now, data: data.into() })?;
    Ok(())
}
