//! `/instances/{id}/messages/{image,video,audio,document,sticker}`: sending media.

use std::borrow::Cow;

use axum::extract::State;
use axum::response::Response;

use super::envelope::{self, SendEnvelope, send_request};
use super::submit::{self, SendResponses, SubmitRequest, non_empty, parse_quote};
use crate::http::access::{Access, scope};
use crate::http::error::ApiError;
use crate::http::extract::{MediaBody, SendOptions, TargetInstance};
use crate::http::media::{self, MediaFields, MediaInput};
use crate::http::{AppState, body, json};
use relevo_domain::{Content, Media, MediaKind, MediaSource, RecipientParser, ValidationError};

send_request! {
    /// An image, video, audio, document or sticker.
    pub struct MediaMessage<'a> {
        /// A number in international format, a JID, or a user id. Also read: `to`, `jid`, `chat_jid`, `number`.
        phone,
        /// An http(s) address, `data:<mime>;base64,…`, or bare base64. Also read: `url`.
        #[serde(default, borrow, alias = "url")]
        #[schema(example = "https://example.com/photo.jpg")]
        media_url: Cow<'a, str>,
        /// Instead of `media_url`: the id of media already uploaded to WhatsApp.
        #[serde(default, borrow)]
        media_id: Cow<'a, str>,
        /// The media type of base64 without a `data:` prefix. Also read: `mimetype`.
        #[serde(default, borrow, alias = "mimetype")]
        mime_type: Cow<'a, str>,
        caption: Option<String>,
        /// Also read: `filename`.
        #[serde(alias = "filename")]
        file_name: Option<String>,
        /// Audio only: send as a voice note. Also read: `ptt`.
        #[serde(default, alias = "ptt")]
        voice: bool,
    }
}

/// Sends an image, with or without a caption.
#[utoipa::path(post, path = "/instances/{id}/messages/image", tag = "messages", request_body = MediaMessage,
    params(TargetInstance, SendOptions), responses(SendResponses))]
pub async fn send_image(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    target: TargetInstance,
    sending: SendOptions,
    body: MediaBody,
) -> Result<Response, ApiError> {
    send_media(state, target, sending, body, MediaKind::Image).await
}

/// Sends a video, with or without a caption.
#[utoipa::path(post, path = "/instances/{id}/messages/video", tag = "messages", request_body = MediaMessage,
    params(TargetInstance, SendOptions), responses(SendResponses))]
pub async fn send_video(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    target: TargetInstance,
    sending: SendOptions,
    body: MediaBody,
) -> Result<Response, ApiError> {
    send_media(state, target, sending, body, MediaKind::Video).await
}

/// Sends an audio file or, with `voice`, a voice note.
#[utoipa::path(post, path = "/instances/{id}/messages/audio", tag = "messages", request_body = MediaMessage,
    params(TargetInstance, SendOptions), responses(SendResponses))]
pub async fn send_audio(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    target: TargetInstance,
    sending: SendOptions,
    body: MediaBody,
) -> Result<Response, ApiError> {
    send_media(state, target, sending, body, MediaKind::Audio).await
}

/// Sends a document, with or without a caption.
#[utoipa::path(post, path = "/instances/{id}/messages/document", tag = "messages", request_body = MediaMessage,
    params(TargetInstance, SendOptions), responses(SendResponses))]
pub async fn send_document(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    target: TargetInstance,
    sending: SendOptions,
    body: MediaBody,
) -> Result<Response, ApiError> {
    send_media(state, target, sending, body, MediaKind::Document).await
}

/// Sends a sticker.
#[utoipa::path(post, path = "/instances/{id}/messages/sticker", tag = "messages", request_body = MediaMessage,
    params(TargetInstance, SendOptions), responses(SendResponses))]
pub async fn send_sticker(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    target: TargetInstance,
    sending: SendOptions,
    body: MediaBody,
) -> Result<Response, ApiError> {
    send_media(state, target, sending, body, MediaKind::Sticker).await
}

/// A parsed media message; inline bytes are not stored yet.
struct ParsedMedia {
    envelope: SendEnvelope,
    source: MediaInput,
    caption: Option<String>,
    file_name: Option<String>,
    voice: bool,
}

fn parse_request(
    kind: MediaKind,
    body: &[u8],
    recipients: RecipientParser,
) -> Result<ParsedMedia, ValidationError> {
    let mut request: MediaMessage<'_> = json::parse(body)?;
    let envelope = request.envelope(recipients)?;
    let file_name = non_empty(request.file_name);
    let source = media::parse_media(&MediaFields {
        kind,
        media_url: &request.media_url,
        media_id: &request.media_id,
        mime_type: &request.mime_type,
        file_name: file_name.as_deref(),
    })?;
    // Validated before a file is stored.
    parse_quote(envelope.reply_to.clone())?;
    Ok(ParsedMedia {
        envelope,
        source,
        caption: non_empty(request.caption),
        file_name,
        voice: request.voice && kind == MediaKind::Audio,
    })
}

async fn send_media(
    state: AppState,
    TargetInstance(instance): TargetInstance,
    sending: SendOptions,
    MediaBody(received): MediaBody,
    kind: MediaKind,
) -> Result<Response, ApiError> {
    // Checked before a file is stored.
    state.services.instances.get(&instance)?;
    let request = SubmitRequest::new(&state, &instance, &sending, kind.as_str(), &received.bytes);
    if let Some(response) = request.answer_repeated().await? {
        return Ok(response);
    }
    let recipients = state.recipients();
    let parse = move |bytes: &[u8]| parse_request(kind, bytes, recipients).map_err(ApiError::from);
    let parsed = body::parse_off_thread(received.bytes, parse).await?;
    let source = match parsed.source {
        MediaInput::Link(url) => MediaSource::Link(url),
        MediaInput::ProviderId(id) => MediaSource::ProviderId(id),
        MediaInput::Inline { bytes, mime } => {
            MediaSource::Blob(state.services.instances.store_media(bytes, &mime).await?)
        }
    };
    // The bytes are on the disk now; the memory is free for other requests.
    drop(received.memory);
    let content = Content::Media(Media {
        kind,
        source,
        caption: parsed.caption,
        file_name: parsed.file_name,
        voice: parsed.voice,
    });
    let draft = envelope::draft(parsed.envelope, content)?;
    submit::submit_message(request, draft).await
}
