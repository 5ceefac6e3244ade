//! The two names of people: a number and a hidden id. WhatsApp tells one of them, and the client has learnt many of the
//! others.

use std::collections::HashMap;

use serde_json::{Value, json};
use whatsapp_rust::{Client, Jid};

use super::jid::{bare_jid, identity_from_jids};
use relevo_domain::Identity;

/// What is known beside what WhatsApp told: the other name for a name.
#[derive(Debug, Default)]
pub(super) struct LidMapping(HashMap<String, Jid>);

impl LidMapping {
    /// The other names of these people, as far as the client knows them. WhatsApp is not asked.
    pub async fn load(client: &Client, people: Vec<Jid>) -> Self {
        let mut names = HashMap::new();
        for name in people {
            let Ok(Some(both)) = client.get_lid_pn_entry(&name).await else { continue };
            let other = if name.is_lid() { Jid::pn(&*both.phone_number) } else { Jid::lid(&*both.lid) };
            names.insert(bare_jid(&name), other);
        }
        Self(names)
    }

    #[cfg(test)]
    pub fn from_pair(name: &str, other: &str) -> Self {
        Self(HashMap::from([(name.to_owned(), other.parse().unwrap())]))
    }

    /// The other name of somebody; what WhatsApp told counts more.
    pub fn alternate<'a>(&'a self, name: &Jid, told: Option<&'a Jid>) -> Option<&'a Jid> {
        told.or_else(|| self.0.get(&bare_jid(name)))
    }

    pub fn identity(&self, name: &Jid, told: Option<&Jid>) -> Option<Identity> {
        identity_from_jids(name, told.or_else(|| self.0.get(&bare_jid(name))))
    }

    /// Adds both names of somebody to what an event tells, as far as they are known.
    pub fn add_identity(&self, mut data: Value, name: &Jid, told: Option<&Jid>) -> Value {
        if let (Some(fields), Some(identity)) = (data.as_object_mut(), self.identity(name, told)) {
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
        let phone = |told: Option<&Jid>| names.identity(&hidden, told).unwrap().phone().map(str::to_owned);
        assert_eq!(phone(None).as_deref(), Some("573001234567"));
        assert_eq!(phone(Some(&Jid::pn("573009999999"))).as_deref(), Some("573009999999"));
        assert_eq!(LidMapping::default().identity(&hidden, None).unwrap().phone(), None);
    }
}
