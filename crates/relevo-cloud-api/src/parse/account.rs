//! Changes of the account, its templates and its users: every change that is neither a message nor a status.

use serde_json::{Map, Value, json};

use relevo_domain::{Identity, Timestamp};

use super::text;

/// The webhook fields of Meta and the kinds of event that they become. Source: the reference of the WhatsApp Business
/// webhooks.
const EVENT_KINDS: &[(&str, &str)] = &[
    ("message_template_status_update", "template_status"),
    ("message_template_quality_update", "template_quality"),
    ("message_template_components_update", "template_components"),
    ("template_category_update", "template_category"),
    ("phone_number_quality_update", "number_quality"),
    ("phone_number_name_update", "number_name"),
    ("account_update", "account_update"),
    ("account_review_update", "account_review"),
    ("account_alerts", "account_alert"),
    ("business_capability_update", "business_capability"),
    ("user_preferences", USER_PREFERENCES),
    ("user_id_update", "user_id_update"),
    ("security", "security"),
    ("flows", "flow"),
    ("history", "history"),
    ("group_lifecycle_update", "group_lifecycle"),
    ("group_participants_update", "group_participants"),
    ("group_settings_update", "group_settings"),
    ("group_status_update", "group_status"),
];

const USER_PREFERENCES: &str = "user_preferences";

/// The kind of errors that concern no single message.
const ACCOUNT_ERROR: &str = "account_error";

/// The kind of changes with an unknown field, which are passed on unchanged.
const RAW: &str = "raw";

/// A change that is neither a message nor a status.
#[derive(Debug, Clone, PartialEq)]
pub struct AccountChange {
    /// The id of the business account.
    pub account: Option<String>,
    /// The phone number that the change concerns, if it concerns one.
    pub phone_number_id: Option<String>,
    /// The time of the change according to Meta, if it names one for the whole change.
    pub at: Option<Timestamp>,
    /// Meta's name for the kind of change, for example `account_update`.
    pub field: String,
    /// The received value without messages and statuses.
    pub value: Value,
    /// The kind of event that the change becomes.
    pub kind: &'static str,
}

/// A user's choice in WhatsApp's settings about marketing messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarketingPreference {
    pub user: Identity,
    /// `false` when the user accepts marketing messages again.
    pub opted_out: bool,
}

/// The kind of event that a change of this field becomes; `raw` for an unknown field.
pub(super) fn event_kind(field: &str, value: &Value) -> &'static str {
    if field == "messages" && value.get("errors").is_some_and(Value::is_array) {
        return ACCOUNT_ERROR;
    }
    EVENT_KINDS.iter().find(|(name, _)| *name == field).map_or(RAW, |(_, kind)| kind)
}

impl AccountChange {
    /// The data of the event: Meta's value, with the field, the business account and the time added unless the value
    /// has members of these names. The value of an unknown field is nested unchanged.
    pub fn data(&self) -> Value {
        let AccountChange { account, at, field, value, kind, .. } = self;
        let mut data = match value {
            Value::Object(value) if *kind != RAW => value.clone(),
            value => return json!({ "field": field, "value": value }),
        };
        let mut add = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                data.entry(name).or_insert(value);
            }
        };
        add("field", Some(json!(field)));
        add("account_id", account.as_ref().map(|account| json!(account)));
        add("timestamp", at.map(|at| at.seconds().into()));
        Value::Object(data)
    }

    /// The users who opted out of marketing messages or in again. Malformed entries are skipped.
    pub fn preferences(&self) -> Vec<MarketingPreference> {
        if self.kind != USER_PREFERENCES {
            return Vec::new();
        }
        let entries = self.value.get(USER_PREFERENCES).and_then(Value::as_array).into_iter().flatten();
        entries.filter_map(Value::as_object).filter_map(parse_preference).collect()
    }
}

fn parse_preference(entry: &Map<String, Value>) -> Option<MarketingPreference> {
    let field = |name: &str| entry.get(name).and_then(text);
    if entry.get("category").is_some_and(|category| category != "marketing_messages") {
        return None;
    }
    let opted_out = match field("value")?.as_str() {
        "stop" => true,
        "resume" => false,
        _ => return None,
    };
    let user = Identity::new(field("wa_id").as_deref(), field("user_id").as_deref())?;
    Some(MarketingPreference { user, opted_out })
}
