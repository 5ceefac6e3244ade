//! Users who want to be left alone, and those who changed their minds.

use serde_json::{Map, json};

use crate::events::{self, Event};
use crate::suppression::{self, SuppressionReason};
use relevo_domain::{InstanceNumber, Recipient, Timestamp};
use relevo_store::{Error, Tx};

/// What a user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consent {
    /// No messages unasked.
    OptOut,
    /// Messages again.
    OptIn,
}

/// Carries out a user's wish under every name that the user has, and tells of it if that changed anything.
pub(super) fn apply_consent(
    tx: &mut Tx,
    instance: InstanceNumber,
    names: &[Recipient],
    (wish, why): (Consent, SuppressionReason),
    now: Timestamp,
) -> Result<(), Error> {
    let mut changed = false;
    for name in names {
        changed |= match wish {
            Consent::OptOut => suppression::suppress(tx, name, why, now)?,
            Consent::OptIn => suppression::release(tx, name)?,
        };
    }
    if !changed {
        return Ok(());
    }
    let mut data = Map::from_iter([("why".to_owned(), json!(why))]);
    for name in names {
        let field = match name {
            Recipient::Phone(_) => "phone",
            Recipient::User(_) => "user_id",
            Recipient::Jid(_) => "jid",
        };
        data.insert(field.to_owned(), json!(name.to_string()));
    }
    let kind = match wish {
        Consent::OptOut => "opt_out",
        Consent::OptIn => "opt_in",
    };
    events::append(tx, instance, &Event { kind: kind.to_owned(), at: now, data: data.into() })?;
    Ok(())
}
