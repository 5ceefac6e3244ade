//! The media hosts: encrypted files are uploaded to `/mms/{kind}/{token}` and downloaded from `/v/{kind}/{token}`.
//! The server's address takes the place of all of WhatsApp's media hosts.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::server_state::ServerState;

/// Maximum size of a file, in bytes. WhatsApp accepts documents of up to 2 GB; the sandbox keeps files in memory.
pub const MAX_FILE_BYTES: usize = 128 << 20;

#[derive(Debug, Default)]
struct Inner {
    files: HashMap<Box<str>, Bytes>,
    order: VecDeque<Box<str>>,
    bytes: usize,
}

/// The files by their direct path. Bounded: the oldest files are evicted.
#[derive(Debug)]
pub struct EncryptedMediaStore {
    inner: Mutex<Inner>,
    limit: usize,
}

impl EncryptedMediaStore {
    /// An empty store for at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { inner: Mutex::default(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a file and evicts the oldest ones; false when the file is larger than the limit.
    pub fn put(&self, direct_path: &str, file: Bytes) -> bool {
        if file.len() > self.limit {
            return false;
        }
        let mut inner = self.lock();
        if let Some(replaced) = inner.files.insert(direct_path.into(), file.clone()) {
            inner.bytes -= replaced.len();
        } else {
            inner.order.push_back(direct_path.into());
        }
        inner.bytes += file.len();
        while inner.bytes > self.limit
            && let Some(oldest) = inner.order.pop_front()
        {
            let evicted = inner.files.remove(&oldest).map_or(0, |file| file.len());
            inner.bytes -= evicted;
        }
        true
    }

    /// The encrypted file under a direct path, without its query.
    pub fn get(&self, direct_path: &str) -> Option<Bytes> {
        let path = direct_path.split('?').next().unwrap_or_default();
        self.lock().files.get(path).cloned()
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.lock().files.len()
    }
}

/// The direct path of an uploaded file.
pub fn direct_path(kind: &str, token: &str) -> String {
    format!("/v/{kind}/{token}")
}

/// The name of a file: the hash of its ciphertext.
pub fn token(file_enc_sha256: &[u8]) -> String {
    base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(file_enc_sha256)
}

/// Query of [`upload`].
#[derive(Debug, Deserialize)]
pub struct UploadQuery {
    /// Present in a query for the uploaded part of the file.
    resume: Option<String>,
}

fn location_json(shared: &ServerState, path: &str) -> Value {
    json!({ "url": format!("https://{}{path}", shared.address), "direct_path": path })
}

/// `POST /mms/{kind}/{token}`: uploads a file. Before a large file, clients query its state (`resume=1`).
pub async fn upload(
    State(shared): State<Arc<ServerState>>,
    Path((kind, token)): Path<(String, String)>,
    Query(upload): Query<UploadQuery>,
    file: Bytes,
) -> Response {
    let path = direct_path(&kind, &token);
    if upload.resume.is_some() {
        return match shared.media.get(&path) {
            Some(_) => {
                let mut answer = location_json(&shared, &path);
                if let Value::Object(answer) = &mut answer {
                    answer.insert("resume".into(), "complete".into());
                }
                Json(answer).into_response()
            }
            None => Json(json!({ "resume": "0" })).into_response(),
        };
    }
    if !shared.media.put(&path, file) {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    }
    Json(location_json(&shared, &path)).into_response()
}

/// `GET /v/{kind}/{token}`: downloads a file.
pub async fn download(
    State(shared): State<Arc<ServerState>>,
    Path((kind, token)): Path<(String, String)>,
) -> Response {
    match shared.media.get(&direct_path(&kind, &token)) {
        Some(file) => file.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
