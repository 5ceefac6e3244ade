//! Media: upload, metadata, download, deletion.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::multipart::{Field, MultipartRejection};
use axum::extract::{Multipart, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::errors::{GraphError, GraphRejection, code};
use crate::faults::RequestKind;
use crate::graph;
use crate::media_store::{MediaOrigin, StoredMedia};
use crate::state::SandboxState;

/// Maximum size of any file, in bytes: a document. Source: Meta, "Media", "Supported media types".
pub const MAX_FILE_BYTES: usize = 100 << 20;

/// Lifetime of a download URL. Source: Meta, "Media".
const URL_LIFETIME: Duration = Duration::from_secs(5 * 60);

const MIB: usize = 1 << 20;

/// MIME types and their maximum sizes, in bytes. Source: Meta, "Media", "Supported media types".
const MEDIA_TYPES: &[(&str, usize)] = &[
    ("audio/aac", 16 * MIB),
    ("audio/amr", 16 * MIB),
    ("audio/mpeg", 16 * MIB),
    ("audio/mp4", 16 * MIB),
    ("audio/ogg", 16 * MIB),
    ("image/jpeg", 5 * MIB),
    ("image/png", 5 * MIB),
    ("image/webp", 500 << 10),
    ("video/mp4", 16 * MIB),
    ("video/3gpp", 16 * MIB),
    ("text/plain", MAX_FILE_BYTES),
    ("application/pdf", MAX_FILE_BYTES),
    ("application/msword", MAX_FILE_BYTES),
    ("application/vnd.ms-excel", MAX_FILE_BYTES),
    ("application/vnd.ms-powerpoint", MAX_FILE_BYTES),
    ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", MAX_FILE_BYTES),
    ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", MAX_FILE_BYTES),
    ("application/vnd.openxmlformats-officedocument.presentationml.presentation", MAX_FILE_BYTES),
];

/// Maximum size of a sticker without animation, in bytes.
const MAX_STATIC_STICKER_BYTES: usize = 100 << 10;

/// `POST /{version}/{phone_number_id}/media`: uploads a file.
///
/// # Errors
/// The form or the file is invalid, or a fault rejects the request.
pub async fn upload(
    State(shared): State<Arc<SandboxState>>,
    Path((version, number)): Path<(String, String)>,
    headers: HeaderMap,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Response, GraphRejection> {
    let refuse = |error: GraphError| record_refusal(&shared, error);
    graph::check_access(&shared, &version, &number, &headers).map_err(refuse)?;
    let fault = shared.faults.trigger(RequestKind::Media);
    fault
        .apply_before(&shared.closing)
        .await
        .inspect_err(|rejection| graph::record_rejection(&shared, rejection))?;
    let form = form.map_err(|rejection| refuse(invalid_form(&rejection.body_text())))?;
    // The semaphore is never closed. The permit limits the memory of concurrent uploads.
    let _permit = shared.upload_permits.acquire().await;
    let upload = read_form(form).await.map_err(refuse)?;
    check_size(&upload).map_err(refuse)?;
    let id = store_file(&shared, &number, &upload.mime_type, upload.bytes, MediaOrigin::Uploaded)
        .ok_or_else(|| {
            refuse(
                GraphError::new(code::SERVICE)
                    .details("The file is larger than the media store of the sandbox."),
            )
        })?;
    shared.stats.media_uploads.add(1);
    fault.apply_after(&shared.closing).await?;
    Ok(Json(json!({ "id": id })).into_response())
}

fn record_refusal(shared: &SandboxState, error: GraphError) -> GraphRejection {
    shared.stats.record_refusal(error.code);
    error.into()
}

fn invalid_form(reason: &str) -> GraphError {
    GraphError::new(code::PARAMETER).details(format!("The multipart form could not be read: {reason}"))
}

/// Stores a file for a phone number and returns its id; `None` when the file is larger than the media store.
pub fn store_file(
    shared: &SandboxState,
    number: &str,
    mime_type: &str,
    bytes: Bytes,
    origin: MediaOrigin,
) -> Option<String> {
    let id = shared.ids.media_id();
    let file = StoredMedia {
        phone_number_id: number.into(),
        mime_type: mime_type.into(),
        sha256: hex_digest(&bytes).into(),
        bytes,
        expires: shared.clock.now() + origin.lifetime(),
    };
    shared.media.put(&id, file).then_some(id)
}

fn hex_digest(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[derive(Debug)]
struct UploadForm {
    mime_type: String,
    bytes: Bytes,
}

async fn read_form(mut form: Multipart) -> Result<UploadForm, GraphError> {
    let (mut product, mut named_type, mut part_type, mut bytes) = (None, None, None, None);
    while let Some(field) = form.next_field().await.map_err(|error| invalid_form(&error.body_text()))? {
        match field.name() {
            Some("messaging_product") => product = Some(short_text(field).await?),
            Some("type") => named_type = Some(short_text(field).await?),
            Some("file") => {
                part_type = field.content_type().map(str::to_owned);
                bytes = Some(read_limited(field, MAX_FILE_BYTES).await?);
            }
            _ => drop(read_limited(field, MAX_FILE_BYTES).await?),
        }
    }
    let missing =
        |name: &str| GraphError::new(code::PARAMETER).message(format!("The parameter {name} is required."));
    if product.ok_or_else(|| missing("messaging_product"))? != "whatsapp" {
        return Err(
            GraphError::new(code::PARAMETER).details("Param messaging_product must be one of {whatsapp}.")
        );
    }
    let bytes = bytes.ok_or_else(|| missing("file"))?;
    let given = named_type.filter(|name| name.contains('/')).or(part_type).unwrap_or_default();
    let mime_type = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    Ok(UploadForm { mime_type, bytes })
}

async fn short_text(field: Field<'_>) -> Result<String, GraphError> {
    let bytes = read_limited(field, 1024).await?;
    String::from_utf8(bytes.into()).map_err(|_| invalid_form("a text field is not UTF-8"))
}

async fn read_limited(mut field: Field<'_>, limit: usize) -> Result<Bytes, GraphError> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| invalid_form(&error.body_text()))? {
        if bytes.len() + chunk.len() > limit {
            return Err(too_large(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

fn too_large(limit: usize) -> GraphError {
    GraphError::new(code::MEDIA_UPLOAD)
        .details(format!("The file is larger than the {limit} bytes permitted for its type."))
}

fn check_size(upload: &UploadForm) -> Result<(), GraphError> {
    let Some((_, limit)) = MEDIA_TYPES.iter().find(|(mime_type, _)| *mime_type == upload.mime_type) else {
        let names: Vec<&str> = MEDIA_TYPES.iter().map(|(name, _)| *name).collect();
        return Err(GraphError::new(code::PARAMETER).message(format!(
            "Param file must be a file with one of the following types: {}. Received file of type '{}'.",
            names.join(", "),
            upload.mime_type
        )));
    };
    let is_static_sticker = upload.mime_type == "image/webp" && !is_animated(&upload.bytes);
    let limit = if is_static_sticker { MAX_STATIC_STICKER_BYTES } else { *limit };
    if upload.bytes.is_empty() {
        return Err(GraphError::new(code::MEDIA_UPLOAD).details("The file is empty."));
    }
    if upload.bytes.len() > limit { Err(too_large(limit)) } else { Ok(()) }
}

/// Whether a WebP file is animated: the animation flag of its extended header.
/// Source: Google, "WebP Container Specification", "Extended File Format".
fn is_animated(webp: &[u8]) -> bool {
    webp.get(12..16) == Some(b"VP8X".as_slice()) && webp.get(20).is_some_and(|flags| flags & 0b10 != 0)
}

/// `GET /{version}/{media_id}`: the metadata of a file.
///
/// # Errors
/// The file does not exist or belongs to another number, or a fault rejects the request.
pub async fn get_metadata(
    shared: &SandboxState,
    version: &str,
    id: &str,
    number: Option<&str>,
    headers: &HeaderMap,
) -> Result<Response, GraphRejection> {
    let refuse = |error: GraphError| record_refusal(shared, error);
    graph::check_access(shared, version, id, headers).map_err(refuse)?;
    let fault = shared.faults.trigger(RequestKind::Media);
    fault
        .apply_before(&shared.closing)
        .await
        .inspect_err(|rejection| graph::record_rejection(shared, rejection))?;
    let file = shared
        .media
        .get(id, number, shared.clock.now())
        .ok_or_else(|| refuse(GraphError::object_not_found(id)))?;
    let answer = json!({
        "messaging_product": "whatsapp",
        "url": download_url(shared, id, headers),
        "mime_type": file.mime_type,
        "sha256": file.sha256,
        "file_size": file.bytes.len(),
        "id": id,
    });
    fault.apply_after(&shared.closing).await?;
    Ok(Json(answer).into_response())
}

/// A temporary download URL, with the host name of the caller's request.
pub fn download_url(shared: &SandboxState, id: &str, headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let until = (shared.clock.now() + URL_LIFETIME).seconds();
    format!("http://{host}/whatsapp_business/attachments/{id}?ext={until}")
}

/// `GET /whatsapp_business/attachments/{media_id}`: the content of a file.
///
/// # Errors
/// The token is wrong, or a fault rejects the request.
pub async fn download(
    State(shared): State<Arc<SandboxState>>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response, GraphRejection> {
    graph::check_token(&shared, &headers).map_err(|error| record_refusal(&shared, error))?;
    let fault = shared.faults.trigger(RequestKind::Media);
    fault
        .apply_before(&shared.closing)
        .await
        .inspect_err(|rejection| graph::record_rejection(&shared, rejection))?;
    let now = shared.clock.now();
    let is_fresh = query
        .get("ext")
        .and_then(|until| until.parse().ok())
        .is_some_and(|until: u64| now.seconds() <= until);
    let file = if is_fresh { shared.media.get(&id, None, now) } else { None };
    let Some(file) = file else {
        return Ok((StatusCode::NOT_FOUND, "Not found: request a new URL").into_response());
    };
    shared.stats.media_downloads.add(1);
    fault.apply_after(&shared.closing).await?;
    Ok(([(header::CONTENT_TYPE, file.mime_type.to_string())], file.bytes).into_response())
}

/// `DELETE /{version}/{media_id}`: deletes a file.
///
/// # Errors
/// The file does not exist or belongs to another number, or a fault rejects the request.
pub async fn delete(
    State(shared): State<Arc<SandboxState>>,
    Path((version, id)): Path<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response, GraphRejection> {
    let refuse = |error: GraphError| record_refusal(&shared, error);
    graph::check_access(&shared, &version, &id, &headers).map_err(refuse)?;
    let fault = shared.faults.trigger(RequestKind::Media);
    fault
        .apply_before(&shared.closing)
        .await
        .inspect_err(|rejection| graph::record_rejection(&shared, rejection))?;
    let number = query.get("phone_number_id").map(String::as_str);
    if !shared.media.delete(&id, number, shared.clock.now()) {
        return Err(refuse(GraphError::object_not_found(&id)));
    }
    fault.apply_after(&shared.closing).await?;
    Ok(Json(json!({ "success": true })).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mime_type: &str, bytes: Vec<u8>) -> Option<u32> {
        check_size(&UploadForm { mime_type: mime_type.into(), bytes: bytes.into() })
            .err()
            .map(|error| error.code)
    }

    #[test]
    fn file_size_is_limited_by_media_type() {
        assert_eq!(check("image/png", vec![0; 5 * MIB]), None);
        assert_eq!(check("image/png", vec![0; 5 * MIB + 1]), Some(131_053));
        assert_eq!(check("image/gif", vec![0; 1]), Some(100));
        assert_eq!(check("text/plain", vec![]), Some(131_053));
    }

    #[test]
    fn animated_sticker_may_be_larger() {
        let mut webp = vec![0; MAX_STATIC_STICKER_BYTES + 1];
        assert_eq!(check("image/webp", webp.clone()), Some(131_053));
        webp[12..16].copy_from_slice(b"VP8X");
        webp[20] = 0b10;
        assert_eq!(check("image/webp", webp), None);
    }
}
