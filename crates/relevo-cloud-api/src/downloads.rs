//! Files that users sent: what WhatsApp knows about them, and their bytes.

use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::graph::{
    GraphClient, MediaUrlResponse, idempotent_failure, media_transfer_failure, unexpected_response,
};
use relevo_domain::Failure;
use relevo_provider::{MediaStream, RemoteMedia};

/// What WhatsApp knows about a file. No failure is ambiguous: asking again does no harm.
pub(super) async fn describe(graph: &GraphClient, id: &str) -> Result<RemoteMedia, Failure> {
    #[derive(Deserialize)]
    struct MediaInfoResponse {
        url: Url,
        #[serde(default)]
        mime_type: Option<String>,
        #[serde(default)]
        sha256: Option<String>,
        /// A number in a text, by Meta's specification; a number, as it is often seen.
        #[serde(default)]
        file_size: Value,
    }
    let body = graph.get_media(id).await.map_err(idempotent_failure)?;
    let answer: MediaInfoResponse =
        serde_json::from_slice(&body).map_err(|_| idempotent_failure(unexpected_response(&body)))?;
    let size = answer.file_size.as_u64().or_else(|| answer.file_size.as_str()?.trim().parse().ok());
    let mime = answer.mime_type.unwrap_or_else(|| "application/octet-stream".to_owned());
    Ok(RemoteMedia { url: answer.url, mime, sha256: answer.sha256, size })
}

/// The same with the bytes. An address is good for five minutes; one that has expired between the two questions is
/// asked for once more.
pub(super) async fn open(graph: &GraphClient, id: &str) -> Result<(RemoteMedia, MediaStream), Failure> {
    for _ in 0..2 {
        let media = describe(graph, id).await?;
        if let MediaUrlResponse::File(response) = graph.open_media_url(&media.url).await? {
            let bytes =
                response.bytes_stream().map(|chunk| chunk.map_err(|cause| media_transfer_failure(&cause)));
            return Ok((media, bytes.boxed()));
        }
    }
    Err(Failure::permanent("WhatsApp knows the file and does not give it out any more"))
}
