//! Meta's webhooks: statuses become facts about messages, everything else is passed on as it came.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::errors::GraphError;
use crate::domain::{Failure, Invalid, MessageId, ProviderMessageId, Receipt, Timestamp};

/// One thing that a webhook reports. One delivery may carry a thousand.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    Status(Box<StatusUpdate>),
    Raw(Raw),
    /// A part that does not make sense, with its place and the reason; the other parts are not affected.
    Malformed(String),
}

/// A fact about a message that was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusUpdate {
    /// The number that sent the message.
    pub phone_number_id: String,
    pub provider_id: ProviderMessageId,
    /// Our id, which travelled with the message. Meta does not promise it in failures.
    pub our_id: Option<MessageId>,
    pub receipt: Receipt,
    /// When it happened, to the second.
    pub at: Timestamp,
    /// The recipient's number, or Meta's user id where the number is hidden.
    pub recipient: Option<String>,
    /// Who of a group it is about.
    pub participant: Option<String>,
    /// Why, when the receipt is a failure.
    pub failure: Option<Failure>,
}

/// A change that is not a status: received messages, account news, and what Meta will invent.
#[derive(Debug, Clone, PartialEq)]
pub struct Raw {
    /// The business account.
    pub account: Option<String>,
    /// The number that it concerns, if it concerns one.
    pub phone_number_id: Option<String>,
    /// When Meta says that it happened, where it says so for the whole change.
    pub at: Option<Timestamp>,
    /// Meta's name for the kind of change, for example `messages`.
    pub field: String,
    /// The change as it came, without the statuses.
    pub value: Value,
}

/// Everything that a webhook's body reports, in its order.
///
/// # Errors
///
/// The body is not JSON, or not a webhook at all. A part that is wrong is a [`Update::Malformed`].
pub fn parse_webhook(body: &[u8]) -> Result<Vec<Update>, Invalid> {
    let body: Value = serde_json::from_slice(body)
        .map_err(|cause| Invalid::new("body", format!("is not JSON: {cause}")))?;
    let Some(entries) = take(body, "entry").and_then(into_list) else {
        return Err(Invalid::new("entry", "must be a list, as in every webhook of Meta"));
    };
    let mut updates = Vec::with_capacity(entries.len());
    for (n, mut entry) in entries.into_iter().enumerate() {
        let place = format!("entry[{n}]");
        let account = entry.get("id").and_then(text);
        let at = entry.get("time").and_then(moment);
        match entry.get_mut("changes").map(Value::take).and_then(into_list) {
            Some(changes) => {
                for (n, change) in changes.into_iter().enumerate() {
                    let source = Source { place: format!("{place}.changes[{n}]"), account: &account, at };
                    read_change(source, change, &mut updates);
                }
            }
            None => updates.push(Update::Malformed(format!("{place}: has no list of changes"))),
        }
    }
    Ok(updates)
}

/// Where a change stands in the body, and what its entry says.
struct Source<'a> {
    place: String,
    account: &'a Option<String>,
    at: Option<Timestamp>,
}

fn read_change(source: Source, change: Value, updates: &mut Vec<Update>) {
    let place = &source.place;
    let Value::Object(mut change) = change else {
        return updates.push(Update::Malformed(format!("{place}: is not an object")));
    };
    let Some(field) = change.get("field").and_then(Value::as_str).map(str::to_owned) else {
        return updates.push(Update::Malformed(format!("{place}: names no field")));
    };
    let mut value = change.get_mut("value").map(Value::take).unwrap_or_default();
    let phone_number_id = value.pointer("/metadata/phone_number_id").and_then(text);
    let statuses = value.as_object_mut().filter(|_| field == "messages");
    let statuses = statuses.and_then(|value| value.remove("statuses"));
    let only_statuses = statuses.is_some() && !holds_more(&value);
    let metadata = value.get("metadata").cloned();
    let raw = |value| {
        Update::Raw(Raw {
            account: source.account.clone(),
            phone_number_id: phone_number_id.clone(),
            at: source.at,
            field: field.clone(),
            value,
        })
    };
    match statuses {
        Some(Value::Array(statuses)) => {
            for (n, status) in statuses.into_iter().enumerate() {
                updates.push(match read_status(phone_number_id.as_deref(), &status) {
                    Ok(Some(update)) => Update::Status(Box::new(update)),
                    Ok(None) => raw(with_status(metadata.clone(), status)),
                    Err(reason) => Update::Malformed(format!("{place}.value.statuses[{n}]: {reason}")),
                });
            }
        }
        Some(_) => updates.push(Update::Malformed(format!("{place}.value.statuses: is not a list"))),
        None => {}
    }
    if !only_statuses {
        updates.push(raw(value));
    }
}

/// Whether a `messages` change says something beside its statuses.
fn holds_more(value: &Value) -> bool {
    ["messages", "errors"].iter().any(|name| value.get(name).is_some())
}

/// A status of a kind that is not known, put back where it was found.
fn with_status(metadata: Option<Value>, status: Value) -> Value {
    let mut value = Map::new();
    value.extend(metadata.map(|metadata| ("metadata".to_owned(), metadata)));
    value.insert("statuses".to_owned(), Value::Array(vec![status]));
    Value::Object(value)
}

/// `None` for a status that reports something other than the fate of a message.
fn read_status(phone_number_id: Option<&str>, status: &Value) -> Result<Option<StatusUpdate>, String> {
    let field = |name: &str| status.get(name).and_then(text);
    let required = |name: &str| field(name).ok_or_else(|| format!("has no {name}"));
    let Some(receipt) = receipt_of(&required("status")?) else { return Ok(None) };
    let provider_id = required("id")?.parse().map_err(|invalid: Invalid| invalid.to_string())?;
    Ok(Some(StatusUpdate {
        phone_number_id: phone_number_id.ok_or("the change names no phone_number_id")?.to_owned(),
        provider_id,
        our_id: field("biz_opaque_callback_data").and_then(|id| id.parse().ok()),
        receipt,
        at: status.get("timestamp").and_then(moment).ok_or("has no timestamp")?,
        recipient: field("recipient_id").or_else(|| field("recipient_user_id")),
        participant: field("recipient_participant_id"),
        failure: (receipt == Receipt::Failed).then(|| failure_of(status)),
    }))
}

fn receipt_of(status: &str) -> Option<Receipt> {
    match status {
        "sent" => Some(Receipt::Sent),
        "delivered" => Some(Receipt::Delivered),
        "read" => Some(Receipt::Read),
        "played" => Some(Receipt::Played),
        "failed" => Some(Receipt::Failed),
        _ => None,
    }
}

/// The first error that can be read: the same table classifies it as classifies a refused request.
fn failure_of(status: &Value) -> Failure {
    let errors = status.get("errors").and_then(Value::as_array).into_iter().flatten();
    let known = errors.filter_map(|error| GraphError::deserialize(error).ok());
    let failure = known.map(|error| error.failure(None)).next();
    failure.unwrap_or_else(|| Failure::permanent("WhatsApp reported a failure without a reason"))
}

fn take(value: Value, name: &str) -> Option<Value> {
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

/// A text that is not empty; Meta writes some ids as numbers.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Seconds since the epoch, as a number or, as in messages and statuses, as text.
fn moment(value: &Value) -> Option<Timestamp> {
    let seconds = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
    seconds.checked_mul(1000).map(Timestamp)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::{Class, FailureKind, InstanceNumber};

    fn parse(body: &Value) -> Vec<Update> {
        parse_webhook(body.to_string().as_bytes()).unwrap()
    }

    fn webhook(changes: Value) -> Value {
        json!({ "object": "whatsapp_business_account", "entry": [{ "id": "WABA", "changes": changes }] })
    }

    fn messages(value: Value) -> Value {
        let mut value = value;
        value["messaging_product"] = json!("whatsapp");
        value["metadata"] = json!({ "display_phone_number": "15550001111", "phone_number_id": "1065" });
        json!({ "field": "messages", "value": value })
    }

    fn status(word: &str) -> Value {
        json!({ "id": "wamid.A", "status": word, "timestamp": "1763800000", "recipient_id": "573001234567" })
    }

    fn only_status(body: &Value) -> StatusUpdate {
        match parse(body).as_slice() {
            [Update::Status(status)] => (**status).clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_status_is_a_fact_about_our_message() {
        let instance = InstanceNumber::FIRST;
        let id = MessageId::new(Timestamp(1_763_800_000_000), 1, instance, Class::Bulk, 7);
        let mut delivered = status("delivered");
        delivered["biz_opaque_callback_data"] = json!(id.to_string());
        delivered["pricing"] = json!({ "billable": true });
        let found = only_status(&webhook(json!([messages(json!({ "statuses": [delivered] }))])));
        let expected = StatusUpdate {
            phone_number_id: "1065".to_owned(),
            provider_id: "wamid.A".parse().unwrap(),
            our_id: Some(id),
            receipt: Receipt::Delivered,
            at: Timestamp(1_763_800_000_000),
            recipient: Some("573001234567".to_owned()),
            participant: None,
            failure: None,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_hidden_number_and_a_group_member_are_named() {
        let mut read = status("read");
        read["recipient_id"].take();
        read["recipient_user_id"] = json!("US.134");
        read["recipient_participant_id"] = json!("573009999999");
        let found = only_status(&webhook(json!([messages(json!({ "statuses": [read] }))])));
        assert_eq!(found.recipient.as_deref(), Some("US.134"));
        assert_eq!(found.participant.as_deref(), Some("573009999999"));
    }

    #[test]
    fn a_failure_is_classified_like_a_refused_request() {
        let mut failed = status("failed");
        failed["errors"] = json!([{
            "code": 131_049, "title": "t", "message": "m", "error_data": { "details": "Kept back" },
        }]);
        let failure =
            only_status(&webhook(json!([messages(json!({ "statuses": [failed] }))]))).failure.unwrap();
        assert_eq!((failure.code, failure.message.as_str()), (Some(131_049), "Kept back"));
        assert!(matches!(failure.kind, FailureKind::Deferred { .. }));

        let bare = only_status(&webhook(json!([messages(json!({ "statuses": [status("failed")] }))])));
        assert_eq!(bare.failure.unwrap().kind, FailureKind::Permanent);
    }

    #[test]
    fn everything_else_is_passed_on_as_it_came() {
        let inbound = messages(json!({ "messages": [{ "id": "wamid.I", "type": "text" }], "contacts": [] }));
        let template = json!({ "field": "message_template_status_update", "value": { "event": "PAUSED" } });
        let mut body = webhook(json!([inbound, template]));
        body["entry"][0]["time"] = json!(1_763_800_000);
        let updates = parse(&body);
        let [Update::Raw(message), Update::Raw(news)] = updates.as_slice() else { panic!("{updates:?}") };
        assert_eq!((message.phone_number_id.as_deref(), message.field.as_str()), (Some("1065"), "messages"));
        assert_eq!(message.value, inbound["value"]);
        assert_eq!(news.phone_number_id, None);
        assert_eq!((news.account.as_deref(), news.at), (Some("WABA"), Some(Timestamp(1_763_800_000_000))));
        assert_eq!(news.value, json!({ "event": "PAUSED" }));
    }

    #[test]
    fn statuses_and_messages_of_one_change_part_ways() {
        let both = messages(json!({ "statuses": [status("sent")], "messages": [{ "id": "wamid.I" }] }));
        let updates = parse(&webhook(json!([both])));
        let [Update::Status(_), Update::Raw(raw)] = updates.as_slice() else { panic!("{updates:?}") };
        assert!(raw.value.get("statuses").is_none() && raw.value.get("messages").is_some());
    }

    #[test]
    fn a_status_of_an_unknown_kind_is_not_lost() {
        let updates = parse(&webhook(json!([messages(json!({ "statuses": [status("warning")] }))])));
        let [Update::Raw(raw)] = updates.as_slice() else { panic!("{updates:?}") };
        assert_eq!(raw.value["statuses"][0]["status"], "warning");
        assert_eq!(raw.value["metadata"]["phone_number_id"], "1065");
    }

    #[test]
    fn a_malformed_part_leaves_the_others_alone() {
        let statuses = json!([
            status("sent"),
            { "status": "sent", "timestamp": "1" },
            { "status": "sent", "id": "wamid.B", "timestamp": "soon" },
            7,
            status("read"),
        ]);
        let body = json!({ "entry": [
            null,
            { "id": "WABA", "changes": [3, { "value": {} }, messages(json!({ "statuses": statuses }))] },
            { "changes": [{ "field": "messages", "value": { "statuses": [status("sent")] } }] },
        ]});
        let updates = parse(&body);
        let malformed: Vec<_> = updates
            .iter()
            .filter_map(|update| match update {
                Update::Malformed(reason) => Some(reason.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(
            malformed,
            [
                "entry[0]: has no list of changes",
                "entry[1].changes[0]: is not an object",
                "entry[1].changes[1]: names no field",
                "entry[1].changes[2].value.statuses[1]: has no id",
                "entry[1].changes[2].value.statuses[2]: has no timestamp",
                "entry[1].changes[2].value.statuses[3]: has no status",
                "entry[2].changes[0].value.statuses[0]: the change names no phone_number_id",
            ]
        );
        assert_eq!(updates.len() - malformed.len(), 2);
    }

    #[test]
    fn what_is_no_webhook_is_refused_whole() {
        for body in ["", "{", "[]", "null", "{}", r#"{"entry":{}}"#] {
            assert!(parse_webhook(body.as_bytes()).is_err(), "{body}");
        }
    }
}
