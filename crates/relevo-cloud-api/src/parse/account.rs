//! News of the account, its templates and its users: every change that is neither a message nor a status.

use serde_json::{Map, Value, json};

use relevo_domain::{EventKind, Identity, Timestamp};

use super::text;

/// Meta's names of the fields that webhooks are subscribed to, and the kinds of event that they become. From the
/// reference of the WhatsApp Business webhooks.
const EVENT_KINDS: &[(&str, EventKind)] = &[
    ("message_template_status_update", EventKind::TemplateStatus),
    ("message_template_quality_update", EventKind::TemplateQuality),
    ("message_template_components_update", EventKind::TemplateComponents),
    ("template_category_update", EventKind::TemplateCategory),
    ("phone_number_quality_update", EventKind::NumberQuality),
    ("phone_number_name_update", EventKind::NumberName),
    ("account_update", EventKind::AccountUpdate),
    ("account_review_update", EventKind::AccountReview),
    ("account_alerts", EventKind::AccountAlert),
    ("business_capability_update", EventKind::BusinessCapability),
    (USER_PREFERENCES, EventKind::UserPreferences),
    ("user_id_update", EventKind::UserIdUpdate),
    ("security", EventKind::Security),
    ("flows", EventKind::Flow),
    ("history", EventKind::History),
    ("group_lifecycle_update", EventKind::GroupLifecycle),
    ("group_participants_update", EventKind::GroupParticipants),
    ("group_settings_update", EventKind::GroupSettings),
    ("group_status_update", EventKind::GroupStatus),
];

/// The field of changed preferences, and the member of its value that lists them.
const USER_PREFERENCES: &str = "user_preferences";

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
    pub kind: EventKind,
}

/// What a user said in WhatsApp's settings about marketing messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarketingPreference {
    pub user: Identity,
    /// `false`: they want them again.
    pub opted_out: bool,
}

/// The kind of event that a change of this field becomes; `raw` for a field that is not known.
pub(super) fn event_kind(field: &str, value: &Value) -> EventKind {
    if field == "messages" && value.get("errors").is_some_and(Value::is_array) {
        return EventKind::AccountError;
    }
    EVENT_KINDS.iter().find(|(name, _)| *name == field).map_or(EventKind::Raw, |(_, kind)| kind.clone())
}

impl AccountChange {
    /// What receivers of the event are told: Meta's value, and beside it the field, the business account and the
    /// time, where the value has none of its own under these names. Of a change that is not understood, the value is
    /// told untouched.
    pub fn data(&self) -> Value {
        let AccountChange { account, at, field, value, kind, .. } = self;
        let mut data = match value {
            Value::Object(value) if *kind != EventKind::Raw => value.clone(),
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
        let listed = listed.filter(|_| self.kind == EventKind::UserPreferences).into_iter().flatten();
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
