//! Messages that an instance receives, in the form that both providers produce.

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use super::{Identity, IdentityChange, ProviderMessageId, Timestamp};

/// One message that a user wrote to an instance, or (an echo) that its owner wrote on the phone.
#[derive(Debug, Clone, PartialEq)]
pub struct InboundMessage {
    /// WhatsApp's id of the message.
    pub id: ProviderMessageId,
    /// The scope in which the id is unique, if it is not globally unique: chat and author as every delivery of the message
    /// spells them.
    pub id_scope: Option<String>,
    /// The author.
    pub sender: Sender,
    /// The chat that contains it.
    pub chat: Chat,
    /// When it was written, to the second.
    pub at: Timestamp,
    /// What it refers to.
    pub context: Option<MessageContext>,
    /// The advertisement that led the user to this chat, in WhatsApp's form.
    pub referral: Option<Value>,
    /// What it says.
    pub content: InboundContent,
    /// Errors that WhatsApp reports about it, in WhatsApp's form.
    pub errors: Vec<Value>,
}

/// The author of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The author's ids.
    pub identity: Identity,
    /// The author's display name.
    pub name: Option<String>,
    /// The user name, without `@`.
    pub username: Option<String>,
}

/// The chat that contains a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chat {
    /// The chat between the sender and this instance.
    Direct,
    /// A group, by WhatsApp's id.
    Group(String),
    /// The chat with this user; the instance's owner wrote the message.
    FromMe(Identity),
    /// A group, by WhatsApp's id; the instance's owner wrote the message.
    GroupFromMe(String),
    /// A newsletter, by its address.
    Newsletter(String),
}

/// What a message refers to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MessageContext {
    /// The author of the quoted message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The quoted message, or the message whose button was tapped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether the message was forwarded.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub forwarded: bool,
    /// Whether the message was forwarded many times.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub frequently_forwarded: bool,
    /// The addresses of the people that the text mentions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<String>,
    /// The catalogue product that the user asks about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referred_product: Option<ReferredProduct>,
}

/// A product of a catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferredProduct {
    pub catalog_id: String,
    pub product_retailer_id: String,
}

/// The content of a received message. Any other content is [`InboundContent::Unknown`].
#[derive(Debug, Clone, PartialEq)]
pub enum InboundContent {
    /// A text message.
    Text(String),
    /// A file.
    Media(InboundMediaKind, InboundMedia),
    /// A point on the map.
    Location(InboundLocation),
    /// Contact cards, in WhatsApp's form.
    Contacts(Vec<Value>),
    /// The answer to an interactive message.
    Interactive(InteractiveReply),
    /// A tapped quick reply of a template.
    Button(ButtonReply),
    /// A cart.
    Order(Order),
    /// A reaction to a message.
    Reaction(Reaction),
    /// A question with options to select.
    Poll(InboundPoll),
    /// A vote in a poll.
    PollVote(PollVote),
    /// The new content of an earlier message.
    Edit { original: String, now: Box<InboundContent> },
    /// An earlier message was revoked.
    Revoke { original: String },
    /// A notice that WhatsApp shows in the chat.
    System(SystemNotice),
    /// Content that WhatsApp does not deliver to the API; the message's errors say why.
    Unsupported,
    /// A type that this node does not know, or a known type with an unexpected shape: the message as received.
    Unknown(Value),
}

/// The kind of a received file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboundMediaKind {
    Image,
    Video,
    Audio,
    Document,
    Sticker,
}

/// A received file, by its media id at WhatsApp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundMedia {
    /// WhatsApp's media id.
    pub id: String,
    /// The MIME type; empty if WhatsApp reports none.
    #[serde(default)]
    pub mime_type: String,
    /// SHA-256 of the bytes, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The text below the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// The name of a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Whether an audio file is a voice note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voice: Option<bool>,
    /// Whether a sticker is animated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub animated: Option<bool>,
}

/// A received point on the map.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct InboundLocation {
    /// Degrees, -90 to 90.
    pub latitude: f64,
    /// Degrees, -180 to 180.
    pub longitude: f64,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub address: Option<String>,
    #[serde(default)]
    pub url: Option<String>,
}

/// A user's answer to an interactive message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InteractiveReply {
    /// A tapped reply button.
    ButtonReply { button_reply: Choice },
    /// A chosen row of a list.
    ListReply { list_reply: Choice },
    /// A completed flow or form.
    NfmReply { nfm_reply: FormReply },
    /// Whether the business may call the user, in WhatsApp's form.
    CallPermissionReply { call_permission_reply: Value },
}

/// A chosen button or row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    pub id: String,
    #[serde(default)]
    pub title: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A completed flow or form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FormReply {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The answers: a JSON document in a string.
    pub response_json: String,
}

/// A tapped quick reply of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ButtonReply {
    #[serde(default)]
    pub payload: String,
    #[serde(default)]
    pub text: String,
}

/// A received cart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub catalog_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    pub product_items: Vec<OrderItem>,
}

/// One product of a cart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderItem {
    pub product_retailer_id: String,
    pub quantity: Number,
    /// The price of one piece, in `currency`.
    pub item_price: Number,
    pub currency: String,
}

/// A reaction to a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reaction {
    /// The message that it refers to.
    pub message_id: String,
    /// Absent when the reaction was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emoji: Option<String>,
}

/// A received poll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InboundPoll {
    pub question: String,
    pub options: Vec<String>,
    /// How many options a voter may select; 0 means any number.
    pub selectable: u32,
}

/// A vote in a poll. It replaces the previous vote of the same user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PollVote {
    pub poll_message_id: String,
    /// The selected options: empty when the user withdrew the vote, absent when this node does not have the poll and
    /// cannot decrypt its votes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<String>>,
}

/// A notice that WhatsApp shows in a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemNotice {
    /// For example `user_changed_number` or `user_changed_user_id`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The text of the notice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The former number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<String>,
    /// The new number; the former one where `new_wa_id` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wa_id: Option<String>,
    /// The new number, in notices of early versions of the Graph API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_wa_id: Option<String>,
    /// The new user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The former user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_user_id: Option<String>,
    /// The new parent user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_user_id: Option<String>,
    /// The former parent user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_parent_user_id: Option<String>,
}

impl InboundMessage {
    /// Whether the instance's owner wrote the message on the phone.
    pub fn is_from_me(&self) -> bool {
        matches!(self.chat, Chat::FromMe(_) | Chat::GroupFromMe(_))
    }

    /// The change of the author's number or ids that the message tells of.
    pub fn identity_change(&self) -> Option<IdentityChange> {
        match &self.content {
            InboundContent::System(notice) => IdentityChange::from_notice(notice, &self.sender.identity),
            _ => None,
        }
    }

    /// The file of the message, or of the edit that the message is.
    pub fn media(&self) -> Option<&InboundMedia> {
        match self.content.effective() {
            InboundContent::Media(_, media) => Some(media),
            _ => None,
        }
    }
}

impl InboundContent {
    /// The content to read: for an edit, the new content.
    pub fn effective(&self) -> &InboundContent {
        match self {
            InboundContent::Edit { now, .. } => now,
            content => content,
        }
    }

    /// WhatsApp's name of this type of message, or `unknown`.
    pub fn kind(&self) -> &'static str {
        match self {
            InboundContent::Text(_) => "text",
            InboundContent::Media(kind, _) => kind.as_str(),
            InboundContent::Location(_) => "location",
            InboundContent::Contacts(_) => "contacts",
            InboundContent::Interactive(_) => "interactive",
            InboundContent::Button(_) => "button",
            InboundContent::Order(_) => "order",
            InboundContent::Reaction(_) => "reaction",
            InboundContent::Poll(_) => "poll",
            InboundContent::PollVote(_) => "poll_vote",
            InboundContent::Edit { .. } => "edit",
            InboundContent::Revoke { .. } => "revoke",
            InboundContent::System(_) => "system",
            InboundContent::Unsupported => "unsupported",
            InboundContent::Unknown(_) => "unknown",
        }
    }
}

impl InboundMediaKind {
    /// Every kind.
    pub const ALL: [InboundMediaKind; 5] = [
        InboundMediaKind::Image,
        InboundMediaKind::Video,
        InboundMediaKind::Audio,
        InboundMediaKind::Document,
        InboundMediaKind::Sticker,
    ];

    /// WhatsApp's name of this kind.
    pub fn as_str(self) -> &'static str {
        match self {
            InboundMediaKind::Image => "image",
            InboundMediaKind::Video => "video",
            InboundMediaKind::Audio => "audio",
            InboundMediaKind::Document => "document",
            InboundMediaKind::Sticker => "sticker",
        }
    }
}
