//! Changes of the suppression list by users who opt out, opt in again, or change their number or id.

use serde_json::{Map, Value, json};

use crate::address_book;
use crate::events::{self, Event};
use crate::suppression::{self, SuppressionReason};
use relevo_domain::{EventKind, IdentityChange, InstanceNumber, Recipient, Timestamp};
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
    let data = event_data(names, reason);
    let kind = match consent {
        Consent::OptOut => EventKind::OptOut,
        Consent::OptIn => EventKind::OptIn,
    };
    events::append(tx, instance, &Event { kind, at: now, data: data.into() })?;
    Ok(())
}

/// Moves what the node knows about a person by name to the names that the person has now: the entry of the suppression
/// list, with an event `opt_out` about the new names, and the entry of the address book. An unsigned notice can be forged:
/// it only adds names to the suppression list.
pub(super) fn apply_identity_change(
    tx: &mut Tx,
    instance: InstanceNumber,
    change: &IdentityChange,
    signed: bool,
    now: Timestamp,
) -> Result<(), Error> {
    if let Some(reason) = suppression::carry_over(tx, change, signed)? {
        let mut data = event_data(&change.current, reason);
        let former: Vec<_> = change.former.iter().map(ToString::to_string).collect();
        data.insert("previous".to_owned(), json!(former));
        events::append(tx, instance, &Event { kind: EventKind::OptOut, at: now, data: data.into() })?;
    }
    let phone = |names: &[Recipient]| names.iter().find_map(|name| name.phone().cloned());
    if let (true, Some(former), Some(current)) = (signed, phone(&change.former), phone(&change.current)) {
        address_book::change_phone(tx, &former, &current, now)?;
    }
    Ok(())
}

fn event_data(names: &[Recipient], reason: SuppressionReason) -> Map<String, Value> {
    let mut data = Map::from_iter([("why".to_owned(), json!(reason))]);
    for name in names {
        let field = match name {
            Recipient::Phone(_) => "phone",
            Recipient::User(user) if user.is_parent() => "parent_user_id",
            Recipient::User(_) => "user_id",
            Recipient::Jid(_) => "jid",
        };
        data.insert(field.to_owned(), json!(name.to_string()));
    }
    data
}
