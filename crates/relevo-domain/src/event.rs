//! Kinds of events in the event log of an instance.
//!
//! [`EventKind`] is the catalogue: for each kind its name on the wire, when it is emitted, what a receiver does with it,
//! and which providers emit it. The table in `docs/events.md` is generated from it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ProviderKind;

/// Providers of kinds that every instance emits.
const ALL_PROVIDERS: &[ProviderKind] = &[ProviderKind::CloudApi, ProviderKind::LinkedDevice];
/// Providers of kinds that only instances on the Cloud API emit.
const CLOUD_API: &[ProviderKind] = &[ProviderKind::CloudApi];
/// Providers of kinds that only linked devices emit.
const LINKED_DEVICE: &[ProviderKind] = &[ProviderKind::LinkedDevice];

/// Static facts about a kind.
struct EventKindInfo {
    providers: &'static [ProviderKind],
    when: &'static str,
    action: &'static str,
}

macro_rules! event_kinds {
    ($($variant:ident, $name:literal, $providers:ident, $when:literal, $action:literal;)*) => {
        /// The kind of an event.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum EventKind {
            $(
                #[doc = $when]
                $variant,
            )*
            /// A kind that this version does not emit, from a log or a filter that another version stored.
            Other(Box<str>),
        }

        impl EventKind {
            /// All kinds that this version emits, in the order of the documentation.
            pub const ALL: &'static [EventKind] = &[$(EventKind::$variant),*];

            /// The name on the wire and on the disk.
            pub fn as_str(&self) -> &str {
                match self {
                    $(EventKind::$variant => $name,)*
                    EventKind::Other(name) => name,
                }
            }

            fn from_known_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(EventKind::$variant),)*
                    _ => None,
                }
            }

            fn info(&self) -> EventKindInfo {
                match self {
                    $(EventKind::$variant => EventKindInfo { providers: $providers, when: $when, action: $action },)*
                    EventKind::Other(_) => EventKindInfo {
                        providers: &[],
                        when: "Another version of the node stored it.",
                        action: "Ignore it.",
                    },
                }
            }
        }
    };
}

event_kinds! {
    Message, "message", ALL_PROVIDERS,
        "A user sent a message, or the owner of the account sent one from another device (`is_from_me`).",
        "Process it. Every type of message is one typed event; `message_id` identifies it.";
    MessageAck, "message_ack", ALL_PROVIDERS,
        "A single message was sent, or failed for good.",
        "Match it to the request by `correlation_id`. If `status` is `failed`, correct the cause before sending again.";
    Receipt, "receipt", ALL_PROVIDERS,
        "WhatsApp reported that a sent message was delivered, read or played, or failed later.",
        "Update the message `message_id`. Filters accept the former name `message_status`, too.";
    Status, "status", ALL_PROVIDERS,
        "The state of the instance changed.",
        "If `status` is `disconnected` or `logged_out`, read `reason` and `detail`; resume or pair the instance.";
    Qr, "qr", LINKED_DEVICE,
        "A linked device has a new QR code.",
        "Show `qr` as a QR code until `expires_at`.";
    Pairing, "pairing", LINKED_DEVICE,
        "Pairing failed at a stage, or a pair code became void.",
        "Read `stage` and `error`; request another code or update WhatsApp on the phone.";
    Passkey, "passkey", LINKED_DEVICE,
        "Pairing requires a passkey.",
        "Answer the request of `stage`, or show its `code`.";
    Paired, "paired", LINKED_DEVICE,
        "A phone linked the device.",
        "Nothing; the connection follows.";
    Presence, "presence", LINKED_DEVICE,
        "A user types, records, is online or is offline.",
        "Optional.";
    Call, "call", LINKED_DEVICE,
        "A call arrived, was accepted, was rejected, was missed or ended.",
        "Optional; `status` is the step of the call.";
    Group, "group", LINKED_DEVICE,
        "A group, its settings or its participants changed.",
        "Refresh what is stored about the group.";
    Contact, "contact", LINKED_DEVICE,
        "The profile, the number or another property of a contact changed.",
        "Refresh what is stored about the contact; `change` names the property.";
    Chat, "chat", LINKED_DEVICE,
        "The owner of the account changed a chat or a label on another device.",
        "Optional.";
    Newsletter, "newsletter", LINKED_DEVICE,
        "The messages of a newsletter got new views or reactions.",
        "Optional.";
    StatusUpdate, "status_update", LINKED_DEVICE,
        "A contact posted a status (story).",
        "Optional.";
    Undecryptable, "undecryptable", LINKED_DEVICE,
        "A message arrived that the device cannot decrypt.",
        "Nothing at first: its sender is asked to encrypt it again, and it can follow as `message` with the same id.";
    SyncProgress, "sync_progress", LINKED_DEVICE,
        "The device copies the history of the phone.",
        "Optional; `percentage` is the progress.";
    OptOut, "opt_out", ALL_PROVIDERS,
        "A user was added to the suppression list by a keyword, a preference or an error of WhatsApp, or has new names.",
        "Send no unsolicited messages to the user.";
    OptIn, "opt_in", ALL_PROVIDERS,
        "A user was removed from the suppression list by a keyword or a preference.",
        "Unsolicited messages to the user are allowed again.";
    JobStarted, "job_started", ALL_PROVIDERS,
        "A bulk job started.",
        "Nothing.";
    JobCompleted, "job_completed", ALL_PROVIDERS,
        "All rows of a bulk job ended.",
        "Read `results`, or the report of the job.";
    JobFailed, "job_failed", ALL_PROVIDERS,
        "A bulk job was cancelled or failed.",
        "Read `status` and `error`.";
    TemplateStatus, "template_status", CLOUD_API,
        "Meta approved, rejected, paused or disabled a template.",
        "Stop sending a template that is not approved.";
    TemplateQuality, "template_quality", CLOUD_API,
        "The quality rating of a template changed.",
        "Improve a template with a low rating before Meta pauses it.";
    TemplateComponents, "template_components", CLOUD_API,
        "The content of a template was edited.",
        "Check the parameters that are sent with it.";
    TemplateCategory, "template_category", CLOUD_API,
        "Meta changed the category of a template, and so its price.",
        "Check the costs.";
    NumberQuality, "number_quality", CLOUD_API,
        "The quality rating or the messaging limit of the number changed.",
        "Adapt the volume of unsolicited messages.";
    NumberName, "number_name", CLOUD_API,
        "Meta decided on the display name of the number.",
        "Nothing, or submit another name.";
    AccountUpdate, "account_update", CLOUD_API,
        "The business account changed: verification, restriction, violation or deletion.",
        "Read the value; a restriction needs an operator.";
    AccountReview, "account_review", CLOUD_API,
        "Meta reviewed the business account.",
        "Read the decision.";
    AccountAlert, "account_alert", CLOUD_API,
        "Meta raised an alert about the business account or its limits.",
        "Read the alert.";
    AccountError, "account_error", CLOUD_API,
        "Meta reported an error that concerns no single message.",
        "Read `errors`.";
    BusinessCapability, "business_capability", CLOUD_API,
        "The capabilities or limits of the business changed.",
        "Adapt the volume of messages.";
    Security, "security", CLOUD_API,
        "A security setting of the number changed, for example its PIN.",
        "Check that the change was intended.";
    UserPreferences, "user_preferences", CLOUD_API,
        "A user stopped or resumed marketing messages in WhatsApp's settings.",
        "Nothing; `opt_out` or `opt_in` follows if the suppression list changed.";
    UserIdUpdate, "user_id_update", CLOUD_API,
        "The user id of a user changed.",
        "Replace the stored user id.";
    Flow, "flow", CLOUD_API,
        "The state or the health of a flow changed.",
        "Check the flow.";
    History, "history", CLOUD_API,
        "Meta sent a part of the chat history of a number that is also used on a phone.",
        "Optional.";
    GroupLifecycle, "group_lifecycle", CLOUD_API,
        "A group was created or deleted.",
        "Refresh what is stored about the group.";
    GroupParticipants, "group_participants", CLOUD_API,
        "The participants of a group changed.",
        "Refresh what is stored about the group.";
    GroupSettings, "group_settings", CLOUD_API,
        "The settings of a group changed.",
        "Refresh what is stored about the group.";
    GroupStatus, "group_status", CLOUD_API,
        "Meta suspended a group or lifted its suspension.",
        "Refresh what is stored about the group.";
    WebhookDisabled, "webhook_disabled", ALL_PROVIDERS,
        "A webhook endpoint was disabled after repeated failures.",
        "Repair the receiver, then enable the endpoint; it receives its backlog.";
    Gap, "gap", ALL_PROVIDERS,
        "Retention deleted events before this reader read them.",
        "Read the current state over the API; `missing` is the number of deleted events. Filters cannot exclude it.";
    Raw, "raw", CLOUD_API,
        "Meta sent a change that this version does not know.",
        "Optional; `value` is the change as Meta sent it.";
}

/// The name is not the name of a kind that this version emits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown event kind `{0}`")]
pub struct UnknownEventKind(pub String);

impl EventKind {
    /// The kind with this name, or [`EventKind::Other`]. For names that were stored; [`FromStr`] accepts known names
    /// only.
    pub fn from_stored(name: &str) -> Self {
        Self::from_known_name(name).unwrap_or_else(|| EventKind::Other(name.into()))
    }

    /// Whether this version emits the kind.
    pub fn is_known(&self) -> bool {
        !matches!(self, EventKind::Other(_))
    }

    /// When the kind is emitted.
    pub fn when(&self) -> &'static str {
        self.info().when
    }

    /// What a receiver does with it.
    pub fn action(&self) -> &'static str {
        self.info().action
    }

    /// The providers whose instances emit it.
    pub fn providers(&self) -> &'static [ProviderKind] {
        self.info().providers
    }
}

impl FromStr for EventKind {
    type Err = UnknownEventKind;

    fn from_str(name: &str) -> Result<Self, UnknownEventKind> {
        Self::from_known_name(name).ok_or_else(|| UnknownEventKind(name.to_owned()))
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for EventKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Lenient, as [`EventKind::from_stored`]: a stored kind of another version is kept.
impl<'de> Deserialize<'de> for EventKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from_stored(&String::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn known_kinds_have_unique_names_that_parse() {
        let names: HashSet<_> = EventKind::ALL.iter().map(EventKind::as_str).collect();
        assert_eq!(names.len(), EventKind::ALL.len());
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse::<EventKind>().as_ref(), Ok(kind));
            assert_eq!(&EventKind::from_stored(kind.as_str()), kind);
            assert!(kind.is_known() && !kind.providers().is_empty(), "{kind}");
            assert!(kind.when().ends_with('.') && kind.action().ends_with('.'), "{kind}");
        }
    }

    #[test]
    fn unknown_kind_is_kept_when_stored_and_refused_when_parsed() {
        let stored: EventKind = serde_json::from_str("\"hologram\"").unwrap();
        assert!(!stored.is_known());
        assert_eq!(serde_json::to_string(&stored).unwrap(), "\"hologram\"");
        let error = "hologram".parse::<EventKind>().unwrap_err();
        assert_eq!(error.to_string(), "unknown event kind `hologram`");
    }
}
