//! One webhook of several messages as several webhooks of one message each, in Meta's own words: what is taken over is
//! taken over as it was written, and in its order.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use relevo_domain::ProviderMessageId;

use super::message::find_contact;

/// How many messages of users a webhook holds, readable or not.
pub fn count_messages(webhook: &RawValue) -> usize {
    let entries = RawObject::parse(webhook).list("entry");
    let changes = entries.into_iter().flat_map(|entry| RawObject::parse(entry).list("changes"));
    changes.map(|change| messages_of(&RawObject::parse(change)).len()).sum()
}

/// Who sent the first message of a webhook.
pub fn first_sender(webhook: &RawValue) -> Option<String> {
    let entries = RawObject::parse(webhook).list("entry");
    let mut changes = entries.into_iter().flat_map(|entry| RawObject::parse(entry).list("changes"));
    let first = changes.find_map(|change| messages_of(&RawObject::parse(change)).first().copied())?;
    serde_json::from_str(RawObject::parse(first).get("from")?.get()).ok()
}

/// For each message of a webhook its id and a webhook that holds this message, and what was said about its author,
/// and nothing else. Messages without an id are left out.
pub fn split_messages(webhook: &RawValue) -> Vec<(ProviderMessageId, Box<RawValue>)> {
    let mut split = Vec::new();
    let webhook = RawObject::parse(webhook);
    for entry in webhook.list("entry").into_iter().map(RawObject::parse) {
        for change in entry.list("changes").into_iter().map(RawObject::parse) {
            for (id, value) in split_value(&change) {
                let change = change.with_members(&[("value", Some(value))]);
                let entry = entry.with_members(&[("changes", Some(format!("[{change}]")))]);
                let webhook = webhook.with_members(&[("entry", Some(format!("[{entry}]")))]);
                split.extend(RawValue::from_string(webhook).ok().map(|webhook| (id, webhook)));
            }
        }
    }
    split
}

/// The value of a change once for each of its messages.
fn split_value(change: &RawObject) -> Vec<(ProviderMessageId, String)> {
    let (value, messages) = (change.object("value"), messages_of(change));
    let contacts = value.list("contacts");
    let known: Vec<Value> = contacts.iter().map(|contact| parse_value(contact)).collect();
    let alone = messages.len() == 1 && contacts.len() == 1;
    let one = |message: &&RawValue| {
        let read = parse_value(message);
        let id = read.get("id")?.as_str()?.parse().ok()?;
        let contact = find_contact(&read, &known, alone).and_then(|at| contacts.get(at));
        let one = value.with_members(&[
            ("messages", Some(format!("[{message}]"))),
            ("contacts", contact.map(|contact| format!("[{contact}]"))),
            ("statuses", None),
        ]);
        Some((id, one))
    };
    messages.iter().filter_map(one).collect()
}

/// The webhook without the messages of users, if it holds anything else.
pub fn without_messages(webhook: &RawValue) -> Option<Box<RawValue>> {
    let webhook = RawObject::parse(webhook);
    let of_change =
        |change: &RawValue| {
            let object = RawObject::parse(change);
            if messages_of(&object).is_empty() {
                return Some(change.to_string());
            }
            let value = object.object("value");
            value.get("statuses")?;
            Some(object.with_members(&[(
                "value",
                Some(value.with_members(&[("messages", None), ("contacts", None)])),
            )]))
        };
    let of_entry = |entry: &RawValue| {
        let object = RawObject::parse(entry);
        let changes: Vec<_> = object.list("changes").into_iter().filter_map(of_change).collect();
        let changes = (!changes.is_empty()).then(|| format!("[{}]", changes.join(",")));
        changes.map(|changes| object.with_members(&[("changes", Some(changes))]))
    };
    let entries: Vec<_> = webhook.list("entry").into_iter().filter_map(of_entry).collect();
    let entries = (!entries.is_empty()).then(|| format!("[{}]", entries.join(",")))?;
    RawValue::from_string(webhook.with_members(&[("entry", Some(entries))])).ok()
}

fn messages_of<'a>(change: &RawObject<'a>) -> Vec<&'a RawValue> {
    let holds = change.get("field").is_some_and(|field| field.get() == "\"messages\"");
    if holds { change.object("value").list("messages") } else { Vec::new() }
}

fn parse_value(json: &RawValue) -> Value {
    serde_json::from_str(json.get()).unwrap_or_default()
}

/// The members of an object as they are written, in their order. What is no object has none.
#[derive(Default)]
struct RawObject<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'a> RawObject<'a> {
    fn parse(json: &'a RawValue) -> Self {
        serde_json::from_str(json.get()).unwrap_or_default()
    }

    /// Of several with this name the last counts, as everywhere where JSON is read.
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(key, _)| is_named(key, name)).map(|(_, value)| *value)
    }

    fn object(&self, name: &str) -> Self {
        self.get(name).map(Self::parse).unwrap_or_default()
    }

    /// The elements of a list; what is no list has none.
    fn list(&self, name: &str) -> Vec<&'a RawValue> {
        self.get(name).and_then(|list| serde_json::from_str(list.get()).ok()).unwrap_or_default()
    }

    /// The object with other values under these names, or without them.
    fn with_members(&self, changed: &[(&str, Option<String>)]) -> String {
        let member = |(key, value): &(&RawValue, &RawValue)| {
            let value = match changed.iter().find(|(name, _)| is_named(key, name)) {
                Some((_, other)) => other.as_deref()?,
                None => value.get(),
            };
            Some(format!("{key}:{value}"))
        };
        let members: Vec<_> = self.0.iter().filter_map(member).collect();
        format!("{{{}}}", members.join(","))
    }
}

fn is_named(key: &RawValue, name: &str) -> bool {
    key.get().strip_prefix('"').and_then(|key| key.strip_suffix('"')) == Some(name)
}

impl<'de> Deserialize<'de> for RawObject<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = RawObject<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(RawObject(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}
