//! The JSON format of messages to the Graph API, serialized from the domain's types without copying them.

use std::fmt::Display;

use serde::{Serialize, Serializer};
use serde_json::Value;

use relevo_domain::{
    Button, Content, Header, Interactive, Jid, ListRow, ListSection, Location, Media, MediaKind, MediaSource,
    MessageId, OutboundMessage, ProviderMessageId, Recipient, Template,
};

/// The body of `POST /{phone_number_id}/messages`.
#[derive(Serialize)]
pub(super) struct MessageRequest<'a> {
    messaging_product: &'static str,
    recipient_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<ToField<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<ContextObject<'a>>,
    /// Meta repeats it in every status, which identifies a message whose answer was lost.
    #[serde(serialize_with = "as_text")]
    biz_opaque_callback_data: MessageId,
    #[serde(rename = "type")]
    kind: &'static str,
    /// Serialized under the name of its kind.
    #[serde(flatten)]
    body: ContentObject<'a>,
}

#[derive(Serialize)]
struct ContextObject<'a> {
    message_id: &'a str,
}

enum ToField<'a> {
    /// Digits. They are written with `+`; without it Meta may prepend the country code of the business.
    Phone(&'a str),
    Group(&'a str),
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum ContentObject<'a> {
    Text(TextObject<'a>),
    Image(MediaObject<'a>),
    Video(MediaObject<'a>),
    Audio(MediaObject<'a>),
    Document(MediaObject<'a>),
    Sticker(MediaObject<'a>),
    Location(LocationObject<'a>),
    Contacts(&'a [Value]),
    Reaction(ReactionObject<'a>),
    Template(TemplateObject<'a>),
    Interactive(InteractiveObject<'a>),
}

#[derive(Serialize)]
struct TextObject<'a> {
    body: &'a str,
    preview_url: bool,
}

#[derive(Serialize)]
struct MediaObject<'a> {
    #[serde(flatten)]
    source: MediaSourceObject<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caption: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filename: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    voice: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum MediaSourceObject<'a> {
    Id(&'a str),
    Link(&'a str),
}

#[derive(Serialize)]
struct LocationObject<'a> {
    latitude: f64,
    longitude: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
}

#[derive(Serialize)]
struct ReactionObject<'a> {
    message_id: &'a str,
    emoji: &'a str,
}

#[derive(Serialize)]
struct TemplateObject<'a> {
    name: &'a str,
    language: LanguageObject<'a>,
    #[serde(skip_serializing_if = "<[Value]>::is_empty")]
    components: &'a [Value],
}

#[derive(Serialize)]
struct LanguageObject<'a> {
    code: &'a str,
}

#[derive(Serialize)]
struct InteractiveObject<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<HeaderObject<'a>>,
    body: PlainTextObject<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    footer: Option<PlainTextObject<'a>>,
    action: ActionObject<'a>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum HeaderObject<'a> {
    Text { text: &'a str },
    Image { image: MediaSourceObject<'a> },
    Video { video: MediaSourceObject<'a> },
    Document { document: MediaSourceObject<'a> },
}

#[derive(Serialize)]
struct PlainTextObject<'a> {
    text: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ActionObject<'a> {
    Buttons {
        #[serde(serialize_with = "each_button")]
        buttons: &'a [Button],
    },
    List {
        button: &'a str,
        #[serde(serialize_with = "each_section")]
        sections: &'a [ListSection],
    },
    CtaUrl {
        name: &'static str,
        parameters: CtaUrlParameters<'a>,
    },
    Flow {
        name: &'static str,
        parameters: &'a Value,
    },
    NameOnly {
        name: &'static str,
    },
}

#[derive(Serialize)]
struct CtaUrlParameters<'a> {
    display_text: &'a str,
    url: &'a str,
}

#[derive(Serialize)]
struct ButtonObject<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    reply: ReplyObject<'a>,
}

#[derive(Serialize)]
struct ReplyObject<'a> {
    id: &'a str,
    title: &'a str,
}

#[derive(Serialize)]
struct SectionObject<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(serialize_with = "each_row")]
    rows: &'a [ListRow],
}

#[derive(Serialize)]
struct RowObject<'a> {
    id: &'a str,
    title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
}

/// The body of the same endpoint that marks a received message as read.
#[derive(Serialize)]
pub(super) struct MarkReadObject<'a> {
    messaging_product: &'static str,
    status: &'static str,
    message_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    typing_indicator: Option<TypingIndicator>,
}

#[derive(Serialize)]
struct TypingIndicator {
    #[serde(rename = "type")]
    kind: &'static str,
}

impl<'a> MessageRequest<'a> {
    /// `uploaded` is the media id of the content's [`blob`](Content::blob). A recipient that the limits reject gets an
    /// address that Meta rejects too.
    ///
    /// `None` for content that the Cloud API does not have; the limits reject it before it is accepted.
    pub fn new(id: MessageId, message: &'a OutboundMessage, uploaded: Option<&'a str>) -> Option<Self> {
        let (recipient_type, to, recipient) = match &message.to {
            Recipient::Phone(phone) => ("individual", Some(ToField::Phone(phone.digits())), None),
            Recipient::User(user) => ("individual", None, Some(user.as_str())),
            Recipient::Jid(Jid::Group(group) | Jid::Newsletter(group) | Jid::Lid(group)) => {
                ("group", Some(ToField::Group(group)), None)
            }
        };
        Some(Self {
            messaging_product: "whatsapp",
            recipient_type,
            to,
            recipient,
            context: message.quote.as_ref().map(|quote| ContextObject { message_id: quote.as_str() }),
            biz_opaque_callback_data: id,
            kind: message.content.kind(),
            body: ContentObject::new(&message.content, uploaded)?,
        })
    }
}

impl<'a> MarkReadObject<'a> {
    pub fn new(message: &'a ProviderMessageId, typing: bool) -> Self {
        Self {
            messaging_product: "whatsapp",
            status: "read",
            message_id: message.as_str(),
            typing_indicator: typing.then_some(TypingIndicator { kind: "text" }),
        }
    }
}

impl<'a> ContentObject<'a> {
    fn new(content: &'a Content, uploaded: Option<&'a str>) -> Option<Self> {
        Some(match content {
            Content::Text { body, preview_url } => {
                ContentObject::Text(TextObject { body, preview_url: *preview_url })
            }
            Content::Media(media) => {
                let object = MediaObject::new(media, uploaded);
                match media.kind {
                    MediaKind::Image => ContentObject::Image(object),
                    MediaKind::Video => ContentObject::Video(object),
                    MediaKind::Audio => ContentObject::Audio(object),
                    MediaKind::Document => ContentObject::Document(object),
                    MediaKind::Sticker => ContentObject::Sticker(object),
                }
            }
            Content::Location(location) => ContentObject::Location(LocationObject::new(location)),
            Content::Contacts { contacts } => ContentObject::Contacts(contacts),
            Content::Reaction { message_id, emoji } => {
                ContentObject::Reaction(ReactionObject { message_id, emoji })
            }
            Content::Template(Template { name, language, components }) => {
                ContentObject::Template(TemplateObject {
                    name,
                    language: LanguageObject { code: language },
                    components,
                })
            }
            Content::Interactive(interactive) => {
                ContentObject::Interactive(InteractiveObject::new(interactive, uploaded))
            }
            Content::Poll(_) | Content::Edit { .. } | Content::Revoke { .. } => return None,
        })
    }
}

impl<'a> MediaObject<'a> {
    fn new(media: &'a Media, uploaded: Option<&'a str>) -> Self {
        let document = media.kind == MediaKind::Document;
        Self {
            source: MediaSourceObject::new(&media.source, uploaded),
            caption: non_empty(&media.caption),
            filename: non_empty(&media.file_name).filter(|_| document),
            voice: media.voice && media.kind == MediaKind::Audio,
        }
    }
}

impl<'a> MediaSourceObject<'a> {
    fn new(source: &'a MediaSource, uploaded: Option<&'a str>) -> Self {
        match source {
            MediaSource::Link(url) => MediaSourceObject::Link(url.as_str()),
            MediaSource::ProviderId(id) => MediaSourceObject::Id(id),
            MediaSource::Blob(_) => MediaSourceObject::Id(uploaded.unwrap_or_default()),
        }
    }
}

impl<'a> LocationObject<'a> {
    fn new(location: &'a Location) -> Self {
        Self {
            latitude: location.latitude,
            longitude: location.longitude,
            name: non_empty(&location.name),
            address: non_empty(&location.address),
        }
    }
}

impl<'a> InteractiveObject<'a> {
    fn new(interactive: &'a Interactive, uploaded: Option<&'a str>) -> Self {
        let media = |header: &'a Option<Header>| {
            header.as_ref().and_then(|header| HeaderObject::new(header, uploaded))
        };
        let (kind, header, body, footer, action) = match interactive {
            Interactive::Buttons { header, body, footer, buttons } => {
                ("button", media(header), body, non_empty(footer), ActionObject::Buttons { buttons })
            }
            Interactive::List { header, body, footer, button, sections } => {
                let header = non_empty(header).map(|text| HeaderObject::Text { text });
                ("list", header, body, non_empty(footer), ActionObject::List { button, sections })
            }
            Interactive::CtaUrl { header, body, footer, display_text, url } => {
                let action = ActionObject::CtaUrl {
                    name: "cta_url",
                    parameters: CtaUrlParameters { display_text, url },
                };
                ("cta_url", media(header), body, non_empty(footer), action)
            }
            Interactive::Flow { header, body, footer, parameters } => (
                "flow",
                media(header),
                body,
                non_empty(footer),
                ActionObject::Flow { name: "flow", parameters },
            ),
            Interactive::LocationRequest { body } => (
                "location_request_message",
                None,
                body,
                None,
                ActionObject::NameOnly { name: "send_location" },
            ),
        };
        Self {
            kind,
            header,
            body: PlainTextObject { text: body },
            footer: footer.map(|text| PlainTextObject { text }),
            action,
        }
    }
}

impl<'a> HeaderObject<'a> {
    /// `None` for a kind of media that a header cannot show; the limits reject it.
    fn new(header: &'a Header, uploaded: Option<&'a str>) -> Option<Self> {
        match header {
            Header::Text(text) => Some(Self::Text { text }),
            Header::Media { kind, source } => {
                let source = MediaSourceObject::new(source, uploaded);
                match kind {
                    MediaKind::Image => Some(Self::Image { image: source }),
                    MediaKind::Video => Some(Self::Video { video: source }),
                    MediaKind::Document => Some(Self::Document { document: source }),
                    MediaKind::Audio | MediaKind::Sticker => None,
                }
            }
        }
    }
}

impl Serialize for ToField<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ToField::Phone(digits) => serializer.collect_str(&format_args!("+{digits}")),
            ToField::Group(id) => serializer.serialize_str(id),
        }
    }
}

/// An optional text unless it is empty: Meta rejects empty ones.
fn non_empty(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn as_text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn each_button<S: Serializer>(buttons: &[Button], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(buttons.iter().map(|Button { id, title }| {
        let reply = ReplyObject { id, title };
        ButtonObject { kind: "reply", reply }
    }))
}

fn each_section<S: Serializer>(sections: &[ListSection], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(
        sections.iter().map(|ListSection { title, rows }| SectionObject { title: non_empty(title), rows }),
    )
}

fn each_row<S: Serializer>(rows: &[ListRow], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rows.iter().map(|ListRow { id, title, description }| {
        let description = non_empty(description);
        RowObject { id, title, description }
    }))
}

#[cfg(test)]
mod tests;
