//! The parser of Meta's webhooks: statuses, messages and account changes become typed updates; unknown parts are passed
//! on unchanged.

mod account;
mod message;
mod split;
mod status;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use relevo_domain::{InboundMessage, StatusUpdate, Timestamp, ValidationError};

pub use account::{AccountChange, MarketingPreference};
pub use split::{count_messages, first_sender, split_messages, without_messages};

/// The field of messages and statuses.
const MESSAGES: &str = "messages";

/// The field of messages that the number's owner wrote on the phone.
const MESSAGE_ECHOES: &str = "smb_message_echoes";

/// One update of a webhook. One delivery may carry a thousand.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// A status of a message that was sent.
    Status(Box<ReceivedStatus>),
    /// A received message, or one that the number's owner wrote on the phone.
    Message(Box<ReceivedMessage>),
    /// Any other change.
    Change(AccountChange),
    /// A malformed part, with its path and the reason; the other parts are not affected.
    Malformed(String),
}

/// A message with the phone number that received it.
#[derive(Debug, Clone, PartialEq)]
pub struct ReceivedMessage {
    pub phone_number_id: String,
    pub message: InboundMessage,
}

/// A status of a message that was sent, with the phone number that sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct ReceivedStatus {
    pub phone_number_id: String,
    pub status: StatusUpdate,
}

impl Update {
    /// The phone number that the update concerns, if it concerns one.
    pub fn phone_number_id(&self) -> Option<&str> {
        match self {
            Update::Status(received) => Some(&received.phone_number_id),
            Update::Message(received) => Some(&received.phone_number_id),
            Update::Change(change) => change.phone_number_id.as_deref(),
            Update::Malformed(_) => None,
        }
    }
}

/// Parses all updates of a webhook's body, in their order.
///
/// # Errors
///
/// The body is not JSON or not a webhook. A malformed part becomes an [`Update::Malformed`] instead.
pub fn parse_webhook(body: &[u8]) -> Result<Vec<Update>, ValidationError> {
    let body: Value = serde_json::from_slice(body)
        .map_err(|cause| ValidationError::new("body", format!("is not JSON: {cause}")))?;
    let Some(entries) = remove_field(body, "entry").and_then(into_list) else {
        return Err(ValidationError::new("entry", "must be a list, as in every webhook of Meta"));
    };
    let mut updates = Vec::with_capacity(entries.len());
    for (n, mut entry) in entries.into_iter().enumerate() {
        let path = format!("entry[{n}]");
        let account = entry.get("id").and_then(text);
        let at = entry.get("time").and_then(timestamp);
        match entry.get_mut("changes").map(Value::take).and_then(into_list) {
            Some(changes) => {
                for (n, change) in changes.into_iter().enumerate() {
                    let source = ChangeSource { path: format!("{path}.changes[{n}]"), account: &account, at };
                    parse_change(&source, change, &mut updates);
                }
            }
            None => updates.push(Update::Malformed(format!("{path}: has no list of changes"))),
        }
    }
    Ok(updates)
}

/// The path of a change in the body, and the data of its entry.
struct ChangeSource<'a> {
    path: String,
    account: &'a Option<String>,
    at: Option<Timestamp>,
}

impl ChangeSource<'_> {
    fn change(&self, phone_number_id: Option<&str>, field: &str, value: Value) -> Update {
        Update::Change(AccountChange {
            account: self.account.clone(),
            phone_number_id: phone_number_id.map(str::to_owned),
            at: self.at,
            field: field.to_owned(),
            kind: account::event_kind(field, &value),
            value,
        })
    }

    fn malformed(&self, what: &str) -> Update {
        Update::Malformed(format!("{}{what}", self.path))
    }
}

fn parse_change(source: &ChangeSource, change: Value, updates: &mut Vec<Update>) {
    let Value::Object(mut change) = change else {
        return updates.push(source.malformed(": is not an object"));
    };
    let Some(field) = change.get("field").and_then(Value::as_str).map(str::to_owned) else {
        return updates.push(source.malformed(": names no field"));
    };
    let mut value = change.get_mut("value").map(Value::take).unwrap_or_default();
    let phone_number_id = value.pointer("/metadata/phone_number_id").and_then(text);
    let phone = phone_number_id.as_deref();
    match field.as_str() {
        MESSAGES => {
            let (messages, statuses) =
                (take_field(&mut value, "messages"), take_field(&mut value, "statuses"));
            let had_list = messages.is_some() || statuses.is_some();
            if let Some(list) = statuses {
                parse_statuses(source, phone, &value, list, updates);
            }
            if let Some(list) = messages {
                parse_messages(source, phone, &value, list, updates);
            }
            if !had_list || value.get("errors").is_some() {
                updates.push(source.change(phone, &field, value));
            }
        }
        MESSAGE_ECHOES => match take_field(&mut value, "message_echoes") {
            Some(list) => parse_echoes(source, phone, &value, list, updates),
            None => updates.push(source.change(phone, &field, value)),
        },
        _ => updates.push(source.change(phone, &field, value)),
    }
}

fn parse_statuses(
    source: &ChangeSource,
    phone: Option<&str>,
    value: &Value,
    statuses: Value,
    updates: &mut Vec<Update>,
) {
    let Value::Array(statuses) = statuses else {
        return updates.push(source.malformed(".value.statuses: is not a list"));
    };
    for (n, status) in statuses.into_iter().enumerate() {
        updates.push(match status::parse_status(phone, &status) {
            Ok(Some(update)) => Update::Status(Box::new(update)),
            Ok(None) => source.change(phone, MESSAGES, with_status(value.get("metadata"), status)),
            Err(reason) => source.malformed(&format!(".value.statuses[{n}]: {reason}")),
        });
    }
}

/// The value of a change that holds one status of an unknown kind.
fn with_status(metadata: Option<&Value>, status: Value) -> Value {
    let mut value = Map::new();
    value.extend(metadata.map(|metadata| ("metadata".to_owned(), metadata.clone())));
    value.insert("statuses".to_owned(), Value::Array(vec![status]));
    Value::Object(value)
}

fn parse_messages(
    source: &ChangeSource,
    phone: Option<&str>,
    value: &Value,
    messages: Value,
    updates: &mut Vec<Update>,
) {
    let list = "messages";
    parse_list(source, phone, value, (list, messages), message::parse_message, updates);
}

fn parse_echoes(
    source: &ChangeSource,
    phone: Option<&str>,
    value: &Value,
    echoes: Value,
    updates: &mut Vec<Update>,
) {
    let list = "message_echoes";
    parse_list(source, phone, value, (list, echoes), message::parse_echo, updates);
}

fn parse_list(
    source: &ChangeSource,
    phone: Option<&str>,
    value: &Value,
    (list, messages): (&str, Value),
    parse: impl Fn(&Value, Option<&Value>) -> Result<InboundMessage, String>,
    updates: &mut Vec<Update>,
) {
    let Value::Array(messages) = messages else {
        return updates.push(source.malformed(&format!(".value.{list}: is not a list")));
    };
    let contacts = value.get("contacts").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let alone = messages.len() == 1 && contacts.len() == 1;
    for (n, message) in messages.iter().enumerate() {
        let contact = message::find_contact(message, contacts, alone).and_then(|index| contacts.get(index));
        let received = match phone {
            Some(phone) => parse(message, contact)
                .map(|message| ReceivedMessage { phone_number_id: phone.to_owned(), message }),
            None => Err("the change names no phone_number_id".to_owned()),
        };
        updates.push(match received {
            Ok(received) => Update::Message(Box::new(received)),
            Err(reason) => source.malformed(&format!(".value.{list}[{n}]: {reason}")),
        });
    }
}

fn take_field(value: &mut Value, name: &str) -> Option<Value> {
    value.as_object_mut()?.remove(name)
}

fn remove_field(value: Value, name: &str) -> Option<Value> {
    match value {
        Value::Object(mut object) => object.remove(name),
        _ => None,
    }
}

fn into_list(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(list) => Some(list),
        _ => None,
    }
}

/// A non-empty string, or a number as a string: Meta writes some ids as numbers.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Seconds since the epoch, as a number or (in messages and statuses) as a string.
fn timestamp(value: &Value) -> Option<Timestamp> {
    let seconds = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
    seconds.checked_mul(1000).map(Timestamp)
}
