//! News of the account, its templates and its users: every change that is neither a message nor a status.

use serde_json::{Map, Value, json};

use relevo_domain::{Identity, Timestamp};

use super::text;

/// Meta's names of the fields that webhooks are subscribed to, and the kinds of event that they become. From the
/// reference of the WhatsApp Business webhooks.
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

/// Errors that concern no single message.
const ACCOUNT_ERROR: &str = "account_error";

/// Passed on without being understood.
const RAW: &str = "raw";

/// A change that is neither a message nor a status, as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct AccountChange {
    /// The business account.
    pub account: Option<String>,
    /// The number that it concerns, if it concerns one.
    pub phone_number_id: Option<String>,
    /// When Meta says that it happened, where it says so for the whole change.
    pub at: Option<Timestamp>,
    /// Meta's name for the kind of change, for example `account_update`.
    pub field: String,
    /// The change as it came, without the messages and statuses.
    pub value: Value,
    /// The kind of event that it becomes.
    pub kind: &'static str,
}

/// What a user said in WhatsApp's settings about marketing messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarketingPreference {
    pub user: Identity,
    /// `false`: they want them again.
    pub opted_out: bool,
}

/// The kind of event that a change of this field becomes; `raw` for a field that is not known.
pub(super) fn event_kind(field: &str, value: &Value) -> &'static str {
    if field == "messages" && value.get("errors").is_some_and(Value::is_array) {
        return ACCOUNT_ERROR;
    }
    EVENT_KINDS.iter().find(|(name, _)| *name == field).map_or(RAW, |(_, kind)| kind)
}

impl AccountChange {
    /// What receivers of the event are told: Meta's value, and beside it the field, the business account and the
    /// time, where the value has none of its own under these names. Of a change that is not understood, the value is
    /// told untouched.
    pub fn data(&self) -> Value {
        let AccountChange { account, at, field, value, kind, .. } = self;
        let mut data = match value {
            Value::Object(value) if *kind != RAW => value.clone(),
            value => return json!({ "field": field, "value": value }),
        };
        let mut lift = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                data.entry(name).or_insert(value);
            }
        };
        lift("field", Some(json!(field)));
        lift("account_id", account.as_ref().map(|account| json!(account)));
        lift("timestamp", at.map(|at| at.seconds().into()));
        Value::Object(data)
    }

    /// Who wants marketing messages no more, or again. What is not understood says nothing.
    pub fn preferences(&self) -> Vec<MarketingPreference> {
        let listed = self.value.get(USER_PREFERENCES).and_then(Value::as_array);
        let listed = listed.filter(|_| self.kind == USER_PREFERENCES).into_iter().flatten();
        listed.filter_map(Value::as_object).filter_map(parse_preference).collect()
    }
}

fn parse_preference(said: &Map<String, Value>) -> Option<MarketingPreference> {
    let named = |name: &str| said.get(name).and_then(text);
    if said.get("category").is_some_and(|category| category != "marketing_messages") {
        return None;
    }
    let stop = match named("value")?.as_str() {
        "stop" => true,
        "resume" => false,
        _ => return None,
    };
    let who = Identity::new(named("wa_id").as_deref(), named("user_id").as_deref())?;
    Some(MarketingPreference { user: who, opted_out: stop })
}
