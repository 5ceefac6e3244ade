//! The content of an outbound message, in a form that every provider can translate.

use serde::{Deserialize, Serialize};
use url::Url;

/// The content of an outbound message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Content {
    /// A text message.
    Text {
        body: String,
        /// Whether WhatsApp shows a preview of the first link.
        #[serde(default)]
        preview_url: bool,
    },
    /// A file, with an optional caption.
    Media(Media),
    /// A point on the map.
    Location(Location),
    /// Contact cards in Meta's form, passed through unchanged.
    Contacts { contacts: Vec<serde_json::Value> },
    /// A reaction to a message. An empty `emoji` removes the reaction.
    Reaction { message_id: String, emoji: String },
    /// An approved template. Cloud API only.
    Template(Template),
    /// A message with buttons, a list or a flow. Cloud API only.
    Interactive(Interactive),
    /// A question with options to select. Linked devices only.
    Poll(Poll),
    /// The new text of an earlier message of this instance, or the new caption of its file. Linked devices only.
    Edit { message_id: String, body: String },
    /// Revokes an earlier message of this instance ("delete for everyone"). Linked devices only.
    Revoke { message_id: String },
}

impl Content {
    /// The name of this kind of message in URLs, ledger entries and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Content::Text { .. } => "text",
            Content::Media(media) => media.kind.as_str(),
            Content::Location(_) => "location",
            Content::Contacts { .. } => "contacts",
            Content::Reaction { .. } => "reaction",
            Content::Template(_) => "template",
            Content::Interactive(_) => "interactive",
            Content::Poll(_) => "poll",
            Content::Edit { .. } => "edit",
            Content::Revoke { .. } => "revoke",
        }
    }

    /// The sources of all files in this content. Exhaustive over all kinds, so that a new kind with a file can skip
    /// neither the upload nor the check of its link.
    ///
    /// Parts in Meta's form (contact cards, template components, flow parameters) are passed through unchanged, and
    /// their links are Meta's to fetch: they are not searched.
    pub fn media(&self) -> impl Iterator<Item = &MediaSource> {
        let source = match self {
            Content::Media(media) => Some(&media.source),
            Content::Interactive(interactive) => interactive.header_media(),
            Content::Text { .. }
            | Content::Location(_)
            | Content::Contacts { .. }
            | Content::Reaction { .. }
            | Content::Template(_)
            | Content::Poll(_)
            | Content::Edit { .. }
            | Content::Revoke { .. } => None,
        };
        source.into_iter()
    }

    /// The file of the data folder that sending this content needs, if any.
    pub fn blob(&self) -> Option<&BlobRef> {
        self.media().find_map(|source| match source {
            MediaSource::Blob(blob) => Some(blob),
            MediaSource::Link(_) | MediaSource::ProviderId(_) => None,
        })
    }
}

/// A file to send.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Media {
    /// How WhatsApp shows it.
    pub kind: MediaKind,
    /// Where its bytes are.
    pub source: MediaSource,
    /// The text below it.
    #[serde(default)]
    pub caption: Option<String>,
    /// The name that the recipient sees; documents only.
    #[serde(default)]
    pub file_name: Option<String>,
    /// Whether it is shown as a voice note; audio only.
    #[serde(default)]
    pub voice: bool,
}

/// How WhatsApp shows a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    Image,
    Video,
    Audio,
    Document,
    Sticker,
}

impl MediaKind {
    /// The value in JSON, URLs and ledger entries.
    pub fn as_str(self) -> &'static str {
        match self {
            MediaKind::Image => "image",
            MediaKind::Video => "video",
            MediaKind::Audio => "audio",
            MediaKind::Document => "document",
            MediaKind::Sticker => "sticker",
        }
    }
}

/// Where the bytes of a media message are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaSource {
    /// A public address. The egress guard checked it when the message was accepted.
    Link(Url),
    /// A file in the data folder of this node.
    Blob(BlobRef),
    /// A file that WhatsApp has already, by its media id.
    ProviderId(String),
}

/// A file in the data folder, named by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// SHA-256 in lowercase hexadecimal, which is the file's name.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
    /// MIME type, for example `image/png`.
    pub mime: String,
}

/// A point on the map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// Degrees, -90 to 90.
    pub latitude: f64,
    /// Degrees, -180 to 180.
    pub longitude: f64,
    /// The name of the place.
    #[serde(default)]
    pub name: Option<String>,
    /// The address of the place.
    #[serde(default)]
    pub address: Option<String>,
}

/// A question with options to select.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poll {
    pub question: String,
    /// Two to twelve different options.
    pub options: Vec<String>,
    /// How many options a voter may select; 0 means any number.
    pub selectable: u32,
}

/// An approved template with the values of its placeholders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Template {
    /// The name of the template at Meta.
    pub name: String,
    /// A language code such as `es` or `en_US`.
    pub language: String,
    /// Header, body and button parameters in Meta's form, passed through unchanged.
    #[serde(default)]
    pub components: Vec<serde_json::Value>,
}

/// A message that the recipient can tap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "interactive", rename_all = "snake_case")]
pub enum Interactive {
    /// One to three reply buttons.
    Buttons { header: Option<Header>, body: String, footer: Option<String>, buttons: Vec<Button> },
    /// A button that opens a list to choose from.
    List {
        header: Option<String>,
        body: String,
        footer: Option<String>,
        button: String,
        sections: Vec<ListSection>,
    },
    /// A button that opens an address.
    CtaUrl { header: Option<Header>, body: String, footer: Option<String>, display_text: String, url: String },
    /// A button that opens a WhatsApp Flow; `parameters` are in Meta's form, passed through unchanged.
    Flow { header: Option<Header>, body: String, footer: Option<String>, parameters: serde_json::Value },
    /// Asks the recipient for a location.
    LocationRequest { body: String },
}

impl Interactive {
    /// The source of the header's file.
    fn header_media(&self) -> Option<&MediaSource> {
        match self {
            Interactive::Buttons { header, .. }
            | Interactive::CtaUrl { header, .. }
            | Interactive::Flow { header, .. } => match header {
                Some(Header::Media { source, .. }) => Some(source),
                Some(Header::Text(_)) | None => None,
            },
            Interactive::List { .. } | Interactive::LocationRequest { .. } => None,
        }
    }
}

/// The header of an interactive message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Header {
    Text(String),
    Media { kind: MediaKind, source: MediaSource },
}

/// A reply button. The reply contains its `id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Button {
    pub id: String,
    pub title: String,
}

/// A section of a list, with an optional title.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListSection {
    #[serde(default)]
    pub title: Option<String>,
    pub rows: Vec<ListRow>,
}

/// A row of a list. The reply contains its `id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRow {
    pub id: String,
    pub title: String,
    #[serde(default)]
    pub description: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_finds_the_file_of_a_media_message_and_of_a_header() {
        let link = || MediaSource::Link("https://example.com/a.png".parse().unwrap());
        let header = || Some(Header::Media { kind: MediaKind::Image, source: link() });
        let (body, footer) = (String::new, || None);
        let contents = [
            Content::Media(Media {
                kind: MediaKind::Image,
                source: link(),
                caption: None,
                file_name: None,
                voice: false,
            }),
            Content::Interactive(Interactive::Buttons {
                header: header(),
                body: body(),
                footer: footer(),
                buttons: vec![],
            }),
            Content::Interactive(Interactive::CtaUrl {
                header: header(),
                body: body(),
                footer: footer(),
                display_text: String::new(),
                url: String::new(),
            }),
            Content::Interactive(Interactive::Flow {
                header: header(),
                body: body(),
                footer: footer(),
                parameters: serde_json::Value::Null,
            }),
        ];
        for content in contents {
            assert_eq!(content.media().collect::<Vec<_>>(), [&link()], "{content:?}");
            assert_eq!(content.blob(), None);
        }
    }
}
