//! Files as they are asked for: from the shelf, or fetched once for all who wait.

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

/// The largest file that is fetched, in bytes. Meta's largest is a document of 100 MB, which it may mean either way.
const MAX_FILE: u64 = 105 << 20;

/// Files that are fetched at once, of all instances; more wait. Each takes some memory, and disk outside the bound.
const MAX_DOWNLOADS: usize = 8;

/// The longest silence of WhatsApp, and the longest that a file may take in all.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(600);

/// Bytes that are gathered before they are written.
const WRITE_BATCH: usize = 256 << 10;

/// How long WhatsApp has the media of inbound messages. Source: Meta, "Media": a webhook's media id is good for
/// seven days.
const WHATSAPP_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// The pause between two rounds of forgetting.
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
    /// What is being fetched: whoever needs the same file waits for the same download. A download lives as long as
    /// somebody waits for it, so there are never more than there are callers.
    downloads: Mutex<HashMap<FileKey, WeakShared<Download>>>,
}

impl MediaCache {
    /// Opens the folder; what an earlier run did not finish is removed.
    pub fn open(
        folder: &DataFolder,
        store: Store,
        clock: Clock,
        options: Options,
    ) -> Result<Self, store::Error> {
        let shelf = Arc::new(DiskCache::open(folder)?);
        let permits = Semaphore::new(MAX_DOWNLOADS);
        Ok(Self(Arc::new(Inner {
            disk_cache: shelf,
            store,
            clock,
            options,
            permits,
            downloads: Mutex::default(),
        })))
    }

    /// Which media a message had.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] when nothing was noted, or it was long ago.
    pub fn location(
        &self,
        instance: InstanceNumber,
        message: &ProviderMessageId,
    ) -> Result<MediaLocation, Error> {
        index::find(&self.0.store, instance, message)?.ok_or(Error::Unknown)
    }

    /// A file of an instance, by WhatsApp's id of it: from the disk, or else from WhatsApp through `provider`.
    pub async fn get(
        &self,
        instance: InstanceNumber,
        provider: Arc<dyn Provider>,
        media_id: &str,
    ) -> Result<MediaFile, Error> {
        let name = FileKey::new(instance, media_id);
        match self.0.find(name).await? {
            Some(file) => Ok(file),
            None => self.shared_download(name, provider, media_id.to_owned()).await,
        }
    }

    fn shared_download(
        &self,
        name: FileKey,
        provider: Arc<dyn Provider>,
        media_id: String,
    ) -> Shared<Download> {
        let mut flights = self.0.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&name).and_then(WeakShared::upgrade) {
            return flight;
        }
        flights.retain(|_, flight| flight.upgrade().is_some());
        let flight = Arc::clone(&self.0).download(name, provider, media_id).boxed().shared();
        if let Some(weak) = flight.downgrade() {
            flights.insert(name, weak);
        }
        flight
    }

    /// Keeps the folder and the notes within their bounds until `stop` is cancelled.
    pub async fn run_maintenance(self, stop: CancellationToken) {
        let mut rounds = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = rounds.tick() => {}
            }
            self.0.sweep().await;
            if let Err(cause) = self.0.expire_index(&stop).await {
                tracing::warn!(%cause, "old notes of media could not be forgotten; they will be later");
            }
        }
    }
}

impl Inner {
    async fn find(&self, name: FileKey) -> Result<Option<MediaFile>, Error> {
        let shelf = self.disk_cache.clone();
        blocking(move || Ok(shelf.find(name))).await
    }

    async fn download(
        self: Arc<Self>,
        name: FileKey,
        provider: Arc<dyn Provider>,
        media_id: String,
    ) -> Result<MediaFile, Error> {
        // The semaphore is never closed: without a permit nothing could be fetched at all.
        let _permit = self.permits.acquire().await;
        // Another download may have ended between the caller's look and this one's start.
        if let Some(file) = self.find(name).await? {
            return Ok(file);
        }
        if self.store.is_full() {
            return Err(Error::DiskFull);
        }
        let fetched = tokio::time::timeout(DOWNLOAD_TIMEOUT, self.fetch(provider.as_ref(), &media_id));
        let (media, draft) = fetched.await.map_err(|_| timeout_error())??;
        let (shelf, now) = (self.disk_cache.clone(), self.clock.now());
        let file = blocking(move || Ok(shelf.insert(name, draft, media.mime, now)?)).await?;
        if self.disk_cache.exceeds(self.options.max_bytes) {
            self.sweep().await;
        }
        Ok(file)
    }

    /// The whole file as a draft, checked against what WhatsApp says about it.
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
        let shelf = self.disk_cache.clone();
        let draft = blocking(move || Ok(shelf.create_partial()?)).await?;
        let draft = write_stream(bytes, draft).await?;
        if media.size.is_some_and(|size| size != draft.size()) {
            return Err(Error::Damaged("its size is not what WhatsApp says"));
        }
        let promised = media.sha256.as_deref().and_then(|text| text.parse::<Sha256Digest>().ok());
        if promised.is_some_and(|digest| digest != draft.digest()) {
            return Err(Error::Damaged("its SHA-256 is not what WhatsApp says"));
        }
        Ok((media, draft))
    }

    async fn sweep(&self) {
        let (shelf, max_bytes) = (self.disk_cache.clone(), self.options.max_bytes);
        let before = self.clock.now() - self.options.retention;
        if let Err(cause) = blocking(move || Ok(shelf.sweep(before, max_bytes)?)).await {
            tracing::warn!(%cause, "fetched media could not be tidied; they will be later");
        }
    }

    /// Forgets notes of what WhatsApp no longer has and the shelf no longer keeps.
    async fn expire_index(&self, stop: &CancellationToken) -> Result<(), store::Error> {
        let before = self.clock.now() - (WHATSAPP_RETENTION + self.options.retention);
        while !stop.is_cancelled() && self.store.write(move |tx| index::expire(tx, before)).await? {}
        Ok(())
    }
}

/// Writes the stream into the draft, in pieces that are worth a thread's while.
pub(super) async fn write_stream(
    mut bytes: MediaStream,
    mut draft: PartialFile,
) -> Result<PartialFile, Error> {
    let mut batch = Vec::new();
    loop {
        let chunk = tokio::time::timeout(IDLE_TIMEOUT, bytes.next())
            .await
            .map_err(|_| timeout_error())?
            .transpose()?;
        let ended = chunk.is_none();
        batch.extend_from_slice(&chunk.unwrap_or_default());
        if draft.size() + batch.len() as u64 > MAX_FILE {
            return Err(Error::TooLarge { limit: MAX_FILE });
        }
        if ended || batch.len() >= WRITE_BATCH {
            let piece = std::mem::take(&mut batch);
            draft = blocking(move || draft.write(&piece).map(|()| draft).map_err(Error::from)).await?;
        }
        if ended {
            return Ok(draft);
        }
    }
}

fn timeout_error() -> Error {
    Error::Failed(Failure::transient("WhatsApp took too long to give the file; ask again"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Store(store::Error::Panicked)))
}
