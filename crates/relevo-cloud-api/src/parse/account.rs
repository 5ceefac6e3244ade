//! Changes of the account, its templates and its users: every change that is neither a message nor a status.

use serde_json::{Map, Value, json};

use relevo_domain::{EventKind, Identity, IdentityChange, Recipient, Timestamp};

use super::text;

/// The webhook fields of Meta and the kinds of event that they become. Source: the reference of the WhatsApp Business
/// webhooks.
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
    (USER_ID_UPDATE, EventKind::UserIdUpdate),
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

/// The field of changed user ids, and the member of its value that lists them. Source:
/// <https://developer.8x8.com/connect/docs/whatsapp-business-scoped-user-ids>.
const USER_ID_UPDATE: &str = "user_id_update";

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
    pub kind: EventKind,
}

/// A user's choice in WhatsApp's settings about marketing messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarketingPreference {
    pub user: Identity,
    /// `false` when the user accepts marketing messages again.
    pub opted_out: bool,
}

/// The kind of event that a change of this field becomes; `raw` for an unknown field.
pub(super) fn event_kind(field: &str, value: &Value) -> EventKind {
    if field == "messages" && value.get("errors").is_some_and(Value::is_array) {
        return EventKind::AccountError;
    }
    EVENT_KINDS.iter().find(|(name, _)| *name == field).map_or(EventKind::Raw, |(_, kind)| kind.clone())
}

impl AccountChange {
    /// The data of the event: Meta's value, with the field, the business account and the time added unless the value
    /// has members of these names. The value of an unknown field is nested unchanged.
    pub fn data(&self) -> Value {
        let AccountChange { account, at, field, value, kind, .. } = self;
        let mut data = match value {
            Value::Object(value) if *kind != EventKind::Raw => value.clone(),
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

    /// The users whose ids changed. Malformed entries are skipped.
    pub fn identity_changes(&self) -> Vec<IdentityChange> {
        if self.kind != EventKind::UserIdUpdate {
            return Vec::new();
        }
        let entries = self.value.get(USER_ID_UPDATE).and_then(Value::as_array).into_iter().flatten();
        entries.filter_map(Value::as_object).filter_map(parse_id_update).collect()
    }

    /// The users who opted out of marketing messages or in again. Malformed entries are skipped.
    pub fn preferences(&self) -> Vec<MarketingPreference> {
        if self.kind != EventKind::UserPreferences {
            return Vec::new();
        }
        let entries = self.value.get(USER_PREFERENCES).and_then(Value::as_array).into_iter().flatten();
        entries.filter_map(Value::as_object).filter_map(parse_preference).collect()
    }
}

/// The change of an entry `{"wa_id": …, "user_id": {"previous": …, "current": …}, "parent_user_id": {…}}`.
fn parse_id_update(entry: &Map<String, Value>) -> Option<IdentityChange> {
    let read = |member: &str, name: &str| -> Option<Recipient> {
        entry.get(member)?.get(name).and_then(text)?.parse().ok()
    };
    let ids = ["user_id", "parent_user_id"];
    let former = ids.iter().filter_map(|member| read(member, "previous")).collect();
    let number = entry.get("wa_id").and_then(text).and_then(|number| number.parse().ok());
    let current = ids.iter().filter_map(|member| read(member, "current")).chain(number).collect();
    IdentityChange::new(former, current)
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
    let (number, id) = (field("wa_id"), field("user_id"));
    let user =
        Identity::new(number.as_deref(), id.as_deref())?.with_parent(field("parent_user_id").as_deref());
    Some(MarketingPreference { user, opted_out })
}
