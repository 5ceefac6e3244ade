use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use super::{ProviderMessageId, Recipient, Timestamp};

/// One message that somebody wrote to an instance, or (an echo) that its owner wrote on the phone.
#[derive(Debug, Clone, PartialEq)]
pub struct InboundMessage {
    pub id: ProviderMessageId,
    /// Within what the id is unique, when it is not by itself: chat and author as the delivery names them, the same each
    /// time.
    pub id_scope: Option<String>,
    pub sender: Sender,
    pub chat: Chat,
    /// When it was written, to the second.
    pub at: Timestamp,
    pub context: Option<MessageContext>,
    /// The advertisement that the user came from, as WhatsApp describes it.
    pub referral: Option<Value>,
    pub content: InboundContent,
    /// What WhatsApp says went wrong with it.
    pub errors: Vec<Value>,
}

/// Who wrote a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    pub identity: Identity,
    /// The name that the user shows.
    pub name: Option<String>,
    /// The user name, without `@`.
    pub username: Option<String>,
}

/// A user as WhatsApp names one: by number, by the id that it has for this business (BSUID), or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    phone: Option<String>,
    user_id: Option<String>,
}

/// Where a message was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chat {
    /// Between the sender and this instance.
    Direct,
    /// The group, by WhatsApp's id of it.
    Group(String),
    /// The instance's owner wrote it, to this user.
    FromMe(Identity),
    /// The instance's owner wrote it, into the group, by WhatsApp's id of it.
    GroupFromMe(String),
    /// A newsletter, by its address.
    Newsletter(String),
}

impl Identity {
    /// The longest number or id that is believed; a BSUID has up to 131 characters.
    const MAX_LEN: usize = 160;

    /// `None` when neither names anybody. Numbers are not held to the length that sending asks for: whoever could
    /// write is somebody.
    pub fn new(phone: Option<&str>, user_id: Option<&str>) -> Option<Self> {
        let phone = phone.map(|phone| phone.strip_prefix('+').unwrap_or(phone));
        let phone = phone.filter(|phone| is_plausible(phone) && phone.bytes().all(|b| b.is_ascii_digit()));
        let user_id = user_id.filter(|id| is_plausible(id));
        let (phone, user_id) = (phone.map(str::to_owned), user_id.map(str::to_owned));
        (phone.is_some() || user_id.is_some()).then_some(Self { phone, user_id })
    }

    /// The digits of the number, if WhatsApp shows it.
    pub fn phone(&self) -> Option<&str> {
        self.phone.as_deref()
    }

    pub fn user_id(&self) -> Option<&str> {
        self.user_id.as_deref()
    }

    /// Every way in which the user can be written to.
    pub fn recipients(&self) -> impl Iterator<Item = Recipient> + '_ {
        [self.phone(), self.user_id()].into_iter().flatten().filter_map(|name| name.parse().ok())
    }
}

fn is_plausible(name: &str) -> bool {
    !name.is_empty() && name.len() <= Identity::MAX_LEN && name.bytes().all(|b| b.is_ascii_graphic())
}

/// The user's address in the documented webhooks: `573001234567@s.whatsapp.net`, or the user id where there is no
/// number.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.phone, &self.user_id) {
            (Some(phone), _) => write!(f, "{phone}@s.whatsapp.net"),
            (None, user_id) => f.write_str(user_id.as_deref().unwrap_or_default()),
        }
    }
}

/// What a message refers to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MessageContext {
    /// Who wrote the message that this one quotes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The message that this one quotes, or that its button belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub forwarded: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub frequently_forwarded: bool,
    /// The addresses of the people whom the text names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<String>,
    /// The product of a catalogue that the user asks about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referred_product: Option<ReferredProduct>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferredProduct {
    pub catalog_id: String,
    pub product_retailer_id: String,
}

/// What a received message says. Closed: what is not in the list is [`InboundContent::Unknown`].
#[derive(Debug, Clone, PartialEq)]
pub enum InboundContent {
    Text(String),
    Media(InboundMediaKind, InboundMedia),
    Location(InboundLocation),
    /// Contact cards, as WhatsApp writes them.
    Contacts(Vec<Value>),
    Interactive(InteractiveReply),
    Button(ButtonReply),
    Order(Order),
    Reaction(Reaction),
    /// A question with answers to tick.
    Poll(InboundPoll),
    PollVote(PollVote),
    /// What an earlier message says now.
    Edit {
        original: String,
        now: Box<InboundContent>,
    },
    /// An earlier message was taken back.
    Revoke {
        original: String,
    },
    System(SystemNotice),
    /// Something that WhatsApp does not pass on; the message's errors say so.
    Unsupported,
    /// A type that this node does not know, or one that does not look as it should: the message as it came.
    Unknown(Value),
}

/// What kind of file a user sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboundMediaKind {
    Image,
    Video,
    Audio,
    Document,
    Sticker,
}

/// A file that a user sent, by its id at WhatsApp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundMedia {
    pub id: String,
    #[serde(default)]
    pub mime_type: String,
    /// SHA-256 of the bytes, in base64, as WhatsApp gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Of audio: recorded in the chat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voice: Option<bool>,
    /// Of stickers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub animated: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct InboundLocation {
    /// Degrees.
    pub latitude: f64,
    pub longitude: f64,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub address: Option<String>,
    #[serde(default)]
    pub url: Option<String>,
}

/// What a user chose in an interactive message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InteractiveReply {
    ButtonReply {
        button_reply: Choice,
    },
    ListReply {
        list_reply: Choice,
    },
    /// A flow or a form that was filled in; `response_json` is JSON in a text.
    NfmReply {
        nfm_reply: FormReply,
    },
    /// Whether the business may call, as WhatsApp writes it.
    CallPermissionReply {
        call_permission_reply: Value,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    pub id: String,
    #[serde(default)]
    pub title: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FormReply {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    pub response_json: String,
}

/// The quick reply of a template that a user tapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ButtonReply {
    #[serde(default)]
    pub payload: String,
    #[serde(default)]
    pub text: String,
}

/// A cart that a user sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub catalog_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    pub product_items: Vec<OrderItem>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderItem {
    pub product_retailer_id: String,
    pub quantity: Number,
    /// Of one piece, in `currency`.
    pub item_price: Number,
    pub currency: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reaction {
    /// The message that it is about.
    pub message_id: String,
    /// Not there when the reaction was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emoji: Option<String>,
}

/// A question that a user asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InboundPoll {
    pub question: String,
    pub options: Vec<String>,
    /// How many may be ticked; 0 is any number.
    pub selectable: u32,
}

/// What a user ticked in a poll. Replaces what the same user ticked before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PollVote {
    pub poll_message_id: String,
    /// None of them when the user took the vote back; not there when the poll is not known here, so that its votes
    /// cannot be opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<String>>,
}

/// WhatsApp's own words in a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemNotice {
    /// `user_changed_number`, `user_changed_user_id`, and what WhatsApp will invent.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The new number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wa_id: Option<String>,
    /// The new user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
}

impl InboundMessage {
    /// Whether the instance's owner wrote it, on the phone.
    pub fn is_from_me(&self) -> bool {
        matches!(self.chat, Chat::FromMe(_) | Chat::GroupFromMe(_))
    }

    /// The file that came with it, also when that replaces the one of an earlier message.
    pub fn media(&self) -> Option<&InboundMedia> {
        match self.content.effective() {
            InboundContent::Media(_, media) => Some(media),
            _ => None,
        }
    }
}

impl InboundContent {
    /// What is to be read: of an edit, what it says now.
    pub fn effective(&self) -> &InboundContent {
        match self {
            InboundContent::Edit { now, .. } => now,
            content => content,
        }
    }

    /// WhatsApp's name for this type of message; `unknown` for all that have no place here.
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
    pub const ALL: [InboundMediaKind; 5] = [
        InboundMediaKind::Image,
        InboundMediaKind::Video,
        InboundMediaKind::Audio,
        InboundMediaKind::Document,
        InboundMediaKind::Sticker,
    ];

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_needs_a_phone_or_a_user_id() {
        let shown = |phone, user| Identity::new(phone, user).map(|identity| identity.to_string());
        assert_eq!(shown(Some("573001234567"), Some("CO.1")).as_deref(), Some("573001234567@s.whatsapp.net"));
        assert_eq!(shown(Some("+376312345"), None).as_deref(), Some("376312345@s.whatsapp.net"));
        assert_eq!(shown(None, Some("CO.13491208655302741918")).as_deref(), Some("CO.13491208655302741918"));
        for nobody in [(None, None), (Some(""), None), (Some("ana"), Some(""))] {
            assert_eq!(Identity::new(nobody.0, nobody.1), None, "{nobody:?}");
        }
    }

    #[test]
    fn recipients_omit_unreachable_identities() {
        let names = |phone, user| {
            let identity = Identity::new(phone, user).unwrap();
            identity.recipients().map(|who| who.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(Some("573001234567"), Some("CO.1")), ["573001234567", "CO.1"]);
        assert_eq!(names(Some("376312345"), None), [""; 0]);
    }
}
