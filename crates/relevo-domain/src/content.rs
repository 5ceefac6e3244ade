use serde::{Deserialize, Serialize};
use url::Url;

/// What a message says, in a form that every provider understands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Content {
    Text {
        body: String,
        #[serde(default)]
        preview_url: bool,
    },
    Media(Media),
    Location(Location),
    /// Contact cards in Meta's form, passed on as they came.
    Contacts {
        contacts: Vec<serde_json::Value>,
    },
    /// An empty `emoji` takes the reaction back.
    Reaction {
        message_id: String,
        emoji: String,
    },
    Template(Template),
    Interactive(Interactive),
    /// A question with answers to tick. Linked devices alone.
    Poll(Poll),
    /// What an earlier text of ours, or the caption of an earlier file, says from now on. Linked devices alone.
    Edit {
        message_id: String,
        body: String,
    },
    /// Takes an earlier message of ours back. Linked devices alone.
    Revoke {
        message_id: String,
    },
}

impl Content {
    /// The word for this kind of message in URLs, ledgers and logs.
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

    /// The file of ours that it needs, if it needs one.
    pub fn blob(&self) -> Option<&BlobRef> {
        let source = match self {
            Content::Media(media) => &media.source,
            Content::Interactive(
                Interactive::Buttons { header: Some(Header::Media { source, .. }), .. }
                | Interactive::CtaUrl { header: Some(Header::Media { source, .. }), .. }
                | Interactive::Flow { header: Some(Header::Media { source, .. }), .. },
            ) => source,
            _ => return None,
        };
        match source {
            MediaSource::Blob(blob) => Some(blob),
            MediaSource::Link(_) | MediaSource::ProviderId(_) => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Media {
    pub kind: MediaKind,
    pub source: MediaSource,
    #[serde(default)]
    pub caption: Option<String>,
    #[serde(default)]
    pub file_name: Option<String>,
    /// Audio only: show it as a voice note.
    #[serde(default)]
    pub voice: bool,
}

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
    /// A public address, already passed by the egress guard once.
    Link(Url),
    /// A file in our own data folder.
    Blob(BlobRef),
    /// Already at WhatsApp, by its media id.
    ProviderId(String),
}

/// A file that the node keeps, named by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// SHA-256 in lowercase hexadecimal: the file's name.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// For example `image/png`.
    pub mime: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// Degrees, -90 to 90.
    pub latitude: f64,
    /// Degrees, -180 to 180.
    pub longitude: f64,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub address: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poll {
    pub question: String,
    /// Two to twelve, all different.
    pub options: Vec<String>,
    /// How many may be ticked; 0 is any number.
    pub selectable: u32,
}

/// An approved template with the values for its places.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Template {
    pub name: String,
    /// A language code such as `es` or `en_US`.
    pub language: String,
    /// Header, body and button parameters in Meta's form, passed on as they came.
    #[serde(default)]
    pub components: Vec<serde_json::Value>,
}

/// A message with something to press.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "interactive", rename_all = "snake_case")]
pub enum Interactive {
    /// One to three reply buttons.
    Buttons {
        header: Option<Header>,
        body: String,
        footer: Option<String>,
        buttons: Vec<Button>,
    },
    List {
        header: Option<String>,
        body: String,
        footer: Option<String>,
        button: String,
        sections: Vec<ListSection>,
    },
    /// A button that opens an address.
    CtaUrl {
        header: Option<Header>,
        body: String,
        footer: Option<String>,
        display_text: String,
        url: String,
    },
    /// Opens a WhatsApp Flow; `parameters` are Meta's, passed on as they came.
    Flow {
        header: Option<Header>,
        body: String,
        footer: Option<String>,
        parameters: serde_json::Value,
    },
    LocationRequest {
        body: String,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Header {
    Text(String),
    Media { kind: MediaKind, source: MediaSource },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Button {
    pub id: String,
    pub title: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListSection {
    #[serde(default)]
    pub title: Option<String>,
    pub rows: Vec<ListRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRow {
    pub id: String,
    pub title: String,
    #[serde(default)]
    pub description: Option<String>,
}
