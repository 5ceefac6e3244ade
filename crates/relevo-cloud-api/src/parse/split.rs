//! One webhook of several messages as several webhooks of one message each, in Meta's own words: what is taken over is
//! taken over as it was written, and in its order.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use relevo_domain::ProviderMessageId;

use super::message::contact_at;

/// How many messages of users a webhook holds, readable or not.
pub fn count_messages(webhook: &RawValue) -> usize {
    let entries = Object::read(webhook).list("entry");
    let changes = entries.into_iter().flat_map(|entry| Object::read(entry).list("changes"));
    changes.map(|change| messages_of(&Object::read(change)).len()).sum()
}

/// Who sent the first message of a webhook.
pub fn first_sender(webhook: &RawValue) -> Option<String> {
    let entries = Object::read(webhook).list("entry");
    let mut changes = entries.into_iter().flat_map(|entry| Object::read(entry).list("changes"));
    let first = changes.find_map(|change| messages_of(&Object::read(change)).first().copied())?;
    serde_json::from_str(Object::read(first).get("from")?.get()).ok()
}

/// For each message of a webhook its id and a webhook that holds this message, and what was said about its author,
/// and nothing else. Messages without an id are left out.
pub fn split_messages(webhook: &RawValue) -> Vec<(ProviderMessageId, Box<RawValue>)> {
    let mut split = Vec::new();
    let webhook = Object::read(webhook);
    for entry in webhook.list("entry").into_iter().map(Object::read) {
        for change in entry.list("changes").into_iter().map(Object::read) {
            for (id, value) in split_value(&change) {
                let change = change.with(&[("value", Some(value))]);
                let entry = entry.with(&[("changes", Some(format!("[{change}]")))]);
                let webhook = webhook.with(&[("entry", Some(format!("[{entry}]")))]);
                split.extend(RawValue::from_string(webhook).ok().map(|webhook| (id, webhook)));
            }
        }
    }
    split
}

/// The value of a change once for each of its messages.
fn split_value(change: &Object) -> Vec<(ProviderMessageId, String)> {
    let (value, messages) = (change.object("value"), messages_of(change));
    let contacts = value.list("contacts");
    let known: Vec<Value> = contacts.iter().map(|contact| parsed(contact)).collect();
    let alone = messages.len() == 1 && contacts.len() == 1;
    let one = |message: &&RawValue| {
        let read = parsed(message);
        let id = read.get("id")?.as_str()?.parse().ok()?;
        let contact = contact_at(&read, &known, alone).and_then(|at| contacts.get(at));
        let one = value.with(&[
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
    let webhook = Object::read(webhook);
    let of_change = |change: &RawValue| {
        let object = Object::read(change);
        if messages_of(&object).is_empty() {
            return Some(change.to_string());
        }
        let value = object.object("value");
        value.get("statuses")?;
        Some(object.with(&[("value", Some(value.with(&[("messages", None), ("contacts", None)])))]))
    };
    let of_entry = |entry: &RawValue| {
        let object = Object::read(entry);
        let changes: Vec<_> = object.list("changes").into_iter().filter_map(of_change).collect();
        let changes = (!changes.is_empty()).then(|| format!("[{}]", changes.join(",")));
        changes.map(|changes| object.with(&[("changes", Some(changes))]))
    };
    let entries: Vec<_> = webhook.list("entry").into_iter().filter_map(of_entry).collect();
    let entries = (!entries.is_empty()).then(|| format!("[{}]", entries.join(",")))?;
    RawValue::from_string(webhook.with(&[("entry", Some(entries))])).ok()
}

fn messages_of<'a>(change: &Object<'a>) -> Vec<&'a RawValue> {
    let holds = change.get("field").is_some_and(|field| field.get() == "\"messages\"");
    if holds { change.object("value").list("messages") } else { Vec::new() }
}

fn parsed(json: &RawValue) -> Value {
    serde_json::from_str(json.get()).unwrap_or_default()
}

/// The members of an object as they are written, in their order. What is no object has none.
#[derive(Default)]
struct Object<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'a> Object<'a> {
    fn read(json: &'a RawValue) -> Self {
        serde_json::from_str(json.get()).unwrap_or_default()
    }

    /// Of several with this name the last counts, as everywhere where JSON is read.
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(key, _)| is_named(key, name)).map(|(_, value)| *value)
    }

    fn object(&self, name: &str) -> Self {
        self.get(name).map(Self::read).unwrap_or_default()
    }

    /// The elements of a list; what is no list has none.
    fn list(&self, name: &str) -> Vec<&'a RawValue> {
        self.get(name).and_then(|list| serde_json::from_str(list.get()).ok()).unwrap_or_default()
    }

    /// The object with other values under these names, or without them.
    fn with(&self, changed: &[(&str, Option<String>)]) -> String {
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

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}
