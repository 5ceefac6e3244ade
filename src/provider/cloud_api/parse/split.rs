//! One webhook of several messages as several webhooks of one message each, in Meta's own form.

use serde_json::{Map, Value};

use crate::domain::ProviderMessageId;

use super::message::contact_of;

/// How many messages of users a webhook holds, readable or not.
pub fn count_messages(webhook: &Value) -> usize {
    changes(webhook).map(|(_, change)| messages_of(change).len()).sum()
}

/// For each message of a webhook its id and a webhook that holds this message, and what was said about its author,
/// and nothing else. Messages without an id are left out.
pub fn split_messages(webhook: &Value) -> Vec<(ProviderMessageId, Value)> {
    let mut split = Vec::new();
    for (entry, change) in changes(webhook) {
        let messages = messages_of(change);
        for message in messages {
            let id = message.get("id").and_then(Value::as_str).and_then(|id| id.parse().ok());
            let contacts = change.pointer("/value/contacts").and_then(Value::as_array);
            let contacts = contacts.map(Vec::as_slice).unwrap_or_default();
            let contact = contact_of(message, contacts, messages.len() == 1 && contacts.len() == 1);
            let Some(id) = id else { continue };
            let value = with(change.get("value"), |value| {
                if let Some(contact) = contact {
                    value.insert("contacts".to_owned(), vec![contact.clone()].into());
                }
                value.insert("messages".to_owned(), vec![message.clone()].into());
            });
            let change = with(Some(change), |change| drop(change.insert("value".to_owned(), value)));
            let entry =
                with(Some(entry), |entry| drop(entry.insert("changes".to_owned(), vec![change].into())));
            split.push((
                id,
                with(Some(webhook), |webhook| drop(webhook.insert("entry".to_owned(), vec![entry].into()))),
            ));
        }
    }
    split
}

/// The webhook without the messages of users, if it holds anything else.
pub fn without_messages(webhook: &Value) -> Option<Value> {
    let mut rest = webhook.clone();
    let entries = rest.get_mut("entry").and_then(Value::as_array_mut)?;
    for entry in entries.iter_mut() {
        let Some(changes) = entry.get_mut("changes").and_then(Value::as_array_mut) else { continue };
        changes
            .retain(|change| messages_of(change).is_empty() || change.pointer("/value/statuses").is_some());
        for value in changes.iter_mut().filter_map(|change| change.get_mut("value")?.as_object_mut()) {
            if value.remove("messages").is_some() {
                value.remove("contacts");
            }
        }
    }
    entries.retain(|entry| {
        entry.get("changes").and_then(Value::as_array).is_some_and(|changes| !changes.is_empty())
    });
    (!entries.is_empty()).then_some(rest)
}

fn changes(webhook: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    list(webhook, "entry")
        .iter()
        .flat_map(|entry| list(entry, "changes").iter().map(move |change| (entry, change)))
}

fn messages_of(change: &Value) -> &[Value] {
    let holds = change.get("field").is_some_and(|field| field == "messages");
    change.get("value").filter(|_| holds).map(|value| list(value, "messages")).unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The members of an object but for its long lists, changed.
fn with(object: Option<&Value>, change: impl FnOnce(&mut Map<String, Value>)) -> Value {
    const REPLACED: [&str; 6] = ["entry", "changes", "value", "messages", "contacts", "statuses"];
    let members = object.and_then(Value::as_object).into_iter().flatten();
    let mut copy: Map<String, Value> = members
        .filter(|(name, _)| !REPLACED.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    change(&mut copy);
    Value::Object(copy)
}
