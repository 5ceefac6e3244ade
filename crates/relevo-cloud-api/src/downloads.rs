//! Descriptions and downloads of files that users sent.

use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::graph::{
    GraphClient, MediaUrlResponse, idempotent_failure, media_transfer_failure, unexpected_response,
};
use relevo_domain::Failure;
use relevo_provider::{MediaStream, RemoteMedia};

/// Describes a file. No failure is ambiguous, because the request can be repeated.
pub(super) async fn describe(graph: &GraphClient, id: &str) -> Result<RemoteMedia, Failure> {
    #[derive(Deserialize)]
    struct MediaInfoResponse {
        url: Url,
        #[serde(default)]
        mime_type: Option<String>,
        #[serde(default)]
        sha256: Option<String>,
        /// A string of digits according to Meta's specification; in practice often a number.
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

/// Describes a file and opens it. The address of a file is valid for five minutes; one that expired between the two
/// requests is requested once more.
pub(super) async fn open(graph: &GraphClient, id: &str) -> Result<(RemoteMedia, MediaStream), Failure> {
    for _ in 0..2 {
        let media = describe(graph, id).await?;
        if let MediaUrlResponse::File(response) = graph.open_media_url(&media.url).await? {
            let bytes =
                response.bytes_stream().map(|chunk| chunk.map_err(|cause| media_transfer_failure(&cause)));
            return Ok((media, bytes.boxed()));
        }
    }
    Err(Failure::permanent("WhatsApp describes the file but no longer delivers it"))
}
