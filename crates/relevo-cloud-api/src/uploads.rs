//! Uploads of media to WhatsApp: each file is uploaded once and then sent by its media id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared as SharedFuture, WeakShared};
use reqwest::Body;
use reqwest::multipart::{Form, Part};
use serde::{Deserialize, Serialize};
use tokio_util::io::ReaderStream;

use super::graph::{GraphClient, idempotent_failure, unexpected_response};
use relevo_domain::{BlobRef, Failure, FailureKind, FailureScope, Timestamp};
use relevo_provider::ProviderResources;
use relevo_store::{Error as StoreError, Key, Space, Tx, decode, encode};

/// Lifetime of a cached media id. Meta keeps uploads for 30 days; the day of difference covers messages that wait.
const TTL: Duration = Duration::from_secs(29 * 24 * 3600);

/// Bytes per read from the disk.
const CHUNK: usize = 64 << 10;

/// Number of entries that each write checks for expiry. Content hashes are evenly distributed, so expired ids are found
/// faster than new ones are added.
const SWEEP_BATCH: usize = 8;

type UploadFuture = BoxFuture<'static, Result<String, Failure>>;

/// The uploads of one phone number. The store caches their ids.
#[derive(Clone)]
pub(super) struct Uploads(Arc<Inner>);

struct Inner {
    /// The phone number id; a media id is valid for one phone number only.
    account: String,
    graph: Arc<GraphClient>,
    shared: ProviderResources,
    /// Uploads in progress: callers that need the same file wait for the same upload. An upload is cancelled when its
    /// last waiter is dropped.
    in_flight: Mutex<HashMap<UploadKey, WeakShared<UploadFuture>>>,
}

/// Content hash and media type: the same bytes under another type are another upload.
type UploadKey = (String, String);

#[derive(Serialize, Deserialize)]
struct MediaIdRecord {
    id: String,
    mime: String,
    at: Timestamp,
}

impl Uploads {
    pub fn new(account: &str, graph: Arc<GraphClient>, shared: ProviderResources) -> Self {
        Self(Arc::new(Inner { account: account.to_owned(), graph, shared, in_flight: Mutex::default() }))
    }

    /// Returns the media id of a file; uploads the file if no id is cached. No failure is ambiguous, because an upload
    /// can be repeated.
    pub async fn media_id(&self, blob: &BlobRef) -> Result<String, Failure> {
        match self.0.cached_id(blob) {
            Some(id) => Ok(id),
            None => self.shared_upload(blob).await,
        }
    }

    /// Deletes an id that has expired at Meta, unless a newer one has replaced it.
    pub async fn delete(&self, blob: &BlobRef, id: &str) {
        let (key, id) = (self.0.key(blob), id.to_owned());
        let deleted = self.0.shared.store.write(move |tx| {
            if decode_record(tx.get(&key)?).is_some_and(|uploaded| uploaded.id == id) {
                tx.delete(key)?;
            }
            Ok(())
        });
        if let Err(cause) = deleted.await {
            tracing::warn!(%cause, "stale media id not deleted; sends of this file may fail");
        }
    }

    fn shared_upload(&self, blob: &BlobRef) -> SharedFuture<UploadFuture> {
        let key = (blob.sha256.clone(), blob.mime.clone());
        let mut in_flight = self.0.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(upload) = in_flight.get(&key).and_then(WeakShared::upgrade) {
            return upload;
        }
        in_flight.retain(|_, upload| upload.upgrade().is_some());
        let upload = Arc::clone(&self.0).upload(blob.clone()).boxed().shared();
        if let Some(weak) = upload.downgrade() {
            in_flight.insert(key, weak);
        }
        upload
    }
}

impl Inner {
    fn key(&self, blob: &BlobRef) -> Key {
        self.prefix().bytes(blob.sha256.as_bytes())
    }

    fn prefix(&self) -> Key {
        Key::new(Space::MediaId).bytes(self.account.as_bytes()).u8(0)
    }

    fn cached_id(&self, blob: &BlobRef) -> Option<String> {
        let uploaded = decode_record(self.shared.store.get(&self.key(blob)).ok()?)?;
        let fresh = self.shared.clock.now().since(uploaded.at) < TTL;
        (fresh && uploaded.mime == blob.mime).then_some(uploaded.id)
    }

    async fn upload(self: Arc<Self>, blob: BlobRef) -> Result<String, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            id: String,
        }
        // Another upload may have completed between the caller's lookup and this point.
        if let Some(id) = self.cached_id(&blob) {
            return Ok(id);
        }
        let form = self.form(&blob).await?;
        let body = self.graph.post_media(form).await.map_err(idempotent_failure)?;
        let answer = serde_json::from_slice::<Answer>(&body);
        let id = answer.map_err(|_| idempotent_failure(unexpected_response(&body)))?.id;
        if let Err(cause) = self.persist(&blob, &id).await {
            tracing::warn!(%cause, "media id not stored; the file will be uploaded again");
        }
        Ok(id)
    }

    async fn form(&self, blob: &BlobRef) -> Result<Form, Failure> {
        let unreadable = |cause: StoreError| {
            let kind = FailureKind::Transient { max_attempts: Some(3) };
            Failure::new(kind, FailureScope::Message, format!("the message's file is not readable: {cause}"))
        };
        let file = self.shared.blobs.file(blob).await.map_err(unreadable)?;
        let body = Body::wrap_stream(ReaderStream::with_capacity(file, CHUNK));
        let part = Part::stream_with_length(body, blob.size).file_name("media").mime_str(&blob.mime);
        let part = part.map_err(|_| Failure::permanent(format!("{} is not a media type", blob.mime)))?;
        let form = Form::new().text("messaging_product", "whatsapp").text("type", blob.mime.clone());
        Ok(form.part("file", part))
    }

    async fn persist(&self, blob: &BlobRef, id: &str) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        let uploaded = encode(&MediaIdRecord { id: id.to_owned(), mime: blob.mime.clone(), at: now })?;
        let (key, end) = (self.key(blob), self.prefix().after_prefix());
        let write = move |tx: &mut Tx| {
            sweep(tx, &key, &end, now)?;
            tx.put(key, uploaded)
        };
        self.shared.store.write(write).await
    }
}

/// Deletes expired entries among the next [`SWEEP_BATCH`] after `key`.
fn sweep(tx: &mut Tx, key: &Key, end: &Key, now: Timestamp) -> Result<(), StoreError> {
    let next: Vec<_> = tx.range(key, end).take(SWEEP_BATCH).collect::<Result<_, _>>()?;
    for (key, record) in next {
        if decode_record(Some(record)).is_none_or(|uploaded| now.since(uploaded.at) >= TTL) {
            tx.delete(Key::from(key))?;
        }
    }
    Ok(())
}

/// Decodes a record. An unreadable record counts as missing: the file is uploaded again.
fn decode_record(record: Option<Vec<u8>>) -> Option<MediaIdRecord> {
    record.and_then(|bytes| decode(&bytes).ok())
}
