//! The two JIDs of a person: phone number and hidden id (LID). WhatsApp's events name one of them; the client knows many
//! of the others.

use std::collections::HashMap;

use serde_json::{Value, json};
use whatsapp_rust::{Client, Jid};

use super::jid::{bare_jid, identity_from_jids};
use relevo_domain::Identity;

/// The client's mapping between the two JIDs of some people.
#[derive(Debug, Default)]
pub(super) struct LidMapping(HashMap<String, Jid>);

impl LidMapping {
    /// Loads the alternate JIDs of these people from the client's cache. Makes no request.
    pub async fn load(client: &Client, people: Vec<Jid>) -> Self {
        let mut alternates = HashMap::new();
        for jid in people {
            let Ok(Some(both)) = client.get_lid_pn_entry(&jid).await else { continue };
            let alternate = if jid.is_lid() { Jid::pn(&*both.phone_number) } else { Jid::lid(&*both.lid) };
            alternates.insert(bare_jid(&jid), alternate);
        }
        Self(alternates)
    }

    #[cfg(test)]
    pub fn from_pair(jid: &str, alternate: &str) -> Self {
        Self(HashMap::from([(jid.to_owned(), alternate.parse().unwrap())]))
    }

    /// The other JID of a person. The one that WhatsApp named in the event, `named`, takes precedence.
    pub fn alternate<'a>(&'a self, jid: &Jid, named: Option<&'a Jid>) -> Option<&'a Jid> {
        named.or_else(|| self.0.get(&bare_jid(jid)))
    }

    /// The phone number and the hidden id of a person, as far as they are known.
    pub fn identity(&self, jid: &Jid, named: Option<&Jid>) -> Option<Identity> {
        identity_from_jids(jid, named.or_else(|| self.0.get(&bare_jid(jid))))
    }

    /// Adds the phone number and the hidden id of a person to an event's data, as far as they are known.
    pub fn add_identity(&self, mut data: Value, jid: &Jid, named: Option<&Jid>) -> Value {
        if let (Some(fields), Some(identity)) = (data.as_object_mut(), self.identity(jid, named)) {
            for (field, value) in [("phone", identity.phone()), ("user_id", identity.user_id())] {
                fields.extend(value.map(|value| (field.to_owned(), json!(value))));
            }
        }
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jid_from_whatsapp_takes_precedence_over_the_mapping() {
        let names = LidMapping::from_pair("1234567890@lid", "573001234567@s.whatsapp.net");
        let hidden: Jid = "1234567890:2@lid".parse().unwrap();
        let phone = |named: Option<&Jid>| names.identity(&hidden, named).unwrap().phone().map(str::to_owned);
        assert_eq!(phone(None).as_deref(), Some("573001234567"));
        assert_eq!(phone(Some(&Jid::pn("573009999999"))).as_deref(), Some("573009999999"));
        assert_eq!(LidMapping::default().identity(&hidden, None).unwrap().phone(), None);
    }
}
