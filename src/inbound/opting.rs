//! Users who want to be left alone, and those who changed their minds.

use serde_json::{Map, json};

use crate::contacts::{self, Why};
use crate::events::{self, Event};
use relevo_domain::{InstanceNumber, Recipient, Timestamp};
use relevo_store::{Error, Tx};

/// What a user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// No messages unasked.
    Out,
    /// Messages again.
    In,
}

/// Carries out a user's wish under every name that the user has, and tells of it if that changed anything.
pub(super) fn carry_out(
    tx: &mut Tx,
    instance: InstanceNumber,
    names: &[Recipient],
    (wish, why): (Wish, Why),
    now: Timestamp,
) -> Result<(), Error> {
    let mut changed = false;
    for name in names {
        changed |= match wish {
            Wish::Out => contacts::suppress(tx, name, why, now)?,
            Wish::In => contacts::release(tx, name)?,
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
        Wish::Out => "opt_out",
        Wish::In => "opt_in",
    };
    events::append(tx, instance, &Event { kind: kind.to_owned(), at: now, data: data.into() })?;
    Ok(())
}
