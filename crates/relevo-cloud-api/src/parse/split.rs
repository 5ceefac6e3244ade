//! Splits a webhook with several messages into webhooks with one message each. Copied parts keep their bytes and their
//! order.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use relevo_domain::ProviderMessageId;

use super::message::find_contact;

/// The number of messages of users in a webhook, malformed ones included.
pub fn count_messages(webhook: &RawValue) -> usize {
    let entries = RawObject::parse(webhook).list("entry");
    let changes = entries.into_iter().flat_map(|entry| RawObject::parse(entry).list("changes"));
    changes.map(|change| messages_of(&RawObject::parse(change)).len()).sum()
}

/// The sender of the first message of a webhook.
pub fn first_sender(webhook: &RawValue) -> Option<String> {
    let entries = RawObject::parse(webhook).list("entry");
    let mut changes = entries.into_iter().flat_map(|entry| RawObject::parse(entry).list("changes"));
    let first = changes.find_map(|change| messages_of(&RawObject::parse(change)).first().copied())?;
    serde_json::from_str(RawObject::parse(first).get("from")?.get()).ok()
}

/// For each message of a webhook: its id, and a webhook with only this message and the contact of its author. Messages
/// without an id are skipped.
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

/// Copies the value of a change once for each of its messages.
fn split_value(change: &RawObject) -> Vec<(ProviderMessageId, String)> {
    let (value, messages) = (change.object("value"), messages_of(change));
    let contacts = value.list("contacts");
    let parsed_contacts: Vec<Value> = contacts.iter().map(|contact| parse_value(contact)).collect();
    let alone = messages.len() == 1 && contacts.len() == 1;
    let with_one_message = |message: &&RawValue| {
        let parsed = parse_value(message);
        let id = parsed.get("id")?.as_str()?.parse().ok()?;
        let contact = find_contact(&parsed, &parsed_contacts, alone).and_then(|index| contacts.get(index));
        let value = value.with_members(&[
            ("messages", Some(format!("[{message}]"))),
            ("contacts", contact.map(|contact| format!("[{contact}]"))),
            ("statuses", None),
        ]);
        Some((id, value))
    };
    messages.iter().filter_map(with_one_message).collect()
}

/// The webhook without the messages of users; `None` when nothing else is left.
pub fn without_messages(webhook: &RawValue) -> Option<Box<RawValue>> {
    let webhook = RawObject::parse(webhook);
    let entries: Vec<_> = webhook.list("entry").into_iter().filter_map(entry_without_messages).collect();
    let entries = json_list(&entries)?;
    RawValue::from_string(webhook.with_members(&[("entry", Some(entries))])).ok()
}

fn entry_without_messages(entry: &RawValue) -> Option<String> {
    let entry = RawObject::parse(entry);
    let changes: Vec<_> = entry.list("changes").into_iter().filter_map(change_without_messages).collect();
    Some(entry.with_members(&[("changes", Some(json_list(&changes)?))]))
}

fn change_without_messages(change: &RawValue) -> Option<String> {
    let object = RawObject::parse(change);
    if messages_of(&object).is_empty() {
        return Some(change.to_string());
    }
    let value = object.object("value");
    value.get("statuses")?;
    let value = value.with_members(&[("messages", None), ("contacts", None)]);
    Some(object.with_members(&[("value", Some(value))]))
}

/// A JSON list of these elements; `None` for an empty one.
fn json_list(elements: &[String]) -> Option<String> {
    (!elements.is_empty()).then(|| format!("[{}]", elements.join(",")))
}

fn messages_of<'a>(change: &RawObject<'a>) -> Vec<&'a RawValue> {
    let has_messages = change.get("field").is_some_and(|field| field.get() == "\"messages\"");
    if has_messages { change.object("value").list("messages") } else { Vec::new() }
}

fn parse_value(json: &RawValue) -> Value {
    serde_json::from_str(json.get()).unwrap_or_default()
}

/// The raw members of a JSON object, in their order. Any other JSON value has none.
#[derive(Default)]
struct RawObject<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'a> RawObject<'a> {
    fn parse(json: &'a RawValue) -> Self {
        serde_json::from_str(json.get()).unwrap_or_default()
    }

    /// The value of a member. Of several members with this name the last one counts, as in other JSON parsers.
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(key, _)| is_named(key, name)).map(|(_, value)| *value)
    }

    fn object(&self, name: &str) -> Self {
        self.get(name).map(Self::parse).unwrap_or_default()
    }

    /// The elements of a list member; empty when the member is not a list.
    fn list(&self, name: &str) -> Vec<&'a RawValue> {
        self.get(name).and_then(|list| serde_json::from_str(list.get()).ok()).unwrap_or_default()
    }

    /// The object with new values for these members, or without them where the value is `None`.
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
