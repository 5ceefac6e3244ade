//! Lookups of files: from the disk cache, or by one download that concurrent requests share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, Shared, WeakShared};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::disk_cache::{DiskCache, FileKey, MediaFile};
use super::index::{self, MediaLocation};
use super::partial_file::PartialFile;
use super::sha256::Sha256Digest;
use super::{Error, Options};
use relevo_clock::Clock;
use relevo_domain::{Failure, InstanceNumber, ProviderMessageId};
use relevo_provider::{MediaStream, Provider, RemoteMedia};
use relevo_store::{self as store, DataFolder, Store};

/// Maximum size of a downloaded file, in bytes. Meta's limit is a document of 100 MB; it does not say whether that is
/// decimal or binary.
const MAX_FILE: u64 = 105 << 20;

/// Maximum number of concurrent downloads of all instances; further ones wait. Each uses some memory, and disk space that
/// the bound of the cache does not include.
const MAX_DOWNLOADS: usize = 8;

/// Maximum time without data from WhatsApp.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum time of a whole download.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(600);

/// Bytes that are buffered before a write.
const WRITE_BATCH: usize = 256 << 10;

/// Time for which WhatsApp keeps the media of inbound messages. Source: Meta, "Media": the media id of a webhook is valid
/// for seven days.
const WHATSAPP_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// Interval of the retention task.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

type Download = BoxFuture<'static, Result<MediaFile, Error>>;

/// The files of inbound messages. Cheap to clone.
#[derive(Clone)]
pub struct MediaCache(Arc<Inner>);

struct Inner {
    disk_cache: Arc<DiskCache>,
    store: Store,
    clock: Clock,
    options: Options,
    permits: Semaphore,
    /// Downloads in download. Requests for the same file share one. A download is dropped when its last waiter is dropped,
    /// so there are never more downloads than waiting callers.
    downloads: Mutex<HashMap<FileKey, WeakShared<Download>>>,
}

impl MediaCache {
    /// Opens the folder and removes the partial files of earlier runs.
    ///
    /// # Errors
    ///
    /// The folder cannot be created or read, or a partial file cannot be removed.
    pub fn open(
        folder: &DataFolder,
        store: Store,
        clock: Clock,
        options: Options,
    ) -> Result<Self, store::Error> {
        let disk_cache = Arc::new(DiskCache::open(folder)?);
        let permits = Semaphore::new(MAX_DOWNLOADS);
        Ok(Self(Arc::new(Inner { disk_cache, store, clock, options, permits, downloads: Mutex::default() })))
    }

    /// The location of the media of a message.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] if no location is recorded or it has expired. Otherwise the store cannot be read.
    pub fn location(
        &self,
        instance: InstanceNumber,
        message: &ProviderMessageId,
    ) -> Result<MediaLocation, Error> {
        index::find(&self.0.store, instance, message)?.ok_or(Error::Unknown)
    }

    /// The file with this media id of WhatsApp: from the disk cache, or downloaded through `provider`.
    ///
    /// # Errors
    ///
    /// WhatsApp does not have the file, the download failed or is damaged, the file is too large, or the disk is full.
    pub async fn get(
        &self,
        instance: InstanceNumber,
        provider: Arc<dyn Provider>,
        media_id: &str,
    ) -> Result<MediaFile, Error> {
        let key = FileKey::new(instance, media_id);
        match self.0.find(key).await? {
            Some(file) => Ok(file),
            None => self.shared_download(key, provider, media_id.to_owned()).await,
        }
    }

    fn shared_download(
        &self,
        key: FileKey,
        provider: Arc<dyn Provider>,
        media_id: String,
    ) -> Shared<Download> {
        let mut downloads = self.0.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(download) = downloads.get(&key).and_then(WeakShared::upgrade) {
            return download;
        }
        downloads.retain(|_, download| download.upgrade().is_some());
        let download = Arc::clone(&self.0).download(key, provider, media_id).boxed().shared();
        if let Some(weak) = download.downgrade() {
            downloads.insert(key, weak);
        }
        download
    }

    /// Runs retention of the files and the index until `stop` is cancelled.
    pub async fn run_maintenance(self, stop: CancellationToken) {
        let mut interval = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = interval.tick() => {}
            }
            self.0.sweep().await;
            if let Err(cause) = self.0.expire_index(&stop).await {
                tracing::warn!(%cause, "media index retention failed; retrying in an hour");
            }
        }
    }
}

impl Inner {
    async fn find(&self, key: FileKey) -> Result<Option<MediaFile>, Error> {
        let disk_cache = self.disk_cache.clone();
        blocking(move || Ok(disk_cache.find(key))).await
    }

    async fn download(
        self: Arc<Self>,
        key: FileKey,
        provider: Arc<dyn Provider>,
        media_id: String,
    ) -> Result<MediaFile, Error> {
        // `acquire` cannot fail, because the semaphore is never closed.
        let _permit = self.permits.acquire().await;
        // Another download of the file may have ended after the caller checked the disk cache.
        if let Some(file) = self.find(key).await? {
            return Ok(file);
        }
        if self.store.is_full() {
            return Err(Error::DiskFull);
        }
        let downloaded = tokio::time::timeout(DOWNLOAD_TIMEOUT, self.fetch(provider.as_ref(), &media_id));
        let (media, partial) = downloaded.await.map_err(|_| timeout_error())??;
        let (disk_cache, now) = (self.disk_cache.clone(), self.clock.now());
        let file = blocking(move || Ok(disk_cache.insert(key, partial, media.mime, now)?)).await?;
        if self.disk_cache.exceeds(self.options.max_bytes) {
            self.sweep().await;
        }
        Ok(file)
    }

    /// Downloads the whole file to a partial file, and checks its size and SHA-256 against those of WhatsApp.
    async fn fetch(
        &self,
        provider: &dyn Provider,
        media_id: &str,
    ) -> Result<(RemoteMedia, PartialFile), Error> {
        let opened = tokio::time::timeout(IDLE_TIMEOUT, provider.open_media(media_id));
        let (media, bytes) = opened.await.map_err(|_| timeout_error())??;
        if media.size.is_some_and(|size| size > MAX_FILE) {
            return Err(Error::TooLarge { limit: MAX_FILE });
        }
        let disk_cache = self.disk_cache.clone();
        let partial = blocking(move || Ok(disk_cache.create_partial()?)).await?;
        let partial = write_stream(bytes, partial).await?;
        if media.size.is_some_and(|size| size != partial.size()) {
            return Err(Error::Damaged("its size differs from the one that WhatsApp reports"));
        }
        let expected = media.sha256.as_deref().and_then(|text| text.parse::<Sha256Digest>().ok());
        if expected.is_some_and(|digest| digest != partial.digest()) {
            return Err(Error::Damaged("its SHA-256 differs from the one that WhatsApp reports"));
        }
        Ok((media, partial))
    }

    async fn sweep(&self) {
        let (disk_cache, max_bytes) = (self.disk_cache.clone(), self.options.max_bytes);
        let before = self.clock.now() - self.options.retention;
        if let Err(cause) = blocking(move || Ok(disk_cache.sweep(before, max_bytes)?)).await {
            tracing::warn!(%cause, "media cache retention failed; retrying in an hour");
        }
    }

    /// Deletes the locations of media that neither WhatsApp nor the disk cache has any more.
    async fn expire_index(&self, stop: &CancellationToken) -> Result<(), store::Error> {
        let before = self.clock.now() - (WHATSAPP_RETENTION + self.options.retention);
        while !stop.is_cancelled() && self.store.write(move |tx| index::expire(tx, before)).await? {}
        Ok(())
    }
}

/// Writes the stream to the partial file, in batches of [`WRITE_BATCH`] bytes, because each write uses a blocking thread.
pub(super) async fn write_stream(
    mut bytes: MediaStream,
    mut partial: PartialFile,
) -> Result<PartialFile, Error> {
    let mut batch = Vec::new();
    loop {
        let chunk = tokio::time::timeout(IDLE_TIMEOUT, bytes.next())
            .await
            .map_err(|_| timeout_error())?
            .transpose()?;
        let ended = chunk.is_none();
        batch.extend_from_slice(&chunk.unwrap_or_default());
        if partial.size() + batch.len() as u64 > MAX_FILE {
            return Err(Error::TooLarge { limit: MAX_FILE });
        }
        if ended || batch.len() >= WRITE_BATCH {
            let piece = std::mem::take(&mut batch);
            partial = blocking(move || partial.write(&piece).map(|()| partial).map_err(Error::from)).await?;
        }
        if ended {
            return Ok(partial);
        }
    }
}

fn timeout_error() -> Error {
    Error::Failed(Failure::transient("WhatsApp did not send the file in time; try again"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Store(store::Error::Panicked)))
}
